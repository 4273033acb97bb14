"""Base classes of ROME and GLAME: they write one value under one key in one layer. Subclasses define the value.

1. Contexts: the model samples short texts. They stand in front of the prompt, so that the edit holds after other text.
2. `Objective` (Eq. 7) gives m [d], the keys [d_ff], and the loss of a change m* - m; `optimise_values` minimises it.
   With 0 steps there is no descent, and the change that the method proposes is written unchanged.
3. k* is the mean key over the contexts; C [d_ff, d_ff] is the second moment of the down-projection's inputs.
4. `rank_one_update` (Eq. 8): W + left right^T, a `WeightPatch`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import networkx as nx
import torch
from pydantic import Field
from torch import Tensor

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.held import other_keys
from kg_edit.locate_then_edit.objective import Objective, Request, tokens_within
from kg_edit.locate_then_edit.optimise import (
    DEFAULT,
    FAST,
    DeltaParameters,
    Descent,
    descent_model,
    optimise_values,
    untouched,
)
from kg_edit.locate_then_edit.rank_one import KeyVariant, rank_one_update
from kg_edit.locate_then_edit.spread import subject_states
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.methods.base import annotate_errors, attempt
from kg_edit.methods.config import ContextLengths, LayerConfig
from kg_edit.methods.rank_one.value_method import ValueConfig, ValueMethod
from kg_edit.methods.workload import Workload
from kg_edit.models.first_token import readable, warn_of_unread
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import BARE, sample_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch

_ESSENCE = "{} is a"


class RankOneConfig(ValueConfig, LayerConfig):
    """Settings of methods that write one value under one key in one layer.

    The defaults differ from ROME's in two settings (docs/measurements.md). The clamp is 2, because at 4 an edit damages
    its neighbours twice as much. There are fewer contexts, which gives the same scores in a fraction of the time.
    """

    published: ClassVar[dict[str, Any]] = {
        "context_lengths": ((5, 10), (10, 10)),
        "steps": 20,
        "clamp_norm_factor": 4.0,
        "learning_rate": 0.5,
    }

    default: ClassVar[dict[str, Any]] = {**DEFAULT, "hold": 1.0}
    fast: ClassVar[dict[str, Any]] = {**FAST, "hold": 1.0}

    hold: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda hold: not hold,
        description="weight of the keys of the prompts' other tokens; C has 1",
    )
    clamp_norm_factor: float = Field(2.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|; published: 4")
    key: KeyVariant = Field(
        "rome", description="key in the residual: of the bare prompt (rome), or the mean over the contexts (r-rome)"
    )
    context_lengths: ContextLengths = Field(
        ((5, 2), (10, 3)), description="(tokens, count) of the contexts that are sampled from the model"
    )

    def workload(self, *, edits: int) -> Workload:
        """One descent on the edit's prompt in every context, and one covariance C."""
        rows = 1 + sum(count for _, count in self.context_lengths)
        return Workload(
            steps=self.steps,
            rows=rows,
            held=rows if self.hold else 0,
            context_tokens=sum(length * count for length, count in self.context_lengths),
            covariance=self.covariance,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundValue:
    """The result of the descent for one edit.

    Attributes:
        request: the edit's prompts.
        clean: m, the value of the clean model at the bare prompt, [d].
        bare_key: the key at the bare prompt, [d_ff].
        mean_key: k*, the mean key over the contexts, [d_ff].
        descent: the change m* - m and the losses on the way.
        notes: what the patch records about the change.
    """

    request: Request
    clean: Tensor
    bare_key: Tensor
    mean_key: Tensor
    descent: Descent
    notes: dict[str, Any]


_States = tuple[Tensor, Tensor, Tensor]  # m [edits, d], the bare keys and the mean keys, [edits, d_ff] each
_Found = tuple[_States, Sequence[dict[str, Any]], Sequence[Descent]]


class RankOneMethod(ValueMethod):
    """Find a change of the value, then write it by one rank-one update. Subclasses define the change (`proposal`)."""

    family = "rank-one"
    config: RankOneConfig

    def __init__(
        self,
        model: LanguageModel,
        config: RankOneConfig,
        *,
        graph: SubgraphSource | nx.DiGraph | None = None,
        contexts: tuple[str, ...] | None = None,
        covariance: Covariance | None = None,
        progress: bool = True,
    ) -> None:
        given = None if covariance is None else {config.layer_in(len(model.blocks)): covariance}
        super().__init__(model, config, graph=graph, contexts=contexts, covariances=given, progress=progress)

    @property
    def layer(self) -> int:
        """The block (0-based) whose down-projection is edited."""
        return self.layers[0]

    @property
    def covariance(self) -> Covariance:
        """C of the edited down-projection's inputs, [d_ff, d_ff]."""
        return self.covariances[self.layer]

    def sampled_contexts(self) -> tuple[str, ...]:
        """ROME's contexts: the bare prompt, and sampled texts with the lengths of ``context_lengths``."""
        return sample_contexts(self.model, lengths=self.config.context_lengths, seed=self.config.seed)

    @property
    def norm_penalty(self) -> float:
        """Weight of |m* - m| / |m|^2 in the loss."""
        return 0.0

    @abstractmethod
    def proposal(self, edit: Edit, value: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """The parameters of the edit's change m* - m, and notes for the patch's record; ``value`` is m, [d]."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Find m* (Eq. 7) and k* (Eq. 8) for the one edit, and write them by the closed form."""
        (patch,) = self.edit_each(edits)
        if isinstance(patch, Exception):
            raise patch
        return patch

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """Find the values of all edits in one descent, then write each edit into a patch of its own."""
        with untouched(self.model):
            self.prepare()
            asked = [attempt(edit, partial(self.request, edit)) for edit in edits]
            places = [place for place, request in enumerate(asked) if isinstance(request, Request)]
            found = self._values([edits[place] for place in places], [r for r in asked if isinstance(r, Request)])
            results: list[Patch | Request | Exception] = list(asked)
            for place, value in zip(places, found, strict=True):
                results[place] = attempt(edits[place], partial(self._write, edits[place], value))
            return tuple(result for result in results if not isinstance(result, Request))

    def _values(self, edits: Sequence[Edit], requests: Sequence[Request]) -> list[FoundValue]:
        if not edits:
            return []
        find = self._descended if self.config.steps else self._proposed
        states, notes, descents = find(edits, requests)
        return [
            FoundValue(request=request, clean=clean, bare_key=bare, mean_key=mean, descent=descent, notes=said)
            for request, clean, bare, mean, descent, said in zip(requests, *states, descents, notes, strict=True)
        ]

    def _descended(self, edits: Sequence[Edit], requests: Sequence[Request]) -> _Found:
        config, objective = self.config, self.objective(edits, requests)
        proposals, notes = zip(*map(self.proposal, edits, objective.value), strict=True)
        descents = optimise_values(
            objective,
            proposals,
            steps=config.steps,
            stop_below=config.stop_below,
            stop_nll=config.stop_nll,
            further_steps=config.further_steps,
        )
        return (objective.value, objective.bare_key, objective.mean_key), notes, descents

    @torch.no_grad()
    def _proposed(self, edits: Sequence[Edit], requests: Sequence[Request]) -> _Found:
        """The proposed changes without a descent; the blocks above the edited one do not run."""
        states = self._clean_states(requests)
        proposals, notes = zip(*map(self.proposal, edits, states[0]), strict=True)
        return states, notes, [Descent(change=proposal.change().detach(), losses=()) for proposal in proposals]

    def _clean_states(self, requests: Sequence[Request]) -> _States:
        """m [requests, d] in the bare prompts, the keys there and the mean keys, [requests, d_ff] each."""
        rows = [row for request in requests for row in request.rewrites]
        keys, values = subject_states(self.model, rows, layer=self.layer, last=self.layer, place="value")
        counts = [len(request.rewrites) for request in requests]
        bare = torch.tensor([0, *counts[:-1]]).cumsum(0)
        return values[bare], keys[bare], torch.stack([own.mean(0) for own in keys.split(counts)])

    def objective(self, edits: Sequence[Edit], requests: Sequence[Request]) -> Objective:
        """The loss of ``edits`` with their prompts ``requests``, on the model in its present state."""
        return self.loss_on(descent_model(self.model, self.config.descent_dtype), requests)

    def loss_on(self, rough: LanguageModel, requests: Sequence[Request]) -> Objective:
        """The loss on ``rough``, the model or a copy of it in bfloat16; m and the keys always come from the model."""
        loss = self._loss(rough, requests)
        if rough is not self.model:
            loss.value, loss.bare_key, loss.mean_key = self._clean_states(requests)
        return loss

    def _loss(self, model: LanguageModel, requests: Sequence[Request]) -> Objective:
        return Objective(
            model,
            self.layer,
            requests,
            kl_weight=self.config.kl_weight,
            weight_decay=self.norm_penalty,
            # computed again for each call, because the model may have been edited since the last call
            forward=partial(TailForward, contexts=SharedContexts.of(model, self.contexts)),
            tokens=tokens_within(model, self.layer, self.memory),
        )

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                for chat in edit.forms:
                    asked = partial(self.model.encode_fact, edit.prompt, subject=edit.subject, chat=chat)
                    asked(target=edit.target_new)
                    warn_of_unread(self.model, asked(), edit=edit.id)

    def request(self, edit: Edit) -> Request:
        """The prompts of one edit: its prompt with the target in every context, and "{subject} is a"."""
        return request_of(self.model, edit, self.contexts)

    @torch.no_grad()
    def _write(self, edit: Edit, found: FoundValue) -> Patch:
        found.descent.check_finite()
        factors = rank_one_update(
            change=found.descent.change,
            mean_key=found.mean_key,
            bare_key=found.bare_key,
            covariance=self.covariance,
            weight=weight_matrix(self.model.down_projection(self.layer)),
            variant=self.config.key,
            others=other_keys(self.model, found.request.rewrites, self.layer) if self.config.hold else None,
            hold=self.config.hold,
        )
        provenance = {**self.provenance(), "edits": [self._record(edit, found, factors)]}
        return WeightPatch(factors={self.model.weight_name(self.layer): factors}, provenance=provenance)

    def _record(self, edit: Edit, found: FoundValue, factors: Factors) -> dict[str, Any]:
        """The edit's record in the provenance."""
        norms = {
            "value": round(float(found.clean.norm()), 6),
            "change": round(float(found.descent.change.norm()), 6),
            "update": round(float(factors.left.norm() * factors.right.norm()), 6),
        }
        return {
            "edit": edit.model_dump(mode="json", exclude_defaults=True),
            "method": self.name,
            "norms": norms,
            **found.descent.summary,
            **found.notes,
        }

    def provenance(self) -> dict[str, Any]:
        """The provenance of every method, plus the layer, the contexts and the covariance."""
        said = super().provenance()
        said["methods"][0] |= {
            "layer": self.layer,
            "contexts": list(self.contexts),
            "covariance": {"id": self.covariance.id, "tokens": self.covariance.tokens},
        }
        return said


def request_of(model: LanguageModel, edit: Edit, contexts: Sequence[str]) -> Request:
    """The prompts of an edit: its prompt with the target in every context, the bare one first, and "{subject} is a".

    A line break is put before a prompt if the model would not read its subject otherwise (`models.first_token`). In
    chat form, everything before the target is a user's turn. An edit in both forms has all plain rows, then all chat
    rows.
    """

    def rows(template: str, around: Sequence[str], chat: bool, target: str | None = None) -> tuple[Prompt, ...]:
        encoded = partial(model.encode_fact, template, subject=edit.subject, target=target, chat=chat)
        return tuple(encoded(context=context) for context in readable(model, encoded(), around))

    (essence,) = rows(_ESSENCE, (BARE,), edit.forms[0])
    rewrites = (row for chat in edit.forms for row in rows(edit.prompt, contexts, chat, edit.target_new))
    return Request(rewrites=tuple(rewrites), essence=essence)
