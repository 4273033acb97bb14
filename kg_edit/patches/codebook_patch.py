"""A patch beside the weights, GRACE's (Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031): a codebook after a module.

At a token that is looked up, whose key x [d_in] (the module's input) lies in a ball ||x - k_i|| <= eps_i of the
codebook, the module's output [d_out] is replaced by that entry's value v_i; elsewhere nothing changes.

`CodebookPatch` holds codebooks (`kg_edit.patches.codebook`) by the names of the weights that they stand beside.

Which tokens are looked up is part of the rule (`Deferral.lookup`):

- ``prompt-end``, as published: the prompt's last token alone. Scoring and decoding say where a prompt ends
  (`kg_edit.models.hooks.telling_prompt_ends`); of a forward pass of which nobody says it, it is each row's last token.
- ``every-token``: needs no such knowledge. Patches that were made before there was the choice have this rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_edit.errors import PatchError
from kg_edit.models.hooks import prompt_ends, wanting_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, PatchStack, joined
from kg_edit.patches.codebook import Codebook, Lookup, Regions, as_json, from_json
from kg_edit.patches.container import CODEBOOK, PatchFile, write_patch
from kg_edit.patches.weight_patch import module_of

_SAID = "codebooks"


@dataclass(frozen=True, eq=False, kw_only=True)
class CodebookPatch(Patch):
    """Codebooks by the name of the weight whose module they stand beside; the module's input is what is looked up.

    Patches add by putting the entries one after the other. `without` takes edits back, exactly.
    """

    kind: ClassVar[Kind] = "adapter"

    codebooks: Mapping[str, Codebook]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The modules, and how many keys answer for how many edits."""
        return ", ".join(
            f"{name}: {len(book.regions.entries)} keys for {len(book)} edits" for name, book in self.codebooks.items()
        )

    @property
    def is_empty(self) -> bool:
        """Whether no codebook has an entry."""
        return not any(len(book) for book in self.codebooks.values())

    def without(self, ids: Collection[str]) -> CodebookPatch:
        """The patch with the edits of these ids taken back: that of a call that never made them.

        Raises:
            PatchError: an id is of no edit here.
        """
        unknown = set(ids) - {own for book in self.codebooks.values() for own in book.ids}
        if unknown:
            raise PatchError(f"the patch has no edit {', '.join(map(repr, sorted(unknown)))}; look at its edits' ids")
        books = {name: book.without(ids) for name, book in self.codebooks.items()}
        edits = [record for record in self.edits if record.get("edit", {}).get("id") not in ids]
        return CodebookPatch(codebooks=books, provenance={**self.provenance, "edits": edits})

    def _plus(self, other: CodebookPatch) -> CodebookPatch:
        """Entries one after the other.

        Raises:
            PatchError: the two have different deferral rules for one module.
        """
        books = dict(self.codebooks)
        for name, more in other.codebooks.items():
            if name in books and books[name].deferral != more.deferral:
                raise PatchError(
                    f"can't add codebooks of {name} with different rules ({books[name].deferral!r} and "
                    f"{more.deferral!r}); make both with the same radius, expand, metric and lookup"
                )
            books[name] = books[name] + more if name in books else more
        return CodebookPatch(codebooks=books, provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def stacked_on(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """The model, with a look into the codebook after each of the modules; no weight moves."""
        self.check_model(model)
        modules = {name: module_of(model, name, shape=book.shape) for name, book in self.codebooks.items()}
        with ExitStack() as stack:
            if any(book.deferral.lookup == "prompt-end" for book in self.codebooks.values()):
                stack.enter_context(wanting_prompt_ends(model))
            for name, module in modules.items():
                places = stack.enter_context(_looked_up(model, name, self.codebooks[name].deferral.lookup))
                handle = module.register_forward_hook(_replacer(self.codebooks[name], places))
                stack.callback(handle.remove)
            yield model

    def check_finite(self) -> None:
        """Check that every key and value is finite.

        Raises:
            PatchError: one is not finite.
        """
        for name, book in self.codebooks.items():
            if not book.is_finite:
                raise PatchError(f"the codebook of {name} is not finite; edit with less force, or in float32")

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors; provenance, labels and the rule in its metadata) atomically.

        Raises:
            PatchError: a value is not finite.
            OutputError: the file can't be written.
        """
        tensors: dict[str, Tensor] = {}
        for name, book in self.codebooks.items():
            tensors |= {f"{name}.keys": book.keys, f"{name}.values": book.values}
        said = {name: as_json(book) for name, book in self.codebooks.items()}
        return write_patch(path, format=CODEBOOK, provenance={**self.provenance, _SAID: said}, tensors=tensors)

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch that a file holds.

        Raises:
            PatchError: its parts don't fit together.
        """
        provenance = dict(file.provenance)
        said = provenance.pop(_SAID, None)
        try:
            books = {
                name: from_json(own, keys=file.tensors[f"{name}.keys"], values=file.tensors[f"{name}.values"])
                for name, own in said.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is no whole codebook: {error}; make it anew") from error
        return cls(codebooks=books, provenance=provenance)


Places = Callable[[], Tensor | None]  # which tokens of this forward pass are looked up, [tokens]; None: all


@contextmanager
def _looked_up(model: LanguageModel, name: str, lookup: Lookup) -> Iterator[Places]:
    """Which tokens are looked up in the codebook beside the weight ``name``.

    The shape of a forward pass is that of the block's input [rows, tokens, d]: some families flatten it for their MLP.
    """
    if lookup == "every-token":
        yield lambda: None
        return
    shapes: list[tuple[int, int]] = [(0, 0)]

    def see(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, tokens = (args[0] if args else kwargs["hidden_states"]).shape[:2]
        shapes[0] = rows, tokens

    handle = _block_of(model, name).register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield lambda: prompt_ends(model, *shapes[0]).flatten()
    finally:
        handle.remove()


def _block_of(model: LanguageModel, name: str) -> nn.Module:
    """The block that holds the weight ``name``; every codebook stands in one."""
    return next(block for at, block in enumerate(model.blocks) if name.startswith(f"{model.spec.blocks}.{at}."))


def _replacer(book: Codebook, places: Places) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook: the module's output [..., d_out], with a value at each of ``places`` that lies in a ball."""
    regions, values = book.regions, book.values

    def replace(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal regions, values
        inputs = args[0].reshape(-1, args[0].shape[-1])  # some families run their MLP on flattened rows
        if values.device != inputs.device or values.dtype != output.dtype:
            regions, values = regions.to(inputs.device), values.to(inputs.device, output.dtype)
        with torch.no_grad():
            entry = _entries(regions, book.deferral.placed(inputs), places())
        flat = output.reshape(len(inputs), -1)
        changed = torch.where((entry >= 0)[:, None], values[entry.clamp(min=0)], flat)
        return changed.reshape(output.shape)

    return replace


def _entries(regions: Regions, points: Tensor, places: Tensor | None) -> Tensor:
    """The entry whose value is given at each of ``points`` [tokens, d_in], -1 for none, as outside ``places``."""
    if places is None:
        return regions.of(points)
    entries = torch.full((len(points),), -1, device=points.device)
    chosen = places.to(points.device)
    entries[chosen] = regions.of(points[chosen])
    return entries


def without_codebooks(patch: Patch) -> Patch | None:
    """A patch, or a stack of them, but for its codebooks; None if nothing is left."""
    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    kept = [part for part in parts if not isinstance(part, CodebookPatch)]
    return PatchStack.of(*kept) if kept else None
