"""GRACE's patch: a codebook replaces the output of a module (Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031).

A token's key x [d_in] is the module's input. If x lies in a ball ||x - k_i|| <= eps_i of the codebook, the module's
output [d_out] is replaced by the value v_i of that entry. Otherwise nothing changes. `CodebookPatch` holds codebooks
(`kg_edit.methods.grace.codebook`) by the names of the weights beside which they stand.

The setting `Deferral.lookup` selects the tokens that are looked up:

- ``prompt-end``, as published: only the last token of the prompt. Scoring and decoding tell the patch where a prompt
  ends (`kg_edit.models.hooks.with_prompt_ends`). Otherwise a row of several tokens ends at its last token.
- ``every-token``: all tokens.
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
from kg_edit.methods.grace.codebook import Codebook, Lookup, Regions, as_json, from_json
from kg_edit.models.hooks import prompt_ends, wanting_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, PatchStack, joined
from kg_edit.patches.container import PatchFile, write_patch
from kg_edit.patches.weight_patch import module_of


@dataclass(frozen=True, eq=False, kw_only=True)
class CodebookPatch(Patch):
    """Codebooks by the name of the weight beside whose module they stand; the module's input is the key.

    Adding patches appends the entries. `without` removes edits exactly, as if they had never been made.
    """

    kind: ClassVar[Kind] = "adapter"

    codebooks: Mapping[str, Codebook]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The modules, with the number of keys and of edits for each."""
        return ", ".join(
            f"{name}: {len(book.regions.entries)} keys for {len(book)} edits" for name, book in self.codebooks.items()
        )

    @property
    def is_empty(self) -> bool:
        """Whether no codebook has an entry."""
        return not any(len(book) for book in self.codebooks.values())

    def without(self, ids: Collection[str]) -> CodebookPatch:
        """The patch without the edits with these ids, as if they had never been made.

        Raises:
            PatchError: the patch has no edit with one of the ids.
        """
        unknown = set(ids) - {own for book in self.codebooks.values() for own in book.ids}
        if unknown:
            raise PatchError(f"the patch has no edit {', '.join(map(repr, sorted(unknown)))}; check its edits' ids")
        books = {name: book.without(ids) for name, book in self.codebooks.items()}
        edits = [record for record in self.edits if record.get("edit", {}).get("id") not in ids]
        return CodebookPatch(codebooks=books, provenance={**self.provenance, "edits": edits})

    def _plus(self, other: CodebookPatch) -> CodebookPatch:
        """The entries of both patches, this one's first.

        Raises:
            PatchError: the patches have different deferral rules for one module.
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
        """The model with a codebook lookup after each of the modules; no weight changes."""
        self.check_model(model)
        books = {name: book for name, book in self.codebooks.items() if len(book)}
        modules = {name: module_of(model, name, shape=book.shape) for name, book in books.items()}
        with ExitStack() as stack:
            if any(book.deferral.lookup == "prompt-end" for book in books.values()):
                stack.enter_context(wanting_prompt_ends(model))
            for name, module in modules.items():
                places = stack.enter_context(_looked_up(model, name, books[name].deferral.lookup))
                handle = module.register_forward_hook(_replacer(books[name], places))
                stack.callback(handle.remove)
            yield model

    def check_finite(self) -> None:
        """Check that every key and value is finite.

        Raises:
            PatchError: a key or a value is not finite.
        """
        for name, book in self.codebooks.items():
            if not book.is_finite:
                raise PatchError(f"the codebook of {name} is not finite; make a smaller change, or edit in float32")

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors; provenance, labels and the rule in its metadata) atomically.

        Raises:
            PatchError: a value is not finite.
            OutputError: the file can't be written.
        """
        tensors: dict[str, Tensor] = {}
        for name, book in self.codebooks.items():
            tensors |= {f"{name}.keys": book.keys, f"{name}.values": book.values}
        content = {name: as_json(book) for name, book in self.codebooks.items()}
        return write_patch(path, kind="grace", provenance=self.provenance, content=content, tensors=tensors)

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch in a file.

        Raises:
            PatchError: its parts don't fit together.
        """
        try:
            books = {
                name: from_json(own, keys=file.tensors[f"{name}.keys"], values=file.tensors[f"{name}.values"])
                for name, own in file.content.items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is damaged: {error}; make the patch again") from error
        return cls(codebooks=books, provenance=file.provenance)


Places = Callable[[], Tensor | None]  # gives a mask [tokens] of the tokens to look up in this pass; None: all


@contextmanager
def _looked_up(model: LanguageModel, name: str, lookup: Lookup) -> Iterator[Places]:
    """Yield a function that gives the tokens to look up in the codebook beside the weight ``name``.

    It reads the numbers of rows and tokens from the block's input [rows, tokens, d], because some model families
    flatten the input of their MLP.
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
    """The block that contains the weight ``name``."""
    return next(block for at, block in enumerate(model.blocks) if name.startswith(f"{model.spec.blocks}.{at}."))


def _replacer(book: Codebook, places: Places) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that replaces the output [..., d_out] by a value at each of ``places`` whose key is in a ball."""
    regions, values = book.regions, book.values

    def replace(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal regions, values
        inputs = args[0].reshape(-1, args[0].shape[-1])  # some model families flatten the input of their MLP
        if values.device != inputs.device or values.dtype != output.dtype:
            regions, values = regions.to(inputs.device), values.to(inputs.device, output.dtype)
        with torch.no_grad():
            entry = _entries(regions, book.deferral.placed(inputs), places())
        flat = output.reshape(len(inputs), -1)
        changed = torch.where((entry >= 0)[:, None], values[entry.clamp(min=0)], flat)
        return changed.reshape(output.shape)

    return replace


def _entries(regions: Regions, points: Tensor, places: Tensor | None) -> Tensor:
    """The entry for each of ``points`` [tokens, d_in]; -1 outside all balls and outside ``places``."""
    if places is None:
        return regions.of(points)
    entries = torch.full((len(points),), -1, device=points.device)
    chosen = places.to(points.device)
    entries[chosen] = regions.of(points[chosen])
    return entries


def without_codebooks(patch: Patch) -> Patch | None:
    """A patch or stack without its codebook patches; None if nothing is left."""
    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    kept = [part for part in parts if not isinstance(part, CodebookPatch)]
    return PatchStack.of(*kept) if kept else None
