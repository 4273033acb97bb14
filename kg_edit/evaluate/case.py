"""What is scored (a case) and what the scores are made of (evidence)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kg_edit.edits import Edit
from kg_edit.evaluate.questions import ANSWER, asked, asked_with_shots
from kg_edit.evaluate.scoring import Pair, TokenScores


@dataclass(frozen=True, kw_only=True)
class Case:
    """A record to be scored: an edit; for each portability question, answers to choose from and facts to tell.

    A case with facts is about its questions alone: it asks what a model could answer that has learned them.
    """

    edit: Edit
    choices: tuple[tuple[str, ...], ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """Each question in the plain form."""
        return self._ask(asked)

    @property
    def few_shot_prompts(self) -> tuple[str, ...]:
        """Each question in the few-shot form."""
        return self._ask(asked_with_shots)

    @property
    def answer_pairs(self) -> list[Pair]:
        """Each question's answer after its plain form."""
        answers = (question.answer for question in self.edit.portability)
        return list(map(Pair, self.prompts, answers))

    @property
    def pairs(self) -> list[Pair]:
        """All that the metrics of this case compare."""
        choices = [
            Pair(prompt, answer)
            for question, answers in zip(self.prompts, self.choices, strict=False)
            for answer in answers
            for prompt in (question, ANSWER)
        ]
        return [*([] if self.facts else self._fact_pairs), *self.answer_pairs, *choices]

    @property
    def _fact_pairs(self) -> list[Pair]:
        prompts = (self.edit.text, *self.edit.paraphrases, *self.edit.neighborhood)
        targets = [target for target in (self.edit.target_new, self.edit.target_true) if target]
        return [Pair(prompt.rstrip(), target) for prompt in prompts for target in targets]

    def _ask(self, form: Callable[[str, str], str]) -> tuple[str, ...]:
        facts = self.facts or ("",) * len(self.edit.portability)
        questions = (question.question for question in self.edit.portability)
        return tuple(form(question, told) for question, told in zip(questions, facts, strict=True))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model did: scores of (prompt, candidate) pairs, and its greedy continuation of prompts."""

    scores: Mapping[Pair, TokenScores] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def nll(self, prompt: str, candidate: str) -> float:
        """The candidate's mean negative log-likelihood a token, in nats."""
        return self.scores[Pair(prompt.rstrip(), candidate)].nll
