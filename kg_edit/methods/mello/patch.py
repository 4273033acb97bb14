"""MeLLo's patch: the model answers a question step by step, with a memory of edited facts (`text.subquestions`).

For each text, the model first writes subquestions and tentative answers. After each, it is shown the nearest fact and
says whether the two contradict each other. The final prompt is this whole dialogue, up to "Final answer:". No weight
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.errors import PatchError
from kg_edit.methods.mello.loop import (
    DEMONSTRATIONS,
    STOPS,
    Dialogue,
    Writer,
    decompose,
    decompose_each,
    demonstrations,
)
from kg_edit.methods.mello.writing import GreedyWriter
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.patches.prompt_patch import FactBook, PromptPatch, TellingRule
from kg_edit.text.matching import bare_question

_ANSWER = 32  # positions that a dialogue leaves free for the answer


class LoopRule(TellingRule):
    """Settings: how a fact is found for a subquestion, and how long the loop may run."""

    steps: PositiveInt = Field(4, description="maximum number of subquestions")
    tokens: PositiveInt = Field(96, description="maximum number of tokens written before a fact is inserted")
    shots: NonNegativeInt = Field(len(DEMONSTRATIONS), description="number of answered examples before the question")


@dataclass(frozen=True, eq=False, kw_only=True)
class LoopPatch(PromptPatch):
    """The memory of facts for the loop. The facts of all books form one memory, under the rule of the last book.

    While the patch is applied, the dialogue about each question is cached, so texts that ask the same share it.
    """

    file_kind: ClassVar[str] = "mello"
    rule_class: ClassVar[type[TellingRule]] = LoopRule

    @property
    def summary(self) -> str:
        """The number of facts, and the largest number of steps of the loop."""
        count = sum(len(book.facts) for book in self.books)
        return f"{count} facts looked up by up to {self.rule.steps} subquestions"

    @property
    def rule(self) -> LoopRule:
        """The rule for all facts, which is that of the last book."""
        rule = self.books[-1].rule if self.books else LoopRule(gate="similarity", threshold=0.0)
        assert isinstance(rule, LoopRule)  # noqa: S101 - rule_class
        return rule

    def prompt_transform(self, text: str) -> str:
        """Always raises: the loop needs a model, see `transform_for`.

        Raises:
            PatchError: always.
        """
        raise PatchError("this patch asks the model subquestions, so it needs the model; use patch.applied(model)")

    def transform_for(self, model: LanguageModel) -> Callable[[str], str]:
        """A function that turns a text into the dialogue that ``model`` writes about it."""
        return (lambda text: text) if self.is_empty else _Dialogues(self, model)

    def dialogue(self, text: str, *, writer: Writer) -> Dialogue:
        """The dialogue that ``writer`` writes about the question in ``text``.

        Raises:
            ConfigError: the books' encoder is not installed.
        """
        before = demonstrations(self.rule.shots)
        return decompose(bare_question(text), writer=writer, nearest=self.nearest, before=before, steps=self.rule.steps)

    def nearest(self, subquestion: str) -> str | None:
        """The fact for a subquestion, without a full stop; None if no fact is similar enough."""
        found = self._memory.relevant(subquestion)
        return found[0].told if found else None

    @cached_property
    def _memory(self) -> FactBook:
        facts = tuple(fact for book in self._telling for fact in book.facts)
        return FactBook(rule=self.rule, facts=facts, alike=self.books[-1].alike)


class _Dialogues:
    """A model's dialogues about the questions that it is asked, each written once; those of `foresee` together."""

    def __init__(self, patch: LoopPatch, model: LanguageModel) -> None:
        self._patch, self._model = patch, model
        self._before, self._known = demonstrations(patch.rule.shots), dict[str, Dialogue]()

    def __call__(self, text: str) -> str:
        self.foresee([text])
        return self._before + self._known[bare_question(text)].text

    def foresee(self, texts: Iterable[str]) -> None:
        """Write the dialogues about ``texts`` that are not known yet."""
        asked = [one for one in dict.fromkeys(map(bare_question, texts)) if one not in self._known]
        if asked:
            found = decompose_each(
                asked,
                write=self._write,
                nearest=self._patch.nearest,
                before=self._before,
                steps=self._patch.rule.steps,
                fits=self._fits,
            )
            self._known |= zip(asked, found, strict=True)

    def _write(self, texts: Sequence[str]) -> list[str]:
        return self._writer.write_each(texts, stops=STOPS)

    def _fits(self, text: str) -> bool:
        positions = self._model.positions
        return positions is None or len(encode(self._model.tokenizer, text).ids) <= positions - _ANSWER

    @cached_property
    def _writer(self) -> GreedyWriter:
        return GreedyWriter(self._model, tokens=self._patch.rule.tokens, before=self._before)  # reads the examples
