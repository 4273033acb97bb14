"""Patches of the prompt: relevant edited facts are put before a text; no weight changes.

- `PromptPatch`: books of facts, applied to a model or saved.
- `FactBook`: facts under one rule, and the search for the facts that are relevant to a prompt.
- `PromptFact`: one fact. `TellingRule`: which facts are relevant to a prompt, and how they are put before it.

Only the text of the prompt is used for the search, never the target, so no target can leak into it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Kind, Patch, joined
from kg_edit.patches.container import PatchFile, write_patch
from kg_edit.text.matching import bare_question
from kg_edit.text.similarity import Index, Similarity, TfIdf, best, letters_apart, similarity

_ROOM = 256  # tokens reserved for a prompt and its answer where examples are fitted


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptPatch(Patch):
    """Books of facts, one for each rule. Adding patches appends the facts that have the same rule.

    ``applied`` yields another `LanguageModel` with the same weights; use that one. If the model has a
    ``prompt_transform`` already, it runs afterwards, on the text with the facts.
    """

    kind: ClassVar[Kind] = "prompt"
    file_kind: ClassVar[str] = "prompt"
    rule_class: ClassVar[type[TellingRule]]

    books: tuple[FactBook, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The number of facts, the gate and the threshold of each rule."""
        return ", ".join(
            f"{len(book.facts)} facts told by {book.rule.gate} ≥ {book.rule.threshold:g}" for book in self.books
        )

    @property
    def is_empty(self) -> bool:
        """Whether no book holds a fact."""
        return not any(book.facts for book in self.books)

    def prompt_transform(self, text: str) -> str:
        """The prompt that the model reads instead of ``text``: the relevant facts, then the text.

        Raises:
            ConfigError: the books' encoder is not installed.
        """
        return self._told(text)

    def _told(self, text: str, *, examples: int | None = None) -> str:
        """`prompt_transform` with at most so many other facts as examples; None: as many as the rules say."""
        whole = text
        for book in self._telling:
            whole = book.prompt_transform(text, examples=examples).removesuffix(text) + whole
        return whole

    @cached_property
    def _telling(self) -> tuple[FactBook, ...]:
        """The books without facts for which another book has a later one, the book with the latest fact first."""
        made, latest = self._made, dict[str, int]()
        for fact in made:
            about = fact.about.casefold()
            latest[about] = max(latest.get(about, -1), made[fact])
        books = [
            book.only([fact for fact in book.facts if made[fact] == latest[fact.about.casefold()]])
            for book in self.books
        ]
        return tuple(sorted(books, key=lambda book: -max((made[fact] for fact in book.facts), default=-1)))

    @property
    def _made(self) -> dict[PromptFact, int]:
        """The place of each fact's edit among the edits; -1 if none has its id. A corrected file has an id again."""
        places: dict[str, list[int]] = {}
        for place, record in enumerate(self.edits):
            places.setdefault(record.get("edit", {}).get("id"), []).append(place)
        return {fact: self._last(fact, places.get(fact.id, [])) for book in self.books for fact in book.facts}

    def _last(self, fact: PromptFact, places: Sequence[int]) -> int:
        """The last of the places whose edit tells ``fact``; without such a place, the last one."""
        telling = [place for place in places if _tells(self.edits[place], fact)]
        return max(telling or places, default=-1)

    def without(self, ids: Collection[str]) -> PromptPatch:
        """The patch without the edits with these ids, as if they had never been made.

        Raises:
            PatchError: the patch has no edit with one of the ids.
        """
        unknown = set(ids) - {fact.id for book in self.books for fact in book.facts}
        if unknown:
            raise PatchError(f"the patch has no edit {', '.join(map(repr, sorted(unknown)))}; check its edits' ids")
        books = tuple(book.without(ids) for book in self.books)
        edits = [record for record in self.edits if record.get("edit", {}).get("id") not in ids]
        return replace(self, books=books, provenance={**self.provenance, "edits": edits})

    def transform_for(self, model: LanguageModel) -> Callable[[str], str]:
        """The function that turns a text into the prompt for ``model``.

        It is `prompt_transform`, with fewer other facts as examples if the model's positions hold no more.
        """
        own, positions = max((book.rule.own_examples for book in self.books), default=0), model.positions
        if positions is None or not own:
            return self.prompt_transform
        room = positions - reserved(positions)

        def fitted(text: str) -> str:
            """The prompt with as many examples as leave room for the answer."""
            tried = (self._told(text, examples=count) for count in range(own, 0, -1))
            fits = (told for told in tried if len(model.tokenizer(told)["input_ids"]) <= room)
            return next(fits, None) or self._told(text, examples=0)

        return fitted

    def _plus(self, other: PromptPatch) -> PromptPatch:
        """The facts of both patches, this one's first; rules keep their order."""
        books = {book.rule: book for book in self.books}
        for book in other.books:
            books[book.rule] = books[book.rule] + book if book.rule in books else book
        return replace(self, books=tuple(books.values()), provenance=joined(self.provenance, other.provenance))

    @contextmanager
    def stacked_on(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Another `LanguageModel` with the same weights, whose prompts get the facts; ``model`` is unchanged."""
        self.check_model(model)
        yield replace(model, prompt_transform=_after(self.transform_for(model), model.prompt_transform))

    def check_finite(self) -> None:
        """Do nothing: the patch holds only text, no numbers."""

    def save(self, path: str | Path) -> Path:
        """Write ``path`` atomically: a safetensors file without tensors, with all content in its metadata.

        Raises:
            OutputError: the file can't be written.
        """
        content = [
            {"rule": book.rule.model_dump(mode="json"), "facts": [fact.model_dump(mode="json") for fact in book.facts]}
            for book in self.books
        ]
        return write_patch(path, kind=self.file_kind, provenance=self.provenance, content=content, tensors={})

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """The patch in a file.

        Raises:
            PatchError: the file has no readable facts.
        """
        try:
            books = tuple(_book(book, cls.rule_class) for book in file.content)
        except (TypeError, KeyError, ValidationError) as error:
            raise PatchError(f"can't read the facts of the patch {file.path}: {error}; make the patch again") from error
        return cls(books=books, provenance=file.provenance)


def _tells(record: Mapping[str, Any], fact: PromptFact) -> bool:
    """Whether the record of an edit with the fact's id is that of the fact."""
    target: str = record.get("edit", {}).get("target_new", "")
    return record["told"] == fact.told if "told" in record else target in fact.told


def reserved(positions: int) -> int:
    """The number of a model's positions that examples leave to a prompt and its answer; at most a quarter."""
    return min(_ROOM, positions // 4)


def _book(said: Mapping[str, Any], rule: type[TellingRule]) -> FactBook:
    facts = tuple(PromptFact.model_validate(fact) for fact in said["facts"])
    return FactBook(rule=rule.model_validate(said["rule"]), facts=facts)


def _after(first: Callable[[str], str], then: Callable[[str], str] | None) -> Callable[[str], str]:
    return first if then is None else lambda text: then(first(text))


@dataclass(frozen=True, kw_only=True)
class FactBook:
    """Facts in the order of their edits, with the rule that applies to them."""

    rule: TellingRule
    facts: tuple[PromptFact, ...]
    alike: Similarity | None = field(default=None, compare=False, repr=False)  # an existing one, to be reused

    def __add__(self, other: FactBook) -> FactBook:
        """The facts of both books, this one's first; both must have the same rule."""
        return FactBook(rule=self.rule, facts=self.facts + other.facts, alike=self.alike or other.alike)

    def without(self, ids: Collection[str]) -> FactBook:
        """The book without the edits with these ids, as if they had never been made."""
        return self.only([fact for fact in self.facts if fact.id not in ids])

    def only(self, facts: Sequence[PromptFact]) -> FactBook:
        """The book with these facts of it; the same book if they are all."""
        return self if len(facts) == len(self.facts) else replace(self, facts=tuple(facts))

    def relevant(self, prompt: str) -> tuple[PromptFact, ...]:
        """The facts to put before ``prompt``, the most similar first; for equal similarity, the earlier fact first.

        For a prompt of several paragraphs, only the last one is compared: the others are examples in the prompt.

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

    def prompt_transform(self, prompt: str, *, examples: int | None = None) -> str:
        """``prompt`` with the relevant examples and facts before it; the most similar one of each comes last.

        ``examples`` is the maximum number of other facts that are shown as examples; None: as the rule says.

        Raises:
            ConfigError: the encoder is not installed.
        """
        facts = self.relevant(prompt)
        if not facts:
            return prompt
        rule = self.rule
        most = rule.own_examples if examples is None else min(examples, rule.own_examples)
        shown = "".join(f"{example}\n\n" for example in reversed(self._examples(facts, most)))
        lines = "".join(f"{rule.before_fact}{fact.told}\n" for fact in reversed(facts))
        return f"{shown}{lines}{rule.before_prompt}{prompt}"

    def _examples(self, facts: tuple[PromptFact, ...], most: int) -> list[str]:
        """The examples to show: those of the first fact, then at most ``most`` other facts of the book as examples."""
        rule, others = self.rule, [n for n, fact in enumerate(self._current) if fact not in facts]
        scores = self._index.scores(facts[0].about) if most else []
        near = [others[n] for n in best([scores[n] for n in others], most)] if scores else []
        shown = [self._current[n].told for n in near]
        return [*facts[0].examples, *(f"{rule.before_fact}{told}\n{rule.before_prompt}{told}" for told in shown)]

    @cached_property
    def _current(self) -> tuple[PromptFact, ...]:
        """The facts that may be used: the latest fact for each ``about``, without withheld ones, in order."""
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
        """The indices of facts whose prompt differs from ``question`` in few enough letters; empty without a limit."""
        most = self.rule.letters
        if most is None:
            return set()
        return {n for n, fact in enumerate(self._current) if letters_apart(fact.about, question) <= most}

    def _named(self, question: str) -> list[float]:
        return [self._words.share(fact.subject, question) for fact in self._current]


class PromptFact(BaseModel):
    """The fact of one edit, as text for the model.

    A prompt is compared with ``about``, the edit's own prompt without its target. Of two facts with the same ``about``,
    only the later one is used. ``told`` is the text of the fact. ``examples`` are shown before it; the most similar one
    is the first in the tuple. A ``withheld`` fact is stored but never shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    subject: str
    about: str
    told: str
    examples: tuple[str, ...] = ()
    withheld: bool = False


class TellingRule(BaseModel):
    """Settings: which facts are relevant to a prompt, and how they are put before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Literal["subject", "similarity"] = Field(
        "subject", description="a fact belongs to a prompt that names its subject, or that is like the edit's prompt"
    )
    threshold: float = Field(
        0.75, ge=0, le=1, description="how much of the subject must be named, or how alike the two must be, 0 to 1"
    )
    most: PositiveInt = Field(3, description="maximum number of facts told before a prompt, the most similar ones")
    encoder: str | None = Field(
        None, description="sentence encoder: a sentence-transformers name or folder; unset: TF-IDF"
    )
    before_fact: str = Field("", description="text before each fact, such as 'New Fact: '")
    before_prompt: str = Field("", description="text before the prompt, such as 'Prompt: '")
    own_examples: int = Field(0, ge=0, description="number of other facts of the patch that are shown as examples")
    letters: int | None = Field(
        None,
        ge=0,
        description="a fact also belongs to a question that differs from the edit's prompt by at most so many letters",
    )


PromptPatch.rule_class = TellingRule
