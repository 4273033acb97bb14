"""Many edited models in one forward pass: each token runs with a patch of its own, and no weight changes.

With x [tokens, in] the input and y [tokens, out] the output of a changed module, a hook computes

    y_t += left_p (right_p^T x_t)

where p is the patch of token t, with left_p [out, rank] and right_p [in, rank]. Up to rounding the result is the same
as with each patch applied in turn. In half precision it is more exact, because no weight is rounded.

`patch_each_token` is the ``with`` block in which that holds; `patch_all_tokens` has one patch for all tokens. A caller
of many such blocks places the factors before (`kg_edit.patches.weight_patch.place_factors`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.factors import Factors

# Up to so many ranks of several patches together, all are computed for every token: that is faster than a choice.
_FEW_RANKS = 64

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]
"""A forward hook of torch: (module, its arguments, its output) -> the new output."""


class WeightChanges(Protocol):
    """What a `WeightPatch` has, of which this file only needs the changes."""

    @property
    def factors(self) -> Mapping[str, Factors]:
        """The changes by the weights' names."""

    def modules(self, model: LanguageModel) -> Mapping[str, nn.Module]:
        """Return the changed modules of ``model`` by the weights' names."""


def patch_all_tokens(model: LanguageModel, patch: WeightChanges | None) -> AbstractContextManager[None]:
    """Within the ``with`` block, run every token with ``patch``; with None the model is unchanged."""
    return patch_each_token(model, [patch], torch.zeros(1, 1, dtype=torch.long))


@contextmanager
def patch_each_token(model: LanguageModel, patches: Sequence[WeightChanges | None], owners: Tensor) -> Iterator[None]:
    """Within the ``with`` block, run each token with its own patch.

    Args:
        model: the model; its modules get hooks.
        patches: the patches; None stands for no patch.
        owners: the index in ``patches`` for each token, [rows, tokens]; or [rows, 1], one for all tokens of a row; or
            [1, 1], one for all tokens of all rows.
    """
    modules = dict[str, nn.Module]()  # by the weights' names
    changes = dict[str, dict[int, Factors]]()  # by the weights' names, and by the index of the patch
    for index, patch in enumerate(patches):
        if patch is None:
            continue
        modules |= patch.modules(model)
        for name, factors in patch.factors.items():
            device = next(modules[name].parameters()).device
            changes.setdefault(name, {})[index] = factors.float32_on(device)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hook = _make_hook(changes[name], owners)
            hooks.enter_context(module.register_forward_hook(hook))
        yield


def _make_hook(changes: Mapping[int, Factors], owners: Tensor) -> Hook:
    """Return the hook of one module, which adds the change of each token's patch.

    Args:
        changes: the changes of the module's weight, by the index of the patch.
        owners: as in `patch_each_token`.
    """
    joined: _JoinedChanges | None = None
    if sum(change.rank for change in changes.values()) <= _FEW_RANKS:
        joined = _join_changes(changes)

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0].reshape(-1, args[0].shape[-1])  # [tokens, in]; some families flatten their MLP's input
        y = output.reshape(len(x), -1)  # [tokens, out]
        token_owners = _expand_owners(owners, tokens=len(x))
        if joined is not None:
            changed = _add_all_at_once(x, y, token_owners, joined)
        else:
            changed = _add_one_by_one(x, y, token_owners, changes)
        return changed.reshape(output.shape)

    return hook


def _expand_owners(owners: Tensor, *, tokens: int) -> Tensor:
    """Return the owner of each token of a pass, row after row: [rows, tokens of a row] or [rows, 1] -> [tokens]."""
    rows = len(owners)  # 1 if all tokens of the pass have one owner: they count as a single row
    return owners.expand(rows, tokens // rows).reshape(-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class _JoinedChanges:
    """The changes of several patches, with their factors side by side.

    Attributes:
        left: [out, sum of ranks].
        right: [in, sum of ranks].
        owners: the index of the patch of each column, [sum of ranks].
    """

    left: Tensor
    right: Tensor
    owners: Tensor


def _join_changes(changes: Mapping[int, Factors]) -> _JoinedChanges:
    """Put the factors of several patches side by side."""
    owners = list[int]()
    for index, change in changes.items():
        owners += [index] * change.rank
    return _JoinedChanges(
        left=torch.cat([change.left for change in changes.values()], 1),
        right=torch.cat([change.right for change in changes.values()], 1),
        owners=torch.tensor(owners),
    )


def _add_all_at_once(x: Tensor, y: Tensor, token_owners: Tensor, joined: _JoinedChanges) -> Tensor:
    """Return y [tokens, out] with the change of each token's patch; every patch is computed for every token."""
    is_own = token_owners[:, None] == joined.owners  # [tokens, sum of ranks]: whether a column is of the token's patch
    along = torch.where(is_own.to(x.device), x.float() @ joined.right, 0.0)  # [tokens, sum of ranks]
    return y + (along @ joined.left.T).to(y)


def _add_one_by_one(x: Tensor, y: Tensor, token_owners: Tensor, changes: Mapping[int, Factors]) -> Tensor:
    """Return y [tokens, out] with the change of each token's patch; each patch is computed for its own tokens."""
    changed = y.clone()
    for index, change in changes.items():
        own = (token_owners == index).nonzero()[:, 0].to(x.device)  # the numbers of the patch's tokens
        if len(own):
            addend: Tensor = torch.linalg.multi_dot([x[own].float(), change.right, change.left.T])
            changed[own] += addend.to(changed)
    return changed
