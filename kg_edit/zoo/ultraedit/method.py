"""UltraEdit (Gu et al., TMLR 2026, arXiv 2505.14679): one backward pass, normalised, written by least squares.

Several matrices W [out, in] of the MLPs are edited, each on its own. For every token that predicts one of a target:

1. h [in] is the input of the module, g [out] the gradient of -log p of the target at its output (`token_features`).
2. Lifelong normalisation: mean and deviation are those of all such tokens so far, of earlier calls too (`Statistics`):

    hn, gn = ([h, g] - mean) / deviation

3. The output is to change as a gradient step -rate gn hn^T would change it at the normalised input:

    v = -rate |hn|^2 gn                                                                   [out]

4. Ridge regression of the changes V [tokens, out] on the inputs H [tokens, in], which are not normalised here:

    W += V^T H (H^T H + ridge I)^-1  =  V^T (H H^T + ridge I)^-1 H

No subject is needed, no covariance, no descent. The second form of 4 solves for tokens instead of inputs, which is
less if they are fewer; both give the factors of the patch. Here the tokens of texts that the model writes are further
rows of H, with v = 0 (``hold``). The sums behind the statistics are the patch's state, so a later call continues
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import networkx as nx
import torch
from pydantic import Field, NonNegativeInt, field_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.edits.edit import Edit
from kg_edit.engine.passes import pass_limit
from kg_edit.errors import ConfigError, ModelError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.long_run import state_of
from kg_edit.methods.base import annotate_errors
from kg_edit.methods.config import Layers, MethodConfig, Workload
from kg_edit.methods.statement import StatementMethod
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import SUM, WeightPatch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.mend.examples import sample_prompts
from kg_edit.zoo.mend.gradients import EditedPasses, block_weights, first_block, weight_shapes

_EPSILON = torch.finfo(torch.float32).eps  # added to every deviation, as published
_BLOCKS = 9  # published for four of six models: nine blocks, which end before the last one


class UltraEditConfig(MethodConfig):
    """UltraEdit's settings. The preset ``paper`` has those of the published code, except the matrices."""

    layers: Layers | None = Field(
        None, description="edited blocks, 0-based; default nine that end before the last one, fewer in a small model"
    )
    projections: Literal["in", "down", "all"] = Field(
        "in", description="edited matrices of an MLP: those of its input (up, gate), the down-projection, or all"
    )
    weights: tuple[str, ...] = Field(
        (),
        description="names of the edited weights, instead of layers and projections",
    )
    rate: float = Field(3e-5, gt=0, description="factor of the wanted change of an output; published: 1e-6")
    ridge: float = Field(1.0, gt=0, description="weight of |change|^2 in the least squares; an edited token has 1")
    statistics: Literal["weight", "shape"] = Field(
        "weight", description="mean and deviation are of each weight's tokens; published: of all weights of one shape"
    )
    texts: NonNegativeInt = Field(
        32, description="texts that the model writes, with which the statistics start; published: 0"
    )
    text_tokens: int = Field(12, ge=2, description="length of these texts, in tokens")
    seed: Seed = Field(0, description="random seed of these texts")
    hold: float = Field(
        1.0,
        ge=0,
        description="weight of the texts' tokens in the least squares, whose outputs are to stay; published: 0",
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"rate": 1e-6, "statistics": "shape", "texts": 0}}

    @field_validator("weights")
    @classmethod
    def _of_blocks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not any(part.isdigit() for part in name.split(".")):
                raise ValueError(f"{name!r} is in no block; give names such as 'model.layers.3.mlp.down_proj.weight'")
        return names

    def idle(self) -> dict[str, str]:
        """Return the layers and projections, if the weights are named, and the settings of texts, if there are none."""
        unused = dict[str, str]()
        if self.weights:
            unused |= dict.fromkeys(("layers", "projections"), "weights names the edited matrices")
        if not self.texts:
            unused |= dict.fromkeys(("text_tokens", "seed", "hold"), "the statistics start without texts")
        return unused

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers of the settings, or by default up to nine that end before the last one."""
        if self.weights:
            return tuple(sorted({block_of(name) for name in self.weights}))
        if self.layers:
            return self.layers
        end = max(1, blocks - 1)  # the last block is left out
        count = min(_BLOCKS, max(1, blocks // 2))
        return tuple(range(max(0, end - count), end))

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: a backward pass on the edit's row, and the changes of two matrices of most MLPs."""
        if self.weights:
            return Workload(matrices=round(len(self.weights) / len(self.written_layers(0))))  # on average
        return Workload(matrices={"in": 2, "down": 1, "all": 3}[self.projections])


def block_of(name: str) -> int:
    """Return the block (0-based) of a weight, the first number in its name."""
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and deviation of features [size], from their sums: one tensor [1 + 2 size] of the sums of (1, x, x^2)."""

    sums: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the statistics of features [tokens, size]."""
        x = features.double()
        return cls(torch.cat([torch.ones_like(x[:, :1]), x, x**2], 1).sum(0).cpu())

    @property
    def count(self) -> float:
        """The number of tokens."""
        return float(self.sums[0])

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of the tokens of both."""
        return Statistics(self.sums + other.sums.to(self.sums))

    def normalise(self, features: Tensor) -> Tensor:
        """Return (features - mean) / deviation, [tokens, size] in float64; the deviation has n - 1 as divisor."""
        sums = self.sums.to(features.device)
        count = sums[0]
        first, second = sums[1:].chunk(2)  # the sums of x and of x^2, [size] each
        mean = first / count
        deviation = ((second - count * mean**2) / (count - 1)).clamp(min=0.0).sqrt()
        return (features.double() - mean) / (deviation + _EPSILON)


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenFeatures:
    """[h, g] of the tokens that predict a prompt's target, [tokens, in + out] by weight, and its mean -log p."""

    features: Mapping[str, Tensor]
    nll: float


class UltraEdit(StatementMethod):
    """The edits of a call are written together; the statistics of their tokens are added to those of earlier calls."""

    entry = method_entry("ultraedit")
    config_class = UltraEditConfig
    config: UltraEditConfig

    def __init__(
        self, model: LanguageModel, config: UltraEditConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        weight_shapes(model, config.weights)  # raises early if the model has no such weight
        super().__init__(model, config, graph=graph)
        self.weights = config.weights
        if not self.weights:
            names = list[str]()
            for layer in self.layers:
                names += self._weights_of(layer)
            self.weights = tuple(names)
        self.shapes = weight_shapes(model, self.weights)  # (out, in) by name

    def _weights_of(self, layer: int) -> list[str]:
        """Return the names of the matrices of a layer's MLP that ``projections`` selects."""
        down = self.model.weight_name(layer)
        if self.config.projections == "down":
            return [down]
        names = block_weights(self.model, layer)
        if self.config.projections == "all":
            return list(names)
        return [name for name in names if name != down]

    def prepare(self) -> None:
        """Read the model's own texts, once."""
        with keep_untouched(self.model):
            _ = self.texts

    @cached_property
    def texts(self) -> Mapping[str, Tensor]:
        """The features of texts that the model writes, every token of which is a target, by weight; empty without."""
        if not self.config.texts:
            return {}
        config = self.config
        prompts = sample_prompts(self.model, rows=config.texts, tokens=config.text_tokens, seed=config.seed)
        return self._join(self.token_features(prompts))

    def _join(self, rows: Sequence[TokenFeatures]) -> dict[str, Tensor]:
        """Return the features of all rows, by weight: [tokens of all rows, in + out]."""
        joined = dict[str, Tensor]()
        for name in self.weights:
            joined[name] = torch.cat([row.features[name] for row in rows])
        return joined

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Write the edits together, each from its gradient on the model in its present state."""
        prompts = list[Prompt]()
        for edit in edits:
            with annotate_errors(edit):
                prompts.append(self.encode_edit(edit))
        # 1. [h, g] of each token of a target
        with keep_untouched(self.model):
            _ = self.texts
            rows = self.token_features(prompts)
        for edit, prompt, row in zip(edits, prompts, rows, strict=True):
            with annotate_errors(edit):
                _check_finite(row, prompt)
        features = self._join(rows)

        # 2. The statistics of all tokens so far
        of_edits = {name: Statistics.of(value) for name, value in features.items()}
        statistics = self._add_earlier(of_edits, before)

        # 3 and 4, for each weight on its own
        factors = dict[str, Factors]()
        for name in self.weights:
            factors[name] = self._solve(name, features[name], statistics[name])
        return WeightPatch(
            factors={name: Factors.join([pair]) for name, pair in factors.items()},  # dense where that takes less
            provenance={**self.provenance(), "edits": self.records(edits, rows, factors)},
            state={SUM + name: own.sums for name, own in of_edits.items()},
        )

    def _add_earlier(self, of_edits: Mapping[str, Statistics], before: Patch) -> dict[str, Statistics]:
        """Return the statistics of these edits, of earlier calls and of the texts together, by weight."""
        seen = dict[str, Statistics]()
        for name in self.weights:
            seen[name] = of_edits[name]
            earlier = state_of(before, SUM + name)
            if earlier is not None:
                seen[name] += Statistics(earlier)
            if self.texts:
                seen[name] += Statistics.of(self.texts[name])
        if self.config.statistics == "shape":
            seen = self._pool_by_shape(seen)
        if min(statistics.count for statistics in seen.values()) < 2:
            raise ConfigError(
                "one token has no deviation to normalise by; give more edits at once, or let the statistics start with "
                "texts of the model (--set texts=32)"
            )
        return seen

    def _solve(self, name: str, features: Tensor, statistics: Statistics) -> Factors:
        """Return the change of one weight [out, in], from its features [tokens, in + out]."""
        out, size = self.shapes[name]

        # 3. V [tokens, out]
        hn, gn = statistics.normalise(features).split([size, out], 1)
        values = -self.config.rate * (hn**2).sum(1, keepdim=True) * gn

        # 4. The rows of (H H^T + ridge I)^-1 H that belong to V. The texts are further rows of H, with v = 0.
        inputs = features[:, :size].double()
        if self.texts and self.config.hold:
            inputs = torch.cat([inputs, self.config.hold**0.5 * self.texts[name][:, :size].to(inputs)])
        solved = solve_ridge(inputs, self.config.ridge)[: len(values)]  # [tokens, in]
        return Factors(left=values.T.float().contiguous(), right=solved.T.float().contiguous())

    def _pool_by_shape(self, seen: Mapping[str, Statistics]) -> dict[str, Statistics]:
        """Return for each weight the statistics of all weights of its shape, as published."""
        by_shape = dict[tuple[int, int], Statistics]()
        for name, shape in self.shapes.items():
            if shape in by_shape:
                by_shape[shape] += seen[name]
            else:
                by_shape[shape] = seen[name]
        return {name: by_shape[shape] for name, shape in self.shapes.items()}

    def records(
        self, edits: Sequence[Edit], rows: Sequence[TokenFeatures], factors: Mapping[str, Factors]
    ) -> list[dict[str, Any]]:
        """Return the records of a batch, each with the norm of its own tokens' share of the change."""
        counts = [len(row.features[self.weights[0]]) for row in rows]
        squared = [0.0] * len(edits)
        for changes in factors.values():
            lefts = changes.left.cpu().split(counts, 1)
            rights = changes.right.cpu().split(counts, 1)
            for index, (left, right) in enumerate(zip(lefts, rights, strict=True)):
                squared[index] += Factors(left=left, right=right).norm ** 2
        records = list[dict[str, Any]]()
        for index, edit in enumerate(edits):
            record = self.record(edit)
            record["nll_before"] = round(rows[index].nll, 6)
            record["tokens"] = counts[index]
            record["norms"] = {"update": round(squared[index] ** 0.5, 6)}
            records.append(record)
        return records

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, with the names of the weights."""
        provenance = super().provenance()
        provenance["methods"][0] |= {"weights": list(self.weights)}
        return provenance

    def token_features(self, prompts: Sequence[Prompt]) -> list[TokenFeatures]:
        """Return the features of each prompt's target, from one forward and backward pass over as many as fit.

        The loss is the sum of -log p over the tokens. The published mean over a batch differs by a factor, which the
        normalisation takes out.
        """
        limit = pass_limit(self.model, first_block(self.model, self.weights), self.memory).tokens
        size = max(1, int(limit // max(len(prompt.ids) for prompt in prompts)))
        all_features = list[TokenFeatures]()
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            passes = EditedPasses(self.model, batch, self.weights)
            rows = range(len(batch))
            tokens, _ = passes.targets(rows)
            nlls = cross_entropy(passes.logits(rows), tokens, reduction="none")  # [target tokens of all rows]
            deltas = passes.deltas(nlls.sum())
            counts = [len(prompt.target_ids) for prompt in batch]
            for row, row_nlls in enumerate(nlls.detach().split(counts)):
                features = _features_of_row(row, counts[row], passes.inputs, deltas)
                all_features.append(TokenFeatures(features=features, nll=float(row_nlls.mean())))
        return all_features


def _features_of_row(
    row: int, count: int, inputs: Mapping[str, Tensor], deltas: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return [h, g] of a row's last ``count`` tokens, which predict its target, [count, in + out] by weight.

    Args:
        row: the number of the row; all rows are padded on the left.
        count: the number of tokens of its target.
        inputs: h by weight, [rows, length, in].
        deltas: g by weight, [rows, length, out].
    """
    features = dict[str, Tensor]()
    for name, delta in deltas.items():
        h = inputs[name][row, -count:].float()  # [count, in]
        g = delta[row, -count:]  # [count, out]
        features[name] = torch.cat([h, g], 1)
    return features


def _check_finite(row: TokenFeatures, prompt: Prompt) -> None:
    for features in row.features.values():
        if not torch.isfinite(features).all():
            raise ModelError(
                f"the gradient of {prompt.text!r} is not finite (loss {row.nll}); "
                "if the model is in float16, load it in bfloat16 or float32"
            )


def solve_ridge(inputs: Tensor, ridge: float) -> Tensor:
    """Return (H H^T + ridge I)^-1 H, [rows, in], for H ``inputs`` [rows, in]; the smaller of both forms is solved."""
    rows, size = inputs.shape
    if rows <= size:
        gram = inputs @ inputs.T  # [rows, rows]
        gram.diagonal().add_(ridge)
        solved: Tensor = torch.linalg.solve(gram, inputs)
        return solved
    gram = inputs.T @ inputs  # [in, in]
    gram.diagonal().add_(ridge)
    transposed: Tensor = torch.linalg.solve(gram, inputs.T)  # [in, rows]
    return transposed.T
