"""What methods that write a batch at once are set up with: layers, contexts, covariances, and what an edit asks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import networkx as nx
from torch import Tensor

from kg_edit.covariance.corpora import open_corpus
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.joint.subject_states import Place, refuse_norm_after_mlp
from kg_edit.methods.base import EditingMethod, MethodConfig, naming
from kg_edit.methods.joint_config import JointConfig
from kg_edit.methods.memit.values import Fact
from kg_edit.methods.rank_one.base import request_of
from kg_edit.methods.rank_one.rome import FreeChange
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import started_contexts
from kg_edit.value.optimise import Proposal, untouched


class JointSetup(EditingMethod):
    """What a batch is written with. Subclasses say in which layers, and with which closed form."""

    keeps_keys: ClassVar[bool] = False  # whether later batches need the keys of earlier ones
    place: ClassVar[Place] = "block"  # of which output z speaks
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

    def proposal(self, edit: Edit, state: Tensor) -> tuple[Proposal, dict[str, Any]]:
        """What makes z - h for a fact, given h [d], and what to note of it."""
        return FreeChange(state, self.config), {}

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
            with naming(edit):
                self.facts(edit)

    def facts(self, edit: Edit) -> tuple[Fact, ...]:
        """What is written for an edit, with its prompts."""
        return tuple(map(self.fact, self.requests_of(edit)))

    def fact(self, request: Edit) -> Fact:
        """A request with its prompts."""
        return Fact(edit=request, prompts=request_of(self.model, request, self.contexts))

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
