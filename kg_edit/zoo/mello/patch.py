"""MeLLo's patch: the model answers a question step by step, with a memory of edited facts (`mello.loop`).

For each text, the model first writes subquestions and tentative answers. After each, it reads the nearest fact and
decides whether the two contradict each other. The final prompt is this whole dialogue, up to "Final answer:". No weight
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.patches.prompt_patch import FactBook, PromptPatch, PromptRule
from kg_edit.text.matching import bare_question
from kg_edit.zoo.mello.loop import DEMONSTRATIONS, STOPS, Dialogue, decompose, demonstrations
from kg_edit.zoo.mello.writing import GreedyWriter
from wikidata_cache.terminal import number_of

_ANSWER = 32  # positions that a dialogue leaves free for the answer


class LoopRule(PromptRule):
    """Settings: how a fact is found for a subquestion, and how long the loop may run."""

    steps: PositiveInt = Field(4, description="maximum number of subquestions")
    tokens: PositiveInt = Field(96, description="maximum number of tokens written before a fact is inserted")
    shots: NonNegativeInt = Field(len(DEMONSTRATIONS), description="number of answered examples before the question")


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
        rule = self.facts[-1][0] if self.facts else LoopRule(gate="similarity", threshold=0.0)
        assert isinstance(rule, LoopRule)  # noqa: S101 - rule_class
        return rule

    def prompt_transform(self, text: str, *, examples: int | None = None) -> str:
        """Always raises: the loop needs a model, see `transform_for`.

        Raises:
            PatchError: always.
        """
        raise PatchError("this patch asks the model subquestions, so it needs the model; use patch.applied(model)")

    def transform_for(self, model: LanguageModel) -> Callable[[str], str]:
        """Return a function that turns a text into the dialogue that ``model`` writes about it."""
        return (lambda text: text) if self.is_empty else _Dialogues(self, model)

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
            write: any model: continues texts up to the first of `STOPS`.
            fits: as in `decompose`.

        Raises:
            ConfigError: the encoder of the facts is not installed.
        """

        def nearest(subquestion: str) -> str | None:
            facts = self._memory.relevant(subquestion)
            return facts[0].text if facts else None

        rule = self.rule
        before = demonstrations(rule.shots)
        return decompose(questions, write=write, nearest=nearest, before=before, steps=rule.steps, fits=fits)

    @cached_property
    def _memory(self) -> FactBook:
        return FactBook(rule=self.rule, facts=tuple(fact for book in self.books for fact in book.facts))


class _Dialogues:
    """A model's dialogues about the questions that it is asked, each written once; those of `foresee` together."""

    def __init__(self, patch: LoopPatch, model: LanguageModel) -> None:
        self._patch, self._model, self._known = patch, model, dict[str, Dialogue]()

    def __call__(self, text: str) -> str:
        self.foresee([text])
        return demonstrations(self._patch.rule.shots) + self._known[bare_question(text)].text

    def foresee(self, texts: Iterable[str]) -> None:
        """Write the dialogues about ``texts`` that are not known yet."""
        unknown = [question for question in dict.fromkeys(map(bare_question, texts)) if question not in self._known]
        if unknown:
            dialogues = self._patch.dialogues(unknown, write=partial(self._writer.write, stops=STOPS), fits=self._fits)
            self._known |= zip(unknown, dialogues, strict=True)

    def _fits(self, text: str) -> bool:
        positions = self._model.positions
        return positions is None or len(encode(self._model.tokenizer, text).ids) <= positions - _ANSWER

    @cached_property
    def _writer(self) -> GreedyWriter:
        rule = self._patch.rule
        return GreedyWriter(self._model, tokens=rule.tokens, before=demonstrations(rule.shots))  # reads the examples
