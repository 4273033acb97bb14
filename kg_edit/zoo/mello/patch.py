"""MeLLo's patch: the model answers a question step by step, with a memory of edited facts (`mello.loop`).

For each text, the model first writes subquestions and tentative answers. After each, it reads the nearest fact and
decides whether the two contradict each other. The final prompt is this whole dialogue, up to "Final answer:". No weight
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_common.terminal import number_of
from kg_edit.errors import PatchError
from kg_edit.languages import ENGLISH
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.patches.prompt_patch import FactBook, PromptFact, PromptPatch, PromptRule
from kg_edit.text.matching import bare_question
from kg_edit.zoo.mello.demonstrations import DEMONSTRATIONS, show_demonstrations
from kg_edit.zoo.mello.greedy_writer import GreedyWriter
from kg_edit.zoo.mello.loop import Dialogue, decompose, loop_words

_ANSWER = 32  # positions that a dialogue leaves free for the answer


class LoopRule(PromptRule):
    """Settings: how a fact is found for a subquestion, and how long the loop may run."""

    steps: PositiveInt = Field(4, description="maximum number of subquestions")
    tokens: PositiveInt = Field(96, description="maximum number of tokens written before a fact is inserted")
    shots: NonNegativeInt = Field(len(DEMONSTRATIONS), description="number of answered examples before the question")
    language: str = Field(ENGLISH, description="of the loop's words", exclude_if=lambda code: code == ENGLISH)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LoopPatch(PromptPatch):
    """The memory of facts for the loop. All facts form one memory, under the rule of the last edit.

    While the patch is applied, the dialogue about each question is cached, so texts that ask the same share it.
    """

    file_kind: ClassVar[str] = "mello"
    rule_class: ClassVar[type[PromptRule]] = LoopRule

    @property
    def summary(self) -> str:
        """The number of facts, and the largest number of steps of the loop."""
        return f"{number_of(len(self.facts), 'fact')} looked up by up to {self.rule.steps} subquestions"

    @property
    def rule(self) -> LoopRule:
        """The rule for all facts, which is that of the last edit."""
        if self.facts:
            rule = self.facts[-1][0]
        else:
            rule = LoopRule(gate="similarity", threshold=0.0)
        assert isinstance(rule, LoopRule)  # noqa: S101 - rule_class
        return rule

    def prompt_transform(self, text: str, *, examples: int | None = None) -> str:
        """Raise an error: the loop needs a model, see `transform_for`."""
        raise PatchError("this patch asks the model subquestions, so it needs the model; use patch.applied(model)")

    def transform_for(self, model: LanguageModel) -> Callable[[str], str]:
        """Return a function that turns a text into the dialogue that ``model`` writes about it."""
        if self.is_empty:
            return lambda text: text
        return AskedDialogues(self, model)

    def dialogues(
        self,
        questions: Sequence[str],
        *,
        write: Callable[[Sequence[str]], Sequence[str]],
        fits: Callable[[str], bool] = lambda _: True,
    ) -> list[Dialogue]:
        """Return the dialogues about ``questions``, each as `bare_question` gives it.

        Args:
            questions: without examples and without "Question:".
            write: any model: continues texts up to the first of `LoopWords.stops`.
            fits: as in `decompose`.
        """

        def nearest(subquestion: str) -> str | None:
            facts = self._memory.find_relevant(subquestion)
            return facts[0].text if facts else None

        return decompose(
            questions,
            write=write,
            nearest=nearest,
            before=show_demonstrations(self.rule.shots, self.rule.language),
            steps=self.rule.steps,
            fits=fits,
            words=loop_words(self.rule.language),
        )

    @cached_property
    def _memory(self) -> FactBook:
        facts = list[PromptFact]()
        for book in self.books:
            facts += book.facts
        return FactBook(rule=self.rule, facts=tuple(facts))


class AskedDialogues:
    """Turns a text into a model's dialogue about its question; each is written once, those of `foresee` together."""

    def __init__(self, patch: LoopPatch, model: LanguageModel) -> None:
        self._patch = patch
        self._model = model
        self._examples = show_demonstrations(patch.rule.shots, patch.rule.language)
        self._stops = loop_words(patch.rule.language).stops
        self._known = dict[str, Dialogue]()  # by question

    def __call__(self, text: str) -> str:
        """Return the dialogue about the question in ``text``, after the examples."""
        self.foresee([text])
        return self._examples + self._known[bare_question(text)].text

    def foresee(self, texts: Iterable[str]) -> None:
        """Write the dialogues about ``texts`` that are not known yet."""
        questions = dict.fromkeys(bare_question(text) for text in texts)
        unknown = [question for question in questions if question not in self._known]
        if not unknown:
            return
        dialogues = self._patch.dialogues(unknown, write=self._write, fits=self._fits)
        for question, dialogue in zip(unknown, dialogues, strict=True):
            self._known[question] = dialogue

    def _write(self, texts: Sequence[str]) -> list[str]:
        return self._writer.write(texts, stops=self._stops)

    def _fits(self, text: str) -> bool:
        positions = self._model.max_positions
        return positions is None or len(encode(self._model.tokenizer, text).ids) <= positions - _ANSWER

    @cached_property
    def _writer(self) -> GreedyWriter:
        return GreedyWriter(self._model, tokens=self._patch.rule.tokens, before=self._examples)  # reads the examples
