"""MeLLo's loop (Zhong et al., EMNLP 2023, arXiv 2305.14795): subquestions, answered and checked against a memory.

A language model writes after demonstrations, and is stopped where it would write a fact itself:

    Question: which city is the capital of the country that Mirel is a citizen of?
    Subquestion: …                                  by the model: the next step
    Generated answer: …                             by the model: what it believes
    Retrieved fact: …                               inserted: the memory's fact that is nearest to the subquestion
    Retrieved fact contradicts to generated answer, so the intermediate answer is: …       by the model: the check
    …
    Final answer: …

`decompose` is the loop; it takes any function that writes, and any function that finds a fact. `demonstrations` are the
examples; they are invented, so no benchmark contains their facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

QUESTION, SUBQUESTION, BELIEVED = "Question:", "Subquestion:", "Generated answer:"
RETRIEVED, FINAL = "Retrieved fact:", "Final answer:"
STOPS = (RETRIEVED, QUESTION, "\n\n")
"""The texts that stop a writer: the beginning of a fact or of a new question, and an empty line."""

_CONTRADICTS = "Retrieved fact contradicts to generated answer, so the intermediate answer is:"
_AGREES = "Retrieved fact does not contradict to generated answer, so the intermediate answer is:"
_UNKNOWN = "nothing is known of it"


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
        going = [dialogue for dialogue in dialogues if dialogue.ended == "limit"]
        if not going:
            break
        for dialogue, written in zip(going, write([before + dialogue.text for dialogue in going]), strict=True):
            lines, final, answer = written.rstrip().partition(FINAL)
            text = f"{dialogue.text}\n{lines.strip()}" if lines.strip() else dialogue.text
            # A small model may write several subquestions before it comes to an answer; the last one counts.
            subquestions = [
                line.removeprefix(SUBQUESTION).strip() for line in lines.splitlines() if line.startswith(SUBQUESTION)
            ]
            step = None
            if subquestions and subquestions[-1] and not final:
                step = Step(subquestions[-1], nearest(subquestions[-1]) or _UNKNOWN)
                text += f"\n{RETRIEVED} {step.fact}."
            if not fits(f"{before}{text}\n{FINAL}"):
                dialogue.ended = "context"
                continue
            dialogue.text = text
            if step:
                dialogue.steps.append(step)
            elif final:
                dialogue.answer, dialogue.ended = answer.strip().partition("\n")[0] or None, "answer"
            else:
                dialogue.ended = "form"
    for dialogue in dialogues:
        dialogue.text += f"\n{FINAL}"
    return dialogues


def demonstrations(count: int) -> str:
    """Return the first ``count`` examples (of `DEMONSTRATIONS`), each followed by an empty line."""
    return "".join(f"{example}\n\n" for example in DEMONSTRATIONS[:count])


def _example(question: str, *hops: tuple[str, str, str, str, bool], final: str) -> str:
    """An example from its hops: subquestion, generated answer, retrieved fact, intermediate answer, contradiction."""
    lines = [f"{QUESTION} {question}"]
    for subquestion, believed, fact, answer, contradicts in hops:
        check = _CONTRADICTS if contradicts else _AGREES
        lines += [f"{SUBQUESTION} {subquestion}", f"{BELIEVED} {believed}", f"{RETRIEVED} {fact}", f"{check} {answer}"]
    return "\n".join([*lines, f"{FINAL} {final}"])


DEMONSTRATIONS = (
    _example(
        "In which city is the head office of the publisher of Harbour Lights?",
        (
            "Who is the publisher of Harbour Lights?",
            "Harbour Lights was published by Penbrook.",
            "The publisher of Harbour Lights is Tallis House.",
            "Tallis House",
            True,
        ),
        (
            "In which city is the head office of Tallis House?",
            "The head office of Tallis House is in Leeds.",
            "The head office of Tarn Brothers is in Oslo.",
            "Leeds",
            False,
        ),
        final="Leeds",
    ),
    _example(
        "What is the official language of the country that Mirel Dovan is a citizen of?",
        (
            "What country is Mirel Dovan a citizen of?",
            "Mirel Dovan is a citizen of Romania.",
            "Mirela Stan is married to Ion Dovan.",
            "Romania",
            False,
        ),
        (
            "What is the official language of Romania?",
            "The official language of Romania is Romanian.",
            "The official language of Romania is Finnish.",
            "Finnish",
            True,
        ),
        final="Finnish",
    ),
    _example(
        "Who wrote the song that Anna Belk is best known for?",
        (
            "Which song is Anna Belk best known for?",
            "Anna Belk is best known for Slow River.",
            "Anna Belk is best known for Paper Moons.",
            "Paper Moons",
            True,
        ),
        (
            "Who wrote Paper Moons?",
            "Paper Moons was written by Carl Emmer.",
            "Paper Kites was founded in Melbourne.",
            "Carl Emmer",
            False,
        ),
        final="Carl Emmer",
    ),
    _example(
        "On which continent is the country where the sport of the team Ridge Foxes was invented?",
        (
            "Which sport does the team Ridge Foxes play?",
            "The Ridge Foxes play hockey.",
            "The team Ridge Foxes plays cricket.",
            "cricket",
            True,
        ),
        (
            "In which country was cricket invented?",
            "Cricket was invented in England.",
            "Cricket was invented in Kenya.",
            "Kenya",
            True,
        ),
        (
            "On which continent is Kenya?",
            "Kenya is in Africa.",
            "Keflavik is located in Iceland.",
            "Africa",
            False,
        ),
        final="Africa",
    ),
)
"""Four examples, as in the publication, of two to three steps; the memory has the right fact for some steps only."""
