"""Base classes of MEMIT, EMMET and AlphaEdit, which write many facts at once: one least-squares system per layer.

1. For every fact a descent finds z [d], the state at the subject's last token with which the model says the fact
   (`Search`).
2. Layer by layer, in ascending order, one update for all facts moves the model's states towards z (`write_jointly`).
   The methods differ in the closed form of the update (`joint_directions`).
3. The patch stores the values z, so that an edit can be taken out and the others written again (`JointMethod.without`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.free_delta import OPTIMISER, FreeDelta, Optimiser, expected_steps
from kg_edit.locate_then_edit.held import HELD_ROWS, HeldKeys, HeldTokens, held_solve
from kg_edit.locate_then_edit.optimise import DEFAULT, FAST, DeltaParameters, untouched
from kg_edit.locate_then_edit.spread import SpreadSite, refuse_norm_after_mlp, write_jointly
from kg_edit.methods.base import annotate_errors, attempt
from kg_edit.methods.config import Layers, default_layer
from kg_edit.methods.memit.records import VALUE, Record, batches_without, facts_of, new_record, state_of, with_updates
from kg_edit.methods.memit.values import Search, Target, WriteRequest
from kg_edit.methods.rank_one.base import request_of
from kg_edit.methods.rank_one.value_method import ValueConfig, ValueMethod
from kg_edit.methods.workload import Workload
from kg_edit.models.first_token import warn_of_unread
from kg_edit.models.sampling import STARTS, started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.guards import with_weight_norms
from kg_edit.patches.weight_patch import WeightPatch

_MOST_BESIDE = 2


class JointConfig(ValueConfig):
    """Settings of methods that write the values of a batch of facts at once."""

    default: ClassVar[dict[str, Any]] = {**DEFAULT, "hold": 1.0}
    fast: ClassVar[dict[str, Any]] = {**FAST, "steps": 12, "learning_rate": 1.0, "hold": 1.0}

    optimiser: Optimiser = Field("adam", exclude_if=lambda name: name == "adam", description=OPTIMISER)
    weight_decay: float = Field(0.5, ge=0, description="weight of |z - h| / |h|^2 in the loss")
    clamp_norm_factor: float = Field(0.75, gt=0, description="maximum of |z - h|, as a multiple of |h|")
    context_starts: tuple[str, ...] = Field(STARTS, description="first words of the contexts; one context for each")
    context_tokens: PositiveInt = Field(10, description="length of a context, in tokens")
    hold: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda hold: not hold,
        description="weight of the keys of the prompts' other tokens; C has 1",
    )

    def workload(self, *, edits: int) -> Workload:
        """One descent on the fact's prompt in every context, and one covariance C for each layer."""
        rows = 1 + len(self.context_starts)
        return Workload(
            steps=expected_steps(self.steps, self.optimiser, stop_nll=self.stop_nll),
            rows=rows,
            held=min(rows, HELD_ROWS) if self.hold else 0,
            context_tokens=len(self.context_starts) * self.context_tokens,
            covariance=self.covariance,
        )


class SpreadConfig(JointConfig):
    """Settings of joint methods that spread the change over several layers."""

    layers: Layers | None = Field(
        None,
        min_length=1,
        description="edited blocks, 0-based; default five around 0.2 of the depth, fewer in a small model",
    )

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """The layers in the settings, or by default up to five around 0.2 of the depth."""
        return self.layers or default_layers(blocks)


def default_layers(blocks: int) -> tuple[int, ...]:
    """The layer at 0.2 of the depth and up to two layers on each side: 4 to 8 of 30 blocks, 1 to 3 of 12."""
    centre, beside = default_layer(blocks), min(_MOST_BESIDE, round(blocks / 15))
    return tuple(range(max(0, centre - beside), min(blocks, centre + beside + 1)))


KEY = "key/"  # prefix of a patch's state; the weight's name follows. The state holds the facts' keys, [d_ff, facts]


class JointMethod(ValueMethod):
    """Find a state z for every fact, then move the model's states towards z layer by layer, for all facts at once.

    The settings name the layers, a subclass defines the closed form (`directions`). A patch stores all z as its state
    ``value`` [d, facts], so that `without` can write the rest of a batch again.
    """

    family = "joint"
    joint = True
    separable = True
    keeps_keys: ClassVar[bool] = False  # whether later batches need the keys of earlier ones
    place: ClassVar[SpreadSite] = "block"  # which output of the last edited layer z is
    config: JointConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Find all values in one descent, then write all facts together."""
        refuse_clash(edits)
        with untouched(self.model):
            self.prepare()
            asked, wanted = [], {edit.text: edit.target_new for edit in edits}
            for edit in edits:
                with annotate_errors(edit):
                    asked.append(self.facts(edit))
            unopposed = [_unopposed(facts, wanted) for facts in asked]
            made = self._new(edits, unopposed, self._targets(unopposed), before)
        return _noting_opposed(made, [len(all_) - len(left) for all_, left in zip(asked, unopposed, strict=True)])

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """Find the values of all edits in one descent, then write each edit into a patch of its own."""
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
        """Take the edits with these ``ids`` out of ``patch``: the other edits are written again from their values z.

        For a patch of one batch the result is exact, because no value depends on another edit of the batch. The values
        of later batches are kept, although they were found on a model with the removed edits. ``before`` is the patch
        that was applied to the model when ``patch`` was made.

        Raises:
            PatchError: the patch was not made by this method with these settings, it has no edit with such an id, or
                facts of it were left out because an edit of the batch contradicts them.
        """
        if opposed := [record["edit"]["id"] for record in patch.edits if record.get("opposed")]:
            raise PatchError(
                f"facts of {', '.join(map(repr, opposed))} were left out, because an edit of the batch contradicts "
                "them; make the edits that stay again, as kg-edit ledger remove does"
            )
        self.prepare()
        left = WeightPatch(factors={}, provenance=self.provenance())
        for batch in batches_without(patch, ids, methods=self.provenance()["methods"]):
            held: Patch = before + left if before else left
            with held.applied(self.model), untouched(self.model):
                facts = [tuple(map(self.fact, facts_of(record))) for record in batch.records]
                written = self._written(facts, batch.values.T, batch.records, held)
                norms = with_weight_norms(written, self.model).provenance
                left = left._plus(replace(written, provenance=norms))
        return left

    @property
    def parameters(self) -> int:
        """The number of values that are trained for a fact: z - h."""
        return self.model.width

    @property
    def norm_penalty(self) -> float:
        """Weight of |z - h| / |h|^2 in the loss."""
        return self.config.weight_decay

    @abstractmethod
    def directions(self, layer: int, keys: Tensor, held: HeldKeys, protected: Tensor | None) -> Tensor:
        """The right factor U [d_ff, facts] of a layer's update R U^T, where R [d, facts] are the changes of the values.

        Args:
            layer: the block that is written.
            keys: K, the facts' keys, [d_ff, facts], in float64.
            held: the keys of other tokens; empty if ``hold`` is 0.
            protected: the keys of earlier batches (`protected`), [d_ff, earlier facts]; None if there are none.
        """

    def protected(self, layer: int, before: Patch) -> Tensor | None:
        """The keys of the facts of ``before`` in a layer, [d_ff, earlier facts], if the method keeps them."""
        return state_of(before, KEY + self.model.weight_name(layer)) if self.keeps_keys else None

    def solved(self, layer: int, keys: Tensor, held: HeldKeys) -> Tensor:
        """(C + hold H)^-1 K, [d_ff, facts]."""
        return held_solve(self.covariances[layer], keys, held, weight=self.config.hold)

    def requests_of(self, edit: Edit) -> tuple[Edit, ...]:
        """The facts that are written for an edit: the edit itself; a subclass may add further facts after it."""
        return (edit,)

    def notes(self, edit: Edit) -> dict[str, Any]:
        """Further entries of an edit's record; none by default."""
        return {}

    def proposal(self, edit: Edit, state: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """The parameters of a fact's change z - h, and notes for its record; ``state`` is h, [d]."""
        return FreeDelta(state, self.config), {}

    def sampled_contexts(self) -> tuple[str, ...]:
        """MEMIT's contexts: the bare prompt, and one sampled text for each start word in ``context_starts``."""
        config = self.config
        return started_contexts(
            self.model, starts=config.context_starts, tokens=config.context_tokens, seed=config.seed
        )

    def prepare(self) -> None:
        """Check that the architecture allows a spread over layers, then sample contexts and find covariances."""
        if self.place == "block":
            with untouched(self.model):
                refuse_norm_after_mlp(self.model, self.layers[-1])
        super().prepare()

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every fact's prompts, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                self.facts(edit)
                prompt = self.model.encode_fact(edit.prompt, subject=edit.subject, chat=edit.forms[0])
            warn_of_unread(self.model, prompt, edit=edit.id)

    def facts(self, edit: Edit) -> tuple[WriteRequest, ...]:
        """The facts that are written for an edit, each with its prompts."""
        return tuple(map(self.fact, self.requests_of(edit)))

    def fact(self, request: Edit) -> WriteRequest:
        """A fact with its prompts: its own prompt with the target in every context, and "{subject} is a"."""
        return WriteRequest(edit=request, prompts=request_of(self.model, request, self.contexts))

    def provenance(self) -> dict[str, Any]:
        """The provenance of every method, plus the layers, the contexts and the covariances."""
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
        """Find a target for each fact of each edit."""
        config = self.config
        search = Search(
            layer=self.layers[-1],
            place=self.place,
            contexts=self.contexts,
            steps=config.steps,
            further_steps=config.further_steps,
            stop_below=config.stop_below,
            stop_nll=config.stop_nll,
            kl_weight=config.kl_weight,
            weight_decay=self.norm_penalty,
            memory=self.memory,
            parameters=self.parameters,
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
        """The patch of ``edits``; ``asked`` has the facts of each edit, ``targets`` a target for each fact."""
        records = []
        for edit, facts, own in zip(edits, asked, targets, strict=True):
            with annotate_errors(edit):
                records.append(new_record(self.name, edit, [fact.edit for fact in facts], own) | self.notes(edit))
        wanted = torch.stack([target.wanted for target in chain(*targets)])
        return self._written(asked, wanted, records, before)

    def _written(
        self, asked: Sequence[tuple[WriteRequest, ...]], wanted: Tensor, records: Sequence[Record], before: Patch
    ) -> WeightPatch:
        """The patch that moves the states of a model with ``before`` applied to ``wanted`` [facts, d]."""

        requests = [fact.prompts for fact in chain(*asked)]
        others = HeldTokens(self.model, requests if self.config.hold else (), self.layers, memory=self.memory / 2)

        def directions(layer: int, keys: Tensor) -> Tensor:
            held = others.at(layer)
            return self.directions(layer, keys, held, self.protected(layer, before))

        written = write_jointly(
            self.model,
            requests,
            wanted,
            layers=self.layers,
            place=self.place,
            directions=directions,
            memory=self.memory / 2,
        )
        keys = {KEY + name: own for name, own in written.keys.items()} if self.keeps_keys else {}
        provenance = {**self.provenance(), "edits": with_updates(records, written.norms())}
        return WeightPatch(factors=written.factors, provenance=provenance, state={VALUE: wanted.T, **keys})


def _noting_opposed(patch: Patch, counts: Sequence[int]) -> Patch:
    """The patch whose records say how many facts of an edit an edit of the batch took out (``opposed``), if any."""
    if not any(counts) or not isinstance(patch, WeightPatch):
        return patch
    noted = [
        {**record, **({"opposed": count} if count else {})} for record, count in zip(patch.edits, counts, strict=True)
    ]
    return replace(patch, provenance={**patch.provenance, "edits": noted})


def _unopposed(facts: Sequence[WriteRequest], wanted: Mapping[str, str]) -> tuple[WriteRequest, ...]:
    """Drop facts that contradict an edit of the batch. ``wanted``: the target of each edit, by its text."""
    return tuple(fact for fact in facts if wanted.get(fact.edit.text, fact.edit.target_new) == fact.edit.target_new)
