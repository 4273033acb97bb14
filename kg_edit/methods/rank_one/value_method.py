"""The base of methods that find values by gradient descent, and write them: rank-one methods, and MEMIT's family.

`ValueMethod` has the layers, the contexts (sampled texts in front of the prompt), and for each layer the covariance C
[d_ff, d_ff] of the down-projection's inputs. Subclasses say which values are found, and by which closed form they are
written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import networkx as nx
from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.covariance.corpora import open_corpus
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.optimise import DESCENT_DTYPE, DescentDtype, untouched
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.workload import Trains
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.seeds import Seed


class ValueConfig(MethodConfig):
    """Settings of methods that find values by gradient descent: the descent, the KL term, the covariance C.

    ``written_layers`` gives the layers that the method writes.
    """

    steps: PositiveInt = Field(20, description="maximum number of evaluations of the objective")
    further_steps: NonNegativeInt = Field(
        0,
        exclude_if=lambda more: not more,
        description="maximum of further evaluations until the target is said in each context",
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

    def idle(self) -> dict[str, str]:
        """The seed of the model's own text, if C is measured on another text."""
        own = self.covariance.corpus == "self"
        return {} if own else {"covariance.seed": "the corpus is read, not sampled from the model"}


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
