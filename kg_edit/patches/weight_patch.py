"""Patches of weights: W' = W + left right^T for named weights [out, in], applied for a while or merged permanently.

- `Factors`: the low-rank change of one weight, left [out, rank] and right [in, rank].
- `WeightPatch`: the factors by the weights' names, with their provenance; saved as safetensors.
- `each_patched`: many edited models in one forward pass; each token runs with its own patch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_edit.errors import ModelError, PatchError, PatchMismatchError, describe
from kg_edit.models.architectures import is_quantised
from kg_edit.models.hooks import exclusive
from kg_edit.models.language_model import LanguageModel, matrix_shape, weight_matrix
from kg_edit.patches.base import Kind, Patch, join_provenances
from kg_edit.patches.changes import KEY, STATE, check_factors, is_identity

if TYPE_CHECKING:
    from kg_edit.patches.container import PatchFile

# Up to so many ranks of several patches together, all are computed for every token: that is faster than a choice.
_FEW_RANKS = 64
SUM = "sum/"  # prefix of a state that is added, not concatenated, where patches are added: one number for all edits
_SAFE = 0.25  # share of the largest number of a type; a change below it can't make a weight infinite


@dataclass(frozen=True, repr=False, kw_only=True)
class Factors:
    """A low-rank change of a weight [out, in]: ``left`` [out, rank] times ``right`` [in, rank] transposed."""

    left: Tensor
    right: Tensor

    @classmethod
    def dense(cls, change: Tensor) -> Self:
        """Return factors of a dense change [out, in]: one factor is the identity matrix, so nothing is rounded."""
        rows, columns = change.shape
        if rows <= columns:
            return cls(left=torch.eye(rows, dtype=change.dtype, device=change.device), right=change.T.contiguous())
        return cls(left=change, right=torch.eye(columns, dtype=change.dtype, device=change.device))

    @classmethod
    def total(cls, changes: Sequence[Factors]) -> Factors:
        """Return the sum of changes of one weight; it is multiplied once, if the ranks exceed that of the weight."""
        left = torch.cat([pair.left for pair in changes], 1)
        right = torch.cat([pair.right for pair in changes], 1)
        total = cls(left=left, right=right)
        if total.rank > min(total.shape):
            return cls.dense(total.product)
        return total

    def __repr__(self) -> str:
        return f"Factors({self.shape[0]} x {self.shape[1]}, rank {self.rank})"

    @property
    def rank(self) -> int:
        """The number of columns of ``left`` and of ``right``."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the weight that is changed."""
        return self.left.shape[0], self.right.shape[0]

    @property
    def product(self) -> Tensor:
        """The change as a full matrix left right^T, [out, in]; an identity matrix is not multiplied."""
        if is_identity(self.left):
            return self.right.T
        if is_identity(self.right):
            return self.left
        return self.left @ self.right.T

    @property
    def is_finite(self) -> bool:
        """Whether no number of the factors, and none of their product, is infinite or NaN."""
        if not torch.isfinite(self.left).all() or not torch.isfinite(self.right).all():
            return False
        if self.bound < _SAFE * torch.finfo(torch.float32).max:
            return True
        # The whole product takes as much memory as the weight, so it is only computed where the bound is too large
        return bool(torch.isfinite(self.exact_on(self.left.device).product).all())

    @property
    def bound(self) -> float:
        """An upper bound of the entries of the product: rank times the largest entries of both factors."""
        if not self.left.numel() or not self.right.numel():
            return 0.0
        return self.rank * float(self.left.abs().max()) * float(self.right.abs().max())

    def exact_on(self, device: torch.device) -> Factors:
        """Return the same factors on ``device``, in float32."""
        return Factors(left=self.left.to(device).float(), right=self.right.to(device).float())

    def added_to(self, weight: Tensor, *, name: str) -> Tensor:
        """Return W + left right^T, computed in float32 and rounded to the type of ``weight`` [out, in]."""
        changed = (weight + self.exact_on(weight.device).product).to(weight.dtype)
        safe = self.bound < _SAFE * torch.finfo(weight.dtype).max  # false for NaN, too
        if not safe and not torch.isfinite(changed).all():
            raise PatchError(
                f"the change makes {name} infinite or NaN in {weight.dtype}; use float32, or a smaller change"
            )
        return changed

    def columns(self, indices: Sequence[int]) -> Factors:
        """Return the factors with the columns at ``indices`` only: the part of the change that some edits have."""
        chosen = list(indices)
        return Factors(left=self.left[:, chosen].contiguous(), right=self.right[:, chosen].contiguous())

    def reduced(self, rank: int) -> tuple[Factors, float]:
        """Return the nearest change of at most this rank (Eckart and Young), and the share of the squared norm it has.

        With left = Q_l R_l and right = Q_r R_r, the singular values of the product are those of the small R_l R_r^T.
        """
        if rank >= self.rank:
            return self, 1.0
        left, left_rest = torch.linalg.qr(self.left.double())
        right, right_rest = torch.linalg.qr(self.right.double())
        rows, values, columns = torch.linalg.svd(left_rest @ right_rest.T)
        reduced = Factors(
            left=(left @ rows[:, :rank] * values[:rank]).to(self.left.dtype),
            right=(right @ columns[:rank].T).to(self.right.dtype),
        )
        squares = values.square()
        return reduced, float(squares[:rank].sum() / squares.sum())

    def __add__(self, other: Factors) -> Factors:
        """Return the sum of two changes, on the device of the first.

        The ranks add up. If the sum of ranks exceeds the full rank of the weight, the result is a dense change.
        """
        if self.shape != other.shape:
            raise PatchMismatchError(
                f"can't add changes of weights of the shapes {self.shape} and {other.shape}; give patches of one model"
            )
        other = Factors(left=other.left.to(self.left.device), right=other.right.to(self.right.device))
        if self.rank + other.rank > min(self.shape):
            return Factors.dense(self.product + other.product)
        return Factors(left=torch.cat([self.left, other.left], 1), right=torch.cat([self.right, other.right], 1))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WeightPatch(Patch):
    """Changes W + left right^T of named weights [out, in], with their provenance.

    ``state`` has the tensors that a method needs to continue after these edits or to remove one, such as the keys that
    AlphaEdit protects. The last dimension of each tensor counts edits. Adding patches concatenates their states, but
    adds those whose names begin with `SUM`, such as the sums of UltraEdit's statistics.
    """

    kind: ClassVar[Kind] = "weights"
    file_kind: ClassVar[str] = "weights"

    factors: Mapping[str, Factors]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The names of the changed weights, and the rank of each change."""
        return ", ".join(f"{name}: rank {pair.rank}" for name, pair in self.factors.items())

    @property
    def nbytes(self) -> int:
        """The bytes of all factors and of the state."""
        factors = sum(pair.left.nbytes + pair.right.nbytes for pair in self.factors.values())
        return factors + sum(tensor.nbytes for tensor in self.state.values())

    @property
    def is_empty(self) -> bool:
        """Whether no weight is changed."""
        return not self.factors

    def _plus(self, other: WeightPatch) -> WeightPatch:
        factors = dict(self.factors)
        state = dict(self.state)
        for name, pair in other.factors.items():
            factors[name] = factors[name] + pair if name in factors else pair
        for name, tensor in other.state.items():
            present = state.get(name)  # on the CPU if read from a file, else possibly on the model's device
            if present is None:
                state[name] = tensor
            elif name.startswith(SUM):
                state[name] = present + tensor.to(present)
            else:
                state[name] = torch.cat([present, tensor.to(present.device)], -1)
        return WeightPatch(factors=factors, provenance=join_provenances(self.provenance, other.provenance), state=state)

    def __neg__(self) -> WeightPatch:
        """Return the inverse change, without the state."""
        inverse = self.scaled(-1)
        return WeightPatch(factors=inverse.factors, provenance=inverse.provenance)

    def __sub__(self, other: WeightPatch) -> Patch:
        """Return this change plus the inverse of ``other``, without the columns of the state that both have."""
        state = dict(self.state)
        for name, tensor in self.state.items():
            if name not in other.state:
                continue
            removed = other.state[name].to(tensor)
            if name.startswith(SUM):
                state[name] = tensor - removed
            else:
                state[name] = _without_columns(tensor, removed)
        return replace(self, state=state) + -other

    def scaled(self, factor: float) -> WeightPatch:
        """Return the same change, ``factor`` times as strong."""
        factors = {name: Factors(left=factor * pair.left, right=pair.right) for name, pair in self.factors.items()}
        edits = [{**edit, "scale": factor * edit.get("scale", 1.0)} for edit in self.edits]
        return WeightPatch(factors=factors, provenance={**self.provenance, "edits": edits}, state=self.state)

    def reduced(self, rank: int) -> tuple[WeightPatch, dict[str, float]]:
        """Return the patch with every change at most at this rank, and the kept shares of the squared norms by name.

        Which column belongs to which edit is no longer known, so the patch has no state, and its edits are one batch.
        """
        reduced = {name: pair.reduced(rank) for name, pair in self.factors.items()}
        factors = {name: pair for name, (pair, _) in reduced.items()}
        shares = {name: share for name, (_, share) in reduced.items()}
        edits = [{**edit, "batch": max(1, len(self.edits))} for edit in self.edits]
        return WeightPatch(factors=factors, provenance={**self.provenance, "edits": edits}), shares

    @contextmanager
    def stacked_on(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Add the change to the model's weights within the ``with`` block; afterwards restore the exact weights."""
        modules = self.modules(model)
        stored = {name: module for name, module in modules.items() if not is_quantised(module)}
        packed = {name: self.factors[name] for name in modules if name not in stored}
        originals = {name: module.weight.detach().clone() for name, module in stored.items()}
        try:
            self._add_to(stored)
            with wholly_patched(model, replace(self, factors=packed) if packed else None):  # beside quantised weights
                yield model
        finally:
            _put_back(stored, originals)

    def merge_into(self, model: LanguageModel) -> None:
        """Change the model's weights for good. The model is another one afterwards, with another fingerprint."""
        given: object = model
        if not isinstance(given, LanguageModel):
            way = "load the model, which is changed in place: model = LanguageModel.load('smollm2-135m')"
            raise ModelError(f"found {describe(given)}; expected a LanguageModel; {way}")
        with exclusive(model):
            modules = self.modules(model)
            if any(is_quantised(module) for module in modules.values()):
                raise PatchError(
                    f"the weights of {model.name!r} are quantised, so nothing can be merged into them; apply the patch "
                    "beside them, export it (kg-edit patch export --to peft), or merge it into the unquantised model"
                )
            originals = {name: module.weight.detach().clone() for name, module in modules.items()}
            try:
                self._add_to(modules)
            except BaseException:
                _put_back(modules, originals)
                raise
        if not self.is_empty:
            model.note_merge()

    def modules(self, model: LanguageModel) -> dict[str, Any]:
        """Return the modules of ``model`` that this patch changes, by the names of their weights."""
        self.check_model(model)
        return {name: module_of(model, name, shape=pair.shape) for name, pair in self.factors.items()}

    def weight_norms(self, model: LanguageModel) -> dict[str, float]:
        """Return the present norm |W| of each weight that the patch changes, by name."""
        norms = {}
        for name, module in self.modules(model).items():
            norms[name] = float(weight_matrix(module).detach().float().norm())
        return norms

    def with_weight_norms(self, model: LanguageModel) -> WeightPatch:
        """Return the patch with |W| of its weights in the provenance: its size can be judged without the model."""
        if self.is_empty:
            return self
        norms = {name: round(norm, 4) for name, norm in self.weight_norms(model).items()}
        return replace(self, provenance={**self.provenance, "weight_norms": norms})

    @torch.no_grad()
    def _add_to(self, modules: Mapping[str, nn.Module]) -> None:
        """Add the changes to the weights of ``modules``, in place."""
        for name, module in modules.items():
            weight = weight_matrix(module)
            weight.copy_(self.factors[name].added_to(weight, name=name))

    def check_finite(self) -> None:
        """Check that all factors and their products are finite."""
        for name, pair in self.factors.items():
            if not pair.is_finite:
                raise PatchError(f"the change of {name} is not finite; make a smaller change, or edit in float32")

    def _stored(self) -> tuple[None, dict[str, Tensor]]:
        tensors = {f"{STATE}{name}": tensor for name, tensor in self.state.items()}
        for name, pair in self.factors.items():
            tensors |= {f"{name}.left": pair.left, f"{name}.right": pair.right}
        return None, tensors

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """Build the patch of a file."""
        state = {name.removeprefix(STATE): value for name, value in file.tensors.items() if name.startswith(STATE)}
        factors = dict[str, Factors]()
        changed_weights = {name.rpartition(".")[0] for name in file.tensors if not name.startswith(STATE)}
        for name in sorted(changed_weights):
            left = file.tensors.get(f"{name}.left")
            right = file.tensors.get(f"{name}.right")
            if left is None or right is None:
                raise PatchError(f"the patch {file.path} lacks a factor of {name}; make the patch again")
            check_factors(file.path, name, left, right)
            factors[name] = Factors(left=left, right=right)
            if not factors[name].is_finite:
                raise PatchError(f"the patch {file.path} has a change of {name} that is not finite; make it again")
        for name, value in state.items():
            shape = tuple(value.shape)
            fits = len(shape) > 0
            changed = factors.get(name.removeprefix(KEY))
            if changed is not None:  # keys of this weight, [in, facts]
                fits = len(shape) == 2 and shape[0] == changed.shape[1]
            if not fits:
                raise PatchError(
                    f"the patch {file.path} has a {name} of the shape {shape}, which does not fit; make it again"
                )
        return cls(factors=factors, provenance=file.provenance, state=state)


def total(patches: Iterable[Patch]) -> Patch:
    """Return the sum of patches; an empty patch if there are none."""
    result: Patch = WeightPatch(factors={})
    for patch in patches:
        result = result + patch
    return result


def _without_columns(tensor: Tensor, removed: Tensor) -> Tensor:
    """Return ``tensor`` [n, columns] without the columns of ``removed`` [n, fewer columns]; each column is an edit's.

    Of equal columns the last one goes; another edit may have made the others.
    """
    gone = Counter(_columns_as_bytes(removed))
    remaining = list[int]()
    for index, column in reversed(list(enumerate(_columns_as_bytes(tensor)))):
        if gone[column]:
            gone[column] -= 1
        else:
            remaining.append(index)
    remaining.reverse()
    return tensor[..., remaining]


def _columns_as_bytes(tensor: Tensor) -> list[bytes]:
    """Return the bytes of each column (last dimension), by which equal columns are found."""
    columns = tensor.detach().movedim(-1, 0).double().cpu() + 0.0  # 0.0 instead of -0.0, whose bytes differ
    return [column.tobytes() for column in columns.numpy()]


@torch.no_grad()
def _put_back(modules: Mapping[str, Any], originals: Mapping[str, Tensor]) -> None:
    """Restore the weights of ``modules``."""
    for name, module in modules.items():
        module.weight.copy_(originals[name])


def module_of(model: LanguageModel, name: str, *, shape: tuple[int, int]) -> nn.Module:
    """Return the module of a weight.

    Args:
        model: a language model.
        name: of the weight, as in the state dict.
        shape: (out, in) of the weight.
    """
    try:
        module = model.model.get_submodule(name.removesuffix(".weight"))
        actual = matrix_shape(module)
    except AttributeError as error:
        raise PatchMismatchError(f"{model.name!r} has no weight {name}; the patch is for another model") from error
    if actual != shape:
        raise PatchMismatchError(f"{name} is {actual} in {model.name!r}, the patch is for {shape}")
    return module


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def place_factors(model: LanguageModel, patches: Sequence[WeightPatch | None]) -> list[WeightPatch | None]:
    """Return the patches with their factors where the weights lie, so that `each_patched` copies none of them again.

    The same patch stays one object.
    """
    moved = dict[int, WeightPatch | None]()  # by the id of the given patch
    for patch in patches:
        if patch is None or id(patch) in moved:
            continue
        modules = patch.modules(model)
        factors = dict[str, Factors]()
        for name, pair in patch.factors.items():
            factors[name] = pair.exact_on(_device_of(modules[name]))
        moved[id(patch)] = replace(patch, factors=factors)
    return [moved.get(id(patch)) for patch in patches]


@contextmanager
def each_patched(model: LanguageModel, patches: Sequence[WeightPatch | None], owners: Tensor) -> Iterator[None]:
    """Within the ``with`` block, y += left (right^T x) with the factors of each token's own patch; no weight changes.

    The result is the same, up to rounding, as applying each patch in turn. In half precision it is more exact, because
    no weight is rounded.

    Args:
        model: the model; its modules get hooks.
        patches: the patches; None stands for no patch.
        owners: the index in ``patches`` for each token, [rows, tokens], or [rows, 1] for all tokens of a row.
    """
    factors: dict[str, dict[int, Factors]] = {}
    modules: dict[str, nn.Module] = {}
    for owner, patch in enumerate(patches):
        if patch is not None:
            modules |= patch.modules(model)
            for name, pair in patch.factors.items():
                device = _device_of(modules[name])
                factors.setdefault(name, {})[owner] = pair.exact_on(device)

    with ExitStack() as stack:
        for name, module in modules.items():
            hook = _make_hook(factors[name], owners)
            stack.enter_context(module.register_forward_hook(hook))
        yield


def _make_hook(
    pairs: Mapping[int, Factors], owners: Tensor
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """Return the hook of a module that adds the change of each token's patch; ``pairs`` has the changes by patch."""
    stacked = _stack(pairs)

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs = args[0].reshape(-1, args[0].shape[-1])  # [tokens, in]; some families flatten their MLP's input
        outputs = output.reshape(len(inputs), -1)  # [tokens, out]
        # A row has one owner for all its tokens, or one for each: [rows, 1 or tokens of a row] -> [tokens]
        owner = owners.expand(len(owners), len(inputs) // len(owners)).reshape(-1)
        if stacked is not None:
            changed = _add_at_once(outputs, inputs, owner, *stacked)
        else:
            changed = _add_in_turn(outputs, inputs, owner, pairs)
        return changed.reshape(output.shape)

    return hook


def _add_at_once(outputs: Tensor, inputs: Tensor, owner: Tensor, pair: Factors, column: Tensor) -> Tensor:
    """Return the outputs [tokens, out] with the change of each token's own patch, from the factors of `_stack`."""
    # right^T x of all patches at once, [tokens, ranks], and 0 where a column is not of the token's own patch
    is_own = (owner[:, None] == column).to(inputs.device)
    along = torch.where(is_own, inputs.float() @ pair.right, 0.0)
    return outputs + (along @ pair.left.T).to(outputs)


def _add_in_turn(outputs: Tensor, inputs: Tensor, owner: Tensor, pairs: Mapping[int, Factors]) -> Tensor:
    """Return the outputs [tokens, out] with the change of each token's own patch, one patch after the other."""
    changed = outputs.clone()
    for index, pair in pairs.items():
        rows = (owner == index).nonzero()[:, 0].to(inputs.device)
        if len(rows):
            change: Tensor = torch.linalg.multi_dot([inputs[rows].float(), pair.right, pair.left.T])
            changed[rows] += change.to(changed)
    return changed


def _stack(pairs: Mapping[int, Factors]) -> tuple[Factors, Tensor] | None:
    """Return the factors of several patches side by side, and the patch of each column; None if they are too many."""
    ranks = [pair.rank for pair in pairs.values()]
    if sum(ranks) > _FEW_RANKS:
        return None
    left = torch.cat([pair.left for pair in pairs.values()], 1)
    right = torch.cat([pair.right for pair in pairs.values()], 1)
    column = torch.tensor(list(pairs)).repeat_interleave(torch.tensor(ranks))
    return Factors(left=left, right=right), column


def wholly_patched(model: LanguageModel, patch: WeightPatch | None) -> AbstractContextManager[None]:
    """Apply `each_patched` with the same patch for every token; with None the model is unchanged."""
    return each_patched(model, [patch], torch.zeros(1, 1, dtype=torch.long))
