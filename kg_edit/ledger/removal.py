"""Remove edits from a ledger, such that the result is as if they had never been asked for.

Edits that were computed on a model with the removed ones are computed again from their own records
(`recomputed_patch`). This needs the same model, method and graph as before; the ``check_same_…`` functions refuse
others, because the edits would silently change. `without` computes the new patch of every step, `recomputed_edits`
finds the edits that were computed again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import networkx as nx
import torch
from pydantic import ValidationError

from kg_edit.errors import ConfigError, PatchError, PatchMismatchError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.ledger.entries import EditPosition, edit_of
from kg_edit.ledger.log import Added, PatchStep, Removed, StoredFile
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.grace.patch import CodebookPatch
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.methods.serac.patch import ScopePatch
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import columns
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.patches.weight_patch import Factors, WeightPatch, chosen
from kg_edit.storage.run_folder import difference

Record = Mapping[str, Any]

_SIDES = "in the patch", "now"  # of a difference
_GRAPH = "graph", "nodes", "edges"
_ORIGIN = "source", "urls", "fetched_at"  # the same graph may come from several places


def method_said(patch: Patch) -> Record:
    """The entry of a patch's provenance about its method.

    Raises:
        PatchError: there is no such entry, or several.
    """
    said = patch.provenance.get("methods", ())
    if len(said) != 1 or {record["method"] for record in patch.edits} - {said[0].get("name")}:
        raise PatchError(
            f"the patch records {len(said)} methods or settings, but not which edit was made with which; "
            "add one patch file per method instead"
        )
    found: Record = said[0]
    return found


def check_same_model(patch: Patch, model: LanguageModel) -> None:
    """Refuse another model, or the same model in another dtype if the patch names one; a cast keeps the fingerprint.

    Raises:
        PatchMismatchError: the model or the dtype differs.
    """
    patch.check_model(model)
    here, there = str(model.model.dtype), patch.provenance.get("model", {}).get("dtype")
    if there not in (None, here):
        said, found = there.removeprefix("torch."), here.removeprefix("torch.")
        raise PatchMismatchError(
            f"the edits were made on the model in {said}, but the loaded model is in {found}, so recomputed edits "
            f"would differ; load the model in {said} (CLI: --dtype {said})"
        )


def check_same_method(old: Patch, new: Patch) -> None:
    """Refuse a recomputed patch with other contexts, another covariance or other settings.

    Raises:
        PatchError: the two patches record different methods.
    """
    found = difference(dict(method_said(old)), dict(method_said(new)), sides=_SIDES)
    if found:
        raise PatchError(
            f"the remaining edits can't be recomputed in the same way ({found}); nothing was changed. Restore what "
            "they were made with, such as the covariance, or remove all edits of the patch (STEP/*)"
        )


def check_same_graph(old: Sequence[Record], new: Sequence[Record]) -> None:
    """Refuse edits that were recomputed from another graph; only what the old record contains is compared.

    Raises:
        PatchError: the graph of an edit differs.
    """
    for there, here in zip(old, new, strict=False):
        told, now = _read_by(there), _read_by(here)
        if found := difference(told, {name: now.get(name) for name in told}, sides=_SIDES):
            raise PatchError(
                f"the graph is not the one that the edit {there['edit']['id']!r} was made with ({found}), so the "
                "recomputed edit would differ; nothing was changed. Give the same graph (CLI: --graph), or remove all "
                "edits of the patch (STEP/*)"
            )


def _read_by(record: Record) -> dict[str, Any]:
    """What an edit read from a graph: its subgraph, without the graph's location and time, and the facts beside it."""
    found = {name: record[name] for name in _GRAPH if name in record}
    if "graph" in found:
        found["graph"] = _content(found["graph"])
    if "requests" in record:
        found["requests"] = [request.get("edit") for request in record["requests"]]
    said: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as in a file
    return said


def _content(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The graph's hash; if it has none, its attributes except for its origin."""
    if "content_hash" in graph:
        return {"content_hash": graph["content_hash"]}
    return {name: value for name, value in graph.items() if name not in _ORIGIN}


log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecomputeContext:
    """The unedited ``model`` and the ``graph`` with which edits can be computed again."""

    model: LanguageModel | None = None
    graph: SubgraphSource | nx.DiGraph | None = None

    def method(self, patch: Patch) -> EditingMethod:
        """The method that made ``patch``, with its settings.

        Raises:
            ConfigError: there is no model, or the method needs a graph and there is none.
            PatchMismatchError: the model or its dtype differs from that of the edits.
            PatchError: the patch does not record the settings of its edits.
            UnknownNameError: the method is not installed.
        """
        said = method_said(patch)
        found = find_method(said["name"])
        if self.model is None:
            raise ConfigError(
                f"for this, edits of {said['name']} have to be recomputed; give the unedited model "
                f"(CLI: --model {patch.provenance.get('model', {}).get('name')})"
            )
        check_same_model(patch, self.model)
        try:
            config = found.config_class(**said["config"])
        except ValidationError as error:
            raise PatchError(
                f"the settings recorded in the patch are not valid for {said['name']} in this version: {error}"
            ) from error
        return found(self.model, config, graph=self.graph)


def recomputed_patch(
    patch: Patch, gone: AbstractSet[str], *, before: Patch, moved: bool, context: RecomputeContext
) -> Patch:
    """Compute ``patch`` again without the edits ``gone``, on the model with ``before`` applied.

    The edits before the first removed one are kept unchanged, if each is a column of the factors and nothing else
    changed for them (``moved`` is false).

    Raises:
        KgEditError: an edit can't be made again, or would be made differently.
    """
    kept = 0 if moved else _untouched(patch, gone)
    prefix = first_edits(patch, kept) if kept else None
    left = sum(record["edit"]["id"] not in gone for record in patch.edits[kept:])
    if prefix is not None and not left:
        return prefix
    method = context.method(patch)
    log.info("recomputing %d edits of %s", left, method.name)
    made: Patch | None = prefix
    for batch in batches(patch.edits[kept:], joint=method.joint):
        rest = [record for record in batch if record["edit"]["id"] not in gone]
        update = method.update([edit_of(record) for record in rest], before=before + made if made else before)
        check_same_method(patch, update)
        check_same_graph(rest, update.edits)
        made = made + update if made else update
    assert made is not None  # noqa: S101 - there are edits to make
    return made


def batches(records: Sequence[Record], *, joint: bool) -> Iterator[Sequence[Record]]:
    """Yield the records that were made by one call: for a joint method those of a batch, else all."""
    while records:
        size = int(records[0].get("batch", len(records))) if joint else len(records)
        yield records[:size]
        records = records[size:]


def first_edits(patch: Patch, count: int) -> WeightPatch:
    """The first ``count`` edits of a patch in which each edit has its own columns."""
    own = columns(patch)
    assert isinstance(patch, WeightPatch) and own is not None  # noqa: S101 - as the caller has seen
    facts = tuple(column for mine in own[:count] for column in mine)
    factors = {name: chosen(pair, facts) for name, pair in patch.factors.items()}
    state = {name: tensor[..., : len(facts)].contiguous() for name, tensor in patch.state.items()}
    provenance = {**patch.provenance, "edits": list(patch.edits[:count])}
    return WeightPatch(factors=factors, provenance=provenance, state=state)


def _untouched(patch: Patch, gone: AbstractSet[str]) -> int:
    """The number of first edits that do not depend on the removed ones and have their own columns.

    None does if the method goes on from the network of the edit before (``warm_start``): the first edit after the gap
    needs that of the last one before it.
    """
    if method_said(patch).get("config", {}).get("warm_start") or not (
        columns(patch) and issubclass(find_method(method_said(patch)["name"]), RankOneMethod)
    ):
        return 0
    ids: Sequence[str] = [record["edit"]["id"] for record in patch.edits]
    return next((place for place, name in enumerate(ids) if name in gone), len(ids))


def total(patches: Iterable[Patch]) -> Patch:
    """The sum of patches; an empty patch if there are none."""
    return reduce(add, patches, WeightPatch(factors={}))


def without(
    steps: Sequence[PatchStep],
    patches: Mapping[int, Patch],
    taken: AbstractSet[EditPosition],
    context: RecomputeContext,
) -> dict[int, Patch | None]:
    """The new patch of every step that changes when the edits ``taken`` are removed; None if no edit of a step is left.

    A step that was computed after a changed step is computed again completely. In other steps, single edits are taken
    out if the patch or its method supports it; else the patch's edits are computed again from its records.

    Raises:
        KgEditError: an edit has to be made again, and can't be.
    """
    now, changed = dict(patches), dict[int, Patch | None]()
    for step in steps:
        patch, number = patches[step.number], step.number
        gone = {place.id for place in taken if place.step == number}
        moved = any(earlier in changed and _knows(patch, patches[earlier]) for earlier in step.after)
        if not (gone or moved):
            continue
        if all(record["edit"]["id"] in gone for record in patch.edits):
            changed[number] = None
            del now[number]
            continue
        before = total(now[earlier] for earlier in step.after if earlier in now)
        changed[number] = now[number] = _rest(patch, gone, before, moved, context)
    return changed


def _rest(patch: Patch, gone: AbstractSet[str], before: Patch, moved: bool, context: RecomputeContext) -> Patch:
    if moved:
        return recomputed_patch(patch, gone, before=before, moved=True, context=context)
    own: Any = getattr(patch, "without", None)  # a patch of the prompt, or a codebook
    if own is not None:
        rest: Patch = own(gone)
        return rest
    opposed = any(record.get("opposed") for record in patch.edits)  # facts that an edit of the batch took out
    if opposed or not find_method(method_said(patch)["name"]).separable or not _in_last_batch(patch, gone):
        return recomputed_patch(patch, gone, before=before, moved=False, context=context)
    method: Any = context.method(patch)
    rest = method.without(patch, gone, before=before)
    check_same_method(patch, rest)
    return rest


def _knows(patch: Patch, earlier: Patch) -> bool:
    """Whether ``earlier`` could influence ``patch``: not if ``patch`` is a text, or if both are codebooks.

    A text whose records have an answer of the model (``said``, MemPrompt) was made with this answer. A memory
    (`ScopePatch`) holds hidden states of the model, which a patch of the prompt does not change.
    """
    if isinstance(patch, PromptPatch) and any("said" in record for record in patch.edits):
        return True
    if isinstance(patch, PromptPatch) or (patch.kind == "prompt" and earlier.kind == "prompt"):
        return False
    return not (isinstance(patch, CodebookPatch) and isinstance(earlier, CodebookPatch))


def _in_last_batch(patch: Patch, gone: AbstractSet[str]) -> bool:
    """Whether the removed edits are in the last batch only, since later batches were computed on a model with them."""
    *earlier, _ = batches(patch.edits, joint=True)
    return not any(record["edit"]["id"] in gone for batch in earlier for record in batch)


def recomputed_edits(
    events: Sequence[Added | Removed], load: Callable[[StoredFile], Patch]
) -> dict[EditPosition, Removed]:
    """The last removal that recomputed each edit, given the events in force; unchanged edits are left out."""
    files, found = dict[int, StoredFile](), dict[EditPosition, Removed]()
    for event in events:
        if isinstance(event, Added):
            files[event.number] = event.file
            continue
        for step, file in event.files.items():
            if file is None:
                continue
            for name in _changed(load(files[step]), load(file)):
                found[EditPosition(step, name)] = event
            files[step] = file
    return found


def _changed(old: Patch, new: Patch) -> list[str]:
    """The edits of ``new`` whose record or change differs from ``old``."""
    before, after = _parts(old), _parts(new)
    return [name for name, part in after.items() if name not in before or not _same(before[name], part)]


_Part = tuple[Mapping[str, Any], Mapping[str, Factors] | None]


def _parts(patch: Patch) -> dict[str, _Part]:
    """Each edit's record and its columns of the weight changes; None if changes can't be attributed to single edits.

    For a prompt or a codebook, from which single edits can be dropped, the record is enough; a memory's edit also has
    its vectors.
    """
    own = columns(patch)
    parts: dict[str, _Part] = {}
    for place, record in enumerate(patch.edits):
        mine: Mapping[str, Factors] | None = {} if hasattr(patch, "without") else None
        if own is not None and isinstance(patch, WeightPatch):
            mine = {name: chosen(pair, own[place]) for name, pair in patch.factors.items()}
        if isinstance(patch, ScopePatch):
            mine = {"scope": Factors(left=patch.facts[place].vectors, right=patch.facts[place].weights)}
        parts[record["edit"]["id"]] = record, mine
    return parts


def _same(one: _Part, two: _Part) -> bool:
    (record, mine), (other, its) = one, two
    if record != other or mine is None or its is None or mine.keys() != its.keys():
        return False
    return all(
        torch.equal(pair.left, its[name].left) and torch.equal(pair.right, its[name].right)
        for name, pair in mine.items()
    )
