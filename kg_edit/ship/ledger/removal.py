"""Remove edits from a ledger, such that the result is as if they had never been made.

Edits that were computed on a model with the removed ones are computed again from their own records
(`recomputed_patch`). This needs the same model, method and graph as before; the ``check_same_…`` functions refuse
others, because the edits would silently change. `without` computes the new patch of every step, `recomputed_edits`
finds the edits that were computed again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from pydantic import ValidationError
from torch import Tensor

from kg_common.terminal import number_of
from kg_edit.errors import ConfigError, PatchError, PatchMismatchError
from kg_edit.graphs.source import SubgraphSource, open_named
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.average import AVERAGED
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import columns
from kg_edit.patches.entries import EditPosition, edit_of
from kg_edit.patches.subtraction import SUBTRACTED
from kg_edit.patches.weight_patch import WeightPatch, total
from kg_edit.ship.ledger.log import Added, PatchStep, Removed, StoredFile
from kg_edit.storage.packaged import EXTRACT
from kg_edit.storage.run_folder import difference
from wikidata_cache.extract import packaged_extract

Record = Mapping[str, Any]

_SIDES = "in the patch", "now"  # of a difference
_ORIGIN = "source", "urls", "fetched_at"  # the same graph may come from several places
log = logging.getLogger(__name__)


def recorded_method(patch: Patch) -> Record:
    """Return the entry of a patch's provenance about its method."""
    methods = patch.provenance.get("methods", ())
    if AVERAGED in patch.provenance:
        raise PatchError(
            "the patch is an average of several, from which a single edit can't be removed; remove all of its edits "
            "(STEP/*), and average patches without it"
        )
    if SUBTRACTED in patch.provenance:
        raise PatchError(
            "an anti-expert was subtracted from the patch, so a single edit can't be removed; remove all of its edits "
            "(STEP/*), and subtract from a patch without it"
        )
    if len(methods) != 1 or {record["method"] for record in patch.edits} - {methods[0].get("name")}:
        raise PatchError(
            f"the patch records {len(methods)} methods or settings, but not which edit was made with which; "
            "add one patch file per method instead"
        )
    recorded: Record = methods[0]
    return recorded


def check_same_method(old: Patch, new: Patch) -> None:
    """Refuse a recomputed patch with other contexts, another covariance or other settings."""
    change = difference(dict(recorded_method(old)), dict(recorded_method(new)), sides=_SIDES)
    if change:
        raise PatchError(
            f"the remaining edits can't be recomputed in the same way ({change}); nothing was changed. Restore what "
            "they were made with, such as the covariance, or remove all edits of the patch (STEP/*)"
        )


def check_same_graph(old: Sequence[Record], new: Sequence[Record]) -> None:
    """Refuse edits that were recomputed from another graph."""
    for recorded, recomputed in zip(old, new, strict=False):
        if change := difference(_read_from_graph(recorded), _read_from_graph(recomputed), sides=_SIDES):
            raise PatchError(
                f"the graph is not the one that the edit {recorded['edit']['id']!r} was made with ({change}), so the "
                "recomputed edit would differ; nothing was changed. Give the same graph (CLI: --graph), or remove all "
                "edits of the patch (STEP/*)"
            )


def _read_from_graph(record: Record) -> dict[str, Any]:
    """What an edit read from a graph: its subgraph, and the further facts that were edited in."""
    read: dict[str, Any] = {}
    if "graph" in record:
        # The hash decides; without one, everything but the place and the time where the graph was read.
        graph = record["graph"]
        hashed = {"content_hash"} & graph.keys()
        compared = hashed or graph.keys() - set(_ORIGIN)
        read["graph"] = {name: graph[name] for name in compared}
    for name in ("nodes", "edges"):
        if name in record:
            read[name] = record[name]
    if "requests" in record:
        read["requests"] = [request.get("edit") for request in record["requests"]]
    plain: dict[str, Any] = json.loads(json.dumps(read))  # tuples become lists, as in a file
    return plain


def _graph_files(record: Record) -> Iterator[str]:
    """Yield the names of the files of the graph that an edit was made with."""
    graph = record.get("graph", {})
    for key in ("right", "source"):  # the graph of an edge alone, and Wikidata's source
        inner = graph.get(key)
        if isinstance(inner, Mapping):
            graph = inner
    for file in graph.get("files", ()):
        yield str(file["name"])


@dataclass(frozen=True, eq=False, kw_only=True)
class RecomputeContext:
    """The unedited ``model`` and the ``graph`` with which edits can be computed again; None: the packaged extract."""

    model: LanguageModel | None = None
    graph: SubgraphSource | nx.DiGraph | None = None

    def method(self, patch: Patch) -> EditingMethod:
        """Return the method that made ``patch``, with its settings."""
        recorded = recorded_method(patch)
        method_class = find_method(recorded["name"])
        files = sorted({name for record in (recorded, *patch.edits) for name in _graph_files(record)})
        extract = files == [packaged_extract().name]
        options = "".join(f" --graph {name}" for name in files) * (not extract)
        if self.model is None:
            raise ConfigError(
                f"for this, edits of {recorded['name']} have to be recomputed; give the unedited model "
                f"(CLI: --model {patch.provenance.get('model', {}).get('name')}{options})"
            )
        graph = self.graph
        if graph is None and method_class.needs_graph:
            if not extract:
                raise ConfigError(
                    f"for this, edits of {recorded['name']} have to be recomputed, which needs the knowledge graph "
                    f"that they were made with; give graph=... (CLI:{options or ' --graph'})"
                )
            graph = open_named(EXTRACT)  # as where the edits were made
        patch.check_model(self.model)
        # A cast keeps the fingerprint of a model, but edits in another dtype would differ.
        loaded_in = str(self.model.model.dtype).removeprefix("torch.")
        made_in = str(patch.provenance.get("model", {}).get("dtype")).removeprefix("torch.")
        if made_in != loaded_in:
            raise PatchMismatchError(
                f"the edits were made on the model in {made_in}, but the loaded model is in {loaded_in}, so "
                f"recomputed edits would differ; load the model in {made_in} (CLI: --dtype {made_in})"
            )
        if "config" not in recorded:
            name = recorded["name"]
            raise PatchError(f"the patch does not record the settings of {name}; remove all of its edits together")
        try:
            config = method_class.config_class.model_validate(recorded["config"])
        except ValidationError as error:
            raise PatchError(
                f"the settings recorded in the patch are not valid for {recorded['name']} in this version: {error}"
            ) from error
        return method_class(self.model, config, graph=graph)


def without(
    steps: Sequence[PatchStep],
    patches: Mapping[int, Patch],
    removed: AbstractSet[EditPosition],
    context: RecomputeContext,
) -> dict[int, Patch | None]:
    """Compute the new patch of every step that changes when edits are removed.

    A step that was computed after a changed step is computed again completely. In other steps, single edits are removed
    if the patch or its method supports it; else the patch's edits are computed again from its records.

    Args:
        steps: the active steps, in order.
        patches: the patch of each step.
        removed: the positions of the edits to remove.
        context: the model and the graph to compute edits again.

    Returns:
        The new patch by the step's number; None if no edit of the step is left.
    """
    now = dict(patches)
    changed = dict[int, Patch | None]()
    for step in steps:
        patch = patches[step.number]
        number = step.number
        gone = {position.id for position in removed if position.step == number}
        moved = any(earlier in changed and patch.depends_on(patches[earlier]) for earlier in step.after)
        if not (gone or moved):
            continue
        if all(record["edit"]["id"] in gone for record in patch.edits):
            changed[number] = None
            del now[number]
            continue
        before = total(now[earlier] for earlier in step.after if earlier in now)
        changed[number] = now[number] = _without_edits(patch, gone, before, moved, context)
    return changed


def _without_edits(
    patch: Patch, gone: AbstractSet[str], before: Patch, moved: bool, context: RecomputeContext
) -> Patch:
    """The patch without the edits ``gone``, on a model with ``before``, which differs from before if it ``moved``."""
    if moved:
        return recomputed_patch(patch, gone, before=before, moved=True, context=context)
    remove: Any = getattr(patch, "without", None)  # a patch of the prompt, or a codebook
    if remove is not None:
        rest: Patch = remove(gone)
        return rest
    # A joint method can solve again for the edits that are left, if the removed ones are in the last batch: later
    # batches were computed on a model with them. An edit that undid facts of its batch (`opposed`) changed the others.
    opposed = any(record.get("opposed") for record in patch.edits)
    separable = not opposed and find_method(recorded_method(patch)["name"]).separable
    if separable:
        *earlier, _ = batches(patch.edits, joint=True)
        separable = not any(record["edit"]["id"] in gone for batch in earlier for record in batch)
    if not separable:
        return recomputed_patch(patch, gone, before=before, moved=False, context=context)
    method: Any = context.method(patch)
    rest = method.without(patch, gone, before=before)
    check_same_method(patch, rest)
    return rest


def recomputed_patch(
    patch: Patch, gone: AbstractSet[str], *, before: Patch, moved: bool, context: RecomputeContext
) -> Patch:
    """Compute a patch again without some of its edits.

    The edits before the first removed one stay unchanged, if each is a column of the factors and nothing else changed
    for them.

    Args:
        patch: the patch with its records.
        gone: the ids of the edits to leave out.
        before: the patch that the model has before these edits.
        moved: ``before`` is not what it was when ``patch`` was computed.
        context: the model and the graph.
    """
    ids = [record["edit"]["id"] for record in patch.edits]
    start = 0
    result: Patch | None = None
    edit_columns = None if moved else columns(patch)
    if edit_columns is not None and isinstance(patch, WeightPatch):
        recorded = recorded_method(patch)
        # With a warm start, an edit begins with the network of the edit before it: the first edit after the gap needs
        # that of the last one before it.
        independent = issubclass(find_method(recorded["name"]), RankOneMethod)
        if independent and not recorded.get("config", {}).get("warm_start"):
            start = next((index for index, name in enumerate(ids) if name in gone), len(ids))
        if start:
            facts = tuple(column for its in edit_columns[:start] for column in its)
            factors = {name: pair.columns(facts) for name, pair in patch.factors.items()}
            state = {name: tensor[..., : len(facts)].contiguous() for name, tensor in patch.state.items()}
            provenance = {**patch.provenance, "edits": list(patch.edits[:start])}
            result = WeightPatch(factors=factors, provenance=provenance, state=state)
    remaining = sum(name not in gone for name in ids[start:])
    if result is not None and not remaining:
        return result
    method = context.method(patch)
    log.info("recomputing %s of %s", number_of(remaining, "edit"), method.name)
    for batch in batches(patch.edits[start:], joint=method.joint):
        rest = [record for record in batch if record["edit"]["id"] not in gone]
        if not rest:
            continue
        beneath = before + result if result else before
        update = method.edit([edit_of(record) for record in rest], before=beneath, progress=True)
        check_same_method(patch, update)
        check_same_graph(rest, update.edits)
        result = result + update if result else update
    return method.empty_patch() if result is None else result


def batches(records: Sequence[Record], *, joint: bool) -> Iterator[Sequence[Record]]:
    """Yield the records that were made by one call: for a joint method those of a batch, else all."""
    while records:
        size = int(records[0].get("batch", len(records))) if joint else len(records)
        yield records[:size]
        records = records[size:]


def recomputed_edits(
    events: Sequence[Added | Removed], load: Callable[[StoredFile], Patch]
) -> dict[EditPosition, Removed]:
    """Return the last removal that recomputed each edit, given the events in force; unchanged edits are left out."""
    files = dict[int, StoredFile]()
    removals = dict[EditPosition, Removed]()
    for event in events:
        if isinstance(event, Added):
            files[event.number] = event.file
            continue
        for step, file in event.files.items():
            if file is None:
                continue
            before = _parts(load(files[step]))
            after = _parts(load(file))
            removals |= {
                EditPosition(step, name): event for name, part in after.items() if not part.same(before.get(name))
            }
            files[step] = file
    return removals


@dataclass(frozen=True, eq=False)
class _Part:
    """An edit's record and its share of the change, by weight; None if changes can't be attributed to single edits."""

    record: Record
    share: Mapping[str, tuple[Tensor, Tensor]] | None

    def same(self, other: _Part | None) -> bool:
        """Return whether the records and the shares are the same, bit for bit."""
        if other is None or self.share is None or other.share is None:
            return False
        if self.record != other.record or self.share.keys() != other.share.keys():
            return False
        for name, (left, right) in self.share.items():
            other_left, other_right = other.share[name]
            if not (torch.equal(left, other_left) and torch.equal(right, other_right)):
                return False
        return True


def _parts(patch: Patch) -> dict[str, _Part]:
    """The part of each edit, by its id."""
    parts = dict[str, _Part]()
    edit_columns = columns(patch)
    for index, record in enumerate(patch.edits):
        share = patch.share_of(index)
        if edit_columns is not None and isinstance(patch, WeightPatch):
            own = {name: factors.columns(edit_columns[index]) for name, factors in patch.factors.items()}
            share = {name: (factors.left, factors.right) for name, factors in own.items()}
        parts[record["edit"]["id"]] = _Part(record, share)
    return parts
