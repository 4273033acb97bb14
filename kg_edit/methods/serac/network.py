"""SERAC's trainable network: the parameters of the scope classifier and the counterfactual model's low-rank changes.

`serac.scope` has the equations of the classifier. The change of a weight [out, in] is left right, where left
[out, r] starts at 0, so the counterfactual model starts equal to the edited model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kg_edit.errors import ConfigError
from kg_edit.methods.mend.gradients import Shape
from kg_edit.methods.serac.patch import changed_after
from kg_edit.methods.serac.scope import Scope
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.token_means import AfterMarker
from kg_edit.patches.weight_patch import module_of

_SCALE, _OFFSET = 20.0, -12.0  # initially a head's probability exceeds 1/2 if the mean cosine is above .6
_SPREAD = 0.02  # deviation of the heads' initial weights; equal heads would stay equal in training
_ALIKE = (200.0, -190.0)  # scale and offset without training: a cosine above .95, which hardly any other text has


class SeracNetwork(nn.Module):
    """The parameters, for a model of the width ``width``; ``shapes`` (out, in) are those of the changed weights."""

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
    def counterfactual(self, model: LanguageModel, marker: int) -> Iterator[None]:
        """Within the ``with`` block ``model`` is the counterfactual model from the token ``marker`` on.

        Gradients flow to the changes.
        """
        with ExitStack() as stack:
            after = stack.enter_context(AfterMarker(model, marker, name="serac").attached())
            for name, (left, right) in self.changes.items():
                module = module_of(model, name, shape=self.shapes[name])
                stack.callback(module.register_forward_hook(changed_after(after, left, right)).remove)
            yield


def untrained_scope(width: int) -> Scope:
    """The scope classifier without training: only texts that are nearly the edit's own prompt are in scope.

    The states are not projected, and all tokens have the same weight.
    """
    scale, offset = (torch.tensor([number]) for number in _ALIKE)
    return Scope(project=torch.eye(width), weigh=torch.zeros(1, width), scale=scale, offset=offset)


def block_weights(model: LanguageModel, blocks: int) -> tuple[str, ...]:
    """The state-dict names of all linear modules' weights in the last ``blocks`` blocks.

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
