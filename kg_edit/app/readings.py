"""What a model does with prompts as it stands: its greedy continuations, and the probabilities of candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import Pair, check_lengths, score

TOKENS = 16  # that are written after a prompt


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and what may follow it."""

    prompt: str
    candidates: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The text that follows, and the probability of each whole candidate."""

    text: str
    chances: tuple[float, ...]


def check_questions(model: LanguageModel, questions: Sequence[Question]) -> None:
    """Encode everything once, before an edit is computed.

    Raises:
        PromptError: a prompt's end and a candidate can't be told apart.
        ModelError: a prompt and what follows it don't fit into the model's positions.
    """
    for question in questions:
        check_lengths(model, [model.encode(question.prompt)], more=TOKENS)
        check_lengths(model, [model.encode(question.prompt, target=name) for name in question.candidates])


def read(model: LanguageModel, questions: Sequence[Question]) -> tuple[Reading, ...]:
    """A reading of each question. p(candidate) = exp(-n nll), with n its tokens and nll their mean.

    Raises:
        PromptError: a prompt's end and a candidate can't be told apart.
        ModelError: the model's output is not finite, or a prompt does not fit into its positions.
    """
    texts = continuations(model, [question.prompt for question in questions], limits=[TOKENS] * len(questions))
    scores = score(model, [Pair(question.prompt, name) for question in questions for name in question.candidates])

    def chance(prompt: str, name: str) -> float:
        tokens = len(model.encode(prompt, target=name).target_ids)
        return math.exp(-tokens * scores[Pair(prompt, name)].nll)

    return tuple(
        Reading(text=text.strip(), chances=tuple(chance(question.prompt, name) for name in question.candidates))
        for question, text in zip(questions, texts, strict=True)
    )
