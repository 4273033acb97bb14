"""KE's network (De Cao et al., EMNLP 2021, arXiv 2104.08164, section 3.2): an LSTM reads an edit and gates a gradient.

A bidirectional LSTM reads the tokens of the edit's prompt and new target. For every weight W [m, n], a small MLP then
outputs vectors alpha, beta [m], gamma, delta [n] and a number eta. With the gradient G of -log p(new target):

    change of W = sigmoid(eta) (A * G + B),    A = m softmax(alpha) gamma^T,    B = m softmax(beta) delta^T

G = sum_t d_t u_t^T over the tokens with a gradient (`kg_edit.zoo.mend.gradients`). So A * G is the sum of
(m softmax(alpha) * d_t)(gamma * u_t)^T, and the rank of a change is that of G plus one. The factor m is not in the
paper; with it, the entries of m softmax are 1 on average for a weight of any size.

`KeTraining` has the settings of the training, `KeManifest` is the manifest of the network's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.factors import Factors
from kg_edit.zoo.mend.gradients import Changes, Gradients, Shape, as_factors, has_gradient
from kg_edit.zoo.mend.network import EditorManifest, MendTraining
from kg_edit.zoo.trained.files import NetworkFormat

FORMAT = NetworkFormat(key="kg_edit_ke", thing="KE network", command="kg-edit ke train")
_MEND_ALONE = ("rank", "rate_learning_rate", "edit_weight", "locality_weight", "normalise_on")


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
        self.shapes = dict(sorted(shapes.items()))  # sorted, because the heads are in this order in the file
        self.register_buffer("multiplier", torch.ones(()))
        self.reader = _Reader(width, hidden, batch_first=True, bidirectional=True)
        self.bottom = _Linear(2 * hidden, inner)
        self.heads = nn.ModuleList(_Linear(inner, 2 * m + 2 * n + 1) for m, n in self.shapes.values())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # Uniform within 1 / sqrt(size), as PyTorch does by default, but from a generator of our own
            for module, size in ((self.reader, hidden), (self.bottom, 2 * hidden)):
                for parameter in module.parameters():
                    parameter.uniform_(-(size**-0.5), size**-0.5, generator=generator)
            for head, (m, n) in zip(self.heads, self.shapes.values(), strict=True):
                assert isinstance(head, _Linear)  # noqa: S101 - as built above
                head.weight.zero_()
                head.bias.zero_()
                head.bias[2 * m : 2 * m + n] = -1.0  # gamma
                head.bias[-1] = log(edit_lr / (1 - edit_lr))  # eta: sigmoid(eta) = edit_lr

    def read(self, embeddings: Sequence[Tensor]) -> Tensor:
        """Read the embeddings of edits, each [tokens, width]; return their encodings, [edits, inner]."""
        lengths = torch.tensor([len(embedding) for embedding in embeddings])
        # packed, so that the backward direction starts at each edit's own last token
        padded = pad_sequence(list(embeddings), batch_first=True)
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        _, (state, _) = self.reader(packed)
        encodings: Tensor = torch.tanh(self.bottom(torch.cat([state[0], state[1]], -1)))
        return encodings

    def condition_on(self, model: LanguageModel, prompts: Sequence[Prompt]) -> ConditionedNetwork:
        """Return the network conditioned on the edits with these prompts, in this order."""
        return ConditionedNetwork(network=self, embeddings=embedded(model, prompts))

    def compute_changes(self, gradients: Gradients, encodings: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the factors of each weight's change: (left [edits, tokens + 1, m], right [edits, tokens + 1, n]).

        Args:
            gradients: u [edits, tokens, n] and d [edits, tokens, m] by weight; tokens without a gradient give 0.
            encodings: the edits as `read` returns them, [edits, inner].
        """
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        for (name, (m, n)), head in zip(self.shapes.items(), self.heads, strict=True):
            u, d = gradients[name]
            alpha, beta, gamma, delta, eta = head(encodings).split([m, m, n, n, 1], -1)  # [edits, m], ..., [edits, 1]
            rate = torch.sigmoid(eta)[:, None]  # [edits, 1, 1]
            gate = m * alpha.softmax(-1)[:, None]  # [edits, 1, m]
            shift = m * beta.softmax(-1)[:, None]  # [edits, 1, m]
            # sigmoid(eta) (A * G + B) as one product left^T right: a row for each token of G, and one more for B. A
            # token without a gradient has d = 0, and adds nothing.
            left = torch.cat([rate * gate * d.to(encodings.device), rate * shift], 1)  # [edits, tokens + 1, m]
            right = torch.cat([gamma[:, None] * u.to(encodings.device), delta[:, None]], 1)  # [edits, tokens + 1, n]
            changes[name] = left, right
        return changes


@dataclass(frozen=True, eq=False, kw_only=True)
class ConditionedNetwork:
    """The network conditioned on given edits, with the interface of `mend.training.EditorNetwork`."""

    network: KeNetwork
    embeddings: Sequence[Tensor]

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """(m, n) by the weights' names."""
        return self.network.shapes

    def compute_changes(self, gradients: Gradients) -> Changes:
        """Return the changes of all edits, see `KeNetwork.compute_changes`."""
        encodings = self.network.read(self.embeddings)
        return self.network.compute_changes(gradients, encodings)

    @torch.no_grad()
    def compute_factors(self, gradients: Gradients) -> dict[str, Factors]:
        """Return the change of each weight for a patch of one edit, from u [tokens, n] and d [tokens, m].

        Its rank is the number of tokens with a gradient, plus one.
        """
        selected = dict[str, tuple[Tensor, Tensor]]()
        for name, (u, d) in gradients.items():
            tokens = has_gradient(d)
            selected[name] = u[tokens][None], d[tokens][None]  # [1, tokens, n], [1, tokens, m]
        return as_factors(self.compute_changes(selected))


@torch.no_grad()
def embedded(model: LanguageModel, prompts: Sequence[Prompt]) -> list[Tensor]:
    """Return the input embeddings of each prompt with its target, [tokens, width] in float32."""
    weight = _embeddings(model)
    return [weight[torch.tensor(prompt.ids, device=weight.device)].float() for prompt in prompts]


def embedding_width(model: LanguageModel) -> int:
    """Return the size of the model's input embeddings."""
    return _embeddings(model).shape[1]


def _embeddings(model: LanguageModel) -> Tensor:
    weight = model.model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)  # noqa: S101 - true of every causal language model
    return weight


class _Reader(nn.LSTM):
    def reset_parameters(self) -> None:
        """Do nothing: `KeNetwork` draws the parameters, without the global random generator."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Do nothing, as in `_Reader`."""


class KeTraining(MendTraining):
    """Settings of the training; examples, batches and validations are as in MEND.

    MEND's settings ``rank``, ``rate_learning_rate``, ``edit_weight``, ``locality_weight`` and ``normalise_on`` have no
    effect on the KE network, so other values than their defaults are refused. The preset ``paper`` has the published
    rate and sizes.
    """

    edit_lr: float = Field(3e-3, gt=0, lt=1, description="initial sigmoid(eta), the learning rate of the gradient step")
    hidden: PositiveInt = Field(128, description="size of the LSTM in each direction")
    inner: PositiveInt = Field(128, description="size of the MLP after the LSTM; published: 1024")
    gradient_of: Literal["target"] = Field("target", description="always target: the gradient of -log p of the target")
    margin: float = Field(1e-3, ge=0, description="m: allowed KL(unedited || edited) on other prompts")
    multiplier_rate: float = Field(
        0.1, ge=0, description="learning rate of the Lagrange multiplier of the constraint KL <= margin"
    )

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"inner": 1024, "steps": 200_000, "validate_every": 5000},
    }

    @model_validator(mode="after")
    def _no_setting_of_mend_alone(self) -> Self:
        for name in _MEND_ALONE:
            if getattr(self, name) != MendTraining.model_fields[name].default:
                raise ValueError(f"{name} is a setting of MEND that has no effect on KE; leave it out")
        return self

    @property
    def edits_to_normalise(self) -> int:
        """None: KE does not normalise."""
        return 0


class KeManifest(EditorManifest):
    """The metadata of a KE network: its model, and how it was trained."""

    width: int
    training: KeTraining

    def build_network(self) -> KeNetwork:
        """Return the untrained network."""
        return KeNetwork(
            self.shapes,
            width=self.width,
            hidden=self.training.hidden,
            inner=self.training.inner,
            edit_lr=self.training.edit_lr,
            seed=self.training.seed,
        )
