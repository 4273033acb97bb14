"""A patch of the prompt: facts that the model is told before a text that they belong to; no weight moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, joined
from kg_edit.patches.container import PROMPT, PatchFile, write_patch
from kg_edit.retrieval.factbook import Fact, FactBook, TellingRule

_SAID = "facts"


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptPatch(Patch):
    """Books of facts, one a rule. Patches add by putting the facts of one rule one after the other.

    ``applied`` yields another `LanguageModel` over the same weights; ask that one. What the model is told already, by
    its own ``told``, comes after: the facts become part of the text that is handed to it.
    """

    kind: ClassVar[Kind] = "prompt"

    books: tuple[FactBook, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """How many facts are told, and when."""
        return ", ".join(
            f"{len(book.facts)} facts told by {book.rule.gate} ≥ {book.rule.threshold:g}" for book in self.books
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no fact."""
        return not any(book.facts for book in self.books)

    def told(self, text: str) -> str:
        """What the model reads where it is asked ``text``: the facts that belong to it, then the text.

        Raises:
            ConfigError: the books' encoder is not installed.
        """
        whole = text
        for book in self.books:
            whole = book.told(text).removesuffix(text) + whole
        return whole

    def without(self, ids: Collection[str]) -> PromptPatch:
        """The patch with the edits of these ids taken back: that of a call that never made them.

        Raises:
            PatchError: an id is of no edit here.
        """
        unknown = set(ids) - {fact.id for book in self.books for fact in book.facts}
        if unknown:
            raise PatchError(f"the patch has no edit {', '.join(map(repr, sorted(unknown)))}; look at its edits' ids")
        books = tuple(book.without(ids) for book in self.books)
        edits = [record for record in self.edits if record.get("edit", {}).get("id") not in ids]
        return PromptPatch(books=books, provenance={**self.provenance, "edits": edits})

    def _plus(self, other: PromptPatch) -> PromptPatch:
        """Facts one after the other; a rule keeps its place."""
        books = {book.rule: book for book in self.books}
        for book in other.books:
            books[book.rule] = books[book.rule] + book if book.rule in books else book
        return PromptPatch(books=tuple(books.values()), provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def worn(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Another view of the model, which is told the facts; the model itself reads as before."""
        self.check_model(model)
        yield replace(model, told=_after(self.told, model.told))

    def check_finite(self) -> None:
        """Nothing to look at: there are no numbers."""

    def save(self, path: str | Path) -> Path:
        """Write ``path``: a safetensors file without tensors, all in its metadata, atomically.

        Raises:
            OutputError: the file can't be written.
        """
        said = [
            {"rule": book.rule.model_dump(mode="json"), "facts": [fact.model_dump(mode="json") for fact in book.facts]}
            for book in self.books
        ]
        return write_patch(path, format=PROMPT, provenance={**self.provenance, _SAID: said}, tensors={})

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch that a file holds.

        Raises:
            PatchError: it holds no facts that can be read.
        """
        provenance = dict(file.provenance)
        said = provenance.pop(_SAID, None)
        try:
            books = tuple(map(_book, said))
        except (TypeError, KeyError, ValidationError) as error:
            raise PatchError(f"the patch {file.path} holds no facts that can be read: {error}; make it anew") from error
        return cls(books=books, provenance=provenance)


def _book(said: Mapping[str, Any]) -> FactBook:
    facts = tuple(Fact.model_validate(fact) for fact in said["facts"])
    return FactBook(rule=TellingRule.model_validate(said["rule"]), facts=facts)


def _after(first: Callable[[str], str], then: Callable[[str], str] | None) -> Callable[[str], str]:
    return first if then is None else lambda text: then(first(text))
