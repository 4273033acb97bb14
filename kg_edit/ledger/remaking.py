"""Making edits anew from a patch's own records, as if others had never been."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import networkx as nx
from pydantic import ValidationError

from kg_edit.errors import ConfigError, PatchError
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.ledger.entries import edit_of
from kg_edit.ledger.made_with import Record, check_same_graph, check_same_method, check_same_model, method_said
from kg_edit.ledger.sizes import chosen, columns
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.rank_one.base import RankOneMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Workbench:
    """What is at hand to make edits anew with; ``model`` is the unedited one."""

    model: LanguageModel | None = None
    graph: SubgraphSource | nx.DiGraph | None = None

    def method(self, patch: Patch) -> EditingMethod:
        """The method that made ``patch``, with its settings.

        Raises:
            ConfigError: no model is at hand, or the method needs a graph and there is none.
            PatchMismatchError: the model is another one, or in another dtype than the edits were made in.
            PatchError: the patch does not say with which settings its edits were made.
            UnknownNameError: the method is none of those installed.
        """
        said = method_said(patch)
        found = find_method(said["name"])
        if self.model is None:
            raise ConfigError(
                f"edits of {said['name']} have to be computed anew for this; give the model they are for "
                f"(CLI: --model {patch.provenance.get('model', {}).get('name')})"
            )
        check_same_model(patch, self.model)
        try:
            config = found.config_class(**said["config"])
        except ValidationError as error:
            raise PatchError(
                f"the settings that the patch tells of don't fit {said['name']} of this version: {error}"
            ) from error
        return found(self.model, config, graph=self.graph)


def made_anew(patch: Patch, gone: AbstractSet[str], *, before: Patch, moved: bool, workbench: Workbench) -> Patch:
    """What ``patch`` would be had the edits ``gone`` not been asked for, on the model with ``before`` in it.

    The edits before the first one that is gone are kept as they are where each is a column of the factors and
    nothing else has changed for them (``moved``).

    Raises:
        KgEditError: an edit can't be made anew, or it would be made differently.
    """
    kept = 0 if moved else _untouched(patch, gone)
    prefix = first_edits(patch, kept) if kept else None
    left = sum(record["edit"]["id"] not in gone for record in patch.edits[kept:])
    if prefix is not None and not left:
        return prefix
    method = workbench.method(patch)
    log.info("making %d edits of %s anew", left, method.name)
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
    """The records that were made by one call: of a joint method those of a batch, else all."""
    while records:
        size = int(records[0].get("batch", len(records))) if joint else len(records)
        yield records[:size]
        records = records[size:]


def first_edits(patch: Patch, count: int) -> WeightPatch:
    """The first ``count`` edits of a patch whose columns are its edits'."""
    own = columns(patch)
    assert isinstance(patch, WeightPatch) and own is not None  # noqa: S101 - as the caller has seen
    facts = tuple(column for mine in own[:count] for column in mine)
    factors = {name: chosen(pair, facts) for name, pair in patch.factors.items()}
    state = {name: tensor[..., : len(facts)].contiguous() for name, tensor in patch.state.items()}
    provenance = {**patch.provenance, "edits": list(patch.edits[:count])}
    return WeightPatch(factors=factors, provenance=provenance, state=state)


def _untouched(patch: Patch, gone: AbstractSet[str]) -> int:
    """How many edits at the beginning know nothing of those that are gone, and can be told apart."""
    if not (columns(patch) and issubclass(find_method(method_said(patch)["name"]), RankOneMethod)):
        return 0
    ids: Sequence[str] = [record["edit"]["id"] for record in patch.edits]
    return next((place for place, name in enumerate(ids) if name in gone), len(ids))
