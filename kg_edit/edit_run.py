"""The job behind `kg-edit edit`: edits in, a folder out with the patch, the proof and a picture; resumable."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kg_edit import __version__
from kg_edit.before_after import Row, before_and_after
from kg_edit.edits import Edit
from kg_edit.evaluate.settings import method_settings
from kg_edit.files import write_text
from kg_edit.language_model import LanguageModel
from kg_edit.methods import EditingMethod
from kg_edit.patch import Patch
from kg_edit.report import markdown
from kg_edit.run_folder import claim, digest
from wikidata_cache.draw import draw

log = logging.getLogger(__name__)


def run_edits(
    method: EditingMethod, model: LanguageModel, edits: Sequence[Edit], out: Path, *, progress: bool = True
) -> tuple[Row, ...]:
    """Make ``edits`` in turn and write ``out``: patch.safetensors, records.jsonl, report.md, run.json.

    Started again with the same settings it goes on where it was killed, and does nothing twice.

    Raises:
        OutputError: ``out`` holds another run, or can't be written.
        KgEditError: an edit can't be made; what was done before it is kept.
    """
    method.check(edits)
    claim(out, _settings(method, model, edits))
    patch = _patch(method, edits, out, progress=progress)
    rows = before_and_after(model, patch, edits)
    lines = (json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n" for row in rows)
    write_text(out / "records.jsonl", "".join(lines))
    write_text(out / "report.md", markdown(rows, patch))
    return rows


def draw_subgraph(method: EditingMethod, edit: Edit, out: Path) -> Path | None:
    """A picture in ``out`` of what the method looked at for ``edit``; None if it looks at no graph."""
    graph = method.subgraph(edit)
    if graph is None:
        return None
    return draw(graph, out / f"subgraph-{_file_name(edit.id)}.svg", title=f"{edit.text} {edit.target_new}")


def _patch(method: EditingMethod, edits: Sequence[Edit], out: Path, *, progress: bool) -> Patch:
    """The finished patch, or the rest of a half-done one."""
    path, partial = out / "patch.safetensors", out / "patch.partial.safetensors"
    if path.is_file():
        log.info("%s is there already; nothing to compute", path)
        return Patch.load(path)
    start = Patch.load(partial) if partial.is_file() else None
    done = len(start.provenance["edits"]) if start else 0
    patch = method.edit(edits[done:], start=start, after_each=lambda made: _keep(made, partial), progress=progress)
    patch.save(path)
    partial.unlink(missing_ok=True)
    return patch


def _keep(patch: Patch, path: Path) -> None:
    patch.save(path)


def _settings(method: EditingMethod, model: LanguageModel, edits: Sequence[Edit]) -> dict[str, Any]:
    """All that decides a patch."""
    return {
        "job": "edit",
        **method_settings(method, model),
        "edits": len(edits),
        "edits_sha256": digest([edit.model_dump(mode="json") for edit in edits]),
        "kg_edit": __version__,
    }


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
