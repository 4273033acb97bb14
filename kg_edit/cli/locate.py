"""`kg-edit locate`: causal tracing of edits' facts, or of a published list of known facts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load
from kg_edit.cli.options import Device, Dtype, ModelName
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.models.loading import check_model_name
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.tracing.summary import LocateSummary
    from kg_edit.tracing.trace import TracedFact, TraceSettings

Edits = Annotated[Path | None, typer.Argument(help="file of edits whose facts to trace: .jsonl, .json, .csv or .tsv")]
Known = Annotated[
    Path | None,
    typer.Option(
        "--known", help="file of facts (.json: subject, prompt, attribute); those that the model knows are traced"
    ),
]
KindName = Annotated[str, typer.Option("--kind", help="states to restore: hidden, mlp or attention")]
Window = Annotated[
    int | None,
    typer.Option(min=1, help="number of layers restored together; default: 1 for hidden, else 10/48 of the depth"),
]
Samples = Annotated[int, typer.Option(min=1, help="number of noise samples")]
AnswerName = Annotated[
    str, typer.Option("--answer", help="predicted: the model's own next token; true: the fact's answer (target_true)")
]
Limit = Annotated[int | None, typer.Option(min=1, help="trace only the first N facts")]
Out = Annotated[Path, typer.Option("--out", help="output folder; the same command again resumes the run")]


def locate(
    edits: Edits = None,
    known: Known = None,
    model: ModelName = "smollm2-135m",
    kind: KindName = "mlp",
    window: Window = None,
    samples: Samples = 10,
    answer: AnswerName = "predicted",
    limit: Limit = None,
    out: Out = Path("locate"),
    seed: Annotated[int, typer.Option(help="random seed of the noise and the bootstrap")] = 0,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Locate facts in a model by causal tracing: which restored states bring back the answer of a corrupted run.

    The method is that of Meng et al. 2022: the run is corrupted by noise on the subject. The output is a heat map by
    token role and layer, a heat map for each of the first facts, all numbers as JSON, and the layer where restoring
    MLPs at the subject's last token has the largest effect. That layer is only a hint: it need not be the best layer to
    edit (Hase et al. 2023). `--layer auto` of `kg-edit edit` tries layers on your edits.

    Example: `kg-edit locate edits.jsonl --model smollm2-135m --out locate/`

    Example: `kg-edit locate --known known_1000.json --limit 100 --samples 5 --kind hidden --out hidden/`
    """
    check_model_name(model)
    given = _edits_of(edits, known)
    from kg_edit.tracing.run import locate as trace_all

    settings = _settings(kind, window, samples, answer, seed)
    facts = _facts(given, known)[:limit]
    language_model = load(model, dtype, device)
    show(trace_all(language_model, facts, settings, out=out, known_only=known is not None), out)


def _settings(kind: str, window: int | None, samples: int, answer: str, seed: int) -> TraceSettings:
    from kg_edit.tracing.corrupted_run import KINDS
    from kg_edit.tracing.trace import ANSWERS, TraceSettings

    chosen = next((known for known in KINDS if known == kind), None)
    asked = next((known for known in ANSWERS if known == answer), None)
    if chosen is None:
        raise unknown_name("kind", kind, KINDS)
    if asked is None:
        raise unknown_name("answer", answer, ANSWERS)
    return TraceSettings(kind=chosen, window=window, samples=samples, answer=asked, seed=seed)


def _edits_of(edits: Path | None, known: Path | None) -> tuple[Edit, ...]:
    """The edits of the file, where one is given; facts are read from one of two files."""
    from kg_edit.edits.files import read_edits

    if (edits is None) == (known is None):
        raise ConfigError("give either a file of edits or --known FILE; see kg-edit locate --help")
    if known and not known.exists():
        raise ConfigError(f"--known {known}: there is no such file; check the path")
    return read_edits(edits, allow_conflicts=True).edits if edits else ()


def _facts(edits: tuple[Edit, ...], known: Path | None) -> tuple[TracedFact, ...]:
    from kg_edit.tracing.trace import facts_of, read_known

    return read_known(known) if known else facts_of(edits)


def show(summary: LocateSummary, out: Path) -> None:
    """What was found, in words, and where the files are."""
    for line in _said(summary):
        stdout().print(plain(line), soft_wrap=True)
    stdout().print(f"{plain(str(out))}: heatmap.svg, summary.json, records.jsonl, run.json", soft_wrap=True)


def _said(summary: LocateSummary) -> list[str]:
    peak = summary.peak
    left_out = f", {len(summary.unknown)} unknown to the model" if summary.unknown else ""
    left_out += f", {len(summary.failed)} failed" if summary.failed else ""
    sure = "fewer than five facts, so no interval"
    if peak.ci95 is not None and peak.share is not None:
        sure = f"95 % of resamples: layers {peak.ci95[0]} to {peak.ci95[1]}; exactly this layer in {peak.share:.0%}"
    what = "suggested layer" if summary.kind == "mlp" else "peak layer (the suggestion comes from --kind mlp)"
    return [
        f"{summary.facts} facts traced{left_out}: p {summary.clean:.3f} clean, {summary.corrupted:.3f} corrupted",
        f"{what}: {peak.layer}, where restoring at the subject's last token changes p by {peak.effect:+.3f} ({sure})",
        "this is only a suggestion; kg-edit edit --layer auto tries layers on your edits",
    ]
