"""What a patch's edits were made with; anything else would make other edits of them, without a word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.storage.run_folder import difference

Record = Mapping[str, Any]

_GRAPH = "graph", "nodes", "edges"
_ORIGIN = "source", "urls", "fetched_at"  # one and the same graph may come from several places


def method_said(patch: Patch) -> Record:
    """What a patch says of its method.

    Raises:
        PatchError: it says nothing, or several things.
    """
    said = patch.provenance.get("methods", ())
    if len(said) != 1 or {record["method"] for record in patch.edits} - {said[0].get("name")}:
        raise PatchError(
            f"the patch tells of {len(said)} methods or settings, so which edit was made with which is not known; "
            "add the patch of each as a file of its own"
        )
    found: Record = said[0]
    return found


def check_same_model(patch: Patch, model: LanguageModel) -> None:
    """Refuse another model, or this one in another dtype, if the patch says one: a fingerprint survives a cast.

    Raises:
        PatchMismatchError: it is another.
    """
    patch.check_model(model)
    here, there = str(model.model.dtype), patch.provenance.get("model", {}).get("dtype")
    if there not in (None, here):
        said, found = there.removeprefix("torch."), here.removeprefix("torch.")
        raise PatchMismatchError(
            f"the edits were made on the model in {said}, the model at hand is in {found}, so made anew they would "
            f"differ; load the model in {said} (CLI: --dtype {said})"
        )


def check_same_method(old: Patch, new: Patch) -> None:
    """Refuse what was made anew with other contexts, another covariance or the like.

    Raises:
        PatchError: the two patches say different things of their method.
    """
    found = difference(dict(method_said(old)), dict(method_said(new)))
    if found:
        raise PatchError(
            f"made anew, the edits would differ by more than the removed ones ({found}); nothing was changed. Bring "
            "back what they were made with, such as the covariance, or drop all edits of the patch (STEP/*)"
        )


def check_same_graph(old: Sequence[Record], new: Sequence[Record]) -> None:
    """Refuse edits that were made anew from another graph than before; what an old record does not tell is no reason.

    Raises:
        PatchError: the graph of one is not the same.
    """
    for there, here in zip(old, new, strict=False):
        told, now = _read_by(there), _read_by(here)
        if found := difference(told, {name: now.get(name) for name in told}):
            raise PatchError(
                f"the graph is not the one that the edit {there['edit']['id']!r} was made with ({found}), so made anew "
                "it would differ; nothing was changed. Give the same graph (CLI: --graph), or drop all edits of the "
                "patch (STEP/*)"
            )


def _read_by(record: Record) -> dict[str, Any]:
    """What an edit read of a graph: its subgraph, wherever and whenever that was asked for, and the facts beside it."""
    found = {name: record[name] for name in _GRAPH if name in record}
    if "graph" in found:
        found["graph"] = _content(found["graph"])
    if "requests" in record:
        found["requests"] = [request.get("edit") for request in record["requests"]]
    said: dict[str, Any] = json.loads(json.dumps(found))  # as in a file: no tuples
    return said


def _content(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The graph's hash; of one without, all that is said of it."""
    if "content_hash" in graph:
        return {"content_hash": graph["content_hash"]}
    return {name: value for name, value in graph.items() if name not in _ORIGIN}
