"""Base classes of ROME and GLAME: they write one value under one key in one layer. Subclasses define the value.

1. Contexts: the model samples short texts. They stand in front of the prompt, so that the edit holds after other text.
2. `Objective` (Eq. 7) gives m [d], the keys [d_ff], and the loss of a change m* - m; `optimise_values` minimises it.
   With 0 steps there is no descent, and the change that the method proposes is written unchanged.
3. k* is the mean key over the contexts; C [d_ff, d_ff] is the second moment of the down-projection's inputs.
4. `rank_one_update` (Eq. 8): W + left right^T, a `WeightPatch`.

`ValueMethod` handles layers, contexts and covariances. Methods that write many values, such as MEMIT, use it too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import networkx as nx
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from kg_edit.closed_form.held import other_keys
from kg_edit.closed_form.rank_one import KeyVariant, rank_one_update
from kg_edit.closed_form.spread import subject_states
from kg_edit.covariance.corpora import open_corpus
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import EditingMethod, annotate_errors, attempt
from kg_edit.methods.config import ContextLengths, LayerConfig, MethodConfig
from kg_edit.methods.workload import Trains, Workload
from kg_edit.models.first_token import readable, warn_of_unread
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import BARE, sample_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.storage.seeds import Seed
from kg_edit.value.objective import Objective, Request, tokens_within
from kg_edit.value.optimise import (
    DEFAULT,
    DESCENT_DTYPE,
    FAST,
    DeltaParameters,
    Descent,
    DescentDtype,
    descent_model,
    optimise_values,
    untouched,
)
from kg_edit.value.tail_forward import TailForward

_ESSENCE = "{} is a"


class ValueConfig(MethodConfig):
    """Settings of methods that find values by gradient descent: the descent, the KL term, the covariance C.

    ``written_layers`` gives the layers that the method writes.
    """

    steps: PositiveInt = Field(20, description="maximum number of evaluations of the objective")
    further_steps: NonNegativeInt = Field(
        0,
        exclude_if=lambda more: not more,
        description="maximum of further evaluations until the target is said in each context (preset default: 28)",
    )
    learning_rate: float = Field(0.5, gt=0, description="learning rate of the optimiser")
    kl_weight: float = Field(0.0625, ge=0, description="weight of L_a in Eq. 7")
    stop_below: float = Field(0.05, description="the descent stops when the loss is below this value")
    stop_nll: float = Field(
        0.0,
        ge=0,
        exclude_if=lambda least: not least,
        description="the descent also stops when the target's loss (mean over the contexts) is below this value",
    )
    seed: Seed = Field(0, description="random seed of the contexts and of all other sampling")
    covariance: CovarianceConfig = Field(
        CovarianceConfig(), description="how C is measured: corpus, tokens, seed, ridge"
    )
    descent_dtype: DescentDtype = Field("model", description=DESCENT_DTYPE)


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
        description="weight of the keys of the prompts' other tokens; C has 1 (preset default: 1)",
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


class ValueMethod(EditingMethod):
    """A method that finds values by descent and writes them under keys; it holds layers, contexts and covariances.

    Contexts and covariances may be passed in. Otherwise the model samples the contexts, and C is loaded or measured.
    """

    trains: ClassVar[Trains] = "value"
    config: ValueConfig

    def __init__(
        self,
        model: LanguageModel,
        config: ValueConfig,
        *,
        graph: SubgraphSource | nx.DiGraph | None = None,
        contexts: tuple[str, ...] | None = None,
        covariances: Mapping[int, Covariance] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(model, config, graph=graph)
        self._given_contexts, self._given_covariances = contexts, covariances
        self._progress = progress
        self.layers = config.written_layers(len(model.blocks))
        for layer in self.layers:
            model.block(layer)  # raises early if the model has no such layer

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt; the first one is the bare ``{}``."""
        if self._given_contexts is not None:
            return self._given_contexts
        with untouched(self.model):  # `check` may ask first, outside of `prepare`, for a model in training mode
            return self.sampled_contexts()

    @abstractmethod
    def sampled_contexts(self) -> tuple[str, ...]:
        """Sample contexts from the model, as the settings say."""

    @cached_property
    def covariances(self) -> Mapping[int, Covariance]:
        """By layer, the second moment C [d_ff, d_ff] of the inputs of the edited down-projection."""
        given = self._given_covariances or {}
        wanted = [layer for layer in self.layers if layer not in given]
        found = find_covariances(self.model, wanted, self.config.covariance, progress=self._progress) if wanted else {}
        return {**given, **found}

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Check the inputs, and open the corpus that C is measured from."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, ValueConfig)  # noqa: S101 - config_class
        open_corpus(config.covariance.corpus, seed=config.covariance.seed)

    def prepare(self) -> None:
        """Sample the contexts, and load or measure the covariances."""
        with untouched(self.model):
            _ = self.contexts, self.covariances


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
        if not self.config.steps:
            return self._proposed(edits, requests)
        objective = self.objective(edits, requests)
        proposals, notes = zip(*map(self.proposal, edits, objective.value), strict=True)
        descents = optimise_values(
            objective,
            proposals,
            steps=self.config.steps,
            stop_below=self.config.stop_below,
            stop_nll=self.config.stop_nll,
            further_steps=self.config.further_steps,
        )
        states = zip(requests, objective.value, objective.bare_key, objective.mean_key, descents, notes, strict=True)
        return [
            FoundValue(request=request, clean=clean, bare_key=bare, mean_key=mean, descent=descent, notes=said)
            for request, clean, bare, mean, descent, said in states
        ]

    @torch.no_grad()
    def _proposed(self, edits: Sequence[Edit], requests: Sequence[Request]) -> list[FoundValue]:
        """The proposed changes without a descent; the blocks above the edited one do not run."""
        found = list[FoundValue]()
        for edit, request, clean, bare, mean in zip(edits, requests, *self._clean_states(requests), strict=True):
            proposal, notes = self.proposal(edit, clean)
            states = {"clean": clean, "bare_key": bare, "mean_key": mean}
            descent = Descent(change=proposal.change().detach(), losses=())
            found.append(FoundValue(request=request, descent=descent, notes=notes, **states))
        return found

    def _clean_states(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor, Tensor]:
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
