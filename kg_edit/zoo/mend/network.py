"""MEND's editor network: it maps the rank-one factors of a fine-tuning gradient to better ones (MEND, section 3).

For each token t, with the factors u_t [in] and delta_t [out] of the gradient by a weight W [out, in]:

    x                = [u_t, delta_t], each feature minus its mean and divided by its deviation
    x               <- x + max(0, s (U V x + b) + o)          in each layer (`LowRankLayer`)
    [u~_t, delta~_t] = x after the last layer
    change of W      = -rate sum_t delta~_t u~_t^T

`MendTraining` has the settings of the training, `MendManifest` is the manifest of the network's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from kg_edit.models.devices import exact
from kg_edit.patches.factors import Factors
from kg_edit.zoo.mend.gradients import Gradients, Shape, has_gradient
from kg_edit.zoo.trained import training
from kg_edit.zoo.trained.files import NetworkFormat, NetworkManifest

FORMAT = NetworkFormat(key="kg_edit_mend", thing="editor", command="kg-edit mend train")
_TINY = 1e-3  # smallest standard deviation of a feature, relative to the mean one


class LowRankLayer(nn.Module):
    """x + max(0, s * (U V x + b) + o): one scale s and offset o for each weight that shares the matrices.

    U, b and o start at 0 and s at 1, so the layer starts as the identity. V is normal with variance 1 / size (1 in the
    published code), so that the same learning rate works for wide and for narrow models.
    """

    def __init__(self, size: int, *, rank: int, members: int, generator: torch.Generator) -> None:
        super().__init__()
        inner = min(rank, size)
        self.up = nn.Parameter(torch.zeros(size, inner))  # U
        self.down = nn.Parameter(torch.randn(inner, size, generator=generator) / size**0.5)  # V
        self.bias = nn.Parameter(torch.zeros(size))
        self.scale = nn.Parameter(torch.ones(members, size))
        self.offset = nn.Parameter(torch.zeros(members, size))

    def forward(self, x: Tensor, member: int) -> Tensor:
        """Map ``x`` [..., size] to [..., size]; ``member`` is the weight's index among the weights of its shape."""
        inner = x @ self.down.T @ self.up.T + self.bias
        # `clamp` has a gradient at 0, where everything starts; `relu` has none
        return x + (self.scale[member] * inner + self.offset[member]).clamp(min=0)


class MendNetwork(nn.Module):
    """``layers`` of `LowRankLayer` for each shape of weight; their input for each token is [u, delta], normalised.

    ``shapes`` are (out, in) by the weights' names. The change of a weight is the sum over tokens of
    -rate * delta~ u~^T, with a learned rate for each weight. Before `normalise_by` and training, u~ = u and
    delta~ = delta, so the change is one step of gradient descent with ``edit_lr``.
    """

    def __init__(
        self, shapes: Mapping[str, Shape], *, rank: int, edit_lr: float, layers: int = 2, seed: int = 0
    ) -> None:
        super().__init__()
        self.shapes = dict(sorted(shapes.items()))  # sorted, because tensors are named by a weight's index
        self._edit_lr = edit_lr
        self._indices = {name: index for index, name in enumerate(self.shapes)}
        # Weights of one shape share the matrices of their layers; each has its own scale, offset, rate and statistics.
        counts = dict[Shape, int]()
        self._members = dict[str, int]()  # the index of a weight among those of its shape
        for name, shape in self.shapes.items():
            self._members[name] = counts.get(shape, 0)
            counts[shape] = self._members[name] + 1
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleDict()
        for shape, count in counts.items():
            self.layers[_key(shape)] = nn.ModuleList(
                LowRankLayer(sum(shape), rank=rank, members=count, generator=generator) for _ in range(layers)
            )
        self.log_rates = nn.Parameter(torch.zeros(len(self.shapes)))  # the logarithm of rate / edit_lr
        for index, shape in enumerate(self.shapes.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(sum(shape)))
            self.register_buffer(f"deviation_{index}", torch.ones(sum(shape)))

    @torch.no_grad()
    def normalise_by(self, gradients: Gradients) -> None:
        """Set the mean and the deviation of u [tokens, in] and delta [tokens, out], given by weight name."""
        for name, (inputs, deltas) in gradients.items():
            seen = exact(torch.cat([inputs, deltas], -1))
            deviation = seen.std(0)
            # A feature that hardly varies would be blown up by its deviation. The floor is relative to the mean one of
            # u, or of delta: their sizes differ by orders of magnitude.
            for part in deviation.split([inputs.shape[-1], deltas.shape[-1]]):
                part.clamp_(min=_TINY * float(part.mean()))  # in place: the parts are views of `deviation`
            deviation[deviation == 0] = 1.0
            mean, spread = self._statistics(name)
            mean.copy_(seen.mean(0))
            spread.copy_(deviation)

    def forward(self, name: str, inputs: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Map u [..., in] and delta [..., out] of the weight ``name`` to u~ and delta~ of the same shapes."""
        mean, deviation = self._statistics(name)
        state = (torch.cat([inputs, deltas], -1).to(mean.device) - mean) / deviation
        layers = self.layers[_key(self.shapes[name])]
        assert isinstance(layers, nn.ModuleList)  # noqa: S101 - see the constructor
        for layer in layers:
            state = layer(state, self._members[name])
        new_u, new_delta = state.split([inputs.shape[-1], deltas.shape[-1]], -1)
        return new_u, new_delta

    @property
    def rate_parameters(self) -> list[nn.Parameter]:
        """The parameters from which `compute_rate` computes the weights' rates: their logarithms."""
        return [self.log_rates]

    def compute_rate(self, name: str) -> Tensor:
        """Return the learned rate of a weight, which is positive."""
        return self._edit_lr * self.log_rates[self._indices[name]].exp()

    def compute_changes(self, gradients: Gradients) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors (left [..., out], right [..., in]) of each weight's change.

        In the training, u and delta are [edits, tokens, ...]. Tokens without a gradient remain, with factors of 0.
        """
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (inputs, deltas) in gradients.items():
            has_grad = has_gradient(deltas)  # [...]
            # The network has biases, so tokens without a gradient must not go through it: they stay 0.
            new_u, new_delta = self(name, inputs[has_grad], deltas[has_grad])  # [selected, in], [selected, out]
            left = -self.compute_rate(name) * new_delta
            tokens = has_grad.to(new_u.device).nonzero(as_tuple=True)  # the places of the selected tokens in [...]
            all_left = left.new_zeros(*has_grad.shape, left.shape[-1])  # [..., out]
            all_right = new_u.new_zeros(*has_grad.shape, new_u.shape[-1])  # [..., in]
            changes[name] = all_left.index_put(tokens, left), all_right.index_put(tokens, new_u)
        return changes

    @torch.no_grad()
    def compute_factors(self, gradients: Gradients) -> dict[str, Factors]:
        """Return the change of each weight for a patch of one edit, from u [tokens, in] and delta [tokens, out].

        Its rank is the number of tokens with a gradient.
        """
        # `compute_changes` would keep the other tokens, whose factors of 0 would only add to the patch's size.
        selected = dict[str, tuple[Tensor, Tensor]]()
        for name, (u, delta) in gradients.items():
            has_grad = has_gradient(delta)  # [tokens]
            selected[name] = u[has_grad], delta[has_grad]
        edit_factors = dict[str, Factors]()
        for name, (left, right) in self.compute_changes(selected).items():
            edit_factors[name] = Factors(left=left.T.contiguous(), right=right.T.contiguous())
        return edit_factors

    def _statistics(self, name: str) -> tuple[Tensor, Tensor]:
        index = self._indices[name]
        mean = getattr(self, f"mean_{index}")
        deviation = getattr(self, f"deviation_{index}")
        return mean, deviation


def _key(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


class MendTraining(training.TrainingConfig):
    """Settings of the training. The preset ``paper`` has the published ones.

    Its learning rate is about 100 times the published 1e-6, because V is so much smaller here (`LowRankLayer`).
    The preset ``propmend`` learns from portability questions (PropMEND, arXiv 2506.08920).
    The preset ``smollm2-135m`` trains a small model until it stops improving: 10,000 steps at most, some two hours.
    """

    blocks: PositiveInt = Field(3, description="number of last blocks whose MLPs are edited")
    weights: tuple[str, ...] = Field(
        (), description="names of the weights to edit, instead of those of the last blocks"
    )
    rank: PositiveInt = Field(256, description="rank of the network's matrices; published: 1920")
    batch: PositiveInt = Field(8, description="edits in a step; each is made alone")
    learning_rate: float = Field(3e-4, gt=0, description="learning rate of the network")
    rate_learning_rate: float = Field(0.03, gt=0, description="learning rate of the logarithm of each weight's edit_lr")
    edit_lr: float = Field(3e-4, gt=0, description="initial learning rate of every edited weight")
    edit_weight: float = Field(0.1, ge=0, description="c_edit: weight of -log p(new target) after the edit")
    locality_weight: float = Field(1.0, ge=0, description="c_loc: weight of KL(unedited || edited) on other prompts")
    normalise_on: int = Field(
        128, ge=2, description="number of edits from which mean and deviation of the factors are measured"
    )
    gradient_of: Literal["target", "text"] = Field(
        "target",
        description="the edit's gradient: of -log p of the target, or of the whole statement (text)",
    )
    questions: int = Field(0, ge=0, description="portability questions of each edit in a step")
    texts: PositiveInt = Field(32, description="texts sampled from the model, for edits without neighbours")
    text_tokens: int = Field(12, ge=2, description="length of these texts, in tokens")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "rank": 1920,
            "edit_lr": 1e-4,
            "learning_rate": 1e-4,
            "steps": 100_000,
            "batch": 10,
            "validate_every": 5000,
            "patience": 6,
        },
        "propmend": {"gradient_of": "text", "questions": 3},
        "smollm2-135m": {"steps": 10_000, "validate_every": 100, "patience": 20},
    }

    @property
    def edits_per_step(self) -> int:
        """The number of edits in a step of the optimiser."""
        return self.batch

    @property
    def edits_to_normalise(self) -> int:
        """The number of edits that are measured before the first step."""
        return self.normalise_on


class Validation(training.Validation):
    """The mean losses on the held-out edits, after ``step`` steps."""

    edit: float
    locality: float


class EditorManifest(NetworkManifest):
    """The metadata of an editor network: its model, the shapes (out, in) of the edited weights, and its training."""

    shapes: dict[str, Shape]
    training: MendTraining
    validations: tuple[Validation, ...] = ()

    def build_network(self) -> nn.Module:
        """Return the untrained network."""
        raise NotImplementedError


class MendManifest(EditorManifest):
    """The metadata of an editor: its model, and how it was trained."""

    def build_network(self) -> MendNetwork:
        """Return the untrained network."""
        settings = self.training
        return MendNetwork(self.shapes, rank=settings.rank, edit_lr=settings.edit_lr, seed=settings.seed)
