"""What MEMIT, EMMET and AlphaEdit share: values for a batch, and one least-squares system a layer to write them.

Settings of methods that write many values at once.

What methods that write a batch at once are set up with: layers, contexts, covariances, and what an edit asks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any, ClassVar

import networkx as nx
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.closed_form.spread import SpreadSite, refuse_norm_after_mlp, write_jointly
from kg_edit.covariance.corpora import open_corpus
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import EditingMethod, Layers, MethodConfig, annotate_errors, attempt, default_layer
from kg_edit.methods.memit.records import VALUE, Record, batches_without, facts_of, new_record, state_of, with_updates
from kg_edit.methods.memit.values import Search, Target, WriteRequest
from kg_edit.methods.rank_one.base import request_of
from kg_edit.methods.rank_one.rome import FreeDelta
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import STARTS, started_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.value.optimise import DESCENT_DTYPE, DeltaParameters, DescentDtype, untouched

_MOST_BESIDE = 2


class JointConfig(MethodConfig):
    """How values are found, and from what C is measured."""

    steps: PositiveInt = Field(20, description="evaluations of the objective at most")
    learning_rate: float = Field(0.5, gt=0, description="of Adam")
    kl_weight: float = Field(0.0625, ge=0, description="weight of L_a in Eq. 7")
    weight_decay: float = Field(0.5, ge=0, description="weight of |z - h| / |h|^2 in the loss")
    stop_below: float = Field(0.05, description="a loss that is small enough")
    clamp_norm_factor: float = Field(0.75, gt=0, description="|z - h| is at most so many times |h|")
    context_starts: tuple[str, ...] = Field(STARTS, description="words that the contexts begin with, one each")
    context_tokens: PositiveInt = Field(10, description="tokens of a context")
    seed: int = Field(0, description="of the contexts, and of all else that is drawn")
    covariance: CovarianceConfig = Field(CovarianceConfig(), description="what C is measured from")
    descent_dtype: DescentDtype = Field("model", description=DESCENT_DTYPE)


class SpreadConfig(JointConfig):
    """Of those that spread the change over several layers."""

    layers: Layers | None = Field(
        None,
        min_length=1,
        description="edited layers, 0-based; default five around 0.2 of the depth, fewer in a small model",
    )


def default_layers(blocks: int) -> tuple[int, ...]:
    """The layer at 0.2 of the depth with up to two on each side: 4 to 8 of 30, 1 to 3 of 12."""
    centre, beside = default_layer(blocks), min(_MOST_BESIDE, round(blocks / 15))
    return tuple(range(max(0, centre - beside), min(blocks, centre + beside + 1)))


class JointSetup(EditingMethod):
    """What a batch is written with. Subclasses say in which layers, and with which closed form."""

    keeps_keys: ClassVar[bool] = False  # whether later batches need the keys of earlier ones
    place: ClassVar[SpreadSite] = "block"  # of which output z speaks
    config: JointConfig

    def __init__(
        self,
        model: LanguageModel,
        config: JointConfig,
        *,
        graph: SubgraphSource | nx.DiGraph | None = None,
        contexts: tuple[str, ...] | None = None,
        covariances: Mapping[int, Covariance] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(model, config, graph=graph)
        self._given_contexts, self._given_covariances = contexts, covariances
        self._progress = progress
        self.layers = self.edited_layers()
        for layer in self.layers:
            model.block(layer)  # refuses a layer that is not there before any work is done

    @property
    def norm_penalty(self) -> float:
        """Weight of |z - h| / |h|^2 in the loss."""
        return self.config.weight_decay

    @abstractmethod
    def edited_layers(self) -> tuple[int, ...]:
        """The layers that are written, in ascending order."""

    @abstractmethod
    def directions(self, layer: int, keys: Tensor, protected: Tensor | None) -> Tensor:
        """What the changes of the values are multiplied with, [d_ff, facts], for ``keys`` [d_ff, facts] in float64.

        ``protected`` [d_ff, earlier facts]: the keys in the state of the patch before, for methods with `keeps_keys`.
        """

    def requests_of(self, edit: Edit) -> tuple[Edit, ...]:
        """The facts that are written for an edit, all in one batch: itself, and what a subclass puts after it."""
        return (edit,)

    def proposal(self, edit: Edit, state: Tensor) -> tuple[DeltaParameters, dict[str, Any]]:
        """What makes z - h for a fact, given h [d], and what to note of it."""
        return FreeDelta(state, self.config), {}

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt, the bare one first."""
        if self._given_contexts is not None:
            return self._given_contexts
        config = self.config
        return started_contexts(
            self.model, starts=config.context_starts, tokens=config.context_tokens, seed=config.seed
        )

    @cached_property
    def covariances(self) -> Mapping[int, Covariance]:
        """C of each edited module's inputs."""
        if self._given_covariances is not None:
            return self._given_covariances
        return find_covariances(self.model, self.layers, self.config.covariance, progress=self._progress)

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: SubgraphSource | None, edits: Sequence[Edit]) -> None:
        """Also open the corpus of the covariance."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, JointConfig)  # noqa: S101 - config_class
        open_corpus(config.covariance.corpus, seed=config.covariance.seed)

    def prepare(self) -> None:
        """Look whether the model can be edited so, sample the contexts and find the covariances."""
        with untouched(self.model):
            if self.place == "block":
                refuse_norm_after_mlp(self.model, self.layers[-1])
            _ = self.contexts, self.covariances

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every fact's prompt once."""
        for edit in edits:
            with annotate_errors(edit):
                self.facts(edit)

    def facts(self, edit: Edit) -> tuple[WriteRequest, ...]:
        """What is written for an edit, with its prompts."""
        return tuple(map(self.fact, self.requests_of(edit)))

    def fact(self, request: Edit) -> WriteRequest:
        """A request with its prompts."""
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
                with annotate_errors(edit):
                    asked.append(_unopposed(self.facts(edit), edits))
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

    def _targets(self, asked: Sequence[tuple[WriteRequest, ...]]) -> list[list[Target]]:
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
        self,
        edits: Sequence[Edit],
        asked: Sequence[tuple[WriteRequest, ...]],
        targets: Sequence[list[Target]],
        before: Patch,
    ) -> WeightPatch:
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


def _unopposed(facts: Sequence[WriteRequest], edits: Sequence[Edit]) -> tuple[WriteRequest, ...]:
    """Without what was added to an edit against another edit of the batch, whose word counts."""
    wanted = {edit.text: edit.target_new for edit in edits}
    return tuple(fact for fact in facts if wanted.get(fact.edit.text, fact.edit.target_new) == fact.edit.target_new)
