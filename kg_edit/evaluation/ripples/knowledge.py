"""Find out which facts a model knows, by asking each fact in three few-shot forms that no score uses.

A fact is *known* if the answers to at least two of the three forms begin with its object or an alias, and *unknown* if
none does. The three examples of a relation are facts of the graph with three different objects; they show the form and
are not asked themselves. Answers are stored in the cache folder, so an interrupted build can resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from kg_edit.evaluation.ripples.replies import stored_replies
from kg_edit.evaluation.ripples.words import RippleWords
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import ends_line
from kg_edit.scoring.greedy import greedy
from kg_edit.text.matching import begins_with

_TOKENS = 7  # tokens of an answer, at most


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
    """Asks a model for facts. ``examples`` has three example facts for each relation; ``folder`` stores the answers."""

    model: LanguageModel
    words: RippleWords
    examples: Mapping[str, Sequence[AskedFact]]
    folder: Path
    _rights: dict[AskedFact, int] = field(default_factory=dict)  # how many forms were answered right, by asked fact

    def ask(self, facts: Iterable[AskedFact], *, about: str) -> None:
        """Ask for ``facts`` in all three forms; ``about`` is the title of the progress bar."""
        prompts: dict[AskedFact, list[str]] = {}  # for each new fact, one prompt in each form
        for fact in dict.fromkeys(facts):
            if fact in self._rights:
                continue
            # A fact is asked if its relation has examples, and none of them is about the same thing.
            examples = self.examples.get(fact.relation, ())
            things = {example.thing for example in examples}
            if examples and fact.thing not in things:
                prompts[fact] = self._make_prompts(fact, examples)
        texts = stored_replies(
            self.model,
            list(chain.from_iterable(prompts.values())),
            self._generate,
            folder=self.folder,
            form=f"examples, {_TOKENS} tokens",
            about=about,
        )
        for fact, fact_prompts in prompts.items():
            self._rights[fact] = 0
            for prompt in fact_prompts:
                if any(begins_with(texts[prompt], name) for name in fact.names):
                    self._rights[fact] += 1

    def _make_prompts(self, fact: AskedFact, examples: Sequence[AskedFact]) -> list[str]:
        """Return a prompt in each form: the examples, and the fact without its object."""
        prompts = []
        for form in self.words.knowledge:
            stated = form.replace("{noun}", self.words.nouns[fact.relation])
            lines = [f"{stated.replace('{thing}', example.thing)} {example.object}" for example in examples]
            lines.append(stated.replace("{thing}", fact.thing))
            prompts.append("\n".join(lines))
        return prompts

    def _generate(self, prompts: Sequence[str]) -> Iterator[str]:
        """Yield the first line of each greedy answer."""
        rows = [self.model.encode(prompt).ids for prompt in prompts]
        limits = [_TOKENS] * len(rows)

        def has_line_break(tokens: Sequence[int]) -> bool:
            return ends_line(self.model, tokens[-1])

        for answer in greedy(self.model, rows, limits=limits, is_finished=has_line_break):
            text = str(self.model.tokenizer.decode(list(answer.tokens)))
            yield text.lstrip().split("\n", 1)[0]

    def has_asked(self, fact: AskedFact) -> bool:
        """Return whether the fact was asked: its relation has examples, and none of them is about the same thing."""
        return fact in self._rights

    def knows(self, fact: AskedFact) -> bool:
        """Return whether at least two of three forms got the object; False for a fact that was not asked."""
        return self._rights.get(fact, 0) >= 2

    def lacks(self, fact: AskedFact) -> bool:
        """Return whether no form got the object; False for a fact that was not asked."""
        return self._rights.get(fact) == 0
