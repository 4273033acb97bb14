"""KE's network (De Cao et al., EMNLP 2021, arXiv 2104.08164, section 3.2): an LSTM reads an edit, gates its gradient.

A bidirectional LSTM reads the tokens of the edit's prompt and new target. For every weight W [m, n], a small MLP then
outputs vectors alpha, beta [m], gamma, delta [n] and a number eta. With the gradient G of -log p(new target):

    change of W = sigmoid(eta) (A * G + B),    A = m softmax(alpha) gamma^T,    B = m softmax(beta) delta^T

G = sum_t d_t u_t^T over the tokens with a gradient (`kg_edit.methods.mend.gradients`). So A * G is the sum of
(m softmax(alpha) * d_t)(gamma * u_t)^T, and the rank of a change is that of G plus one. The factor m is not in the
paper; with it, the entries of m softmax are 1 on average for a weight of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from kg_edit.methods.mend.gradients import Changes, Shape, felt
from kg_edit.methods.mend.network import Pairs
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.weight_patch import Factors


class KeNetwork(nn.Module):
    """The reader, and one head for each weight.

    ``shapes`` are (m, n) by the weights' names, ``width`` is the size of the embeddings. Before training, alpha, beta
    and delta are 0 and gamma is -1, so a change is one step of gradient descent with the rate ``edit_lr``.
    ``multiplier`` is the Lagrange multiplier of the training; it is saved with the parameters.
    """

    multiplier: Tensor

    def __init__(
        self, shapes: Mapping[str, Shape], *, width: int, hidden: int, inner: int, edit_lr: float, seed: int = 0
    ) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))
        generator = torch.Generator().manual_seed(seed)
        self.reader = _Reader(width, hidden, batch_first=True, bidirectional=True)
        self.bottom = _Linear(2 * hidden, inner)
        _draw(self.reader, hidden, generator)
        _draw(self.bottom, 2 * hidden, generator)
        self.heads = nn.ModuleList(_head(inner, shape, edit_lr) for shape in self.shapes.values())
        self.register_buffer("multiplier", torch.ones(()))

    def read(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Read the embeddings of edits, each [tokens, width]; return their encodings, [edits, inner]."""
        lengths = torch.tensor([len(one) for one in embeddings])
        padded = pad_sequence(list(embeddings), batch_first=True)
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.reader(packed)
        found: Tensor = torch.tanh(self.bottom(torch.cat([state[0], state[1]], -1)))
        return found

    def conditioned(self, model: LanguageModel, prompts: Sequence[Prompt]) -> ConditionedNetwork:
        """The network conditioned on the edits with these prompts, in this order."""
        return ConditionedNetwork(network=self, embeddings=embedded(model, prompts))

    def changes(self, factors: Pairs, read: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors of each weight's change: (left [edits, tokens + 1, m], right [edits, tokens + 1, n]).

        ``factors`` are u [edits, tokens, n] and d [edits, tokens, m]; tokens without a gradient give 0. ``read`` is the
        result of `read`.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for (name, (rows, columns)), head in zip(self.shapes.items(), self.heads, strict=True):
            inputs, deltas = (part.to(read.device) for part in factors[name])
            alpha, beta, gamma, delta, eta = head(read).split([rows, rows, columns, columns, 1], -1)
            size = torch.sigmoid(eta)[:, None]
            gate, shift = (rows * part.softmax(-1)[:, None] for part in (alpha, beta))
            lefts = [size * gate * deltas * felt(deltas)[..., None], size * shift]
            found[name] = torch.cat(lefts, 1), torch.cat([gamma[:, None] * inputs, delta[:, None]], 1)
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class ConditionedNetwork:
    """The network conditioned on given edits, with the interface of MEND's `EditorNetwork` (`mend.training`)."""

    network: KeNetwork
    embeddings: Sequence[Tensor]

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """(m, n) by the weights' names."""
        return self.network.shapes

    def changes(self, factors: Pairs) -> Changes:
        """The changes of all edits, see `KeNetwork.changes`."""
        return self.network.changes(factors, self.network.read(self.embeddings))

    @torch.no_grad()
    def factors(self, factors: Pairs) -> dict[str, Factors]:
        """The change of each weight for one edit, from u [tokens, n] and d [tokens, m].

        Its rank is the number of tokens with a gradient, plus one.
        """
        alive = {name: (u[felt(d)][None], d[felt(d)][None]) for name, (u, d) in factors.items()}
        return {
            name: Factors(left=left[0].T.contiguous(), right=right[0].T.contiguous())
            for name, (left, right) in self.changes(alive).items()
        }


@torch.no_grad()
def embedded(model: LanguageModel, prompts: Sequence[Prompt]) -> list[Tensor]:
    """The input embeddings of each prompt with its target, [tokens, width] in float32."""
    weight = model.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)  # noqa: S101 - true of every causal language model
    return [weight[torch.tensor(prompt.ids, device=weight.device)].float() for prompt in prompts]


class _Reader(nn.LSTM):
    def reset_parameters(self) -> None:
        """Do nothing: `_draw` sets the parameters, without the global random generator."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Do nothing, as in `_Reader`."""


@torch.no_grad()
def _draw(module: nn.Module, size: int, generator: torch.Generator) -> None:
    """Draw all parameters uniformly within 1 / sqrt(size), as PyTorch does by default."""
    for parameter in module.parameters():
        parameter.uniform_(-(size**-0.5), size**-0.5, generator=generator)


@torch.no_grad()
def _head(inner: int, shape: Shape, edit_lr: float) -> nn.Linear:
    rows, columns = shape
    head = _Linear(inner, 2 * rows + 2 * columns + 1)
    head.weight.zero_()
    head.bias.zero_()
    head.bias[2 * rows : 2 * rows + columns] = -1.0
    head.bias[-1] = log(edit_lr / (1 - edit_lr))
    return head
