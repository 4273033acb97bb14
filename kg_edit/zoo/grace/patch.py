"""GRACE's patch: a codebook replaces the output of a module (Hartvigsen et al., NeurIPS 2023, arXiv 2211.11031).

A token's key x [d_ff] is the module's input. If x lies in a ball ||x - k_i|| <= eps_i of the codebook, the module's
output [d] is replaced by the value v_i of that entry. Otherwise nothing changes (`grace.codebook`).

The setting `Deferral.lookup` selects the tokens that are looked up:

- ``prompt-end``, as published: only the last token of the prompt. Scoring and decoding pass the ends of prompts to the
  patch (`kg_edit.models.hooks.tell_prompt_ends`). Otherwise a row of several tokens ends at its last token.
- ``every-token``: all tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kg_common.terminal import number_of
from kg_edit.errors import PatchError
from kg_edit.models.hooks import ask_for_prompt_ends, read_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import join_provenances
from kg_edit.patches.adapter_patch import layer_of
from kg_edit.patches.base import ChangedPart, Patch, PatchStack, without_edits
from kg_edit.patches.container import PatchFile
from kg_edit.patches.weight_patch import module_of
from kg_edit.zoo.grace.codebook import Codebook, Deferral


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CodebookPatch(Patch):
    """Codebooks by the name of the weight whose module's output they replace; the module's input is the key.

    Adding patches appends the entries. `without` removes edits exactly, as if they had never been made.
    """

    changed_part: ClassVar[ChangedPart] = "adapter"
    file_kind: ClassVar[str] = "grace"
    book_class: ClassVar[type[Codebook]] = Codebook

    codebooks: Mapping[str, Codebook]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The modules, with the number of keys and of edits for each."""
        parts = []
        for name, book in self.codebooks.items():
            keys = number_of(len(book.regions.entries), "key")
            parts.append(f"{name}: {keys} for {number_of(len(book), 'edit')}")
        return ", ".join(parts)

    @property
    def nbytes(self) -> int:
        """The bytes of all keys and values."""
        return sum(book.keys.nbytes + book.values.nbytes for book in self.codebooks.values())

    @property
    def is_empty(self) -> bool:
        """Whether no codebook has an entry."""
        return not any(len(book) for book in self.codebooks.values())

    def without(self, ids: Collection[str]) -> Self:
        """Return the patch without the edits with these ids, as if they had never been made."""
        known = set[str]()
        for book in self.codebooks.values():
            known.update(book.ids)
        provenance = without_edits(self.provenance, ids, known=known)
        books = {name: book.without(ids) for name, book in self.codebooks.items()}
        return replace(self, codebooks=books, provenance=provenance)

    def depends_on(self, earlier: Patch) -> bool:
        """Return whether ``earlier`` changes the model beneath the codebooks: other codebooks do not."""
        return not isinstance(earlier, CodebookPatch)

    def tensors_of_edit(self, index: int) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return {}, because `without` removes single edits exactly."""
        return {}

    def _plus(self, other: Self) -> Self:
        books = dict(self.codebooks)
        for name, more in other.codebooks.items():
            if name in books and books[name].deferral != more.deferral:
                raise PatchError(
                    f"can't add codebooks of {name} with different rules ({books[name].deferral!r} and "
                    f"{more.deferral!r}); make both with the same radius, expand, metric and lookup"
                )
            if name in books:
                books[name] = books[name] + more
            else:
                books[name] = more
        return replace(self, codebooks=books, provenance=join_provenances(self.provenance, other.provenance))

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Attach a codebook lookup to each of the modules within the ``with`` block; no weight changes."""
        self.check_model(model)
        books = {name: book for name, book in self.codebooks.items() if len(book)}
        modules = {name: module_of(model, name, shape=book.shape) for name, book in books.items()}
        with ExitStack() as stack:
            if any(book.deferral.lookup == "prompt-end" for book in books.values()):
                stack.enter_context(ask_for_prompt_ends(model))
            for name, book in books.items():
                stack.enter_context(self._attached(model, name, modules[name], book))
            yield model

    @contextmanager
    def _attached(self, model: LanguageModel, name: str, module: nn.Module, book: Any) -> Iterator[None]:
        """Within the ``with`` block, the codebook acts on the module with the weight ``name``."""
        lookup = _Lookup(model, book)
        block = model.block(layer_of(model, name))
        with (
            block.register_forward_pre_hook(lookup.record_shape, with_kwargs=True),
            module.register_forward_hook(lookup.replace_output),
        ):
            yield

    def check_finite(self) -> None:
        """Check that every key and value is finite."""
        for name, book in self.codebooks.items():
            if not (torch.isfinite(book.keys).all() and torch.isfinite(book.values).all()):
                raise PatchError(f"the codebook of {name} is not finite; make a smaller change, or edit in float32")

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensors: dict[str, Tensor] = {}
        content: dict[str, Any] = {}
        for name, book in self.codebooks.items():
            tensors |= {f"{name}.keys": book.keys, f"{name}.values": book.values}
            rule = book.deferral.model_dump(mode="json")
            content[name] = {"labels": list(book.labels), "ids": list(book.ids), "deferral": rule}
        return content, tensors

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """Build the patch of a file."""
        books: dict[str, Codebook] = {}
        try:
            for name, entry in file.content.items():
                labels = entry["labels"]
                ids = entry["ids"]
                keys = file.tensors[f"{name}.keys"]
                values = file.tensors[f"{name}.values"]
                axes = keys.dim(), values.dim()
                if not isinstance(labels, list) or not isinstance(ids, list) or axes != (2, cls.book_class.axes):
                    raise ValueError(
                        f"labels and ids must be lists, keys [entries, in]; keys and values have {axes} axes"
                    )
                if not len(keys) == len(values) == len(labels) == len(ids):
                    raise ValueError(f"{len(keys)} keys, {len(values)} values, {len(labels)} labels and {len(ids)} ids")
                rule = Deferral.model_validate(entry["deferral"])
                books[name] = cls.book_class(
                    keys=keys, values=values, labels=tuple(labels), ids=tuple(ids), deferral=rule
                )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PatchError(f"the patch {file.path} is damaged: {error}; make the patch again") from error
        return cls(codebooks=books, provenance=file.provenance)


class _Lookup:
    """The hooks by which a codebook replaces the output of a module.

    `record_shape` runs before the module's block, and `replace_output` after the module. The codebook's tensors are
    moved to the module's device in the first call.
    """

    def __init__(self, model: LanguageModel, book: Codebook) -> None:
        self._model = model
        self._deferral = book.deferral
        self._regions = book.regions
        self._values = book.values
        self._shape = (0, 0)  # rows and tokens of the block's last call

    def record_shape(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record how many rows and tokens the block reads."""
        hidden_states = args[0] if args else kwargs["hidden_states"]  # [rows, tokens, d]
        rows, tokens, _ = hidden_states.shape
        self._shape = (rows, tokens)

    def replace_output(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return v_i at each token that is looked up and whose key lies in ball i, else the module's output."""
        inputs = args[0].reshape(-1, args[0].shape[-1])  # [tokens, d_ff]; some families flatten their MLP's input
        if self._values.device != inputs.device or self._values.dtype != output.dtype:
            self._regions = self._regions.to(inputs.device)
            self._values = self._values.to(inputs.device, output.dtype)
        with torch.no_grad():
            entries = self._find_entries(self._deferral.to_points(inputs))  # [tokens]
        flat = output.reshape(len(inputs), -1)  # [tokens, d]
        values = self._values[entries.clamp(min=0)]  # [tokens, d]; of any entry where there is none
        changed = torch.where((entries >= 0)[:, None], values, flat)
        return changed.reshape(output.shape)

    def _find_entries(self, points: Tensor) -> Tensor:
        """Return the entry of each of ``points`` [tokens, d_ff], or -1."""
        if self._deferral.lookup == "every-token":
            return self._regions.find_entries(points)
        ends = read_prompt_ends(self._model, *self._shape).flatten().to(points.device)  # [tokens]
        entries = torch.full((len(points),), -1, device=points.device)
        entries[ends] = self._regions.find_entries(points[ends])
        return entries


def without_codebooks(patch: Patch) -> Patch | None:
    """Return a patch or stack without its codebook patches; None if nothing is left."""
    remaining = [part for part in patch.parts if not isinstance(part, CodebookPatch)]
    return PatchStack.of(*remaining) if remaining else None
