"""SERAC's scope classifier: the probability that a text is in the scope of an edit.

With h_j [d] the model's hidden state after one block at token j, scaled to mean 0 and deviation 1, a text has the
vectors and the weights

    v_j = P h_j / |P h_j|                              P [size, d]
    a_hj = softmax over its tokens of u_h . h_j        u [heads, d]

and a text x is in the scope of an edit's prompt z with the probability

    g(z, x) = product_h sigmoid(scale_h * sum_i a_hi(z) max_j v_i(z) . v_j(x) + offset_h)

Each token i of the edit's prompt finds its most similar token in the text, and each head weighs the tokens i. All heads
must agree, because a scope has both a subject and a relation: a prompt about a neighbour shares only the relation,
another fact about the subject only the subject. P, u, scale and offset [heads] are trained (`serac.training`).

The published classifier is a language model of its own, or compares two embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, logsigmoid, normalize
from torch.nn.utils.rnn import pad_sequence

from kg_edit.engine.replay import block_output
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode, left_pad

_LONGEST = 256  # only the last tokens of a text, up to this number, are compared


@dataclass(frozen=True, eq=False, kw_only=True)
class Vectors:
    """Texts as vectors v [texts, tokens, size] and weights a [texts, tokens, heads]; padding is 0."""

    vectors: Tensor
    weights: Tensor

    @classmethod
    def joined(cls, texts: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """Pad several texts (at least one), each with v [tokens, size] and a [tokens, heads], into one batch."""
        vectors = [text_vectors for text_vectors, _ in texts]
        weights = [text_weights for _, text_weights in texts]
        return cls(
            vectors=pad_sequence(vectors, batch_first=True),
            weights=pad_sequence(weights, batch_first=True),
        )

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
        """Build the classifier from its tensors, given by name."""
        scope = cls(
            project=tensors["project"], weigh=tensors["weigh"], scale=tensors["scale"], offset=tensors["offset"]
        )
        if scope.project.dim() != 2 or scope.weigh.dim() != 2:
            raise ValueError("the scope's tensors don't fit together")
        heads, width = scope.weigh.shape
        if scope.project.shape[1] != width or scope.scale.shape != (heads,) or scope.offset.shape != (heads,):
            raise ValueError("the scope's tensors don't fit together")
        return scope

    @classmethod
    def untrained(cls, width: int) -> Self:
        """Return a classifier for which only texts that are nearly the edit's own prompt are in scope.

        The states are not projected, all tokens have the same weight, and a cosine must be above 0.95, which hardly any
        other text has.
        """
        return cls(
            project=torch.eye(width),
            weigh=torch.zeros(1, width),
            scale=torch.tensor([200.0]),
            offset=torch.tensor([-190.0]),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {"project": self.project, "weigh": self.weigh, "scale": self.scale, "offset": self.offset}

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``, detached from the autograd graph."""
        return type(self)(**{name: tensor.detach().to(device) for name, tensor in self.tensors().items()})

    def vectors(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return v [tokens, size] and a [tokens, heads] of a text's hidden states [tokens, d]."""
        scaled = layer_norm(states.float(), states.shape[-1:])  # h
        vectors = normalize(scaled @ self.project.T, dim=-1)
        weights = (scaled @ self.weigh.T).softmax(0)
        return vectors, weights

    def padded_vectors(self, states: Sequence[Tensor]) -> Vectors:
        """Return the `vectors` of many texts as one padded batch."""
        return Vectors.joined([self.vectors(tokens) for tokens in states])

    def log_chances(self, edits: Vectors, texts: Vectors) -> Tensor:
        """Return log g for each pair of an edit and a text, [edits, texts]."""
        # Each token i of an edit with each token j of a text: v_i . v_j
        alike = torch.einsum("eis,xjs->exij", edits.vectors, texts.vectors)  # [edits, texts, tokens i, tokens j]
        is_padding = ~texts.vectors.any(-1)  # [texts, tokens]; the vectors of tokens have length 1, so they are not 0
        nearest = alike.masked_fill(is_padding[None, :, None, :], -1.0).amax(-1)  # max over j, [edits, texts, tokens i]
        scores = torch.einsum("exi,eih->exh", nearest, edits.weights)  # [edits, texts, heads]
        return logsigmoid(self.scale * scores + self.offset).sum(-1)


def text_states(model: LanguageModel, text: str, layer: int) -> Tensor:
    """Return the hidden states [tokens, d] of a text after a block; empty if the text has no tokens.

    Of a text with several paragraphs only the last one is read: the others are examples in a prompt.

    Args:
        model: reads the text.
        text: any text.
        layer: the block, 0-based.
    """
    _, _, last_paragraph = text.rstrip().rpartition("\n\n")
    longest = min(_LONGEST, model.max_positions or _LONGEST)
    ids = encode(model.tokenizer, last_paragraph).ids[-longest:]
    if not ids:
        return torch.zeros(0, model.width, device=model.device)
    batch = left_pad([ids], device=model.device)
    with torch.no_grad():
        if not model.model.training:
            return block_output(model, batch, layer)[0]
        with keep_untouched(model):
            return block_output(model, batch, layer)[0]
