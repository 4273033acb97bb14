"""MeLLo's loop (Zhong et al., EMNLP 2023, arXiv 2305.14795): subquestions, answered and checked against a memory.

A language model writes after demonstrations, and is stopped wherever it would write a fact itself:

    Question: which city is the capital of the country that Mirel is a citizen of?
    Subquestion: …                                  written: the next step
    Generated answer: …                             written: what the model believes
    Retrieved fact: …                               put in: the fact of the memory that is nearest to the subquestion
    Retrieved fact contradicts to generated answer, so the intermediate answer is: …       written: the check
    …
    Final answer: …

`decompose` is the loop; it takes anything that writes (`Writer`) and anything that finds a fact. `demonstrations` are
the examples, made up so that no benchmark has their facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

QUESTION, SUBQUESTION, BELIEVED = "Question:", "Subquestion:", "Generated answer:"
RETRIEVED, FINAL, ANSWER = "Retrieved fact:", "Final answer:", "Answer:"
STOPS = (RETRIEVED, QUESTION, "\n\n")
"""Where a writer is stopped: before a fact, and where it would go on with a question of its own."""

_CONTRADICTS = "Retrieved fact contradicts to generated answer, so the intermediate answer is:"
_AGREES = "Retrieved fact does not contradict to generated answer, so the intermediate answer is:"
_UNKNOWN = "nothing is known of it"

Ended = Literal["answer", "form", "limit"]


class Writer(Protocol):
    """A language model, as the loop uses it."""

    def write(self, text: str, *, stops: Sequence[str]) -> str:
        """What comes after ``text``, up to the first of ``stops``, which is left out."""


class Step(NamedTuple):
    """A subquestion as the model put it, and the fact that was found for it."""

    subquestion: str
    fact: str


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """What was written about one question.

    ``text`` goes from "Question:" to "Final answer:"; the answer comes next. ``answer`` is the model's own, None where
    it did not come to one. ``ended``: by an answer, by a text that asks no subquestion, or at the limit of steps.
    """

    text: str
    steps: tuple[Step, ...]
    answer: str | None
    ended: Ended


def decompose(
    question: str, *, writer: Writer, nearest: Callable[[str], str | None], before: str = "", steps: int = 4
) -> Dialogue:
    """Let ``writer`` ask and answer subquestions of ``question`` after the text ``before``, at most ``steps`` of them.

    ``nearest`` gives the fact, without a full stop, that belongs to a subquestion; None where there is none. As in the
    published program, which takes the text as it comes; but a text in which no subquestion is left ends the loop here
    with a final answer still to be written, where the program gives up.
    """
    text, taken = f"{QUESTION} {question}", list[Step]()
    for _ in range(steps):
        written = writer.write(before + text, stops=STOPS).rstrip()
        lines, final, answer = written.partition(FINAL)
        text += _own_line(lines)
        if final:
            return _dialogue(text, taken, answer=answer.strip().partition("\n")[0], ended="answer")
        subquestion = _last_subquestion(lines)
        if subquestion is None:
            return _dialogue(text, taken, answer=None, ended="form")
        taken.append(Step(subquestion, nearest(subquestion) or _UNKNOWN))
        text += f"\n{RETRIEVED} {taken[-1].fact}."
    return _dialogue(text, taken, answer=None, ended="limit")


def _dialogue(text: str, steps: Sequence[Step], *, answer: str | None, ended: Ended) -> Dialogue:
    return Dialogue(text=f"{text}\n{FINAL}", steps=tuple(steps), answer=answer or None, ended=ended)


def _own_line(written: str) -> str:
    return f"\n{written.strip()}" if written.strip() else ""


def _last_subquestion(written: str) -> str | None:
    asked = [line for line in written.splitlines() if line.startswith(SUBQUESTION)]
    return asked[-1].removeprefix(SUBQUESTION).strip() or None if asked else None


def bare_question(prompt: str) -> str:
    """The question of a prompt in the forms of this project ("Question: …", then "Answer:"); else its last paragraph.

    Examples before it and facts told before it are left out.
    """
    paragraph = prompt.rstrip().rpartition("\n\n")[2]
    _, asked, rest = paragraph.rpartition(QUESTION)
    return (rest.rpartition(ANSWER)[0] or rest).strip() if asked else paragraph.strip()


def demonstrations(count: int) -> str:
    """The first ``count`` examples (of `DEMONSTRATIONS`), an empty line after each."""
    return "".join(f"{example}\n\n" for example in DEMONSTRATIONS[:count])


def _example(question: str, *hops: tuple[str, str, str, str, bool], final: str) -> str:
    """An example from its hops: subquestion, generated answer, retrieved fact, intermediate answer, contradiction."""
    lines = [f"{QUESTION} {question}"]
    for asked, believed, fact, answer, contradicts in hops:
        check = _CONTRADICTS if contradicts else _AGREES
        lines += [f"{SUBQUESTION} {asked}", f"{BELIEVED} {believed}", f"{RETRIEVED} {fact}", f"{check} {answer}"]
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
"""Four, as many as published: two to three steps each, the memory being right about some and of no use for others."""
