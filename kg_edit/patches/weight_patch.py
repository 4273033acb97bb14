"""Patches of weights: W' = W + left right^T for named weights [out, in], applied for a while or merged permanently.

`WeightPatch` has the factors of each change (`kg_edit.patches.factors`) by the weights' names. Its methods come in the
order of a patch's life: sums of patches, applying, merging, the file. Then come the functions that they call, and two
for many patches: `sum_patches` and `place_factors`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_edit.errors import ModelError, PatchError, PatchMismatchError, describe
from kg_edit.models.architectures import is_quantised
from kg_edit.models.hooks import mark_patched
from kg_edit.models.language_model import LanguageModel, matrix_shape, weight_matrix
from kg_edit.patches import KEY, STATE, describe_ranks, join_provenances, pair_factors
from kg_edit.patches.base import ChangedPart, Patch
from kg_edit.patches.factors import Factors

if TYPE_CHECKING:
    from kg_edit.patches.container import PatchFile

SUM = "sum/"  # prefix of a state that is added, not concatenated, where patches are added: one number for all edits


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class WeightPatch(Patch):
    """Changes W + left right^T of named weights [out, in], with their provenance.

    ``state`` has the tensors that a method needs to continue after these edits or to remove one, such as the keys that
    AlphaEdit protects (under names that begin with `KEY`). The last dimension of each tensor counts facts, of which an
    edit has one or more, except under names that begin with `SUM`: these are sums over all edits, such as those of
    UltraEdit's statistics. Adding patches adds such sums, and concatenates the other tensors.
    """

    changed_part: ClassVar[ChangedPart] = "weights"
    file_kind: ClassVar[str] = "weights"

    factors: Mapping[str, Factors]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The names of the changed weights, and the rank of each change."""
        return describe_ranks(self.factors)

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
        for name, change in other.factors.items():
            if name in factors:
                factors[name] = factors[name] + change
            else:
                factors[name] = change
        return WeightPatch(
            factors=factors,
            provenance=join_provenances(self.provenance, other.provenance),
            state=_add_states(self.state, other.state),
        )

    def __neg__(self) -> WeightPatch:
        """Return the inverse change, without the state."""
        inverse = self.scaled(-1)
        return WeightPatch(factors=inverse.factors, provenance=inverse.provenance)

    def __sub__(self, other: WeightPatch) -> Patch:
        """Return this change plus the inverse of ``other``; the state loses what ``other``'s state added to it."""
        with_less_state = replace(self, state=_subtract_states(self.state, other.state))
        return with_less_state + -other

    def scaled(self, factor: float) -> WeightPatch:
        """Return the same change, ``factor`` times as strong.

        The state stays as it is, as it describes the edited facts, such as their keys, and not how strongly they are
        written.
        """
        factors = {name: Factors(left=factor * pair.left, right=pair.right) for name, pair in self.factors.items()}
        edits = [{**edit, "scale": factor * edit.get("scale", 1.0)} for edit in self.edits]
        return WeightPatch(factors=factors, provenance={**self.provenance, "edits": edits}, state=self.state)

    def reduced(self, rank: int) -> tuple[WeightPatch, dict[str, float]]:
        """Return the patch with no change of more than this rank, and by name the share of |change|^2 that is kept.

        Which column belongs to which edit is no longer known, so the patch has no state, and its edits are one batch.
        """
        reduced = {name: pair.reduced(rank) for name, pair in self.factors.items()}
        factors = {name: pair for name, (pair, _) in reduced.items()}
        shares = {name: share for name, (_, share) in reduced.items()}
        edits = [{**edit, "batch": len(self.edits)} for edit in self.edits]
        return WeightPatch(factors=factors, provenance={**self.provenance, "edits": edits}), shares

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Add the change to the present weights within the ``with`` block; afterwards restore exactly these.

        Other patches may be applied to the model already, as in a stack of patches.
        A quantised weight can't be changed: its module's output gets the change instead, by a hook.
        """
        plain_modules = dict[str, Any]()
        quantised = dict[str, Factors]()
        for name, module in self.modules(model).items():
            if is_quantised(module):
                quantised[name] = self.factors[name]
            else:
                plain_modules[name] = module
        beside_quantised: AbstractContextManager[None] = nullcontext()
        if quantised:
            from kg_edit.patches.per_token import patch_all_tokens  # most models are not quantised

            beside_quantised = patch_all_tokens(model, replace(self, factors=quantised))
        originals = _copy_weights(plain_modules)
        try:
            self._add_to(plain_modules)
            with beside_quantised:
                yield model
        finally:
            _put_back(plain_modules, originals)

    def merge_into(self, model: LanguageModel) -> None:
        """Change the model's weights for good. The model is another one afterwards, with another fingerprint."""
        given: object = model  # of any type: a caller without a type checker may pass a transformers model
        if not isinstance(given, LanguageModel):
            way = "load the model, which is changed in place: model = LanguageModel.load('smollm2-135m')"
            raise ModelError(f"found {describe(given)}; expected a LanguageModel; {way}")
        with mark_patched(model):
            modules = self.modules(model)
            if any(is_quantised(module) for module in modules.values()):
                raise PatchError(
                    f"the weights of {model.name!r} are quantised, so nothing can be merged into them; apply the patch "
                    "beside them, export it (kg-edit patch export --to peft), or merge it into the unquantised model"
                )
            originals = _copy_weights(modules)
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

    def placed_on(self, model: LanguageModel) -> WeightPatch:
        """Return the patch with its factors in float32, on the devices of the weights."""
        modules = self.modules(model)
        factors = dict[str, Factors]()
        for name, change in self.factors.items():
            factors[name] = change.float32_on(next(modules[name].parameters()).device)
        return replace(self, factors=factors)

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
            weight = weight_matrix(module)  # a view [out, in] of module.weight, so `copy_` writes into the model
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
        factors = dict[str, Factors]()
        for name, (left, right) in pair_factors(file.path, file.tensors).items():
            factors[name] = Factors(left=left, right=right)
            if not factors[name].is_finite:
                raise PatchError(f"the patch {file.path} has a change of {name} that is not finite; make it again")
        state = dict[str, Tensor]()
        for stored_name, tensor in file.tensors.items():
            if stored_name.startswith(STATE):
                name = stored_name.removeprefix(STATE)
                _check_state(file, name, tensor, factors)
                state[name] = tensor
        return cls(factors=factors, provenance=file.provenance, state=state)


def _check_state(file: PatchFile, name: str, tensor: Tensor, factors: Mapping[str, Factors]) -> None:
    """Check the shape of a tensor of the state: the keys of a changed weight [out, in] are [in, facts].

    Any other tensor has at least one dimension, the last one, which counts facts except under names with `SUM`.
    """
    changed = None
    if name.startswith(KEY):
        changed = factors.get(name.removeprefix(KEY))
    if changed is None:
        fits = tensor.dim() > 0
    else:
        width = changed.shape[1]
        fits = tensor.dim() == 2 and tensor.shape[0] == width
    if not fits:
        shape = tuple(tensor.shape)
        raise PatchError(f"the patch {file.path} has a {name} of the shape {shape}, which does not fit; make it again")


def sum_patches(patches: Iterable[Patch]) -> Patch:
    """Return the sum of patches; an empty patch if there are none."""
    result: Patch = WeightPatch(factors={})
    for patch in patches:
        result = result + patch
    return result


def _add_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a sum of patches: the columns of both, or the sum of both under a name with `SUM`."""
    state = dict(first)
    for name, tensor in second.items():
        if name not in first:
            state[name] = tensor
            continue
        present = first[name]  # on the CPU if read from a file, else possibly on the model's device
        if name.startswith(SUM):
            state[name] = present + tensor.to(present)
        else:
            state[name] = torch.cat([present, tensor.to(present.device)], -1)
    return state


def _subtract_states(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` without what `_add_states` added for ``other``."""
    result = dict(state)
    for name, tensor in state.items():
        if name not in other:
            continue
        removed = other[name].to(tensor)
        if name.startswith(SUM):
            result[name] = tensor - removed
        else:
            result[name] = _without_columns(tensor, removed)
    return result


def _without_columns(tensor: Tensor, removed: Tensor) -> Tensor:
    """Return ``tensor`` [..., facts] without the columns of ``removed`` [..., fewer facts].

    A column has one index in the last dimension, and belongs to a fact. Of equal columns the last one goes, because
    another edit may have made the others.
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


def _copy_weights(modules: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a copy of the weight of each module, by name."""
    return {name: module.weight.detach().clone() for name, module in modules.items()}


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


def place_factors(model: LanguageModel, patches: Sequence[WeightPatch | None]) -> list[WeightPatch | None]:
    """Return the patches with their factors where the weights lie, so that `per_token.patch_each_token` copies none.

    A patch that is in ``patches`` several times is moved once, and stays one object.
    """
    placed = dict[int, WeightPatch]()  # by the id of the object that the caller passed
    result = list[WeightPatch | None]()
    for patch in patches:
        if patch is None:
            result.append(None)
            continue
        if id(patch) not in placed:
            placed[id(patch)] = patch.placed_on(model)
        result.append(placed[id(patch)])
    return result
