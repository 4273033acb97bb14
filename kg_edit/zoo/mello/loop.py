"""MeLLo's loop (Zhong et al., EMNLP 2023, arXiv 2305.14795): subquestions, answered and checked against a memory.

A language model writes after demonstrations, and is stopped where it would write a fact itself:

    Question: which city is the capital of the country that Mirel is a citizen of?
    Subquestion: …                                  by the model: the next step
    Generated answer: …                             by the model: what it believes
    Retrieved fact: …                               inserted: the memory's fact that is nearest to the subquestion
    Retrieved fact contradicts to generated answer, so the intermediate answer is: …       by the model: the check
    …
    Final answer: …

`decompose` is the loop; it takes any function that writes, and any function that finds a fact. What the model reads
before the question is in `mello.demonstrations`. `LoopWords` are the marks of the lines in the language of the edits.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from kg_edit.languages import ENGLISH, words_of
from kg_edit.text.fact_words import has_translated_words
from kg_edit.writing_systems import join

QUESTION = "Question:"
SUBQUESTION = "Subquestion:"
BELIEVED = "Generated answer:"
RETRIEVED = "Retrieved fact:"
FINAL = "Final answer:"
STOPS = (RETRIEVED, QUESTION, "\n\n")
"""The texts that stop an English writer: the beginning of a fact or of a new question, and an empty line."""


class LoopWords(NamedTuple):
    """The marks of the lines in a language, what stands for a missing fact, and the two results of a check."""

    language: str
    question: str
    subquestion: str
    believed: str
    retrieved: str
    final: str
    unknown: str
    contradicts: str
    agrees: str

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that stop a writer, as in `STOPS`."""
        return (self.retrieved, self.question, "\n\n")

    def state(self, fact: str) -> str:
        """Return the line of a fact, with one full stop."""
        stop = words_of(self.language).stop
        return join(self.retrieved, fact.removesuffix(stop)) + stop


ENGLISH_LOOP = LoopWords(
    language=ENGLISH,
    question=QUESTION,
    subquestion=SUBQUESTION,
    believed=BELIEVED,
    retrieved=RETRIEVED,
    final=FINAL,
    unknown="nothing is known of it",
    contradicts="Retrieved fact contradicts to generated answer, so the intermediate answer is:",
    agrees="Retrieved fact does not contradict to generated answer, so the intermediate answer is:",
)


def loop_words(language: str) -> LoopWords:
    """Return the words of the loop in a language; the English ones if it has none."""
    if not has_translated_words(language):
        return ENGLISH_LOOP
    table = packaged_loop(language)
    return LoopWords(language=language, **{key: table[key] for key in LoopWords._fields[1:]})


def packaged_loop(language: str) -> dict[str, Any]:
    """Return what ``data/mello_words.toml`` has of a language: its words and its answered examples."""
    text = files("kg_edit").joinpath("data", "mello_words.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)[language]
    return table


class Step(NamedTuple):
    """A subquestion of the model, and the fact that was found for it."""

    subquestion: str
    fact: str


@dataclass(kw_only=True)
class Dialogue:
    """The text of the loop for one question.

    Attributes:
        text: from "Question:" to "Final answer:"; the answer is to follow.
        steps: the subquestions with their facts.
        answer: the model's own answer, or None.
        ended: why the loop ended: an answer, a text without a subquestion ("form"), no room for a further step in the
            model's context, or the limit of steps.
    """

    text: str
    steps: list[Step] = field(default_factory=list)
    answer: str | None = None
    ended: Literal["answer", "form", "context", "limit"] = "limit"


def decompose(
    questions: Sequence[str],
    *,
    write: Callable[[Sequence[str]], Sequence[str]],
    nearest: Callable[[str], str | None],
    before: str = "",
    steps: int = 4,
    fits: Callable[[str], bool] = lambda _: True,
    words: LoopWords = ENGLISH_LOOP,
) -> list[Dialogue]:
    """Let a model ask and answer subquestions of each question.

    The loop follows the published program, which uses the model's text unchanged. One difference: if the text has no
    subquestion, the program gives up; here the loop ends with a final answer still to be written.

    Args:
        questions: each gets its own dialogue; those that are still open are continued together.
        write: continues texts, up to the first of `STOPS`, which is left out.
        nearest: returns the fact for a subquestion, without a full stop, or None.
        before: the text before each question, such as `demonstrations`.
        steps: the largest number of subquestions.
        fits: whether the model has room for a text and an answer; a step that doesn't fit is left out, and ends the
            dialogue.
        words: those of the language of the facts.
    """
    dialogues = [Dialogue(text=join(words.question, question)) for question in questions]
    for _ in range(steps):
        unfinished = [dialogue for dialogue in dialogues if dialogue.ended == "limit"]
        if not unfinished:
            break
        texts = write([before + dialogue.text for dialogue in unfinished])
        for dialogue, written in zip(unfinished, texts, strict=True):
            add_step(dialogue, written, nearest=nearest, fits=lambda text: fits(before + text), words=words)
    for dialogue in dialogues:
        dialogue.text += f"\n{words.final}"
    return dialogues


def add_step(
    dialogue: Dialogue,
    written: str,
    *,
    nearest: Callable[[str], str | None],
    fits: Callable[[str], bool],
    words: LoopWords,
) -> None:
    """Add to a dialogue what the model wrote and the fact for its subquestion, or end the dialogue.

    Args:
        dialogue: is changed.
        written: the model's text: an intermediate answer, then a subquestion with a tentative answer, or the final one.
        nearest: as in `decompose`.
        fits: whether the model has room for the dialogue's text and an answer.
        words: as in `decompose`.
    """
    lines, final, answer = written.rstrip().partition(words.final)
    text = dialogue.text
    if lines.strip():
        text += f"\n{lines.strip()}"

    step = None
    subquestion = find_last_subquestion(lines, words.subquestion)
    if subquestion and not final:
        step = Step(subquestion, nearest(subquestion) or words.unknown)
        text += f"\n{words.state(step.fact)}"

    if not fits(f"{text}\n{words.final}"):
        dialogue.ended = "context"
        return
    dialogue.text = text
    if step is not None:
        dialogue.steps.append(step)
    elif final:
        first_line = answer.strip().partition("\n")[0]
        dialogue.answer = first_line or None
        dialogue.ended = "answer"
    else:
        dialogue.ended = "form"


def find_last_subquestion(lines: str, mark: str) -> str:
    """Return the last subquestion, or "": a small model may write several before it comes to an answer.

    ``mark`` begins its line.
    """
    subquestion = ""
    for line in lines.splitlines():
        if line.startswith(mark):
            subquestion = line.removeprefix(mark).strip()
    return subquestion
