"""MeLLo's loop (Zhong et al., EMNLP 2023, arXiv 2305.14795): subquestions, answered and checked against a memory.

A language model writes after demonstrations, and is stopped where it would write a fact itself:

    Question: which city is the capital of the country that Mirel is a citizen of?
    Subquestion: …                                  by the model: the next step
    Generated answer: …                             by the model: what it believes
    Retrieved fact: …                               inserted: the memory's fact that is nearest to the subquestion
    Retrieved fact contradicts to generated answer, so the intermediate answer is: …       by the model: the check
    …
    Final answer: …

`decompose` is the loop; it takes any object that writes (`Writer`) and any function that finds a fact. `decompose_each`
writes the dialogues of many questions together. `demonstrations`
are the examples; they are invented, so no benchmark contains their facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

QUESTION, SUBQUESTION, BELIEVED = "Question:", "Subquestion:", "Generated answer:"
RETRIEVED, FINAL = "Retrieved fact:", "Final answer:"
STOPS = (RETRIEVED, QUESTION, "\n\n")
"""The texts that stop a writer: the beginning of a fact or of a new question, and an empty line."""

_CONTRADICTS = "Retrieved fact contradicts to generated answer, so the intermediate answer is:"
_AGREES = "Retrieved fact does not contradict to generated answer, so the intermediate answer is:"
_UNKNOWN = "nothing is known of it"

Ended = Literal["answer", "form", "context", "limit"]


class Writer(Protocol):
    """The interface of the language model in the loop."""

    def write(self, text: str, *, stops: Sequence[str]) -> str:
        """The model's text after ``text``, up to the first of ``stops``, which is left out."""


class Step(NamedTuple):
    """A subquestion of the model, and the fact that was found for it."""

    subquestion: str
    fact: str


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """The text of the loop for one question.

    ``text`` goes from "Question:" to "Final answer:"; the answer is to follow. ``answer`` is the model's own answer, or
    None. ``ended`` is the reason for the end: an answer, a text without a subquestion ("form"), no room for a further
    step in the model's context, or the limit of steps.
    """

    text: str
    steps: tuple[Step, ...]
    answer: str | None
    ended: Ended


def decompose(
    question: str, *, writer: Writer, nearest: Callable[[str], str | None], before: str = "", steps: int = 4
) -> Dialogue:
    """`decompose_each` for one question, with any object that writes."""

    def write(texts: Sequence[str]) -> list[str]:
        return [writer.write(text, stops=STOPS) for text in texts]

    return decompose_each([question], write=write, nearest=nearest, before=before, steps=steps)[0]


def decompose_each(
    questions: Sequence[str],
    *,
    write: Callable[[Sequence[str]], Sequence[str]],
    nearest: Callable[[str], str | None],
    before: str = "",
    steps: int = 4,
    fits: Callable[[str], bool] = lambda _: True,
) -> list[Dialogue]:
    """Let a model ask and answer subquestions of each question after the text ``before``, at most ``steps`` of them.

    ``write`` continues texts up to the first of `STOPS`; in each step it gets all dialogues that are still open.
    ``nearest`` returns the fact for a subquestion, without a full stop, or None. ``fits`` says whether the model has
    room for a text and an answer; a step that doesn't fit is left out, and ends the dialogue. The loop follows the
    published program, which uses the text unchanged. One difference: if the text has no subquestion, the program gives
    up; here the loop ends with a final answer still to be written.
    """
    talks = [_Talk(f"{QUESTION} {question}") for question in questions]
    for _ in range(steps):
        going = [talk for talk in talks if talk.ended == "limit"]
        if not going:
            break
        for talk, written in zip(going, write([before + talk.text for talk in going]), strict=True):
            talk.read(written, nearest, fits=lambda text: fits(before + text))
    return [talk.dialogue() for talk in talks]


@dataclass
class _Talk:
    """A dialogue that is being written; ``ended`` is "limit" as long as it goes on."""

    text: str
    taken: list[Step] = field(default_factory=list)
    answer: str | None = None
    ended: Ended = "limit"

    def read(self, written: str, nearest: Callable[[str], str | None], *, fits: Callable[[str], bool]) -> None:
        """Add the model's text, and the fact for its last subquestion; or end here, if they don't fit."""
        lines, final, answer = written.rstrip().partition(FINAL)
        text, subquestion = self.text + _own_line(lines), None if final else _last_subquestion(lines)
        step = Step(subquestion, nearest(subquestion) or _UNKNOWN) if subquestion else None
        text += f"\n{RETRIEVED} {step.fact}." if step else ""
        if not fits(f"{text}\n{FINAL}"):
            self.ended = "context"
            return
        self.text = text
        if step:
            self.taken.append(step)
        elif final:
            self.answer, self.ended = answer.strip().partition("\n")[0] or None, "answer"
        else:
            self.ended = "form"

    def dialogue(self) -> Dialogue:
        """The dialogue, up to "Final answer:"."""
        return Dialogue(text=f"{self.text}\n{FINAL}", steps=tuple(self.taken), answer=self.answer, ended=self.ended)


def _own_line(written: str) -> str:
    return f"\n{written.strip()}" if written.strip() else ""


def _last_subquestion(written: str) -> str | None:
    asked = [line for line in written.splitlines() if line.startswith(SUBQUESTION)]
    return asked[-1].removeprefix(SUBQUESTION).strip() or None if asked else None


def demonstrations(count: int) -> str:
    """The first ``count`` examples (of `DEMONSTRATIONS`), each followed by an empty line."""
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
"""Four examples, as in the publication, of two to three steps; the memory has the right fact for some steps only."""
