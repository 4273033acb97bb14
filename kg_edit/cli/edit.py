"""`kg-edit edit` and `kg-edit demo`: edits become a patch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import say, stdout
from kg_edit.cli.lazy_graph import LazyGraph
from kg_edit.cli.method_plan import (
    choose_method,
    load_model,
    note_choice,
    open_graph,
    plan_method,
    warn_of_edits_without_facts,
)
from kg_edit.cli.options import (
    CHECKS,
    LOGGING,
    AsChat,
    BothForms,
    ChosenMethod,
    Contact,
    CorpusName,
    Device,
    Dtype,
    EditLanguage,
    EditPreset,
    EditsFile,
    Graph,
    KeepGoing,
    LayerChoice,
    MethodName,
    ModelName,
    Out,
    Overwrite,
    RequireGraph,
    Settings,
    Templates,
)
from kg_edit.errors import ConfigError
from kg_edit.languages import check_language
from kg_edit.methods.registry import check_method
from kg_edit.models.loading import check_model_name, named_model_file
from kg_edit.storage.atomic import write_json
from kg_edit.storage.packaged import EXTRACT
from kg_edit.storage.run_folder import check_folder, replace_run
from kg_edit.text.display import one_line, plain
from kg_edit.version import code_sha256

if TYPE_CHECKING:
    from kg_edit.cli.method_plan import MethodPlan
    from kg_edit.edits.edit import Edit
    from kg_edit.methods import EditingMethod
    from kg_edit.planning.memory import Estimate
    from kg_edit.reports.finished_run import EditRun

_SHOWN = 10  # changed answers to unrelated prompts in the terminal; the report has all

Force = Annotated[
    bool,
    typer.Option("--force", help="Accept edits so large that they probably break the model.", rich_help_panel=CHECKS),
]
MANY = 1000  # edits; a run with more does not start without a question or --yes
Yes = Annotated[
    bool,
    typer.Option("--yes", help=f"Start a run of more than {MANY} edits without a question.", rich_help_panel=CHECKS),
]
Alone = Annotated[
    bool | None,
    typer.Option(
        "--alone/--no-alone",
        help="Make each failed edit alone as well, to see which fail only together. Without it: as many as take a "
        "fifth of the run's time.",
        rich_help_panel=CHECKS,
    ),
]
RequireSuccess = Annotated[
    bool,
    typer.Option(
        "--require-success",
        help="Exit with code 1 unless every edit succeeds (greedy decoding).",
        rich_help_panel=CHECKS,
    ),
]
LocalityCheck = Annotated[
    bool,
    typer.Option(
        "--locality-check/--no-locality-check",
        help="Also ask unrelated prompts (at most 30), and report which answers changed.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Make no edit and write nothing; show what each edit would reach besides its fact.",
        rich_help_panel=CHECKS,
    ),
]
MostReach = Annotated[
    float | None,
    typer.Option(
        "--most-reach",
        metavar="SHARE",
        min=0.0,
        help="Refuse to start if an edit would give more than this share of its change to an unrelated prompt or to "
        "another edit, such as 0.5.",
        rich_help_panel=CHECKS,
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="KIND:WHERE",
        help="Log the losses to `file:losses.jsonl`, `tensorboard:FOLDER` or `wandb:PROJECT`. Repeatable.",
        rich_help_panel=LOGGING,
    ),
]


def edit(
    edits_path: EditsFile,
    graph: Graph = None,
    model: ModelName = "smollm2-135m",
    method: ChosenMethod = None,
    layer: LayerChoice = None,
    preset: EditPreset = None,
    settings: Settings = None,
    corpus: CorpusName = None,
    templates: Templates = None,
    language: EditLanguage = "en",
    *,
    out: Out,
    overwrite: Overwrite = False,
    keep_going: KeepGoing = False,
    require_graph: RequireGraph = False,
    chat: AsChat = None,
    both_forms: BothForms = False,
    force: Force = False,
    alone: Alone = None,
    yes: Yes = False,
    require_success: RequireSuccess = False,
    dry_run: DryRun = False,
    most_reach: MostReach = None,
    locality_check: LocalityCheck = True,
    log: Log = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    contact: Contact = None,
) -> None:
    """Make the edits of a file, and write the patch and a report to a folder.

    The report compares the unedited and the edited model on every prompt of the edits. An edit whose new object is not
    in the graph is made without facts about it, and counted.

    Examples:

    - `kg-edit edit edits.jsonl --out out/`
    - `kg-edit edit edits.jsonl --graph facts.csv --out out/`
    - `kg-edit edit edits.jsonl --method glame --model smollm2-135m --graph wikidata.nt.gz --out out/`
    - `kg-edit edit triplets.tsv --language ko --out out/`
    - `kg-edit edit edits.jsonl --out out/ --dry-run`
    """
    from kg_edit.callbacks import open_callbacks
    from kg_edit.edits.files import check_file, in_form, read_edits
    from kg_edit.edits.templates import RelationTemplates

    # 1. Check everything that can be wrong without a model: the options, the file, then the edits with their graph.
    chosen_method = choose_method(method, graph)
    check_method(chosen_method)
    check_model_name(model)
    check_folder(out)
    check_file(edits_path)
    language = check_language(language)
    # A `LazyGraph` keeps what was done with it, so the order of these calls matters.
    lazy_graph = LazyGraph(chosen_method, graph, contact)
    file = read_edits(
        edits_path,
        labels=lazy_graph,  # opened if a row has ids; the graph remembers that, for `refuse_unread`
        templates=RelationTemplates.load(templates, language=language),
        keep_going=keep_going,
        language=language,
    )
    lazy_graph.refuse_unread()  # an error if the graph was given, and neither a row nor the method reads it
    lazy_graph.set_language_of(file.edits)  # the language of the labels in the graph that `open` returns
    requested = in_form(file.edits, chat, both=both_forms)
    method_plan = plan_method(
        chosen_method,
        preset=preset,
        layer=layer,
        settings=settings,
        corpus=corpus,
        graph=lazy_graph.open(),
        require_graph=require_graph,
    )
    usable = method_plan.select_usable(requested, file=edits_path, graph_names=graph, keep_going=keep_going)
    from kg_edit.reports.edit_run import run_edits  # takes a second, so after all that may be refused

    if len(usable) > MANY and not yes:
        confirm_many(method_plan, len(usable), model, dtype, device)

    # 2. Load the model, and make the edits.
    logs = log or []
    if dry_run:  # it writes nothing, and a log's file is made when the log is opened
        logs = []
    with open_callbacks(logs) as callbacks:
        note_choice(method, graph)  # logs which method was chosen, if --method was not given
        language_model = load_model(model, dtype, device)
        method_plan = method_plan.with_layer(language_model, usable)  # with --layer auto, it tries several layers
        editor = method_plan.on(language_model)
        if dry_run or most_reach is not None:
            _check_reach(editor, usable, show=dry_run, most=most_reach)
        if dry_run:
            return

        def make() -> EditRun:  # called again if another run is in the folder, and --overwrite deletes it
            return run_edits(
                editor,
                editor.model,
                usable,
                out,
                force=force,
                keep_going=keep_going,
                alone=alone,
                locality_check=locality_check,
                callbacks=callbacks,
                graph=graph or (),
            )

        run = replace_run(out, make, overwrite=overwrite)
    if method_plan.layer_choice:
        write_json(out / "layer.json", method_plan.layer_choice)

    # 3. Show the results.
    _show(run)
    warn_of_edits_without_facts(editor)
    for problem in file.problems:
        typer.echo(f"skipped: {problem}", err=True)
    if require_success and run.verdict.failed:
        raise typer.Exit(1)


def _check_reach(editor: EditingMethod, edits: Sequence[Edit], *, show: bool, most: float | None) -> None:
    """Predict what each edit would reach besides its fact; print it, or refuse an edit that would reach too far."""
    from kg_edit.reports.risk import predict_risks, refuse_risky, risk_table

    risks = predict_risks(editor, edits)
    if show:
        stdout().print(risk_table(risks))
    if most is not None:
        refuse_risky(risks, most=most)


def confirm_many(method_plan: MethodPlan, edits: int, model: str, dtype: str, device: str) -> None:
    """Show the memory that the edits will take, and ask whether to start; without a terminal, refuse.

    Their time is not estimated: it is shown once the first edits are made.
    """
    from kg_edit.models.loading import QUANTISED, pick_dtype
    from kg_edit.planning.machine import this_machine
    from kg_edit.planning.memory import estimate
    from kg_edit.planning.shape import shape_of

    machine = this_machine(device)
    # ``--dtype nf4`` stores the weights in nf4, and computes in another dtype.
    compute_dtype = pick_dtype(dtype, machine.device)
    quantised = ""
    if dtype in QUANTISED:
        quantised = dtype
    needs = estimate(
        method_plan.method,
        method_plan.config,
        shape_of(model),
        machine,
        edits=edits,
        dtype=compute_dtype,
        quantised=quantised,
    )
    memory = " and ".join(_describe_peaks(needs))
    summary = f"{edits:,} edits by {method_plan.method.name} take {memory} (see kg-edit plan)"
    has_terminal = all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))  # a service has no streams
    if not has_terminal:
        raise ConfigError(f"{summary}; add --yes to start them, or give fewer edits")
    if method_plan.method.joint:  # one batch
        after = "They are saved when all are made. Ctrl-C before that loses them; later, the same command resumes."
    else:
        after = "The time that is left is shown after the first edits. Ctrl-C stops, and the same command resumes."
    typer.echo(f"{summary}. {after}", err=True)
    if not typer.confirm("Start?", err=True):
        raise typer.Exit(1)


def _describe_peaks(needs: Estimate) -> list[str]:
    """Describe the need of each kind of memory: how much at the peak, and whether that is more than is free.

    Such as "5.2 GB of main memory at the peak, more than the 3.1 GB free".
    """
    from kg_edit.planning.job import MEMORIES

    peaks = []
    for where in MEMORIES:
        needed = needs.needed(where)
        if not needed:
            continue
        peak = f"{needed / 1e9:.1f} GB of {where} at the peak"
        if where in needs.lacking:
            free = needs.available(where) or 0
            peak += f", more than the {free / 1e9:.1f} GB free"
        peaks.append(peak)
    return peaks


def demo(method: MethodName = "glame", out: Out = Path("out"), overwrite: Overwrite = False) -> None:
    """Edit three facts in SmolLM2-135M, offline, with the packaged extract of Wikidata.

    Examples:

    - `kg-edit demo --out out/`
    """
    from importlib.resources import as_file, files

    from kg_edit.edits.files import read_edits
    from kg_edit.reports.finished_run import note_inputs, read_finished

    check_method(method)
    check_folder(out)
    with as_file(files("kg_edit") / "data" / "demo.jsonl") as path:
        edits = read_edits(path).edits
        inputs = _hash_demo_inputs(method, path)
    finished = read_finished(out, edits, inputs)
    if finished is not None:
        say(f"{out} has this run already, made by the same code: nothing is computed, and the model is not loaded")
        _show(finished)
        return
    method_plan = plan_method(method, graph=open_graph([EXTRACT], None))
    method_plan.select_usable(edits)  # raises if the method can't make them; else all are usable
    from kg_edit.reports.edit_run import run_edits

    editor = method_plan.on(load_model("smollm2-135m"))

    def make() -> EditRun:
        return run_edits(editor, editor.model, edits, out)

    run = replace_run(out, make, overwrite=overwrite)
    note_inputs(out, inputs)
    _show(run)


def _hash_demo_inputs(method: str, edits: Path) -> dict[str, str]:
    """Return everything that decides the demo's results: the method, and hashes of the code and of the files read."""
    from kg_edit.storage.setting_fields import hash_file
    from wikidata_cache.extract import packaged_extract

    return {
        "method": method,
        "code": code_sha256(),
        "edits": hash_file(edits),
        "model": hash_file(named_model_file("smollm2-135m")),
        "graph": hash_file(packaged_extract()),
    }


def _show(run: EditRun) -> None:
    """Print the table of the probes, the verdict with its remarks, what else changed, and the files."""
    from kg_edit.reports.report import terminal_table

    console = stdout()
    verdict = run.verdict
    console.print(terminal_table(run.rows))
    colour = "green"
    if verdict.failed:
        colour = "yellow"
    console.print(plain(one_line(str(verdict))), style=colour)
    for line in verdict.remarks:
        console.print(f"- {plain(line)}")
    for command in verdict.commands:
        say(command)
    if run.differences:
        _show_differences(run)
    where = f"{plain(str(run.folder))}:"
    names = ", ".join(run.files)
    if len(f"{where} {names}") <= console.width:
        console.print(f"{where} {names}", soft_wrap=True)
    else:  # the path stays whole, on a line of its own
        console.print(where, soft_wrap=True)
        console.print(names)


def _show_differences(run: EditRun) -> None:
    """Print the prompts of the edits that should not change, the unrelated ones that did, and the counts."""
    from kg_edit.reports.differences import count_in_words, difference_table

    console = stdout()
    from_edits = []
    changed = []
    for row in run.differences:
        if row.asked.source == "edit":
            from_edits.append(row)
        elif not row.unchanged:
            changed.append(row)
    shown = [*from_edits, *changed[:_SHOWN]]
    if shown:
        console.print(difference_table(shown))
    if len(changed) > _SHOWN:
        console.print(f"and {len(changed) - _SHOWN} more that changed, in report.html")
    with_chat = any(row.probe.chat for row in run.rows)
    console.print(count_in_words(run.differences, name_forms=with_chat))
