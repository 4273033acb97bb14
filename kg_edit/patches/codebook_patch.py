"""A patch beside the weights: at tokens whose key lies in a codebook, a module's output is replaced by a value.

The published program looks at the prompt's last token only, and so has to be told where the prompt ends. Here every
token is looked up: it needs no such knowledge, and is the same for a text alone, padded, generated with a cache, or
packed with others into one row (`kg_edit.scoring.likelihood`).
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
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, joined
from kg_edit.patches.codebook import Codebook, as_json, from_json
from kg_edit.patches.container import CODEBOOK, PatchFile, write_patch
from kg_edit.patches.modules import module_of

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
        """Whether there is no entry."""
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
                    f"{more.deferral!r}); make both with the same radius, expand and metric"
                )
            books[name] = books[name] + more if name in books else more
        return CodebookPatch(codebooks=books, provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def worn(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """The model, with a look into the codebook after each of the modules; no weight moves."""
        self.check_model(model)
        modules = {name: module_of(model, name, shape=book.shape) for name, book in self.codebooks.items()}
        with ExitStack() as stack:
            for name, module in modules.items():
                handle = module.register_forward_hook(_replacer(self.codebooks[name]))
                stack.callback(handle.remove)
            yield model

    def check_finite(self) -> None:
        """Look at all keys and values.

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
        except (AttributeError, KeyError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is no whole codebook: {error}; make it anew") from error
        return cls(codebooks=books, provenance=provenance)


def without_codebooks(patch: Patch) -> Patch | None:
    """A patch, or a stack of them, but for its codebooks; None if nothing is left."""
    from kg_edit.patches.patch_stack import PatchStack

    parts = patch.patches if isinstance(patch, PatchStack) else (patch,)
    kept = [part for part in parts if not isinstance(part, CodebookPatch)]
    return PatchStack.of(*kept) if kept else None


def _replacer(book: Codebook) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook: the module's output [..., d_out], with a value at each token whose input lies in a ball."""
    regions, values = book.regions, book.values

    def replace(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal regions, values
        inputs = args[0].reshape(-1, args[0].shape[-1])  # some families run their MLP on flattened rows
        if values.device != inputs.device or values.dtype != output.dtype:
            regions, values = regions.to(inputs.device), values.to(inputs.device, output.dtype)
        with torch.no_grad():
            entry = regions.of(book.deferral.placed(inputs))
        flat = output.reshape(len(inputs), -1)
        changed = torch.where((entry >= 0)[:, None], values[entry.clamp(min=0)], flat)
        return changed.reshape(output.shape)

    return replace
