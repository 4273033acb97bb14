"""SERAC's network: a scope classifier and low-rank changes of the model; the settings of its training, and its file.

The scope classifier computes the probability that a text is in the scope of an edit, from the model's hidden states.
With h_j [d] the hidden state after block ``layer`` at token j, scaled to mean 0 and deviation 1, a text has the vectors

    v_j = P h_j / |P h_j|,    a_h = softmax(u_h . h_j over its tokens)    for some heads h

and a text x is in the scope of an edit's prompt z with the probability

    g(z, x) = product_h sigmoid(scale_h * sum_i a_hi(z) max_j v_i(z) . v_j(x) + offset_h)

Each token i of the edit's prompt finds its most similar token in the text, and each head weighs the tokens i. All heads
must agree, because a scope has both a subject and a relation: a prompt about a neighbour shares only the relation,
another fact about the subject only the subject. P [size, d], u [heads, d], scale and offset [heads] are trained.

The counterfactual model adds left @ right to each changed weight [out, in]. left [out, r] starts at 0, so that it is
the unedited model before the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import layer_norm, logsigmoid, normalize
from torch.nn.utils.rnn import pad_sequence
from transformers.pytorch_utils import Conv1D

from kg_edit.engine.replay import block_output
from kg_edit.errors import ConfigError
from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode, left_pad
from kg_edit.models.token_means import AfterMarker
from kg_edit.patches.weight_patch import module_of
from kg_edit.zoo.mend.gradients import Shape
from kg_edit.zoo.trained import training
from kg_edit.zoo.trained.files import NetworkFormat, NetworkManifest

FORMAT = NetworkFormat(key="kg_edit_serac", thing="SERAC network", command="kg-edit serac train")
_LONGEST = 256  # only the last tokens of a text, up to this number, are compared
_SCALE, _OFFSET = 20.0, -12.0  # initially a head's probability exceeds 1/2 if the mean cosine is above 0.6
_SPREAD = 0.02  # deviation of the heads' initial weights; equal heads would stay equal in training


@dataclass(frozen=True, eq=False, kw_only=True)
class Vectors:
    """Texts as vectors v [texts, tokens, size] and weights a [texts, tokens, heads]; padding is 0."""

    vectors: Tensor
    weights: Tensor

    @classmethod
    def joined(cls, texts: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """Pad several texts (at least one), each with v [tokens, size] and a [tokens, heads], into one batch."""
        vectors, weights = (pad_sequence(list(part), batch_first=True) for part in zip(*texts, strict=True))
        return cls(vectors=vectors, weights=weights)

    def to(self, device: torch.device) -> Vectors:
        """Return the same vectors on ``device``."""
        return Vectors(vectors=self.vectors.to(device), weights=self.weights.to(device))


@dataclass(frozen=True, eq=False, kw_only=True)
class Scope:
    """The classifier: ``project`` P [size, d], ``weigh`` u [heads, d], ``scale`` and ``offset`` [heads]."""

    project: Tensor
    weigh: Tensor
    scale: Tensor
    offset: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Build the classifier from its tensors, given by name.

        Raises:
            KeyError, ValueError: a tensor is missing, or the shapes don't fit together.
        """
        scope = cls(**{name: tensors[name] for name in ("project", "weigh", "scale", "offset")})
        heads = scope.weigh.shape[:1]
        fits = scope.project.dim() == scope.weigh.dim() == 2 and scope.weigh.shape[1] == scope.project.shape[1]
        if not fits or scope.scale.shape != heads or scope.offset.shape != heads:
            raise ValueError("the scope's tensors don't fit together")
        return scope

    @classmethod
    def untrained(cls, width: int) -> Self:
        """Return a classifier for which only texts that are nearly the edit's own prompt are in scope.

        The states are not projected, all tokens have the same weight, and a cosine must be above 0.95, which hardly any
        other text has.
        """
        scale, offset = torch.tensor([200.0]), torch.tensor([-190.0])
        return cls(project=torch.eye(width), weigh=torch.zeros(1, width), scale=scale, offset=offset)

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {"project": self.project, "weigh": self.weigh, "scale": self.scale, "offset": self.offset}

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``, detached from the autograd graph."""
        return type(self)(**{name: tensor.detach().to(device) for name, tensor in self.tensors().items()})

    def vectors(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return v [tokens, size] and a [tokens, heads] of a text's hidden states [tokens, d]."""
        scaled = layer_norm(states.float(), states.shape[-1:])
        return normalize(scaled @ self.project.T, dim=-1), (scaled @ self.weigh.T).softmax(0)

    def padded_vectors(self, states: Sequence[Tensor]) -> Vectors:
        """Return the `vectors` of many texts as one padded batch."""
        return Vectors.joined([self.vectors(tokens) for tokens in states])

    def log_chances(self, edits: Vectors, texts: Vectors) -> Tensor:
        """Return log g for each pair of an edit and a text, [edits, texts]."""
        alike = torch.einsum("eis,xjs->exij", edits.vectors, texts.vectors)
        padding = ~texts.vectors.any(-1)  # [texts, tokens]; the vectors of tokens have length 1, so they are not 0
        nearest = alike.masked_fill(padding[None, :, None, :], -1.0).amax(-1)  # [edits, texts, tokens of the edit]
        scores = torch.einsum("exi,eih->exh", nearest, edits.weights)
        return logsigmoid(self.scale * scores + self.offset).sum(-1)


def text_states(model: LanguageModel, text: str, layer: int) -> Tensor:
    """Return the hidden states [tokens, d] of a text after a block; empty if the text has no tokens.

    Of a text with several paragraphs only the last one is read: the others are examples in a prompt.

    Args:
        model: reads the text.
        text: any text.
        layer: the block, 0-based.

    Raises:
        ModelError: the model has no such layer.
    """
    longest = min(_LONGEST, model.positions or _LONGEST)
    ids = encode(model.tokenizer, text.rstrip().rpartition("\n\n")[2]).ids[-longest:]
    if not ids:
        return torch.zeros(0, model.width, device=model.device)
    with untouched(model) if model.model.training else nullcontext(), torch.no_grad():
        return block_output(model, left_pad([ids], device=model.device), layer)[0]


class SeracNetwork(nn.Module):
    """The trainable parameters of both parts.

    Args:
        shapes: (out, in) of each changed weight, by name.
        width: d, the model's width.
        size: of the classifier's vectors.
        heads: of the classifier.
        rank: r, of the changes.
        seed: of the initial parameters.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], *, width: int, size: int, heads: int, rank: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))  # in the order of a manifest
        draw = torch.Generator().manual_seed(seed)
        self.project = nn.Parameter(torch.randn(size, width, generator=draw) * width**-0.5)
        self.weigh = nn.Parameter(torch.randn(heads, width, generator=draw) * _SPREAD)
        self.scale, self.offset = (nn.Parameter(torch.full((heads,), start)) for start in (_SCALE, _OFFSET))
        self.left = nn.ParameterList(torch.zeros(rows, rank) for rows, _ in self.shapes.values())
        self.right = nn.ParameterList(
            torch.randn(rank, columns, generator=draw) * columns**-0.5 for _, columns in self.shapes.values()
        )

    @property
    def scope(self) -> Scope:
        """The scope classifier with these parameters."""
        return Scope(project=self.project, weigh=self.weigh, scale=self.scale, offset=self.offset)

    @property
    def changes(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors (left [out, r], right [r, in]) of each weight's change, with these parameters."""
        return {name: (self.left[n], self.right[n]) for n, name in enumerate(self.shapes)}


@contextmanager
def counterfactual(model: LanguageModel, marker: int, changes: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Within the ``with`` block, ``left right x`` is added to a module's output at the tokens from the marker on.

    A text without the marker is not changed, bit for bit. Gradients flow to the changes.

    Args:
        model: whose modules are changed.
        marker: the token id.
        changes: (left [out, r], right [r, in]) by the weight's name.

    Raises:
        PatchMismatchError: the model has no such weight.
    """
    modules = {
        name: module_of(model, name, shape=(len(left), right.shape[1])) for name, (left, right) in changes.items()
    }
    with ExitStack() as stack:
        after = stack.enter_context(AfterMarker(model, marker, name="serac").attached())
        for name, (left, right) in changes.items():
            stack.callback(modules[name].register_forward_hook(_added_after(after, left, right)).remove)
        yield


def _added_after(after: AfterMarker, left: Tensor, right: Tensor) -> Callable[..., Tensor | None]:
    def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        inputs = args[0].reshape(-1, args[0].shape[-1])  # [tokens, in]; some model families flatten it themselves
        on = after.at(len(inputs))  # [tokens, 1]
        if on is None:
            return None
        change = inputs.float() @ right.to(inputs.device).T @ left.to(inputs.device).T
        moved: Tensor = output + (on.to(change.device) * change).to(output).reshape(output.shape)
        return moved

    return add


def block_weights(model: LanguageModel, blocks: int) -> tuple[str, ...]:
    """Return the state-dict names of all linear modules' weights in the last ``blocks`` blocks.

    Raises:
        ConfigError: the model has fewer blocks.
    """
    depth = len(model.blocks)
    if not 1 <= blocks <= depth:
        raise ConfigError(f"blocks = {blocks}: {model.name} has {depth} blocks; give a number from 1 to {depth}")
    return tuple(
        f"{model.spec.blocks}.{layer}.{name}.weight"
        for layer in range(depth - blocks, depth)
        for name, module in model.block(layer).named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    )


class SeracTraining(training.TrainingConfig):
    """Settings of the training, for the scope classifier, for the counterfactual model, and for both."""

    layer: int | None = Field(
        None, ge=0, description="block whose states the classifier compares, 0-based; default 0.4 of the depth"
    )
    size: PositiveInt = Field(128, description="size of the classifier's vectors")
    heads: PositiveInt = Field(
        4, description="number of heads of the classifier; each weighs the tokens differently, and all must agree"
    )
    scope_batch: int = Field(16, ge=2, description="edits in a step of the classifier")
    scope_learning_rate: float = Field(
        3e-3, gt=0, description="learning rate of the classifier's projection and weights"
    )
    behind: float = Field(
        0.5, ge=0, le=1, description="fraction of prompts that come after a text sampled from the model"
    )
    blocks: PositiveInt = Field(
        8, description="number of last blocks in which the counterfactual model changes all matrices"
    )
    rank: PositiveInt = Field(8, description="rank of these changes")
    batch: PositiveInt = Field(4, description="questions for the counterfactual model in a step")
    learning_rate: float = Field(
        1e-3, gt=0, description="learning rate of these changes; published: 1e-5, for all weights"
    )
    texts: PositiveInt = Field(
        32, description="texts sampled from the model: examples outside every scope, and texts before prompts"
    )
    text_tokens: int = Field(12, ge=2, description="length of these texts, in tokens")


class Validation(training.Validation):
    """The results on the held-out edits, after ``step`` steps.

    Attributes:
        scope: the classifier's cross-entropy.
        edit: -log p of the new target by the counterfactual model.
        inside: share of paraphrases that are classified as inside their edit's scope.
        outside: share of the edits' outside texts that are classified as outside.
    """

    scope: float
    edit: float
    inside: float
    outside: float


class SeracManifest(NetworkManifest):
    """The metadata of a SERAC network: its model, and how it was trained."""

    width: int
    layer: NonNegativeInt
    shapes: dict[str, Shape]
    training: SeracTraining
    validations: tuple[Validation, ...] = ()

    def network(self) -> SeracNetwork:
        """Return the network before training."""
        config = self.training
        return SeracNetwork(
            self.shapes, width=self.width, size=config.size, heads=config.heads, rank=config.rank, seed=config.seed
        )


def default_layer(blocks: int) -> int:
    """Return the block (0-based) whose hidden states are compared by default, at 0.4 of the depth."""
    return round(0.4 * blocks)
