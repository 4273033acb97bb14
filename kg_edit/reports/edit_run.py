"""The job behind `kg-edit edit`: make edits, and write a folder with the patch, the checks and a picture; resumable."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import networkx as nx
from pydantic import ValidationError

from kg_edit.callbacks import Callback, LossLines, LossStep, read_losses
from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError, OutputError
from kg_edit.evaluate.settings import chat_settings, method_settings
from kg_edit.graphs.source import subject_of
from kg_edit.methods import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.guards import refuse_disabling
from kg_edit.reports.before_after import ReportRow, before_and_after, check_probes
from kg_edit.reports.report import markdown
from kg_edit.reports.report_page import report_page
from kg_edit.storage.atomic import drop_cut_line, write_text
from kg_edit.storage.run_folder import PATCH, Settings, check_folder, claim, digest, folder_lock
from kg_edit.version import __version__
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.view.svg import draw

log = logging.getLogger(__name__)

PARTIAL, RECORDS, REPORT = "patch.partial.safetensors", "records.jsonl", "report.md"
LOSSES, PAGE = "losses.jsonl", "report.html"


def run_edits(
    method: EditingMethod,
    model: LanguageModel,
    edits: Sequence[Edit],
    out: str | Path,
    *,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> tuple[ReportRow, ...]:
    """Make ``edits`` in turn and write ``out``: patch.safetensors, records.jsonl, report.md, report.html, run.json.

    losses.jsonl has the loss at every step of every edit, if the method minimises a loss. If the run is started again
    with the same settings, it continues where it stopped. Nothing is written before all edits are checked and the
    method is prepared. Without ``force``, an edit that would probably break the model (`kg_edit.patches.guards`) stops
    the run before it is added to the patch.

    Raises:
        OutputError: ``out`` holds another run, can't be written, or another process works on it.
        PatchError: an edit is too large.
        KgEditError: an edit can't be made; the edits before it are kept.
    """
    out = Path(out)
    method.check(edits)
    check_probes(model, edits)
    settings = _settings(method, model, edits)
    check_folder(out, settings)
    if not (out / PATCH).is_file():
        method.prepare()
    with suppress(OSError):  # `claim` then raises the error with its reason
        out.mkdir(parents=True, exist_ok=True)
    with folder_lock(out):
        claim(out, settings)
        patch = _patch(method, edits, out, force=force, callbacks=callbacks, progress=progress)
        return _rows(method, patch, edits, out, progress=progress)


def draw_subgraph(method: EditingMethod, edit: Edit, out: Path) -> Path | None:
    """Draw the subgraph that the method read for ``edit`` into ``out``; None if it reads no graph.

    Raises:
        OutputError: it can't be written.
    """
    graph = method.subgraph(edit)
    if graph is None:
        return None
    path = out / f"subgraph-{_file_name(edit.id)}.svg"
    try:
        return draw(_with_hops(graph), path, title=f"{edit.text} {edit.target_new}")
    except OSError as error:
        raise OutputError(
            f"can't write {path}: {error.strerror or error}; the patch and the report are complete"
        ) from error


def _with_hops(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """``graph`` with each node's distance from the subject, which a picture needs and a user's own graph may lack."""
    near = nx.single_source_shortest_path_length(graph.to_undirected(as_view=True), subject_of(graph))
    placed = graph.copy()
    for key, data in placed.nodes(data=True):
        data.setdefault("hop", near.get(key, 1 + max(near.values())))
        data.setdefault("role", "neighbour")
    return placed


def _rows(
    method: EditingMethod, patch: Patch, edits: Sequence[Edit], out: Path, *, progress: bool
) -> tuple[ReportRow, ...]:
    """Return what the edits changed, after writing all files."""
    known = known_rows(out / RECORDS, edits)
    if known and (out / REPORT).is_file():
        return known
    rows = known or before_and_after(method.model, patch, edits, progress=progress)
    lines = (json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n" for row in rows)
    write_text(out / RECORDS, "".join(lines))
    graphs = {edit.id: graph for edit in edits if (graph := _subgraph(method, edit)) is not None}
    write_text(out / PAGE, report_page(rows, patch, curves=_losses(out / LOSSES), graphs=graphs))
    write_text(out / REPORT, markdown(rows, patch))
    return rows


def _subgraph(method: EditingMethod, edit: Edit) -> nx.MultiDiGraph | str | None:
    """The subgraph that the method read for ``edit``; an error becomes its text, because the report must not fail."""
    try:
        graph = method.subgraph(edit)
        return None if graph is None else _with_hops(graph)
    except (KgEditError, WikidataCacheError) as error:
        return f"The graph could not be read again: {error}"


def _losses(path: Path) -> dict[str, tuple[LossStep, ...]]:
    """The loss curves of a run; {} if the file is damaged."""
    try:
        return read_losses(path)
    except OutputError as error:
        log.warning("the report has no loss curves: %s", error)
        return {}


def _patch(
    method: EditingMethod,
    edits: Sequence[Edit],
    out: Path,
    *,
    force: bool,
    callbacks: Sequence[Callback],
    progress: bool,
) -> Patch:
    """Load the finished patch, or make it, continuing a half-finished one."""
    path, partial = out / PATCH, out / PARTIAL
    if path.is_file():
        log.info("%s already exists; nothing to compute", path)
        return Patch.load(path)
    start = _half_finished(partial, len(edits))
    done = len(start.provenance["edits"]) if start else 0
    guard, losses = _stop_nothing if force else _guard(method), LossLines()

    drop_cut_line(out / LOSSES)

    def keep(made: Patch) -> None:
        losses.append_to(out / LOSSES)  # first: a curve that is in the file twice is read once, a lost one is lost
        made.save(partial)

    with _told_of(partial):
        patch = method.edit(
            edits[done:], start=start, after_each=keep, guard=guard, callbacks=(*callbacks, losses), progress=progress
        )
    patch.save(path)
    partial.unlink(missing_ok=True)
    return patch


def _half_finished(partial: Path, edits: int) -> Patch | None:
    """The patch of the edits that an earlier run made before it stopped; None if there is none."""
    if not partial.is_file():
        return None
    start = Patch.load(partial)
    log.info("continuing with %s after %d of %d edits", partial, len(start.provenance["edits"]), edits)
    return start


@contextmanager
def _told_of(partial: Path) -> Iterator[None]:
    """Add a note with the file of the finished edits to an error in the ``with`` block."""
    try:
        yield
    except Exception as error:
        if partial.is_file():
            error.add_note(f"the edits made before this error are kept in {partial}, which is a normal patch file")
        raise


def _guard(method: EditingMethod) -> Callable[[Patch, Patch], None]:
    """The check that stops an edit which is too large, compared with earlier edits and with its weight."""
    return lambda made, before: refuse_disabling(made, [] if before.is_empty else [before], method.model)


def _stop_nothing(made: Patch, before: Patch) -> None:
    """The check for ``force``: it stops no edit."""


def known_rows(path: Path, edits: Sequence[Edit]) -> tuple[ReportRow, ...]:
    """The rows of an earlier run of these edits from its ``records.jsonl``; () if it did not get that far."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = tuple(ReportRow.model_validate_json(line) for line in lines if line)
    except (OSError, ValueError, ValidationError):
        return ()
    return rows if {row.edit for row in rows} == {edit.id for edit in edits} else ()


def _settings(method: EditingMethod, model: LanguageModel, edits: Sequence[Edit]) -> Settings:
    """The settings that decide the patch; a run is resumed only with the same settings."""
    return {
        "job": "edit",
        **method_settings(method, model),
        "edits": len(edits),
        **chat_settings(model, edits),
        "edits_sha256": digest([edit.model_dump(mode="json") for edit in edits]),
        "kg_edit": __version__,
    }


def _file_name(name: str) -> str:
    """A part of a file name: only characters that every file system accepts, at most 60."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)[:60]
