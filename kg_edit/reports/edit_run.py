"""The job behind `kg-edit edit`: make edits, and write a folder with the patch, the checks and a picture; resumable.

`run_edits` has the stages in their order. The functions of each stage follow below, in the same order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import networkx as nx

from kg_common.json_text import digest
from kg_edit.callbacks import Callback, LossLines, read_losses
from kg_edit.edits.edit import Edit, find_opposed, refuse_clash, without_repeats
from kg_edit.edits.files import write_edits
from kg_edit.errors import KgEditError, OutputError, PatchError, RefusedEditsError
from kg_edit.graphs.source import subject_of
from kg_edit.methods import EditingMethod
from kg_edit.methods.graph_reader import subgraph_of
from kg_edit.methods.run_settings import chat_settings, method_settings
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.container import read_provenance
from kg_edit.patches.guards import SeenEdits, find_disabling
from kg_edit.reports.advice import EDITS, FAILED, JudgedRun
from kg_edit.reports.differences import PromptDifference, count_unchanged, read_differences
from kg_edit.reports.edit_results import EditDetails
from kg_edit.reports.finished_run import LOCALITY, LOSSES, PAGE, REPORT, EditRun
from kg_edit.reports.probes import before_and_after, check_probes
from kg_edit.reports.prompt_comparison import check_prompts, compare_prompts
from kg_edit.reports.prompts import join_repeats, own_prompts, unrelated_prompts
from kg_edit.reports.report import BeforeAfter, markdown
from kg_edit.reports.report_page import report_page
from kg_edit.reports.retry import make_alone, most_seconds, read_alone
from kg_edit.reports.rows import RECORDS, known_rows
from kg_edit.reports.verdict import VERDICT, Verdict
from kg_edit.storage.atomic import drop_cut_line, write_text
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_differences import describe_other_rows
from kg_edit.storage.run_folder import PATCH, check_folder, claim, read_settings
from kg_edit.version import __version__, code_sha256
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.view.svg import draw

log = logging.getLogger(__name__)

PARTIAL = "patch.partial.safetensors"
FEW = 3  # edits; a method that makes more in sequence says so before it starts
MANY = 1000  # edits; a method that makes more at once needs the memory for all their keys


def run_edits(
    method: EditingMethod,
    model: LanguageModel,
    edits: Sequence[Edit],
    out: str | Path,
    *,
    force: bool = False,
    keep_going: bool = False,
    alone: bool | None = None,
    locality_check: bool = True,
    callbacks: Sequence[Callback] = (),
    graph: Sequence[str] = (),
    progress: bool = True,
) -> EditRun:
    """Make ``edits`` and write a folder; started again, the run continues where it stopped.

    The folder has patch.safetensors, records.jsonl, locality.jsonl (`kg_edit.reports.differences`), report.json,
    report.md, report.html and run.json, losses.jsonl with the loss at every step of every edit, if the method minimises
    a loss, a picture of the first edit's subgraph, if it reads a graph, and alone.jsonl, failed.jsonl (the failed
    edits themselves) and edits.jsonl (all of them) if an edit failed. Nothing is written before all edits are checked
    and the method is prepared. An edit that repeats an earlier one is made once.

    A run that is started again reuses, as far as they are there: the patch, or else the edits of the partial one; the
    rows of records.jsonl; the lines of alone.jsonl; and, if report.md is there, those of locality.jsonl. The verdict is
    computed again, and the report is written again if an edit has another result.

    Args:
        method: the method, on ``model``.
        model: the unedited model.
        edits: the edits, in their order.
        out: the folder. A run is resumed only with the same method, model and edits.
        force: accept edits that would probably break the model (`kg_edit.patches.guards`); else such an edit stops the
            run before it is added to the patch.
        keep_going: leave out edits of a batch whose values must not be written, and log a warning that names them.
        alone: make each failed edit alone as well, to see which ones fail only together (at most
            `kg_edit.reports.retry.MOST`); None: as many as take about a fifth of the run's time.
        locality_check: also ask unrelated prompts on both models (`kg_edit.reports.prompts.unrelated_prompts`), besides
            those of the edits' own field ``locality``.
        callbacks: receive the losses of every descent.
        graph: the values of ``--graph`` that open the method's graph, for the commands that the verdict names.
        progress: show progress bars; not on a terminal, log lines.

    Returns:
        The `EditRun`: the rows of the report, the verdict, and what else changed.
    """
    # 1. Check the edits and the folder.
    began = time.perf_counter()
    out = Path(out)
    distinct, repeats = without_repeats(edits)
    settings = run_settings(method, model, edits)
    _check(method, model, distinct, out, settings, count=len(edits), progress=progress)
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        claim(out, settings)

        # 2. Make the edits.
        patch = _load_or_make(
            method, distinct, out, force=force, keep_going=keep_going, callbacks=callbacks, progress=progress
        )
        made = distinct
        if keep_going:  # which may have left out some
            made_ids = _made_ids(patch)
            made = tuple(edit for edit in distinct if edit.id in made_ids)

        # 3. Ask the edits' prompts, unless an earlier run has asked them, and make the failed edits alone.
        earlier_rows = known_rows(out / RECORDS, made)
        if earlier_rows:
            rows = BeforeAfter(earlier_rows)
        else:
            rows = _ask_edits(model, patch, made, out, progress=progress)
        failed_ids = {result.edit for result in Verdict.of(rows).failed}
        failed = [edit for edit in made if edit.id in failed_ids]
        succeeded_alone = read_alone(out)
        if alone is not False and len(made) > 1:
            seconds = None  # as long as it takes
            if alone is None:
                seconds = most_seconds(time.perf_counter() - began)
            succeeded_alone = make_alone(method, failed, out, known=succeeded_alone, seconds=seconds, progress=progress)

        # 4. Ask what else changed, and judge. The report is written last, so a run with rows and a report is finished.
        # It keeps the answers that it has, and the report itself if all edits have the same results.
        is_finished = bool(earlier_rows) and (out / REPORT).is_file()
        if is_finished:
            differences = read_differences(out / LOCALITY)
        else:
            differences = _ask_other_prompts(model, patch, made, locality_check=locality_check, progress=progress)
        details = _collect_details(model, made, succeeded_alone)
        verdict = _judge(method, made, patch, rows, differences, details, graph=graph, repeats=repeats, folder=out)
        run = EditRun(out, rows, verdict, differences)

        # 5. Write the report.
        if is_finished and _has_same_results(out, verdict):
            return run
        if failed:
            write_edits(out / FAILED, failed)
            write_edits(out / EDITS, made)
        _write_report(run, method, made, patch)
        return run


# 1. Check the edits and the folder


def _check(
    method: EditingMethod,
    model: LanguageModel,
    edits: Sequence[Edit],
    out: Path,
    settings: dict[str, object],
    *,
    count: int,
    progress: bool,
) -> None:
    """Check all that can be checked before the folder ``out`` is made.

    ``edits`` are those without repeats, ``count`` is their number with repeats.
    """
    _check_edits(method, model, edits, progress=progress)
    check_folder(out, settings, describe_rows=lambda: _describe_other_edits(out, edits, count=count))
    if not (out / PATCH).is_file():
        _warn_of_a_sequence(method, model, edits)
        _warn_of_one_subject(method, edits)
        method.prepare()  # a covariance that can't be measured fails before the folder is made


def _check_edits(method: EditingMethod, model: LanguageModel, edits: Sequence[Edit], *, progress: bool) -> None:
    """Check that every edit can be made, and that the prompts of its report can be asked."""
    method.check(edits)
    if method.joint:
        refuse_clash(edits)
    check_probes(model, edits, progress=progress)
    without_answer = [prompt for prompt in own_prompts(edits) if not prompt.answer]
    check_prompts(model, without_answer)  # the others are probes, which were checked


def run_settings(method: EditingMethod, model: LanguageModel, edits: Sequence[Edit]) -> dict[str, object]:
    """Return what identifies a run in its folder: a run is continued only with the same method, model and edits."""
    return {
        "job": "edit",
        **method_settings(method, model),
        "edits": len(edits),
        **chat_settings(model, edits),
        "edits_sha256": digest([edit.model_dump(mode="json") for edit in edits]),
        "kg_edit": __version__,
    }


def _describe_other_edits(out: Path, edits: Sequence[Edit], *, count: int) -> str | None:
    """Say how the edits of the earlier run in ``out``, which its patch records, differ from ``edits``.

    ``count`` is the number of ``edits`` with repeats. None: no patch can be read.
    """
    path = out / PATCH
    if not path.is_file():
        path = out / PARTIAL
    try:
        provenance = read_provenance(path)
        there = {record["edit"]["id"]: record["edit"] for record in provenance["edits"]}
    except (PatchError, KeyError, TypeError):
        return None
    here = {edit.id: edit.model_dump(mode="json", exclude_defaults=True) for edit in edits}
    return describe_other_rows("edits", there, here, counts=(read_settings(out)["edits"], count))


def _warn_of_a_sequence(method: EditingMethod, model: LanguageModel, edits: Sequence[Edit]) -> None:
    """Warn that a method makes several edits in sequence, in which later ones may spoil earlier ones."""
    if len(edits) <= FEW or method.joint or method.changed_part != "weights":
        return
    way = ""
    if len(edits) <= MANY and model.spec.down_projection:
        way = "; --method alphaedit makes them all at once"
    log.warning(
        "%s makes the %d edits in sequence, each on the model with the earlier ones, so that later edits may spoil "
        "earlier ones%s",
        method.name,
        len(edits),
        way,
    )


def _warn_of_one_subject(method: EditingMethod, edits: Sequence[Edit]) -> None:
    """Warn of edits with the same subject, and so nearly the same key, if the method writes under keys."""
    if method.family not in ("rank-one", "joint"):
        return
    first_edits = dict[str, str]()  # by subject: the id of its first edit
    later_edits = []  # of a subject that an earlier edit has
    for edit in edits:
        if edit.subject and edit.subject in first_edits:
            later_edits.append(edit)
        first_edits.setdefault(edit.subject, edit.id)
    if not later_edits:
        return
    later = later_edits[0]
    more = ""
    if len(later_edits) > 1:
        more = f" ({len(later_edits) - 1} more such edits)"
    why = "the later edit may overwrite the earlier one"
    if method.joint:
        why = "one of them may fail"
    log.warning(
        "%s and %s have the same subject %r%s, and so nearly the same key: %s; --method grace has one a prompt",
        first_edits[later.subject],
        later.id,
        later.subject,
        more,
        why,
    )


# 2. Make the edits


def _load_or_make(
    method: EditingMethod,
    edits: Sequence[Edit],
    out: Path,
    *,
    force: bool,
    keep_going: bool,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Patch:
    """Load the finished patch, or make it, continuing a partial one."""
    path = out / PATCH
    if path.is_file():
        log.info("%s already exists; nothing to compute", path)
        finished = Patch.load(path)
        warn_of_other_code(finished, path)
        return finished
    partial = out / PARTIAL
    start = _load_partial(partial, edits)
    remaining = list(edits)
    if start is not None:
        made = _made_ids(start)
        remaining = [edit for edit in edits if edit.id not in made]
    saves = _PartialSaves(out, start)
    with saves.save_on_error():
        patch = _make(
            method,
            remaining,
            start,
            force=force,
            keep_going=keep_going,
            saves=saves,
            callbacks=callbacks,
            progress=progress,
        )
        saves.losses.append_to(out / LOSSES)
        patch.save(path)
    partial.unlink(missing_ok=True)
    return patch


def _load_partial(path: Path, edits: Sequence[Edit]) -> Patch | None:
    """Return the patch that an interrupted run left; None if there is none."""
    if not path.is_file():
        return None
    start = Patch.load(path)
    warn_of_other_code(start, path)
    log.info("continuing with %s after %d of %d edits", path, len(_made_ids(start)), len(edits))
    return start


def _made_ids(patch: Patch) -> set[str]:
    """Return the ids of the edits in a patch that the run made or continues."""
    return {record["edit"]["id"] for record in patch.provenance["edits"]}


def _make(
    method: EditingMethod,
    edits: Sequence[Edit],
    start: Patch | None,
    *,
    force: bool,
    keep_going: bool,
    saves: _PartialSaves,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Patch:
    """Make the edits that remain on top of ``start``, and save in between; the other arguments are `run_edits`'s.

    A joint method may find, for some edits of a batch, values that must not be written. It then raises an error that
    names these edits, before it writes anything. With ``keep_going`` they are left out, and the others are made in a
    further call. No edit is lost or counted twice by that, as the call before has made none.
    """
    if start is not None and not edits:  # the earlier run was stopped after its last edit
        return start
    seen = SeenEdits()
    if start is not None and not force:
        seen.add(start)

    def guard(new_patch: Patch, _patch_so_far: Patch) -> None:
        if not force:
            seen.add_checked(new_patch, method.model)

    remaining = list(edits)
    current_method = method
    while True:
        try:
            return current_method.edit(
                remaining,
                start=start,
                after_each=saves.save_if_due,
                guard=guard,
                callbacks=(*callbacks, saves.losses),
                progress=progress,
            )
        except RefusedEditsError as error:
            others = [edit for edit in remaining if edit.id not in error.reasons]
            if not keep_going:
                if others:
                    error.add_note("--keep-going leaves such edits out, and makes the others")
                raise
            if not others and start is None:  # the patch would have no edit
                raise
            for name, reason in error.reasons.items():
                log.warning("left out: the edit %r: %s", name, reason)
            if not others and start is not None:
                return start
            remaining = others
            if error.method is not None:
                current_method = error.method  # it has kept the values of the other edits, and does not find them again


class _PartialSaves:
    """Saves the edits that are made so far, and the losses of their descents, while a run makes further ones.

    Saving takes at most 5 % of the time: after a save, none is due for 19 times as long as it took.
    """

    def __init__(self, out: Path, start: Patch | None) -> None:
        drop_cut_line(out / LOSSES)
        self.losses = LossLines()
        self._out = out
        self._latest = start
        self._due = 0.0  # the time of the next save

    def save_if_due(self, latest: Patch) -> None:
        """Note the latest patch, and save it if the last save was long enough ago."""
        self._latest = latest
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Save the latest patch, if there is one."""
        if self._latest is None:
            return
        begin = time.monotonic()
        # The losses come first: a curve that is twice in the file is read once, but a lost one is lost.
        self.losses.append_to(self._out / LOSSES)
        self._latest.save(self._out / PARTIAL)
        end = time.monotonic()
        self._due = end + 19 * (end - begin)

    @contextmanager
    def save_on_error(self) -> Iterator[None]:
        """Save the latest patch if an error ends the ``with`` block; a note on the error says where it is."""
        try:
            yield
        except BaseException as error:  # also Ctrl-C
            with suppress(KgEditError):  # a full disk, which may be the first error
                self.save()
            partial = self._out / PARTIAL
            if partial.is_file():
                error.add_note(f"the edits made before this error are saved in {partial}, which is a normal patch file")
            raise


def warn_of_other_code(patch: Patch, path: Path, *, script_sha256: str | None = None) -> None:
    """Warn that a patch which is continued, or only shown again, was made with other code of kg-edit or a script."""
    if not patch.edits:
        return
    changed = []
    if patch.provenance.get("code_sha256") != code_sha256():
        changed.append("kg-edit")
    if script_sha256 and patch.provenance.get("script_sha256") != script_sha256:
        changed.append("the script")
    if changed:
        names = " and ".join(changed)
        log.warning("%s was made with other code of %s; another --out makes its edits anew", path, names)


# 3. Ask the prompts


def _ask_edits(model: LanguageModel, patch: Patch, edits: Sequence[Edit], out: Path, *, progress: bool) -> BeforeAfter:
    """Ask the edits' prompts on both models, and write the rows to ``records.jsonl``."""
    rows = before_and_after(model, patch, edits, progress=progress)
    write_text(out / RECORDS, "".join(f"{row.model_dump_json()}\n" for row in rows))
    return rows


def _ask_other_prompts(
    model: LanguageModel, patch: Patch, edits: Sequence[Edit], *, locality_check: bool, progress: bool
) -> tuple[PromptDifference, ...]:
    """Ask the edits' locality prompts, and with ``locality_check`` the unrelated ones, on both models."""
    prompts = join_repeats(own_prompts(edits))
    if locality_check:
        try:
            all_prompts = join_repeats((*prompts, *unrelated_prompts(edits)))
            return compare_prompts(model, patch, all_prompts, progress=progress)
        except KgEditError as error:  # a model of few positions, or a tokenizer that can't separate a packaged answer
            log.warning("the unrelated prompts can't be asked: %s", error)
    return compare_prompts(model, patch, prompts, progress=progress)


# 4. Judge


def _collect_details(
    model: LanguageModel, edits: Sequence[Edit], succeeded_alone: Mapping[str, bool]
) -> dict[str, EditDetails]:
    """Return what is known of each edit besides its rows, by id."""
    details = dict[str, EditDetails]()
    for edit in edits:
        tokens = _count_target_tokens(model, edit)
        alone = succeeded_alone.get(edit.id)
        details[edit.id] = EditDetails(subject=edit.subject, tokens=tokens, alone=alone)
    return details


def _count_target_tokens(model: LanguageModel, edit: Edit) -> int | None:
    """Return the number of tokens of an edit's new target after its prompt; None for a paragraph (``target_text``)."""
    if edit.target_text:
        return None
    reader = model.in_chat() if edit.asks_in_chat else model
    prompt = reader.encode(edit.text, target=edit.target_new)
    return len(prompt.target_ids)


def _judge(
    method: EditingMethod,
    edits: Sequence[Edit],
    patch: Patch,
    rows: BeforeAfter,
    differences: Sequence[PromptDifference],
    details: Mapping[str, EditDetails],
    *,
    graph: Sequence[str],
    repeats: Sequence[tuple[str, str]],
    folder: Path,
) -> Verdict:
    """Return the verdict of a run, with all that its advice and commands need; the last arguments are `JudgedRun`'s."""
    model = method.model
    if not method.graph_identity:  # the method reads no graph, so a command needs no --graph
        graph = ()
    run = JudgedRun(
        method=method.name,
        preset=method.config.preset_name,
        graph=tuple(graph),
        joint=method.joint,
        repeats=tuple(repeats),
        opposes=tuple(find_opposed(edits)),
        refused=tuple(find_disabling(patch, (), model)),
        model=model.name,
        reads_graph=bool(method.graph_identity),
        experts=model.spec.down_projection is None,
        folder=folder,
    )
    return Verdict.of(rows, run=run, details=details, unchanged=count_unchanged(differences))


def _has_same_results(out: Path, verdict: Verdict) -> bool:
    """Return whether the folder's report has the same results of all edits as ``verdict``."""
    stored = Verdict.beside(out / PATCH)
    if stored is None:
        return False
    return stored.model_dump(include={"edits"}) == verdict.model_dump(include={"edits"})


# 5. Write the report


def _write_report(run: EditRun, method: EditingMethod, edits: Sequence[Edit], patch: Patch) -> None:
    """Write the report's files; report.md is the last one, so that with it all is there."""
    out = run.folder
    if run.differences:
        write_text(out / LOCALITY, "".join(f"{difference.model_dump_json()}\n" for difference in run.differences))
    graphs = {}
    for edit in edits:
        subgraph = _read_subgraph(method, edit)
        if subgraph is not None:
            graphs[edit.id] = subgraph
    first_graph = graphs.get(edits[0].id)
    if isinstance(first_graph, nx.MultiDiGraph):
        _draw(first_graph, edits[0], out)
    try:
        curves = read_losses(out / LOSSES)
    except OutputError as error:  # a damaged file costs the curves, not the report
        log.warning("the report has no loss curves: %s", error)
        curves = {}
    page = report_page(run.rows, patch, verdict=run.verdict, curves=curves, graphs=graphs, differences=run.differences)
    write_text(out / PAGE, page)
    write_text(out / VERDICT, f"{run.verdict.model_dump_json(indent=1)}\n")
    write_text(out / REPORT, markdown(run.rows, patch, run.verdict, run.differences))


def _read_subgraph(method: EditingMethod, edit: Edit) -> nx.MultiDiGraph | str | None:
    """Return the subgraph that the method read, to be shown; None if it reads none.

    An error becomes a text, which the report shows in the place of the subgraph, because the report must not fail.
    """
    try:
        graph = subgraph_of(method, edit)
        if graph is None:
            return None
        return _with_hops(graph)
    except (KgEditError, WikidataCacheError) as error:
        return f"The graph could not be read again: {error}"


def _with_hops(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Return ``graph`` with each node's distance from the subject, which a user's own graph may lack."""
    distances = nx.single_source_shortest_path_length(graph.to_undirected(as_view=True), subject_of(graph))
    beyond = 1 + max(distances.values())  # for nodes that are not connected with the subject
    with_hops = graph.copy()
    for key, data in with_hops.nodes(data=True):
        data.setdefault("hop", distances.get(key, beyond))
        data.setdefault("role", "neighbour")
    return with_hops


def _draw(graph: nx.MultiDiGraph, edit: Edit, out: Path) -> None:
    """Draw an edit's subgraph: ``subgraph-ID.svg``."""
    name = ""
    for character in edit.id[:60]:
        if character.isalnum() or character in "-_":
            name += character
        else:
            name += "-"  # not every file system accepts the others
    path = out / f"subgraph-{name}.svg"
    try:
        draw(graph, path, title=f"{edit.text} {edit.target_new}")
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror or error}; the patch is complete") from error
