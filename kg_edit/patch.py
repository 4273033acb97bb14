"""A patch: what an edit is once computed. Low-rank factors per weight, reversible, saved without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kg_edit.errors import PatchError, PatchMismatchError
from kg_edit.language_model import LanguageModel, weight_matrix
from kg_edit.rank_one import Factors
from kg_edit.tensor_files import write_safetensors

FORMAT = "kg-edit-patch/1"
_METADATA = "kg_edit"
_APPLIED = "_kg_edit_applied_patch"


@dataclass(frozen=True, eq=False, kw_only=True)
class Patch:
    """Changes W + left right^T of named weights [out, in], and where they came from.

    ``provenance`` is JSON: the model's name and fingerprint, and for each edit the method, its settings and seeds.
    """

    factors: Mapping[str, Factors]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __add__(self, other: Patch) -> Patch:
        """Both changes at once: ranks add, edits are listed one after the other.

        Raises:
            PatchMismatchError: the patches belong to different models.
        """
        if self._fingerprint and other._fingerprint and self._fingerprint != other._fingerprint:
            raise PatchMismatchError(
                f"can't add patches of different models ({self._fingerprint} and {other._fingerprint})"
            )
        factors = dict(self.factors)
        for name, more in other.factors.items():
            factors[name] = _stack(factors[name], more) if name in factors else more
        return Patch(factors=factors, provenance=_merge(self.provenance, other.provenance))

    def __neg__(self) -> Patch:
        """The inverse change."""
        factors = {name: Factors(left=-pair.left, right=pair.right) for name, pair in self.factors.items()}
        edits = [{**edit, "inverted": not edit.get("inverted", False)} for edit in self.provenance.get("edits", ())]
        return Patch(factors=factors, provenance={**self.provenance, "edits": edits})

    def __sub__(self, other: Patch) -> Patch:
        """This change with the other one taken back."""
        return self + -other

    @property
    def _fingerprint(self) -> str | None:
        found: str | None = self.provenance.get("model", {}).get("fingerprint")
        return found

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """The model with this patch, for the length of a ``with`` block; then its weights, bit for bit as before.

        Raises:
            PatchError: another patch is applied to this model; add patches, or merge the first one.
            PatchMismatchError: the patch is for another model.
        """
        with _exclusive(model):
            modules = self.modules(model)
            originals = {name: module.weight.detach().clone() for name, module in modules.items()}
            try:
                self._add_to(modules)
                yield model
            finally:
                with torch.no_grad():
                    for name, module in modules.items():
                        module.weight.copy_(originals[name])

    def merge_into(self, model: LanguageModel) -> None:
        """Change the model's weights for good.

        Raises:
            PatchError: a patch is applied to this model at the moment.
            PatchMismatchError: the patch is for another model.
        """
        with _exclusive(model):
            self._add_to(self.modules(model))

    def modules(self, model: LanguageModel) -> dict[str, Any]:
        """The modules of ``model`` that this patch changes, by the names of their weights.

        Raises:
            PatchMismatchError: the patch is for another model.
        """
        if self._fingerprint not in (None, model.fingerprint):
            raise PatchMismatchError(
                f"this patch is for {self.provenance['model'].get('name')!r} (fingerprint {self._fingerprint}), the "
                f"model at hand is {model.name!r} ({model.fingerprint}); load the right model, or edit this one anew"
            )
        return {name: self._module(model, name) for name in self.factors}

    def _module(self, model: LanguageModel, name: str) -> nn.Module:
        try:
            module = model.model.get_submodule(name.removesuffix(".weight"))
            shape = tuple(weight_matrix(module).shape)
        except AttributeError as error:
            raise PatchMismatchError(f"{model.name!r} has no weight {name}; the patch is for another model") from error
        pair = self.factors[name]
        if shape != (pair.left.shape[0], pair.right.shape[0]):
            raise PatchMismatchError(
                f"{name} is {shape} in {model.name!r}, the patch is for {(pair.left.shape[0], pair.right.shape[0])}"
            )
        return module

    @torch.no_grad()
    def _add_to(self, modules: Mapping[str, nn.Module]) -> None:
        for name, module in modules.items():
            weight, pair = weight_matrix(module), self.factors[name]
            left, right = pair.left.to(weight.device), pair.right.to(weight.device)
            weight.copy_((weight.float() + left.float() @ right.float().T).to(weight.dtype))

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors, provenance in its metadata) atomically.

        Raises:
            PatchError: a factor is not finite.
            OutputError: the file can't be written.
        """
        path, tensors = Path(path), dict[str, Tensor]()
        for name, pair in sorted(self.factors.items()):
            if not (torch.isfinite(pair.left).all() and torch.isfinite(pair.right).all()):
                raise PatchError(f"the change of {name} is not finite; nothing was written")
            tensors[f"{name}.left"] = pair.left.detach().cpu().contiguous()
            tensors[f"{name}.right"] = pair.right.detach().cpu().contiguous()
        said = json.dumps({"format": FORMAT, "provenance": self.provenance}, sort_keys=True)
        write_safetensors(path, tensors, {_METADATA: said})  # one key: safetensors writes several in any order
        return path

    @classmethod
    def load(cls, path: str | Path) -> Patch:
        """Read a patch that `save` wrote.

        Raises:
            PatchError: the file is missing, or is no patch.
        """
        try:
            with safe_open(path, framework="pt") as file:
                said = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except FileNotFoundError as error:
            raise PatchError(f"can't read the patch {path}: there is no such file; check the path") from error
        except (OSError, SafetensorError, ValueError) as error:
            raise PatchError(
                f"can't read the patch {path}: {error}; is it a patch.safetensors, and complete?"
            ) from error
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            found = said.get("format") if isinstance(said, dict) else said
            raise PatchError(f"{path} is no patch: expected format {FORMAT}, found {found!r}")
        provenance = said.get("provenance")
        if not isinstance(provenance, dict) or not isinstance(provenance.get("model", {}), dict):
            raise PatchError(f"the patch {path} does not say where it came from; make it anew")
        return cls(factors=_factors(tensors, path), provenance=provenance)


def _factors(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Factors]:
    names = sorted({name.rpartition(".")[0] for name in tensors})
    try:
        found = {name: Factors(left=tensors[f"{name}.left"], right=tensors[f"{name}.right"]) for name in names}
    except KeyError as error:
        raise PatchError(f"the patch {path} lacks its tensor {error}; make it anew") from error
    for name, pair in found.items():
        shapes = tuple(pair.left.shape), tuple(pair.right.shape)
        if {len(shape) for shape in shapes} != {2} or shapes[0][1] != shapes[1][1]:
            raise PatchError(f"the patch {path} has factors of {name} that don't fit: {shapes}; make it anew")
        if not (torch.isfinite(pair.left).all() and torch.isfinite(pair.right).all()):
            raise PatchError(f"the patch {path} has values of {name} that are not finite; make it anew")
    return found


def _stack(first: Factors, second: Factors) -> Factors:
    return Factors(left=torch.cat([first.left, second.left], 1), right=torch.cat([first.right, second.right], 1))


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Edits one after the other, each method once, and the first one's word on all else."""
    methods = [*first.get("methods", ())]
    methods += [method for method in second.get("methods", ()) if method not in methods]
    edits = [*first.get("edits", ()), *second.get("edits", ())]
    return {**second, **first, "methods": methods, "edits": edits}


@contextmanager
def _exclusive(model: LanguageModel) -> Iterator[None]:
    """Only one patch at a time: which weights a nested one would restore is anybody's guess."""
    if getattr(model.model, _APPLIED, False):
        raise PatchError(
            "a patch is applied to this model already; leave its block first, or add the two: "
            "(first + second).applied(...)"
        )
    setattr(model.model, _APPLIED, True)
    try:
        yield
    finally:
        delattr(model.model, _APPLIED)
