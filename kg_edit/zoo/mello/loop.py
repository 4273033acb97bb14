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
before the question is in `mello.demonstrations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

QUESTION = "Question:"
SUBQUESTION = "Subquestion:"
BELIEVED = "Generated answer:"
RETRIEVED = "Retrieved fact:"
FINAL = "Final answer:"
STOPS = (RETRIEVED, QUESTION, "\n\n")
"""The texts that stop a writer: the beginning of a fact or of a new question, and an empty line."""

_UNKNOWN_FACT = "nothing is known of it"


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
    """
    dialogues = [Dialogue(text=f"{QUESTION} {question}") for question in questions]
    for _ in range(steps):
        unfinished = [dialogue for dialogue in dialogues if dialogue.ended == "limit"]
        if not unfinished:
            break
        texts = write([before + dialogue.text for dialogue in unfinished])
        for dialogue, written in zip(unfinished, texts, strict=True):
            add_step(dialogue, written, nearest=nearest, fits=lambda text: fits(before + text))
    for dialogue in dialogues:
        dialogue.text += f"\n{FINAL}"
    return dialogues


def add_step(
    dialogue: Dialogue, written: str, *, nearest: Callable[[str], str | None], fits: Callable[[str], bool]
) -> None:
    """Add to a dialogue what the model wrote and the fact for its subquestion, or end the dialogue.

    Args:
        dialogue: is changed.
        written: the model's text: an intermediate answer, then a subquestion with a tentative answer, or the final one.
        nearest: as in `decompose`.
        fits: whether the model has room for the dialogue's text and an answer.
    """
    lines, final, answer = written.rstrip().partition(FINAL)
    text = dialogue.text
    if lines.strip():
        text += f"\n{lines.strip()}"

    step = None
    subquestion = find_last_subquestion(lines)
    if subquestion and not final:
        step = Step(subquestion, nearest(subquestion) or _UNKNOWN_FACT)
        text += f"\n{RETRIEVED} {step.fact}."

    if not fits(f"{text}\n{FINAL}"):
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


def find_last_subquestion(lines: str) -> str:
    """Return the last subquestion, or "": a small model may write several before it comes to an answer."""
    subquestion = ""
    for line in lines.splitlines():
        if line.startswith(SUBQUESTION):
            subquestion = line.removeprefix(SUBQUESTION).strip()
    return subquestion
