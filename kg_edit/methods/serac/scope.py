"""SERAC's scope classifier: the probability that a text is in the scope of an edit, from the model's hidden states.

With h_j the hidden state after block ``layer`` at token j, scaled to mean 0 and deviation 1, a text has the vectors

    v_j = P h_j / |P h_j|,    a_h = softmax(u_h . h_j over its tokens)    for some heads h

and a text x is in the scope of an edit's prompt z with the probability

    g(z, x) = product_h sigmoid(scale_h * sum_i a_hi(z) max_j v_i(z) . v_j(x) + offset_h)

Each token i of the edit's prompt finds its most similar token in the text, and each head weighs the tokens i. All heads
must agree, because a scope has both a subject and a relation: a prompt about a neighbour shares only the relation,
another fact about the subject only the subject. P [size, d], u [heads, d], scale and offset [heads] are trained
(`kg_edit.methods.serac`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, logsigmoid, normalize
from torch.nn.utils.rnn import pad_sequence

from kg_edit.models.hooks import untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode, left_pad
from kg_edit.models.replay import block_output

_LONGEST = 256  # only the last tokens of a text, up to this number, are compared


@dataclass(frozen=True, eq=False, kw_only=True)
class Vectors:
    """Texts as vectors [texts, tokens, size] and weights [texts, tokens, heads]; padding is 0."""

    vectors: Tensor
    weights: Tensor

    @property
    def there(self) -> Tensor:
        """Mask [texts, tokens] of the tokens that are not padding; their vectors have length 1, so they are not 0."""
        return self.vectors.any(-1)

    @classmethod
    def joined(cls, several: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """Pad several texts (at least one) into one batch.

        Each text has vectors [tokens, size] and weights [tokens, heads].
        """
        vectors, weights = zip(*several, strict=True)
        return cls(
            vectors=pad_sequence(list(vectors), batch_first=True), weights=pad_sequence(list(weights), batch_first=True)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Scope:
    """The trained parameters: ``project`` P [size, d], ``weigh`` u [heads, d], ``scale`` and ``offset`` [heads]."""

    project: Tensor
    weigh: Tensor
    scale: Tensor
    offset: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The scope with these tensors, given by name.

        Raises:
            KeyError, ValueError: a tensor is missing, or the shapes don't fit together.
        """
        found = cls(**{name: tensors[name] for name in ("project", "weigh", "scale", "offset")})
        heads = found.weigh.shape[:1]
        fits = found.project.dim() == found.weigh.dim() == 2 and found.weigh.shape[1] == found.project.shape[1]
        if not fits or found.scale.shape != heads or found.offset.shape != heads:
            raise ValueError("the scope's tensors don't fit together")
        return found

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return {"project": self.project, "weigh": self.weigh, "scale": self.scale, "offset": self.offset}

    def kept(self) -> Scope:
        """A copy on the CPU, detached from the autograd graph, for a patch."""
        return Scope(**{name: tensor.detach().cpu() for name, tensor in self.tensors().items()})

    def vectors(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [tokens, size] and weights [tokens, heads] of a text's hidden states [tokens, d]."""
        scaled = layer_norm(states.float(), states.shape[-1:])
        return normalize(scaled @ self.project.T, dim=-1), (scaled @ self.weigh.T).softmax(0)

    def several(self, states: Sequence[Tensor]) -> Vectors:
        """The `vectors` of many texts as one padded batch."""
        return Vectors.joined([self.vectors(one) for one in states])

    def log_chances(self, edits: Vectors, texts: Vectors) -> Tensor:
        """log g for each pair of an edit and a text, [edits, texts]."""
        alike = torch.einsum("eis,xjs->exij", edits.vectors, texts.vectors)
        nearest = alike.masked_fill(~texts.there[None, :, None, :], -1.0).amax(-1)
        found = torch.einsum("exi,eih->exh", nearest, edits.weights)
        return logsigmoid(self.scale * found + self.offset).sum(-1)


def text_states(model: LanguageModel, text: str, layer: int) -> Tensor:
    """The hidden states [tokens, d] of a text after block ``layer``; empty if the text has no tokens.

    Of a text with several paragraphs only the last one is read: the others are examples in a prompt.

    Raises:
        ModelError: the model has no such layer.
    """
    longest = min(_LONGEST, model.positions or _LONGEST)
    ids = encode(model.tokenizer, text.rstrip().rpartition("\n\n")[2]).ids[-longest:]
    if not ids:
        return torch.zeros(0, model.width, device=model.device)
    with untouched(model) if model.model.training else nullcontext(), torch.no_grad():
        return block_output(model, left_pad([ids], device=model.device), layer)[0]
