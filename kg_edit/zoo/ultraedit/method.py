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
from functools import cached_property, reduce
from operator import add
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
from kg_edit.methods.config import Layers, MethodConfig
from kg_edit.methods.statement import StatementMethod
from kg_edit.methods.workload import Workload
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import change_norm
from kg_edit.patches.weight_patch import SUM, Factors, WeightPatch
from kg_edit.storage.seeds import Seed
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.mend.examples import own_prompts
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
        """Return the layers and projections, if the weights are named, and what describes texts that there are not."""
        named, no_texts = "weights names the edited matrices", "the statistics start without texts"
        unused = {"layers": named, "projections": named} if self.weights else {}
        return unused | ({} if self.texts else {"text_tokens": no_texts, "seed": no_texts, "hold": no_texts})

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers of the settings, or by default up to nine that end before the last one."""
        if self.weights:
            return tuple(
                sorted({next(int(part) for part in name.split(".") if part.isdigit()) for name in self.weights})
            )
        last = max(1, blocks - 1)
        return self.layers or tuple(range(max(0, last - min(_BLOCKS, max(1, blocks // 2))), last))

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: a backward pass on the edit's row, and the changes of two matrices of most MLPs."""
        named = len(self.weights) / len(self.written_layers(0)) if self.weights else 0
        return Workload(matrices=round(named) or {"in": 2, "down": 1, "all": 3}[self.projections])


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
        count, (first, second) = sums[0], sums[1:].chunk(2)
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
            of_layer = {layer: block_weights(model, layer) for layer in self.layers}
            downs = {model.weight_name(layer) for layer in self.layers}
            kinds = {"all": (True, False), "down": (True,), "in": (False,)}[config.projections]
            self.weights = tuple(name for names in of_layer.values() for name in names if (name in downs) in kinds)
        self.shapes = weight_shapes(model, self.weights)  # (out, in) by name

    def prepare(self) -> None:
        """Read the model's own texts, once."""
        with untouched(self.model):
            _ = self.texts

    @cached_property
    def texts(self) -> Mapping[str, Tensor]:
        """The features of texts that the model writes, every token of which is a target, by weight; empty without."""
        if not self.config.texts:
            return {}
        count, tokens = self.config.texts, self.config.text_tokens
        rows = self.token_features(own_prompts(self.model, rows=count, tokens=tokens, seed=self.config.seed))
        return {name: torch.cat([row.features[name] for row in rows]) for name in self.weights}

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Write the edits together, each from its gradient on the model in its present state.

        Raises:
            ConfigError: there is only one token to learn, and the statistics start without texts.
            ModelError: a loss or a gradient is not finite.
        """
        prompts = list[Prompt]()
        for edit in edits:
            with annotate_errors(edit):
                prompts.append(self.row(edit))
        with untouched(self.model):
            texts = self.texts
            rows = self.token_features(prompts)
        for edit, prompt, row in zip(edits, prompts, rows, strict=True):
            if not all(torch.isfinite(feature).all() for feature in row.features.values()):
                with annotate_errors(edit):
                    raise ModelError(
                        f"the gradient of {prompt.text!r} is not finite (loss {row.nll}); "
                        "if the model is in float16, load it in bfloat16 or float32"
                    )

        # 2. The statistics of all tokens so far: of the texts, of earlier calls, and of these edits.
        features = {name: torch.cat([row.features[name] for row in rows]) for name in self.weights}
        of_edits, seen = {name: Statistics.of(value) for name, value in features.items()}, dict[str, Statistics]()
        for name, now in of_edits.items():
            earlier = state_of(before, SUM + name)
            parts = [
                now,
                *([Statistics(earlier)] if earlier is not None else []),
                *([Statistics.of(texts[name])] if texts else []),
            ]
            seen[name] = reduce(add, parts)
        if self.config.statistics == "shape":
            same = {
                name: [seen[other] for other, its in self.shapes.items() if its == shape]
                for name, shape in self.shapes.items()
            }
            seen = {name: reduce(add, parts) for name, parts in same.items()}
        if min(statistics.count for statistics in seen.values()) < 2:
            raise ConfigError(
                "one token has no deviation to normalise by; give more edits at once, or let the statistics start with "
                "texts of the model (--set texts=32)"
            )

        # 3. and 4. By weight: V [tokens, out], and the first rows of (H H^T + ridge I)^-1 H, [tokens, in]. The texts'
        # tokens are further rows of H, whose v is 0.
        factors = dict[str, Factors]()
        for name, (out, size) in self.shapes.items():
            hn, gn = seen[name].normalise(features[name]).split([size, out], 1)
            values = -self.config.rate * (hn**2).sum(1, keepdim=True) * gn
            inputs = features[name][:, :size].double()
            if texts and self.config.hold:
                inputs = torch.cat([inputs, self.config.hold**0.5 * texts[name][:, :size].to(inputs)])
            few = len(inputs) <= size  # of both forms of 4, the one with the smaller matrix to solve with
            gram = inputs @ inputs.T if few else inputs.T @ inputs
            gram.diagonal().add_(self.config.ridge)
            solved = torch.linalg.solve(gram, inputs if few else inputs.T)  # [rows, in], or its transpose [in, rows]
            right = (solved if few else solved.T)[: len(values)]
            factors[name] = Factors(left=values.T.float().contiguous(), right=right.T.float().contiguous())

        return WeightPatch(
            factors={name: Factors.total([pair]) for name, pair in factors.items()},  # dense where that takes less
            provenance={**self.provenance(), "edits": self.records(edits, rows, factors)},
            state={SUM + name: statistics.sums for name, statistics in of_edits.items()},
        )

    def records(
        self, edits: Sequence[Edit], rows: Sequence[TokenFeatures], factors: Mapping[str, Factors]
    ) -> list[dict[str, Any]]:
        """Return the records of a batch, each with the norm of its own tokens' share of the change."""
        counts = [len(row.features[self.weights[0]]) for row in rows]
        squared = [0.0] * len(edits)
        for changes in factors.values():
            left, right = (factor.cpu().split(counts, 1) for factor in (changes.left, changes.right))
            for index, pair in enumerate(zip(left, right, strict=True)):
                squared[index] += change_norm(Factors(left=pair[0], right=pair[1])) ** 2
        norms = [square**0.5 for square in squared]
        return [
            {
                **self.record(edit),
                "nll_before": round(row.nll, 6),
                "tokens": count,
                "norms": {"update": round(norm, 6)},
            }
            for edit, row, count, norm in zip(edits, rows, counts, norms, strict=True)
        ]

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
            passes, rows = EditedPasses(self.model, batch, self.weights), range(len(batch))
            tokens, _ = passes.targets(rows)
            nlls = cross_entropy(passes.logits(rows), tokens, reduction="none")  # [tokens of all rows]
            deltas = passes.deltas(nlls.sum())
            counts = [len(prompt.target_ids) for prompt in batch]
            for row, (count, nll) in enumerate(zip(counts, nlls.detach().split(counts), strict=True)):
                # A row is padded on the left, and its last tokens are those that predict the target.
                features = {
                    name: torch.cat([passes.inputs[name][row, -count:].float(), delta[row, -count:]], 1)
                    for name, delta in deltas.items()
                }
                all_features.append(TokenFeatures(features=features, nll=float(nll.mean())))
        return all_features
