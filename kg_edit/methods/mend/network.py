"""MEND's editor network: it maps the rank-one factors of a fine-tuning gradient to better ones (MEND, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kg_edit.methods.mend.gradients import Shape, felt
from kg_edit.patches.weight_patch import Factors

Pairs = Mapping[str, tuple[Tensor, Tensor]]
_TINY = 1e-3  # smallest standard deviation of a feature, relative to the mean one


class LowRankLayer(nn.Module):
    """x + max(0, s * (U V x + b) + o): one scale s and offset o for each weight that shares the matrices.

    U, b and o start at 0 and s at 1, so the layer starts as the identity. V is normal with variance 1 / size (1 in the
    published code), so that the same learning rate works for wide and for narrow models.
    """

    def __init__(self, size: int, *, rank: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        inner = min(rank, size)
        self.up = nn.Parameter(torch.zeros(size, inner))
        self.down = nn.Parameter(torch.randn(inner, size, generator=generator) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(members, size))
        self.offset = nn.Parameter(torch.zeros(members, size))

    def forward(self, x: Tensor, member: int) -> Tensor:
        """Map ``x`` [..., size] to [..., size]; ``member`` is the weight's index among the weights of its shape."""
        inner = x @ self.down.T @ self.up.T + self.bias
        # clamp, unlike relu, has a gradient at 0, where everything starts
        return x + (self.scale[member] * inner + self.offset[member]).clamp(min=0)


class MendNetwork(nn.Module):
    """Two `LowRankLayer` for each shape of weight; their input for each token is [u, delta], normalised by feature.

    ``shapes`` are (out, in) by the weights' names. The change of a weight is the sum over tokens of
    -rate * delta~ u~^T, with a learned rate for each weight. Before `normalise_by` and training, u~ = u and
    delta~ = delta, so the change is one step of gradient descent with ``edit_lr``.
    """

    def __init__(self, shapes: Mapping[str, Shape], *, rank: int, edit_lr: float, seed: int = 0) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))  # sorted, because tensors are named by a weight's index
        self._edit_lr = edit_lr
        self._places = {name: place for place, name in enumerate(self.shapes)}
        same: dict[Shape, list[str]] = {}
        for name, shape in self.shapes.items():
            same.setdefault(shape, []).append(name)
        self._members = {name: members.index(name) for members in same.values() for name in members}
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleDict()
        for shape, members in same.items():
            self.layers[_key(shape)] = nn.ModuleList(
                LowRankLayer(sum(shape), rank=rank, members=len(members), generator=generator) for _ in range(2)
            )
        self.log_rates = nn.Parameter(torch.zeros(len(self.shapes)))  # the logarithm of rate / edit_lr
        for place, shape in enumerate(self.shapes.values()):
            self.register_buffer(f"mean_{place}", torch.zeros(sum(shape)))
            self.register_buffer(f"deviation_{place}", torch.ones(sum(shape)))

    @torch.no_grad()
    def normalise_by(self, factors: Pairs) -> None:
        """Set the mean and the deviation of u [tokens, in] and delta [tokens, out], given by weight name."""
        for name, (inputs, deltas) in factors.items():
            seen = torch.cat([inputs, deltas], -1).double()
            deviation = seen.std(0)
            for part in deviation.split([inputs.shape[-1], deltas.shape[-1]]):
                part.clamp_(min=_TINY * float(part.mean()))
            deviation[deviation == 0] = 1.0
            mean, spread = self._statistics(name)
            mean.copy_(seen.mean(0))
            spread.copy_(deviation)

    def forward(self, name: str, inputs: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Map u [..., in] and delta [..., out] of the weight ``name`` to u~ and delta~ of the same shapes."""
        mean, deviation = self._statistics(name)
        state = (torch.cat([inputs, deltas], -1).to(mean.device) - mean) / deviation
        for layer in self._layers_of(name):
            state = layer(state, self._members[name])
        better, direction = state.split([inputs.shape[-1], deltas.shape[-1]], -1)
        return better, direction

    def rate(self, name: str) -> Tensor:
        """The learned rate of a weight, which is positive."""
        return self._edit_lr * self.log_rates[self._places[name]].exp()

    def changes(self, factors: Pairs) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors (left [..., out], right [..., in]) of each weight's change; tokens without a gradient give 0."""
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (inputs, deltas) in factors.items():
            alive = felt(deltas)
            better, direction = self(name, inputs[alive], deltas[alive])
            found[name] = (_at(alive, -self.rate(name) * direction), _at(alive, better))
        return found

    @torch.no_grad()
    def factors(self, factors: Pairs) -> dict[str, Factors]:
        """The change of each weight for one edit, from u [tokens, in] and delta [tokens, out].

        Its rank is the number of tokens with a gradient.
        """
        alive = {name: (u[felt(delta)], delta[felt(delta)]) for name, (u, delta) in factors.items()}
        changes = self.changes(alive)
        return {
            name: Factors(left=left.T.contiguous(), right=right.T.contiguous())
            for name, (left, right) in changes.items()
        }

    def _layers_of(self, name: str) -> nn.ModuleList:
        layers = self.layers[_key(self.shapes[name])]
        assert isinstance(layers, nn.ModuleList)  # noqa: S101 - see the constructor
        return layers

    def _statistics(self, name: str) -> tuple[Tensor, Tensor]:
        place = self._places[name]
        mean, deviation = getattr(self, f"mean_{place}"), getattr(self, f"deviation_{place}")
        return mean, deviation


def _at(tokens: Tensor, rows: Tensor) -> Tensor:
    """``rows`` [n, size] at the n tokens where ``tokens`` [...] is true, and 0 elsewhere: [..., size]."""
    tokens = tokens.to(rows.device)
    return rows.new_zeros(*tokens.shape, rows.shape[-1]).index_put(tokens.nonzero(as_tuple=True), rows)


def _key(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"
