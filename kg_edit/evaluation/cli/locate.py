"""`kg-edit locate`: causal tracing of edits' facts, or of a published list of known facts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import say
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import Device, Dtype, ModelName, Out, Overwrite, Seed
from kg_edit.errors import ConfigError
from kg_edit.models.loading import check_model_name
from kg_edit.storage.run_folder import check_folder, replace_run

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.evaluation.tracing.summary import LocateSummary


def locate(
    edits: Annotated[
        Path | None,
        typer.Argument(metavar="EDITS", help="File of edits whose facts to trace: `.jsonl`, `.json`, `.csv`, `.tsv`."),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="File of facts (`subject`, `prompt`, `attribute`); those that the model knows are traced.",
        ),
    ] = None,
    model: ModelName = "smollm2-135m",
    kind: Annotated[Literal["hidden", "mlp", "attention"], typer.Option(help="States to restore.")] = "mlp",
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default="1 for hidden, else 10/48 of the depth",
            help="Number of layers restored together.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="Number of noise samples.")] = 10,
    answer: Annotated[
        Literal["predicted", "true"],
        typer.Option(help="`predicted`: the model's own next token. `true`: the fact's answer (`target_true`)."),
    ] = "predicted",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Try only the first facts.")] = None,
    seed: Seed = 0,
    out: Out = Path("locate"),
    overwrite: Overwrite = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Locate facts in a model by causal tracing (Meng et al. 2022).

    The run is corrupted by noise on the subject, and states are restored. The output is a heat map by token role and
    layer, one for each of the first facts, all numbers as JSON, and the layer where restoring MLPs at the subject's
    last token has the largest effect; it need not be the best layer to edit (Hase et al. 2023).

    Examples:

    - `kg-edit locate edits.jsonl --model smollm2-135m --out locate/`
    - `kg-edit locate --known known_1000.json --limit 100 --samples 5 --kind hidden --out hidden/`
    """
    # The model's name, the folder and the edits are checked before torch is imported, and all before a model is loaded
    check_model_name(model)
    check_folder(out)
    if (edits is None) == (known is None):
        raise ConfigError("give either a file of edits or --known FILE; see kg-edit locate --help")
    if known and not known.exists():
        raise ConfigError(f"--known {known}: there is no such file; check the path")
    from kg_edit.edits.files import read_edits

    own_edits: tuple[Edit, ...] = ()
    if edits:  # two edits of one fact are no conflict here: both are traced
        own_edits = read_edits(edits, allow_conflicts=True).edits
    from kg_edit.evaluation.tracing.run import locate as trace_all
    from kg_edit.evaluation.tracing.trace import TraceSettings, facts_of, read_known

    settings = TraceSettings(kind=kind, window=window, samples=samples, answer=answer, seed=seed)
    if known:
        facts = read_known(known)[:limit]
    else:
        facts = facts_of(own_edits[:limit])
    loaded = load_model(model, dtype, device)

    def trace() -> LocateSummary:
        return trace_all(loaded, facts, settings, out=out, known_only=known is not None)

    summary = replace_run(out, trace, overwrite=overwrite)
    _show(summary, out)


def _show(summary: LocateSummary, out: Path) -> None:
    """Print the number of facts, the layer with the largest effect, and the files."""
    say(f"{_count_facts(summary)}: p {summary.clean:.3f} clean, {summary.corrupted:.3f} corrupted")
    if summary.corrupted >= summary.clean:
        say("no layer is suggested: noise on the subjects does not lower p; trace facts that the model knows")
    else:
        say(_describe_peak(summary))
        say("this is only a suggestion; kg-edit edit --layer auto tries layers on your edits")
    # The heat maps of the first facts, of which a long list names only the ends.
    maps = sorted(file.name for file in out.glob("heatmap-*.svg"))
    if len(maps) > 2:
        maps = [f"{maps[0]} to {maps[-1]}"]
    files = ["heatmap.svg", *maps, "summary.json", "records.jsonl", "run.json"]
    say(f"{out}: {', '.join(files)}")


def _count_facts(summary: LocateSummary) -> str:
    """Return how many facts were traced, and why others were not: "3 facts traced of 5, 2 unknown to the model"."""
    words = f"{number_of(summary.facts, 'fact')} traced"
    left_out = len(summary.unknown) + len(summary.failed)
    if left_out:
        words += f" of {summary.facts + left_out}"
    if summary.unknown:
        words += f", {len(summary.unknown)} unknown to the model"
    if summary.failed:
        words += f", {len(summary.failed)} failed"
    return words


def _describe_peak(summary: LocateSummary) -> str:
    """Return the layer with the largest effect, and how certain it is; only tracing MLPs suggests a layer to edit."""
    peak = summary.peak
    if summary.kind == "mlp":
        layer = "suggested layer"
    else:
        layer = "peak layer (the suggestion comes from --kind mlp)"
    if peak.ci95 is None or peak.share is None:
        interval = "fewer than five facts, so no interval"
    else:
        first, last = peak.ci95
        interval = f"95 % of resamples: layers {first} to {last}; exactly this layer in {peak.share:.0%}"
    effect = f"restoring at the subject's last token changes p by {peak.effect:+.3f}"
    return f"{layer}: {peak.layer}, where {effect} ({interval})"
