"""Find out which facts a model knows, by asking each fact in three few-shot forms that are used nowhere else.

A fact is *known* if the answers to at least two of the three forms begin with its object or an alias, and *unknown* if
none does. The three examples of a relation are facts of the graph with three different objects; they show the form and
are not asked themselves. Answers are kept in the cache folder, so an interrupted build can resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from kg_edit.models.language_model import LanguageModel
from kg_edit.ripples.replies import KeptReplies
from kg_edit.ripples.words import RippleWords
from kg_edit.scoring.generation import ends_line
from kg_edit.scoring.greedy import greedy
from kg_edit.text.matching import begins_with

_STEPS = 7  # tokens of an answer, at most


@dataclass(frozen=True, order=True)
class AskedFact:
    """A fact (thing, relation, object) with all names that count as its object."""

    relation: str
    thing: str
    names: tuple[str, ...]

    @property
    def object(self) -> str:
        """The object's name in prompts and files."""
        return self.names[0]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Asks a model for facts. ``examples`` has three example facts for each relation; ``folder`` keeps the answers."""

    model: LanguageModel
    words: RippleWords
    examples: Mapping[str, Sequence[AskedFact]]
    folder: Path
    progress: bool = True
    _rights: dict[AskedFact, int] = field(default_factory=dict)

    def ask(self, facts: Iterable[AskedFact], *, about: str) -> None:
        """Ask for ``facts`` in all three forms; ``about`` is the title of the progress bar."""
        new = [fact for fact in dict.fromkeys(facts) if fact not in self._rights and self._may_ask(fact)]
        prompts = {(fact, form): self._prompt(fact, form) for fact in new for form in self.words.knowledge}
        texts = self._replies.texts(list(prompts.values()), about=about)
        for fact in new:
            said = [texts[prompts[fact, form]] for form in self.words.knowledge]
            self._rights[fact] = sum(any(begins_with(text, name) for name in fact.names) for text in said)

    def has_asked(self, fact: AskedFact) -> bool:
        """Whether the fact was asked: it is no example, and its relation has examples."""
        return fact in self._rights

    def knows(self, fact: AskedFact) -> bool:
        """Whether at least two of three forms got the object; False for a fact that was not asked."""
        return self._rights.get(fact, 0) >= 2

    def lacks(self, fact: AskedFact) -> bool:
        """Whether no form got the object; False for a fact that was not asked."""
        return self._rights.get(fact) == 0

    def _may_ask(self, fact: AskedFact) -> bool:
        """Whether the fact can be asked: its relation has examples, and none of them is about the same thing."""
        shown = self.examples.get(fact.relation, ())
        return bool(shown) and all(fact.thing != example.thing for example in shown)

    def _prompt(self, fact: AskedFact, form: str) -> str:
        noun = self.words.nouns[fact.relation]
        shown = [f"{_filled(form, noun, one.thing)} {one.object}" for one in self.examples[fact.relation]]
        return "\n".join([*shown, _filled(form, noun, fact.thing)])

    def _written(self, prompts: Sequence[str]) -> Iterator[str]:
        rows = [self.model.encode(prompt).ids for prompt in prompts]
        for written in greedy(self.model, rows, limits=[_STEPS] * len(rows), is_last=partial(ends_line, self.model)):
            yield str(self.model.tokenizer.decode(list(written.tokens))).lstrip().split("\n", 1)[0]

    @cached_property
    def _replies(self) -> KeptReplies:
        return KeptReplies(self.model, self.folder, f"examples, {_STEPS} tokens", self._written, self.progress)


def _filled(form: str, noun: str, thing: str) -> str:
    return form.replace("{noun}", noun).replace("{thing}", thing)
