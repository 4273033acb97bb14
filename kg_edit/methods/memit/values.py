"""The search for the values of a batch of facts: for each fact the state z that makes the model say it.

One descent finds the states of many facts at once (`Search.targets`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.objective import Objective, Request, tokens_within
from kg_edit.locate_then_edit.optimise import DeltaParameters, Descent, DescentDtype, descent_model, optimise_values
from kg_edit.locate_then_edit.spread import SpreadSite, subject_states
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import SharedContexts


@dataclass(frozen=True, eq=False, kw_only=True)
class WriteRequest:
    """A fact that is written for an edit, with its prompts: the edit itself or a further fact."""

    edit: Edit
    prompts: Request


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """``state``: h [d], the model's present state at the subject's last token; ``descent``: found the change z - h."""

    state: Tensor
    descent: Descent
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> Tensor:
        """The wanted state z = h + (z - h), [d]."""
        return self.state + self.descent.change


_OPTIMISER_BYTES = 16  # of a trained number: its gradient, Adam's two means and a copy, in float32


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of the search for targets: the layer, its output (``place``), the loss, the memory, the precision.

    ``parameters``: how many numbers are trained for a fact.
    """

    layer: int
    place: SpreadSite
    contexts: tuple[str, ...]
    steps: int
    further_steps: int
    stop_below: float
    stop_nll: float = 0.0
    kl_weight: float
    weight_decay: float
    memory: float
    parameters: int = 0
    dtype: DescentDtype = "model"

    def targets(
        self,
        model: LanguageModel,
        facts: Sequence[WriteRequest],
        proposal: Callable[[Edit, Tensor], tuple[DeltaParameters, dict[str, Any]]],
    ) -> list[Target]:
        """Find one target for each fact, independent of the other facts.

        A descent handles as many facts at once as fit into ``memory`` (MB). ``proposal`` gives the parameters of a
        fact's change, and notes.
        """
        rough = descent_model(model, self.dtype)
        shared = SharedContexts.of(rough, self.contexts)
        found: list[Target] = []
        for some in self._portions(model, facts):
            found += self._descended(model, rough, some, proposal, shared)
        return found

    def _descended(
        self,
        model: LanguageModel,
        rough: LanguageModel,
        facts: Sequence[WriteRequest],
        proposal: Callable[[Edit, Tensor], tuple[DeltaParameters, dict[str, Any]]],
        shared: SharedContexts,
    ) -> list[Target]:
        bare = [fact.prompts.rewrites[0] for fact in facts]
        _, states = subject_states(model, bare, layer=self.layer, last=self.layer, place=self.place)
        objective = self._objective(rough, facts, shared, tokens=tokens_within(model, self.layer, self.memory))
        objective.value = states  # the norm penalty is relative to h: in MEMIT the block's output, not the MLP's
        proposals, notes = zip(
            *(proposal(fact.edit, state) for fact, state in zip(facts, states, strict=True)), strict=True
        )
        descents = optimise_values(
            objective,
            proposals,
            steps=self.steps,
            stop_below=self.stop_below,
            stop_nll=self.stop_nll,
            further_steps=self.further_steps,
        )
        return [
            Target(state=state, descent=descent, notes=said)
            for state, descent, said in zip(states, descents, notes, strict=True)
        ]

    def _objective(
        self, model: LanguageModel, facts: Sequence[WriteRequest], shared: SharedContexts, *, tokens: int
    ) -> Objective:
        return Objective(
            model,
            self.layer,
            [fact.prompts for fact in facts],
            kl_weight=self.kl_weight,
            weight_decay=self.weight_decay,
            forward=partial(TailForward, contexts=shared),
            tokens=tokens,
        )

    def _portions(self, model: LanguageModel, facts: Sequence[WriteRequest]) -> Iterator[list[WriteRequest]]:
        """Split the facts so that what is held of each at once fits into ``memory``.

        That is the keys and values of its prompts, in every block, and what it trains, with gradients and Adam's means.
        """
        token = 2 * model.width * len(model.blocks) * torch.finfo(model.model.dtype).bits // 8
        some: list[WriteRequest] = []
        held = 0
        for fact in facts:
            size = token * sum(len(row.ids) for row in fact.prompts.rewrites) + _OPTIMISER_BYTES * self.parameters
            if some and held + size > self.memory * 1e6:
                yield some
                some, held = [], 0
            some.append(fact)
            held += size
        if some:
            yield some
