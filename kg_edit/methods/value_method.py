"""The base of methods that find values by gradient descent and write them under keys: ROME, GLAME, MEMIT and others.

`ValueConfig` has their common settings. `ValueMethod` holds what all edits of a method share: the contexts around the
prompts, and the covariance C of each layer. How values are found and written is up to the subclasses.

    m [d]           the present value of an edit: an output of the edited layer at the subject's last token
    m* [d]          the value that is written, with which the model predicts the target; the descent finds m* - m
    C [d_ff, d_ff]  the second moment of the edited weight's inputs over ordinary text
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from kg_edit.covariance.corpora import is_imported, open_corpus
from kg_edit.covariance.moment import Covariance
from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.engine.prefix_cache import context_starts, longest_start, mask_decides
from kg_edit.locate_then_edit.descent import Descent, DescentDtype, FreeDelta, Optimiser, Stops
from kg_edit.locate_then_edit.objective import Request
from kg_edit.locate_then_edit.states import Site
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.config import MethodConfig, Trains
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.storage.setting_fields import Seed

_OPTIMISER_BYTES = 16  # of a trained number: its gradient, Adam's two means and a copy, in float32


class ValueConfig(MethodConfig):
    """Settings of methods that find values by gradient descent: the descent, the KL term, the covariance C."""

    steps: PositiveInt = Field(
        20, description="maximum number of evaluations of the objective, before the further_steps"
    )
    further_steps: NonNegativeInt = Field(
        28,
        description="maximum of further evaluations after steps, until the target is predicted in each context; with "
        "0 the descent ends after steps; published: 0",
    )
    learning_rate: float = Field(0.5, gt=0, description="learning rate of the optimiser")
    clamp_norm_factor: float = Field(2.0, gt=0, description="maximum of |m* - m|, as a multiple of |m|; published: 4")
    kl_weight: float = Field(0.0625, ge=0, description="weight of the KL term L_a of '{subject} is a' in the loss")
    stop_below: float = Field(0.05, description="the descent stops when the loss is below this value")
    stop_nll: float = Field(
        0.0,
        ge=0,
        description="the descent also stops when the target's loss (mean over the contexts) is below this value",
    )
    hold: float = Field(1.0, ge=0, description="weight of the keys of the prompts' other tokens; C has 1; published: 0")
    remember: float = Field(
        1.0, ge=0, description="weight of the keys of earlier edits in one model; a new key has 1; 0: off; published: 0"
    )
    anchor: float = Field(
        0.0,
        ge=0,
        description="refuse a value that is longer than this many times the mean norm of the unedited model's values, "
        "and rescale the others to that mean norm; 0: off; published: 2",
    )
    seed: Seed = Field(0, description="random seed of the contexts and of all other sampling")
    covariance: CovarianceConfig = Field(
        CovarianceConfig(), description="how C is measured: corpus, tokens, seed, ridge"
    )
    descent_dtype: DescentDtype = Field(
        "model",
        description="bfloat16: descend on a copy in bfloat16, on processors that compute in it",
    )

    @property
    def most_steps(self) -> tuple[int, int]:
        """As in `MethodConfig`: ``steps`` and ``further_steps``."""
        return self.steps, self.further_steps

    @property
    def stops(self) -> Stops:
        """When the descent of an edit ends."""
        return Stops(
            steps=self.steps, further_steps=self.further_steps, stop_below=self.stop_below, stop_nll=self.stop_nll
        )

    def idle(self) -> dict[str, str]:
        """Return the settings without effect, each with the reason.

        They are ``covariance.seed`` if C's text is not sampled, and ``covariance.tokens`` if C is imported.
        """
        idle = {}
        if self.covariance.corpus != "self":
            idle["covariance.seed"] = "the corpus is read, not sampled from the model"
        if is_imported(self.covariance.corpus):
            idle["covariance.tokens"] = "an imported covariance has its own number of tokens"
        return idle


class ValueMethod(EditingMethod):
    """A method that finds values by descent and writes them under keys; it holds layers, contexts and covariances.

    Contexts and covariances may be passed in. Otherwise the model samples the contexts, and C is loaded or measured.
    """

    trains: ClassVar[Trains] = "value"
    site: Site = "value"  # which output of the last written block a value is
    config: ValueConfig

    def __init__(
        self,
        model: LanguageModel,
        config: ValueConfig,
        *,
        graph: Any = None,
        contexts: tuple[str, ...] | None = None,
        covariances: Mapping[int, Covariance] | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(model, config, graph=graph)
        self._given_contexts = contexts
        self._given_covariances = covariances
        self._progress = progress

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt, so that the edit holds after other text; the first is the bare ``{}``."""
        if self._given_contexts is not None:
            return self._given_contexts
        with keep_untouched(self.model):  # `check` or `provenance` may ask first, of a model in training mode
            return self.sampled_contexts()

    @abstractmethod
    def sampled_contexts(self) -> tuple[str, ...]:
        """Return contexts sampled from the model, according to the settings."""

    @cached_property
    def covariances(self) -> Mapping[int, Covariance]:
        """By layer, the second moment C [d_ff, d_ff] of the inputs of the edited down-projection."""
        given = self._given_covariances or {}
        layers = [layer for layer in self.layers if layer not in given]
        if not layers:
            return given
        return {**given, **find_covariances(self.model, layers, self.config.covariance, progress=self._progress)}

    @classmethod
    def check_inputs(cls, config: MethodConfig, graph: Any, edits: Sequence[Edit]) -> None:
        """Check the inputs, and open the corpus that C is measured from."""
        super().check_inputs(config, graph, edits)
        assert isinstance(config, ValueConfig)  # noqa: S101 - config_class
        open_corpus(config.covariance.corpus, seed=config.covariance.seed)  # raises an error if there is none

    @cached_property
    def value_norm(self) -> float:
        """The mean norm of the unedited model's values, for the setting ``anchor``."""
        from kg_edit.locate_then_edit.long_run import mean_value_norm  # few runs use the setting

        with keep_untouched(self.model):  # `provenance` may ask first, as for the contexts
            return mean_value_norm(
                self.model,
                self.value_layer,
                self.contexts,
                site=self.site,
                clamp=self.config.clamp_norm_factor,
                stops=self.config.stops,
            )

    @property
    def value_layer(self) -> int:
        """The layer in which values are found: the first one, as GLAME-plus writes answers into its second one."""
        return self.layers[0]

    def rescale_to_anchor(self, descents: Sequence[Descent], values: Tensor) -> list[Descent]:
        """Return the descents with each m* = m + change rescaled to `value_norm`; one that is too long is refused.

        `kg_edit.locate_then_edit.long_run.anchor` does so for one edit.

        Args:
            descents: one per edit, with its change m* - m [d].
            values: m, the present outputs of the MLP, [edits, d].
        """
        from kg_edit.locate_then_edit.long_run import anchor  # few runs use the setting

        rescaled = []
        for descent, value in zip(descents, values, strict=True):
            rescaled.append(anchor(descent, value, norm=self.value_norm, most=self.config.anchor))
        return rescaled

    def free_delta(self, values: Tensor, optimiser: Optimiser) -> FreeDelta:
        """Return m* - m itself as what is trained, from 0, for edits with the values m [edits, d]."""
        return FreeDelta(
            values,
            optimiser=optimiser,
            learning_rate=self.config.learning_rate,
            clamp_norm_factor=self.config.clamp_norm_factor,
        )

    @property
    def parameter_count(self) -> int:
        """How many numbers are trained for an edit: the d of its change."""
        return self.model.width

    def portions(self, requests: Sequence[Request]) -> Iterator[slice]:
        """Yield the parts of ``requests`` that fit into ``memory`` (MB) together.

        During its descent a request keeps the attention's keys and values of the tokens of its prompts, in every block,
        and what it trains, with gradients and Adam's means. The attention's keys and values of the contexts are kept
        once, if the model's attention allows it (`SharedContexts.prefix`).
        """
        # A token has a key [d] and a value [d] in the attention of each block. Where heads share keys (grouped-query
        # attention), they are shorter: then this counts too many bytes, and a part has fewer requests than would fit.
        cache_bytes_per_token = 2 * self.model.width * len(self.model.blocks) * self.model.model.dtype.itemsize
        shared_starts = self._find_shared_starts(requests)
        longest = max((len(ids) for ids in shared_starts), default=0)
        shared_bytes = cache_bytes_per_token * len(shared_starts) * longest  # the shorter ones are padded

        first = 0  # of the present part
        part_bytes = shared_bytes
        for index, request in enumerate(requests):
            # All rows are padded to the longest one.
            longest_row = max(_count_own_tokens(row, shared_starts) for row in request.rewrites)
            row_bytes = cache_bytes_per_token * longest_row
            request_bytes = row_bytes * len(request.rewrites) + _OPTIMISER_BYTES * self.parameter_count
            if index > first and part_bytes + request_bytes > self.memory * 1e6:
                yield slice(first, index)
                first = index
                part_bytes = shared_bytes
            part_bytes += request_bytes
        if requests:
            yield slice(first, len(requests))

    def _find_shared_starts(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """Return the token ids of the contexts that are kept once for all prompts; none if the attention forbids it."""
        rows = chain.from_iterable(request.rewrites for request in requests)
        longest_row = max((len(row.ids) for row in rows), default=0)
        if not mask_decides(self.model, longest_row):  # else a token's keys and values depend on where its row begins
            return []
        starts = context_starts(self.model, self.contexts)
        return list(dict.fromkeys(starts))  # each once

    def prepare(self) -> None:
        """Sample the contexts, load or measure the covariances, and with ``anchor`` measure the values' norm."""
        _ = self.contexts  # a cached property: to read it is to compute it, once
        _ = self.covariances
        if self.config.anchor:
            _ = self.value_norm

    def adjust_directions(self, layer: int, right: Tensor) -> Tensor:
        """Return the right factor U [d_ff, facts] of a layer's update R U^T, before it is written; here as it is."""
        return right

    def adjust_updates(self, updates: Mapping[str, Factors], before: Patch | None) -> dict[str, Factors]:
        """Return the updates of all layers, by the weights' names, once they are computed; here as they are.

        ``before`` is the patch that is applied to the model.
        """
        return dict(updates)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, and the norm of ``anchor`` if it is on."""
        provenance = super().provenance()
        if self.config.anchor:
            provenance["methods"][0] |= {"value_norm": self.value_norm}
        return provenance


def _count_own_tokens(row: Prompt, shared_starts: Sequence[tuple[int, ...]]) -> int:
    """Return the number of tokens of a row after the longest of the ``shared_starts`` with which it begins."""
    index = longest_start(shared_starts, row.ids)
    if index is None:
        return len(row.ids)
    return len(row.ids) - len(shared_starts[index])
