"""Facts, and the rule that says which of them are told before which prompt, and how.

Only the prompt's text decides: whoever asks for a fact has no target at hand, so none can leak into the search.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from kg_edit.retrieval.tfidf import TfIdf
from kg_edit.text.similarity import Index, Similarity, best, similarity


class Fact(BaseModel):
    """What an edit has to tell.

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


@dataclass(frozen=True, kw_only=True)
class FactBook:
    """Facts in the order of their edits, under one rule."""

    rule: TellingRule
    facts: tuple[Fact, ...]
    alike: Similarity | None = field(default=None, compare=False, repr=False)  # one made before, to be used again

    def __add__(self, other: FactBook) -> FactBook:
        """The facts of both, this one's first; the two have one rule."""
        return FactBook(rule=self.rule, facts=self.facts + other.facts, alike=self.alike or other.alike)

    def without(self, ids: Collection[str]) -> FactBook:
        """The book of a call that never made the edits with these ids."""
        kept = tuple(fact for fact in self.facts if fact.id not in ids)
        return FactBook(rule=self.rule, facts=kept, alike=self.alike)

    def relevant(self, prompt: str) -> tuple[Fact, ...]:
        """The facts that are told before ``prompt``, most alike first, of equals the earlier one.

        A prompt of several paragraphs is compared by its last one: those before it are examples that it brought along.

        Raises:
            ConfigError: the encoder is not installed.
        """
        question = prompt.rstrip().rpartition("\n\n")[2]
        scores = self._index.scores(question)
        shares = scores if self.rule.gate == "similarity" else self._named(question)
        fits = [place for place, share in enumerate(shares) if share >= self.rule.threshold]
        chosen = best([scores[place] for place in fits], self.rule.most)
        return tuple(self._current[fits[place]] for place in chosen)

    def told(self, prompt: str) -> str:
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

    def _examples(self, facts: tuple[Fact, ...]) -> list[str]:
        """The first fact's own examples, then other facts of the book, each repeated after itself."""
        rule, others = self.rule, [n for n, fact in enumerate(self._current) if fact not in facts]
        scores = self._index.scores(facts[0].about) if rule.own_examples else []
        near = [others[n] for n in best([scores[n] for n in others], rule.own_examples)] if scores else []
        shown = [self._current[n].told for n in near]
        return [*facts[0].examples, *(f"{rule.before_fact}{told}\n{rule.before_prompt}{told}" for told in shown)]

    @cached_property
    def _current(self) -> tuple[Fact, ...]:
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

    def _named(self, question: str) -> list[float]:
        return [self._words.share(fact.subject, question) for fact in self._current]
