"""How MEMIT, EMMET and AlphaEdit write many facts at once: a value each, then one least-squares system a layer.

1. A descent finds for every fact the state z [d] at the subject's last token that makes the model say it (`Search`).
2. In ascending layers one update for all facts brings the model there (`write_jointly`); the methods differ in its
   closed form (`joint_directions`).
3. The patch keeps the values, so that an edit can be taken out and the others written anew (`JointMethod.without`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.closed_form.held import HELD_ROWS, HeldKeys, held_keys, held_solve
from kg_edit.closed_form.spread import SpreadSite, refuse_norm_after_mlp, write_jointly
from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.methods.base import annotate_errors, attempt
from kg_edit.methods.config import Layers, default_layer
from kg_edit.methods.memit.records import VALUE, Record, batches_without, facts_of, new_record, state_of, with_updates
from kg_edit.methods.memit.values import Search, Target, WriteRequest
from kg_edit.methods.rank_one.base import ValueConfig, ValueMethod, request_of
from kg_edit.methods.rank_one.rome import FreeDelta
from kg_edit.methods.workload import Workload
from kg_edit.models.first_token import warn_of_unread
from kg_edit.models.sampling import STARTS, started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.value.optimise import DEFAULT, FAST, DeltaParameters, untouched

_MOST_BESIDE = 2


class JointConfig(ValueConfig):
    """Settings of methods that write a batch of values at once."""

    default: ClassVar[dict[str, Any]] = {**DEFAULT, "hold": 1.0}
    fast: ClassVar[dict[str, Any]] = {**FAST, "hold": 1.0}

    weight_decay: float = Field(0.5, ge=0, description="weight of |z - h| / |h|^2 in the loss")
    clamp_norm_factor: float = Field(0.75, gt=0, description="|z - h| is at most so many times |h|")
    context_starts: tuple[str, ...] = Field(STARTS, description="words that the contexts begin with, one each")
    context_tokens: PositiveInt = Field(10, description="tokens of a context")
    hold: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda hold: not hold,
        description="weight of the keys of the prompts' other tokens, C having 1; in the preset default 1",
    )

    def workload(self, *, edits: int) -> Workload:
        """A descent on the fact's prompt in every context, and a C for each layer."""
        rows = 1 + len(self.context_starts)
        return Workload(
            steps=self.steps,
            rows=rows,
            held=min(rows, HELD_ROWS) if self.hold else 0,
            context_tokens=len(self.context_starts) * self.context_tokens,
            covariance=self.covariance,
        )


class SpreadConfig(JointConfig):
    """Of those that spread the change over several layers."""

    layers: Layers | None = Field(
        None,
        min_length=1,
        description="edited layers, 0-based; default five around 0.2 of the depth, fewer in a small model",
    )

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Those of the settings, or about five at 0.2 of the depth."""
        return self.layers or default_layers(blocks)


def default_layers(blocks: int) -> tuple[int, ...]:
    """The layer at 0.2 of the depth with up to two on each side: 4 to 8 of 30, 1 to 3 of 12."""
    centre, beside = default_layer(blocks), min(_MOST_BESIDE, round(blocks / 15))
    return tuple(range(max(0, centre - beside), min(blocks, centre + beside + 1)))


KEY = "key/"  # a patch's state, with the weight's name behind: the keys under which it was written, [d_ff, facts]


class JointMethod(ValueMethod):
    """Find a state z for every fact, then bring the model there layer by layer, for all facts at once.

    The settings say in which layers, a subclass with which closed form (`directions`). A patch keeps each z as state
    ``value`` [d, facts], so that `without` writes what is left of a batch anew.
    """

    family = "joint"
    joint = True
    separable = True
    keeps_keys: ClassVar[bool] = False  # whether later batches need the keys of earlier ones
    place: ClassVar[SpreadSite] = "block"  # of which output z speaks
    config: JointConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """All values in one descent, then all written together."""
        refuse_clash(edits)
        with untouched(self.model):
            self.prepare()
            asked, wanted = [], {edit.text: edit.target_new for edit in edits}
            for edit in edits:
                with annotate_errors(edit):
                    asked.append(_unopposed(self.facts(edit), wanted))
            return self._new(edits, asked, self._targets(asked), before)

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """All edits' values in one descent, then each written alone."""
        with untouched(self.model):
            self.prepare()
            asked = [attempt(edit, partial(self.facts, edit)) for edit in edits]
            targets = iter(self._targets([facts for facts in asked if isinstance(facts, tuple)]))
            return tuple(
                attempt(edit, partial(self._new, [edit], [facts], [next(targets)], self.empty_patch()))
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

    @property
    def norm_penalty(self) -> float:
        """Weight of |z - h| / |h|^2 in the loss."""
        return self.config.weight_decay

    @abstractmethod
    def directions(self, layer: int, keys: Tensor, held: HeldKeys, protected: Tensor | None) -> Tensor:
        """What the changes of the values are multiplied with, [d_ff, facts], for ``keys`` [d_ff, facts] in float64.

        ``held``: the keys of other tokens, none where ``hold`` is 0. ``protected`` [d_ff, earlier facts]: the keys in
        the state of the patch before, for methods with `keeps_keys`.
        """

    def solved(self, layer: int, keys: Tensor, held: HeldKeys) -> Tensor:
        """(C + hold H)^-1 K, [d_ff, facts]."""
        return held_solve(self.covariances[layer], keys, held, weight=self.config.hold)

    def requests_of(self, edit: Edit) -> tuple[Edit, ...]:
        """The facts that are written for an edit, all in one batch: itself, and what a subclass puts after it."""
        return (edit,)

    def proposal(self, edit: Edit, state: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """What makes z - h for a fact, given h [d], and what to note of it."""
        return FreeDelta(state, self.config), {}

    def sampled_contexts(self) -> tuple[str, ...]:
        """MEMIT's contexts: the bare prompt, and one sampled text for each of the words that they begin with."""
        config = self.config
        return started_contexts(
            self.model, starts=config.context_starts, tokens=config.context_tokens, seed=config.seed
        )

    def prepare(self) -> None:
        """Also look whether the model can be edited so, before anything is sampled or measured."""
        if self.place == "block":
            with untouched(self.model):
                refuse_norm_after_mlp(self.model, self.layers[-1])
        super().prepare()

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every fact's prompt once."""
        for edit in edits:
            with annotate_errors(edit):
                self.facts(edit)
                prompt = self.model.encode_fact(edit.prompt, subject=edit.subject, chat=edit.forms[0])
            warn_of_unread(self.model, prompt, edit=edit.id)

    def facts(self, edit: Edit) -> tuple[WriteRequest, ...]:
        """What is written for an edit, with its prompts."""
        return tuple(map(self.fact, self.requests_of(edit)))

    def fact(self, request: Edit) -> WriteRequest:
        """A fact with its prompts: in every context with its target, and "{subject} is a"."""
        return WriteRequest(edit=request, prompts=request_of(self.model, request, self.contexts))

    def provenance(self) -> dict[str, Any]:
        """As every method's, with the layers, the contexts and the covariances."""
        said = super().provenance()
        said["methods"][0] |= {
            "layers": list(self.layers),
            "contexts": list(self.contexts),
            "covariances": {
                str(layer): {"id": found.id, "tokens": found.tokens} for layer, found in self.covariances.items()
            },
        }
        return said

    def _targets(self, asked: Sequence[tuple[WriteRequest, ...]]) -> list[list[Target]]:
        """A target for each fact of each edit."""
        config = self.config
        search = Search(
            layer=self.layers[-1],
            place=self.place,
            contexts=self.contexts,
            steps=config.steps,
            further_steps=config.further_steps,
            stop_below=config.stop_below,
            kl_weight=config.kl_weight,
            weight_decay=self.norm_penalty,
            memory=self.memory,
            dtype=config.descent_dtype,
        )
        found = iter(search.targets(self.model, list(chain(*asked)), self.proposal))
        return [[next(found) for _ in facts] for facts in asked]

    def _new(
        self,
        edits: Sequence[Edit],
        asked: Sequence[tuple[WriteRequest, ...]],
        targets: Sequence[list[Target]],
        before: Patch,
    ) -> Patch:
        """The patch of ``edits``, whose facts are ``asked``, given a target for each fact."""
        records = []
        for edit, facts, own in zip(edits, asked, targets, strict=True):
            with annotate_errors(edit):
                records.append(new_record(self.name, edit, [fact.edit for fact in facts], own))
        wanted = torch.stack([target.wanted for target in chain(*targets)])
        return self._written(asked, wanted, records, before)

    def _written(
        self, asked: Sequence[tuple[WriteRequest, ...]], wanted: Tensor, records: Sequence[Record], before: Patch
    ) -> WeightPatch:
        """The patch that brings the model, which holds ``before``, to ``wanted`` [facts, d]."""

        requests = [fact.prompts for fact in chain(*asked)]

        def directions(layer: int, keys: Tensor) -> Tensor:
            held = held_keys(self.model, requests if self.config.hold else (), layer)
            protected = state_of(before, KEY + self.model.weight_name(layer)) if self.keeps_keys else None
            return self.directions(layer, keys, held, protected)

        written = write_jointly(
            self.model,
            requests,
            wanted,
            layers=self.layers,
            place=self.place,
            directions=directions,
        )
        keys = {KEY + name: own for name, own in written.keys.items()} if self.keeps_keys else {}
        provenance = {**self.provenance(), "edits": with_updates(records, written.norms())}
        return WeightPatch(factors=written.factors, provenance=provenance, state={VALUE: wanted.T, **keys})


def _unopposed(facts: Sequence[WriteRequest], wanted: Mapping[str, str]) -> tuple[WriteRequest, ...]:
    """Without what was added to an edit against another one of the batch; ``wanted``: their targets, by text."""
    return tuple(fact for fact in facts if wanted.get(fact.edit.text, fact.edit.target_new) == fact.edit.target_new)
