"""What MEMIT, EMMET and AlphaEdit share: values for a batch, and one least-squares system a layer to write them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from kg_edit.closed_form.spread import write_jointly
from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.methods.base import attempt, naming
from kg_edit.methods.joint_setup import JointSetup
from kg_edit.methods.memit.records import VALUE, Record, batches_without, facts_of, new_record, state_of, with_updates
from kg_edit.methods.memit.values import Fact, Search, Target
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.value.optimise import untouched

KEY = "key/"  # a patch's state, with the weight's name behind: the keys under which it was written, [d_ff, facts]


class JointMethod(JointSetup):
    """Find a state z for every fact, then bring the model there layer by layer, for all facts at once.

    A patch keeps each z as state ``value`` [d, facts], so that `without` writes what is left of a batch anew.
    """

    joint = True
    separable = True

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """All values in one descent, then all written together."""
        refuse_clash(edits)
        with untouched(self.model):
            self.prepare()
            asked = []
            for edit in edits:
                with naming(edit):
                    asked.append(_unopposed(self.facts(edit), edits))
            return self._new(edits, asked, self._targets(asked), before)

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """All edits' values in one descent, then each written alone."""
        with untouched(self.model):
            self.prepare()
            asked = [attempt(edit, partial(self.facts, edit)) for edit in edits]
            targets = iter(self._targets([facts for facts in asked if isinstance(facts, tuple)]))
            return tuple(
                attempt(edit, partial(self._new, [edit], [facts], [next(targets)], self.nothing()))
                if isinstance(facts, tuple)
                else facts
                for edit, facts in zip(edits, asked, strict=True)
            )

    def without(self, patch: Patch, ids: Collection[str], *, before: Patch | None = None) -> WeightPatch:
        """``patch``, made by this method, without the edits that ``ids`` name: the others are written anew.

        Exact for one batch: no value depends on another edit of the batch, so this is what the others alone give.
        In later batches the values stay those of a model that had the edit. ``before`` is what the model held when
        ``patch`` was made.

        Raises:
            PatchError: the patch is not this method's, with these settings, or has no such edit.
        """
        self.prepare()
        left = WeightPatch(factors={}, provenance=self.provenance())
        for batch in batches_without(patch, ids, methods=self.provenance()["methods"]):
            held: Patch = before + left if before else left
            with held.applied(self.model), untouched(self.model):
                facts = [tuple(map(self.fact, facts_of(record))) for record in batch.records]
                left = left._plus(self._written(facts, batch.values.T, batch.records, held))
        return left

    def _targets(self, asked: Sequence[tuple[Fact, ...]]) -> list[list[Target]]:
        """A target for each fact of each edit."""
        config = self.config
        search = Search(
            layer=self.layers[-1],
            place=self.place,
            contexts=self.contexts,
            steps=config.steps,
            stop_below=config.stop_below,
            kl_weight=config.kl_weight,
            weight_decay=self.norm_penalty,
            memory=self.memory,
            dtype=config.descent_dtype,
        )
        found = iter(search.targets(self.model, list(chain(*asked)), self.proposal))
        return [[next(found) for _ in facts] for facts in asked]

    def _new(
        self, edits: Sequence[Edit], asked: Sequence[tuple[Fact, ...]], targets: Sequence[list[Target]], before: Patch
    ) -> WeightPatch:
        records = []
        for edit, facts, own in zip(edits, asked, targets, strict=True):
            with naming(edit):
                records.append(new_record(self.name, edit, [fact.edit for fact in facts], own))
        wanted = torch.stack([target.wanted for target in chain(*targets)])
        return self._written(asked, wanted, records, before)

    def _written(
        self, asked: Sequence[tuple[Fact, ...]], wanted: Tensor, records: Sequence[Record], before: Patch
    ) -> WeightPatch:
        """The patch that brings the model, which holds ``before``, to ``wanted`` [facts, d]."""

        def directions(layer: int, keys: Tensor) -> Tensor:
            protected = state_of(before, KEY + self.model.weight_name(layer)) if self.keeps_keys else None
            return self.directions(layer, keys, protected)

        written = write_jointly(
            self.model,
            [fact.prompts for fact in chain(*asked)],
            wanted,
            layers=self.layers,
            place=self.place,
            directions=directions,
        )
        keys = {KEY + name: own for name, own in written.keys.items()} if self.keeps_keys else {}
        provenance = {**self.provenance(), "edits": with_updates(records, written.norms())}
        return WeightPatch(factors=written.factors, provenance=provenance, state={VALUE: wanted.T, **keys})


def _unopposed(facts: Sequence[Fact], edits: Sequence[Edit]) -> tuple[Fact, ...]:
    """Without what was added to an edit against another edit of the batch, whose word counts."""
    wanted = {edit.text: edit.target_new for edit in edits}
    return tuple(fact for fact in facts if wanted.get(fact.edit.text, fact.edit.target_new) == fact.edit.target_new)
