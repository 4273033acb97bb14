"""Remove edits from a ledger, such that the result is as if they had never been made.

Edits that were computed on a model with the removed ones are computed again from their own records
(`recompute_patch`). This needs the same model, method and graph as before; the ``check_same_…`` functions refuse
others, because the edits would silently change.

`compute_remaining` computes the new patch of every step from which edits are removed, or which came after such a step.
`find_recomputed` finds the edits that were computed again by earlier removals.
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

from kg_common.progress import Bar
from kg_common.terminal import number_of
from kg_edit.errors import ConfigError, PatchError, PatchMismatchError
from kg_edit.graphs.source import SubgraphSource, open_named
from kg_edit.methods import EditingMethod, MethodConfig, find_method
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.average import AVERAGED
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import columns_by_edit
from kg_edit.patches.entries import EditPosition, edit_of
from kg_edit.patches.subtraction import SUBTRACTED
from kg_edit.patches.weight_patch import WeightPatch, sum_patches
from kg_edit.ship.ledger.log import Added, PatchStep, Removed, StoredFile
from kg_edit.storage.packaged import EXTRACT
from kg_edit.storage.run_differences import describe_difference
from wikidata_cache.extract import packaged_extract

Record = Mapping[str, Any]

_SIDES = "in the patch", "now"  # how `difference` names what it compares
_ORIGIN = "source", "urls", "fetched_at"  # where and when a graph was read, which may differ for the same graph
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
    change = describe_difference(dict(recorded_method(old)), dict(recorded_method(new)), sides=_SIDES)
    if change:
        raise PatchError(
            f"the remaining edits can't be recomputed in the same way ({change}); nothing was changed. Restore what "
            "they were made with, such as the covariance, or remove all edits of the patch (STEP/*)"
        )


def check_same_graph(old: Sequence[Record], new: Sequence[Record]) -> None:
    """Refuse edits that were recomputed from another graph."""
    for recorded, recomputed in zip(old, new, strict=False):
        change = describe_difference(_read_graph_facts(recorded), _read_graph_facts(recomputed), sides=_SIDES)
        if change:
            raise PatchError(
                f"the graph is not the one that the edit {recorded['edit']['id']!r} was made with ({change}), so the "
                "recomputed edit would differ; nothing was changed. Give the same graph (CLI: --graph), or remove all "
                "edits of the patch (STEP/*)"
            )


def _read_graph_facts(record: Record) -> dict[str, Any]:
    """Return what an edit read from a graph: its subgraph, and the further facts that were edited in."""
    read: dict[str, Any] = {}
    if "graph" in record:
        # Two graphs are the same if their hashes are; without a hash, everything but the origin is compared.
        graph = record["graph"]
        if "content_hash" in graph:
            read["graph"] = {"content_hash": graph["content_hash"]}
        else:
            read["graph"] = {name: value for name, value in graph.items() if name not in _ORIGIN}
    for name in ("nodes", "edges"):
        if name in record:
            read[name] = record[name]
    if "requests" in record:
        read["requests"] = [request.get("edit") for request in record["requests"]]
    plain: dict[str, Any] = json.loads(json.dumps(read))  # tuples become lists, as in a file
    return plain


def _list_graph_files(method: Record, edits: Sequence[Record]) -> list[str]:
    """Return the names of the graph's files that a method and its edits record, sorted."""
    names = set[str]()
    for record in (method, *edits):
        names.update(_list_record_files(record))
    return sorted(names)


def _list_record_files(record: Record) -> Iterator[str]:
    graph = record.get("graph", {})
    # A graph that adds the edit's own edge names the other one as ``right``; a Wikidata cache names its ``source``.
    for key in ("right", "source"):
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

    def make_method(self, patch: Patch) -> EditingMethod:
        """Return the method that made ``patch``, with its settings, on the model that it was made on."""
        if self.model is not None:
            patch.check_model(self.model)
            _refuse_other_dtype(patch, self.model)
        return self.make_unchecked_method(patch)

    def make_unchecked_method(self, patch: Patch) -> EditingMethod:
        """Return the method that made ``patch``, with its settings, on whatever model the context has."""
        recorded = recorded_method(patch)
        method_class = find_method(recorded["name"])
        graph_files = _list_graph_files(recorded, patch.edits)
        if self.model is None:
            raise ConfigError(
                f"for this, edits of {method_class.name} have to be recomputed; give the unedited model "
                f"(CLI: --model {patch.provenance.get('model', {}).get('name')}{_write_graph_options(graph_files)})"
            )
        graph = self.graph
        if graph is None and method_class.needs_graph:
            graph = _open_packaged(graph_files, method_class.name)
        return method_class(self.model, _read_config(recorded, method_class), graph=graph)


def _is_packaged(graph_files: Sequence[str]) -> bool:
    """Return whether edits were made with the packaged extract.

    A patch records the names of the graph's files, and no paths, so another file of this name counts as the extract
    here. `check_same_graph` refuses the recomputed edits then, because their graph has another hash.
    """
    return graph_files == [packaged_extract().name]


def _write_graph_options(graph_files: Sequence[str]) -> str:
    """Return the options that give a command the graph, such as " --graph facts.csv"; "" for the packaged extract."""
    if _is_packaged(graph_files):
        return ""
    return "".join(f" --graph {file}" for file in graph_files)


def _open_packaged(graph_files: Sequence[str], method: str) -> SubgraphSource:
    """Open the packaged extract; refuse edits of a ``method`` that were made with another graph."""
    if not _is_packaged(graph_files):
        options = _write_graph_options(graph_files) or " --graph"
        raise ConfigError(
            f"for this, edits of {method} have to be recomputed, which needs the knowledge graph that they were made "
            f"with; give graph=... (CLI:{options})"
        )
    return open_named(EXTRACT)


def _read_config(recorded: Record, method_class: type[EditingMethod]) -> MethodConfig:
    """Return the settings that a patch records of its method."""
    name = recorded["name"]
    if "config" not in recorded:
        raise PatchError(f"the patch does not record the settings of {name}; remove all of its edits together")
    try:
        return method_class.config_class.model_validate(recorded["config"])
    except ValidationError as error:
        raise PatchError(
            f"the settings recorded in the patch are not valid for {name} in this version: {error}"
        ) from error


def _refuse_other_dtype(patch: Patch, model: LanguageModel) -> None:
    """Refuse the same model in another number type: the fingerprint is the same, but edits would differ."""
    loaded_in = str(model.model.dtype).removeprefix("torch.")
    made_in = str(patch.provenance.get("model", {}).get("dtype")).removeprefix("torch.")
    if made_in != loaded_in:
        raise PatchMismatchError(
            f"the edits were made on the model in {made_in}, but the loaded model is in {loaded_in}, so "
            f"recomputed edits would differ; load the model in {made_in} (CLI: --dtype {made_in})"
        )


def compute_remaining(
    steps: Sequence[PatchStep],
    patches: Mapping[int, Patch],
    removed: AbstractSet[EditPosition],
    context: RecomputeContext,
) -> dict[int, Patch | None]:
    """Compute the new patch of every step that changes when edits are removed.

    A step that was computed after a changed step is computed again completely. In other steps, single edits are removed
    if the patch or its method supports it; else the patch's edits are computed again from its records.

    An example: step 2 was computed after step 1, and step 3 on the unedited model. If an edit of step 1 is removed,
    step 1 loses it, step 2 is computed again, and step 3 stays as it is.

    Args:
        steps: the active steps, in order.
        patches: the patch of each step.
        removed: the positions of the edits to remove.
        context: the model and the graph to compute edits again.

    Returns:
        The new patch by the step's number; None if no edit of the step is left.
    """
    current = dict(patches)  # of each step, with the removals so far
    changed = dict[int, Patch | None]()
    first = min(position.step for position in removed)  # the steps before it stay as they are
    later_steps = [step for step in steps if step.number >= first]
    for step in Bar(later_steps, title="removing", unit="step", leave=False, delay=1.0):
        number = step.number
        patch = patches[number]
        own = {position.id for position in removed if position.step == number}
        # Whether the patch was computed on a model that is another one now
        has_other_base = any(earlier in changed and patch.depends_on(patches[earlier]) for earlier in step.after)
        if not own and not has_other_base:
            continue
        if all(_read_id(record) in own for record in patch.edits):
            changed[number] = None
            del current[number]
            continue
        before = sum_patches(current[earlier] for earlier in step.after if earlier in current)
        if has_other_base:
            rest = recompute_patch(patch, own, before=before, has_other_base=True, context=context)
        else:
            rest = _remove_edits(patch, own, before=before, context=context)
        changed[number] = rest
        current[number] = rest
    return changed


def _read_id(record: Record) -> str:
    return str(record["edit"]["id"])


def _remove_edits(patch: Patch, removed: AbstractSet[str], *, before: Patch, context: RecomputeContext) -> Patch:
    """Return a patch without some edits, on a model that has the same ``before`` as when the patch was computed."""
    remove: Any = getattr(patch, "without", None)  # a patch of the prompt, or a codebook
    if remove is not None:
        rest: Patch = remove(removed)
        return rest
    if not _can_be_solved_again(patch, removed):
        return recompute_patch(patch, removed, before=before, has_other_base=False, context=context)
    method: Any = context.make_method(patch)
    rest = method.without(patch, removed, before=before)
    check_same_method(patch, rest)
    return rest


def _can_be_solved_again(patch: Patch, removed: AbstractSet[str]) -> bool:
    """Return whether the patch's method can solve for the edits that are left, from their stored values.

    A joint method can, if all removed edits are in the last batch: later batches were computed on a model with them. An
    edit that undid facts of its batch (``opposed``) changed the other edits, so they are not separable.
    """
    if any(record.get("opposed") for record in patch.edits):
        return False
    if not find_method(recorded_method(patch)["name"]).separable:
        return False
    *earlier_batches, _ = batches(patch.edits, joint=True)
    earlier_ids: set[str] = set()
    for batch in earlier_batches:
        earlier_ids.update(_read_id(record) for record in batch)
    return earlier_ids.isdisjoint(removed)


def recompute_patch(
    patch: Patch, removed: AbstractSet[str], *, before: Patch, has_other_base: bool, context: RecomputeContext
) -> Patch:
    """Compute a patch again without some of its edits.

    Args:
        patch: the patch with its records.
        removed: the ids of the edits to leave out.
        before: the patch that the model has before these edits.
        has_other_base: whether ``before`` is not what it was when ``patch`` was computed.
        context: the model and the graph.
    """
    # The edits before the first removed one may stay as they are; those after it are made again on top of them.
    kept = None
    if not has_other_base:
        kept = _keep_part_before(patch, removed)
    records = patch.edits
    if kept is not None:
        records = records[len(kept.edits) :]
    remaining = sum(_read_id(record) not in removed for record in records)
    if kept is not None and not remaining:
        return kept
    method = context.make_method(patch)
    log.info("recomputing %s of %s", number_of(remaining, "edit"), method.name)
    result: Patch | None = kept  # the edits so far; None: none yet
    for batch in batches(records, joint=method.joint):  # as they were made, so with the removed edits
        rest = [record for record in batch if _read_id(record) not in removed]
        if not rest:
            continue
        if result is None:
            result = _make_again(method, rest, before=before, old=patch)
        else:
            result = result + _make_again(method, rest, before=before + result, old=patch)
    if result is None:
        return method.empty_patch()
    return result


def _make_again(method: EditingMethod, records: Sequence[Record], *, before: Patch, old: Patch) -> Patch:
    """Make edits of the patch ``old`` again from their records; refuse another method or graph than that of ``old``."""
    update = method.edit([edit_of(record) for record in records], before=before, progress=True)
    check_same_method(old, update)
    check_same_graph(records, update.edits)
    return update


def _keep_part_before(patch: Patch, removed: AbstractSet[str]) -> WeightPatch | None:
    """Return the edits before the first removed one as a patch; None if there are none, or they would change.

    They stay as they are if each of them has its own columns of the factors, and is computed by itself (RankOneMethod).
    """
    edit_columns = columns_by_edit(patch)
    if edit_columns is None or not isinstance(patch, WeightPatch):
        return None
    recorded = recorded_method(patch)
    # With a warm start, an edit begins with the network of the edit before it, which is not stored. So the first edit
    # after the removed one can only be computed after all edits before it.
    if recorded.get("config", {}).get("warm_start") or not issubclass(find_method(recorded["name"]), RankOneMethod):
        return None
    kept_records = []
    for record in patch.edits:
        if _read_id(record) in removed:
            break
        kept_records.append(record)
    if not kept_records:
        return None
    kept_columns: list[int] = []
    for columns in edit_columns[: len(kept_records)]:
        kept_columns += columns
    factors = {name: pair.columns(kept_columns) for name, pair in patch.factors.items()}
    state = {name: tensor[..., : len(kept_columns)].contiguous() for name, tensor in patch.state.items()}
    return WeightPatch(factors=factors, provenance={**patch.provenance, "edits": kept_records}, state=state)


def batches(records: Sequence[Record], *, joint: bool) -> Iterator[Sequence[Record]]:
    """Yield the records that were made by one call: for a joint method those of a batch, otherwise all."""
    while records:
        size = len(records)
        if joint:
            size = int(records[0].get("batch", size))
        yield records[:size]
        records = records[size:]


def find_recomputed(
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
            before = _split_parts(load(files[step]))
            for name, part in _split_parts(load(file)).items():
                if not part.is_same(before.get(name)):
                    removals[EditPosition(step, name)] = event
            files[step] = file
    return removals


@dataclass(frozen=True, eq=False)
class _Part:
    """An edit's record and its share of the change, by weight; None if changes can't be attributed to single edits."""

    record: Record
    share: Mapping[str, tuple[Tensor, Tensor]] | None

    def is_same(self, other: _Part | None) -> bool:
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


def _split_parts(patch: Patch) -> dict[str, _Part]:
    """Return the part of each edit, by its id."""
    parts = dict[str, _Part]()
    edit_columns = columns_by_edit(patch)
    for index, record in enumerate(patch.edits):
        share = patch.tensors_of_edit(index)
        if edit_columns is not None and isinstance(patch, WeightPatch):
            own = dict[str, tuple[Tensor, Tensor]]()
            for name, factors in patch.factors.items():
                pair = factors.columns(edit_columns[index])
                own[name] = (pair.left, pair.right)
            share = own
        parts[_read_id(record)] = _Part(record, share)
    return parts
