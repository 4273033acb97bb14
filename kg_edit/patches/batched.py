"""Many edited models in one forward pass: each token runs through the model with a patch of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import Factors, WeightPatch


@contextmanager
def each_patched(model: LanguageModel, patches: Sequence[WeightPatch | None], owners: Tensor) -> Iterator[None]:
    """For the length of the block, y += left (right^T x) with the factors of each token's own patch; no weight moves.

    ``owners`` [rows, tokens], or [rows, 1] for all tokens of a row, says which of ``patches`` a token has. The same as
    each patch applied in turn, to rounding; in half precision more exact, as no weight is rounded.

    Raises:
        PatchMismatchError: a patch is for another model.
    """
    factors: dict[str, dict[int, Factors]] = {}
    modules: dict[str, nn.Module] = {}
    for owner, patch in enumerate(patches):
        if patch is not None:
            modules |= patch.modules(model)
            for name, pair in patch.factors.items():
                factors.setdefault(name, {})[owner] = pair
    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(_adder(owners, factors[name]))
            stack.callback(handle.remove)
        yield


def wholly_patched(model: LanguageModel, patch: WeightPatch | None) -> AbstractContextManager[None]:
    """`each_patched` with one patch for every token; None leaves the model as it is."""
    return each_patched(model, [patch], torch.zeros(1, 1, dtype=torch.long))


def _adder(owners: Tensor, factors: Mapping[int, Factors]) -> Any:
    def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs = args[0].reshape(-1, args[0].shape[-1])  # some families run their MLP on flattened rows
        changed = output.reshape(len(inputs), -1).clone()
        tokens = len(inputs) // len(owners)
        owner = owners.expand(len(owners), tokens).reshape(-1)
        for index, pair in factors.items():
            mine = (owner == index).nonzero()[:, 0].to(inputs.device)
            if len(mine):
                changed[mine] += _change(pair, inputs[mine]).to(changed)
        return changed.reshape(output.shape)

    return add


def _change(pair: Factors, inputs: Tensor) -> Tensor:
    """[tokens, out] for inputs [tokens, in]."""
    left, right = (factor.to(inputs.device).float() for factor in (pair.left, pair.right))
    change: Tensor = torch.linalg.multi_dot([inputs.float(), right, left.T])
    return change
