"""A patch of the prompt: facts that the model is told before a text that they belong to; no weight changes.

- `PromptPatch`: books of facts, applied to a model or saved.
- `FactBook`: the facts of one rule, and which of them belong to a prompt.
- `PromptFact`: one fact. `TellingRule`: which facts belong to a prompt, and how they are put before it.

Only the prompt's text decides: whoever asks for a fact has no target at hand, so none can leak into the search.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, joined
from kg_edit.patches.container import PROMPT, PatchFile, write_patch
from kg_edit.text.similarity import Index, Similarity, TfIdf, best, letters_apart, similarity
from kg_edit.text.subquestions import bare_question

_SAID = "facts"


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptPatch(Patch):
    """Books of facts, one a rule. Patches add by putting the facts of one rule one after the other.

    ``applied`` yields another `LanguageModel` over the same weights; ask that one. What the model is told already, by
    its own ``prompt_transform``, comes after: the facts become part of the text that is handed to it.
    """

    kind: ClassVar[Kind] = "prompt"
    format: ClassVar[str] = PROMPT
    rule_class: ClassVar[type[TellingRule]]

    books: tuple[FactBook, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """How many facts there are, and at which gate and threshold each rule tells them."""
        return ", ".join(
            f"{len(book.facts)} facts told by {book.rule.gate} ≥ {book.rule.threshold:g}" for book in self.books
        )

    @property
    def is_empty(self) -> bool:
        """Whether no book holds a fact."""
        return not any(book.facts for book in self.books)

    def prompt_transform(self, text: str) -> str:
        """What the model reads where it is asked ``text``: the facts that belong to it, then the text.

        Raises:
            ConfigError: the books' encoder is not installed.
        """
        whole = text
        for book in self.books:
            whole = book.prompt_transform(text).removesuffix(text) + whole
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
        return replace(self, books=books, provenance={**self.provenance, "edits": edits})

    def transform_for(self, model: LanguageModel) -> Callable[[str], str]:
        """What makes of a text what ``model`` reads; here `prompt_transform`, which needs no model."""
        return self.prompt_transform

    def _plus(self, other: PromptPatch) -> PromptPatch:
        """Facts one after the other; a rule keeps its place."""
        books = {book.rule: book for book in self.books}
        for book in other.books:
            books[book.rule] = books[book.rule] + book if book.rule in books else book
        return replace(self, books=tuple(books.values()), provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def stacked_on(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Another `LanguageModel` over the same weights, which is told the facts; ``model`` itself stays as it is."""
        self.check_model(model)
        yield replace(model, prompt_transform=_after(self.transform_for(model), model.prompt_transform))

    def check_finite(self) -> None:
        """Accept the patch: it holds text alone, no numbers."""

    def save(self, path: str | Path) -> Path:
        """Write ``path``: a safetensors file without tensors, all in its metadata, atomically.

        Raises:
            OutputError: the file can't be written.
        """
        said = [
            {"rule": book.rule.model_dump(mode="json"), "facts": [fact.model_dump(mode="json") for fact in book.facts]}
            for book in self.books
        ]
        return write_patch(path, format=self.format, provenance={**self.provenance, _SAID: said}, tensors={})

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch that a file holds.

        Raises:
            PatchError: it holds no facts that can be read.
        """
        provenance = dict(file.provenance)
        said = provenance.pop(_SAID, None)
        try:
            books = tuple(_book(book, cls.rule_class) for book in said)
        except (TypeError, KeyError, ValidationError) as error:
            raise PatchError(f"the patch {file.path} holds no facts that can be read: {error}; make it anew") from error
        return cls(books=books, provenance=provenance)


def _book(said: Mapping[str, Any], rule: type[TellingRule]) -> FactBook:
    facts = tuple(PromptFact.model_validate(fact) for fact in said["facts"])
    return FactBook(rule=rule.model_validate(said["rule"]), facts=facts)


def _after(first: Callable[[str], str], then: Callable[[str], str] | None) -> Callable[[str], str]:
    return first if then is None else lambda text: then(first(text))


@dataclass(frozen=True, kw_only=True)
class FactBook:
    """Facts in the order of their edits, under one rule."""

    rule: TellingRule
    facts: tuple[PromptFact, ...]
    alike: Similarity | None = field(default=None, compare=False, repr=False)  # one made before, to be used again

    def __add__(self, other: FactBook) -> FactBook:
        """The facts of both, this one's first; the two have one rule."""
        return FactBook(rule=self.rule, facts=self.facts + other.facts, alike=self.alike or other.alike)

    def without(self, ids: Collection[str]) -> FactBook:
        """The book of a call that never made the edits with these ids."""
        kept = tuple(fact for fact in self.facts if fact.id not in ids)
        return FactBook(rule=self.rule, facts=kept, alike=self.alike)

    def relevant(self, prompt: str) -> tuple[PromptFact, ...]:
        """The facts that are told before ``prompt``, most alike first, of equals the earlier one.

        A prompt of several paragraphs is compared by its last one: those before it are examples that it brought along.

        Raises:
            ConfigError: the encoder is not installed.
        """
        bare = self.rule.letters is not None
        question = bare_question(prompt) if bare else prompt.rstrip().rpartition("\n\n")[2]
        scores = self._index.scores(question)
        shares = scores if self.rule.gate == "similarity" else self._named(question)
        near = self._spelt_alike(question)
        fits = [place for place, share in enumerate(shares) if share >= self.rule.threshold or place in near]
        chosen = best([scores[place] for place in fits], self.rule.most)
        return tuple(self._current[fits[place]] for place in chosen)

    def prompt_transform(self, prompt: str) -> str:
        """``prompt`` with what belongs to it in front: examples, then facts, each with the most alike one last.

        Raises:
            ConfigError: the encoder is not installed.
        """
        facts = self.relevant(prompt)
        if not facts:
            return prompt
        rule = self.rule
        examples = "".join(f"{example}\n\n" for example in reversed(self._examples(facts)))
        lines = "".join(f"{rule.before_fact}{fact.told}\n" for fact in reversed(facts))
        return f"{examples}{lines}{rule.before_prompt}{prompt}"

    def _examples(self, facts: tuple[PromptFact, ...]) -> list[str]:
        """The first fact's own examples, then other facts of the book, each repeated after itself."""
        rule, others = self.rule, [n for n, fact in enumerate(self._current) if fact not in facts]
        scores = self._index.scores(facts[0].about) if rule.own_examples else []
        near = [others[n] for n in best([scores[n] for n in others], rule.own_examples)] if scores else []
        shown = [self._current[n].told for n in near]
        return [*facts[0].examples, *(f"{rule.before_fact}{told}\n{rule.before_prompt}{told}" for told in shown)]

    @cached_property
    def _current(self) -> tuple[PromptFact, ...]:
        """What may be told: the last fact about each thing, at its own place."""
        last = {fact.about.casefold(): place for place, fact in enumerate(self.facts)}
        return tuple(self.facts[place] for place in sorted(last.values()) if not self.facts[place].withheld)

    @cached_property
    def _index(self) -> Index:
        alike = self.alike or similarity(self.rule.encoder)
        return alike.index([fact.about for fact in self._current])

    @cached_property
    def _words(self) -> TfIdf:
        return TfIdf()

    def _spelt_alike(self, question: str) -> set[int]:
        """The places of the facts whose prompts are few enough letters from ``question``; none without a limit."""
        most = self.rule.letters
        if most is None:
            return set()
        return {n for n, fact in enumerate(self._current) if letters_apart(fact.about, question) <= most}

    def _named(self, question: str) -> list[float]:
        return [self._words.share(fact.subject, question) for fact in self._current]


class PromptFact(BaseModel):
    """The fact of one edit, as the model is told it.

    ``about`` is what a prompt is compared with: the edit's own prompt, without its target. Of two facts about the same
    the later is told. ``examples`` stand before it, the one most like it first. A fact that is ``withheld`` is known
    and never told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    subject: str
    about: str
    told: str
    examples: tuple[str, ...] = ()
    withheld: bool = False


class TellingRule(BaseModel):
    """Which facts belong to a prompt, and what is made of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Literal["subject", "similarity"] = Field(
        "subject", description="a fact belongs to a prompt that names its subject, or that is like the edit's prompt"
    )
    threshold: float = Field(
        0.75, ge=0, le=1, description="how much of the subject must be named, or how alike the two must be, 0 to 1"
    )
    most: PositiveInt = Field(3, description="facts told before one prompt, those most like it")
    encoder: str | None = Field(
        None, description="sentence encoder: a sentence-transformers name or folder; unset: TF-IDF"
    )
    before_fact: str = Field("", description="stands before each fact, such as 'New Fact: '")
    before_prompt: str = Field("", description="stands before the prompt, such as 'Prompt: '")
    own_examples: int = Field(0, ge=0, description="other facts of the patch, shown as examples")
    letters: int | None = Field(
        None,
        ge=0,
        exclude_if=lambda found: found is None,
        description="a fact also belongs to a question that is so many letters from the edit's prompt at most",
    )


PromptPatch.rule_class = TellingRule
