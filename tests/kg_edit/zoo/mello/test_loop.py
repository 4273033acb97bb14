"""MeLLo's loop with a scripted model: facts are inserted into its text, and every end has its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kg_edit.text.matching import bare_question
from kg_edit.zoo.mello.demonstrations import DEMONSTRATIONS, show_demonstrations
from kg_edit.zoo.mello.loop import (
    FINAL,
    STOPS,
    SUBQUESTION,
    Dialogue,
    decompose,
)

QUESTION = "Where was the creator of Tetris born?"
MEMORY = {"Who created Tetris?": "Tetris was created by Mark Burnett"}
GOOD = (
    "\nSubquestion: Who created Tetris?\nGenerated answer: Tetris was created by Alexey Pajitnov.\n",
    "\nRetrieved fact contradicts to generated answer, so the intermediate answer is: Mark Burnett\n"
    "Subquestion: Where was Mark Burnett born?\nGenerated answer: Mark Burnett was born in London.\n",
    "\nRetrieved fact does not contradict to generated answer, so the intermediate answer is: London\n"
    "Final answer: London",
)


class Script:
    """A model that writes one text after the other, and records what it read."""

    def __init__(self, *texts: str) -> None:
        self._texts, self.read = list(texts), list[str]()

    def __call__(self, texts: Sequence[str]) -> list[str]:
        (text,) = texts
        self.read.append(text)
        written = self._texts.pop(0)
        return [written[: min([written.find(stop) for stop in STOPS if stop in written], default=len(written))]]


def dialogue(script: Script, question: str = QUESTION, **settings: Any) -> Dialogue:
    (result,) = decompose([question], write=script, **{"nearest": MEMORY.get, **settings})
    return result


def test_loop_inserts_facts_until_the_answer() -> None:
    script = Script(*GOOD)
    result = dialogue(script, before="shots\n\n")
    assert (result.answer, result.ended) == ("London", "answer")
    assert [tuple(step) for step in result.steps] == [
        ("Who created Tetris?", "Tetris was created by Mark Burnett"),
        ("Where was Mark Burnett born?", "nothing is known of it"),
    ]
    assert result.text.splitlines() == [
        "Question: Where was the creator of Tetris born?",
        "Subquestion: Who created Tetris?",
        "Generated answer: Tetris was created by Alexey Pajitnov.",
        "Retrieved fact: Tetris was created by Mark Burnett.",
        "Retrieved fact contradicts to generated answer, so the intermediate answer is: Mark Burnett",
        "Subquestion: Where was Mark Burnett born?",
        "Generated answer: Mark Burnett was born in London.",
        "Retrieved fact: nothing is known of it.",
        "Retrieved fact does not contradict to generated answer, so the intermediate answer is: London",
        "Final answer:",
    ]
    assert script.read[0] == f"shots\n\nQuestion: {QUESTION}"
    assert script.read[1].endswith("\nRetrieved fact: Tetris was created by Mark Burnett.")
    assert all(text.startswith("shots\n\n") for text in script.read)


def test_last_of_several_subquestions_is_looked_up() -> None:
    """A small model may write several before it comes to an answer."""
    script = Script("\nSubquestion: Who is he?\nSubquestion: Who created Tetris?\nGenerated answer: He.", *GOOD[1:])
    result = dialogue(script)
    assert result.steps[0].subquestion == "Who created Tetris?"


@pytest.mark.parametrize("text", ["", "\nI do not know.", "\nGenerated answer: London.\n", "\nSubquestion: \n"])
def test_text_without_subquestion_ends_the_loop(text: str) -> None:
    script = Script(GOOD[0], text)
    result = dialogue(script)
    assert (result.answer, result.ended, len(result.steps)) == (None, "form", 1)
    assert result.text.endswith(f"\n{FINAL}") and text.strip() in result.text


def test_loop_ends_at_the_limit_of_steps() -> None:
    script = Script(*[GOOD[0]] * 9)
    result = dialogue(script, steps=3)
    assert (result.answer, result.ended, len(result.steps), len(script.read)) == (None, "limit", 3, 3)
    assert result.text.count(SUBQUESTION) == 3 and result.text.endswith(f"\n{FINAL}")


def test_step_that_does_not_fit_ends_the_loop() -> None:
    def ended_within(size: int) -> Dialogue:
        return dialogue(Script(*GOOD), nearest=lambda _: None, fits=lambda text: len(text) <= size)

    full = ended_within(9999)
    for size, steps in ((len(full.text) - 1, 2), (250, 1), (50, 0)):
        result = ended_within(size)
        assert (result.answer, result.ended, len(result.steps)) == (None, "context", steps)
        assert full.text.startswith(result.text.removesuffix(FINAL))


def test_answer_is_one_line_and_may_be_empty() -> None:
    assert dialogue(Script("\nFinal answer: Rome\nmore")).answer == "Rome"
    assert dialogue(Script("\nFinal answer: ")).answer is None


def test_bare_question_of_a_prompt() -> None:
    shots = "Question: What colour is it?\nAnswer: Blue\n\n"
    assert bare_question(f"{shots}A fact.\nQuestion: {QUESTION}\nAnswer:") == QUESTION
    assert bare_question(f"{shots}Question: {QUESTION}") == QUESTION
    assert bare_question(f"Q: What colour is it?\nA: Blue\nQ: {QUESTION}\nA:") == QUESTION
    assert bare_question("The FAQ: who asks?\nAnswer:") == "The FAQ: who asks?\nAnswer:"
    assert bare_question(f"Some text.\n\n{QUESTION} ") == QUESTION
    assert bare_question("The author of Misery is") == "The author of Misery is"


def test_demonstrations_are_dialogues_of_the_loop() -> None:
    """Each, cut where the loop puts facts in, runs through it to the same text and answer."""
    assert show_demonstrations(0) == "" and show_demonstrations(2).count("\n\n") == 2
    for example in DEMONSTRATIONS:
        first, *rest = example.split("Retrieved fact: ")
        question = first.partition("\n")[0].removeprefix("Question: ")
        facts = [part.partition("\n")[0].removesuffix(".") for part in rest]
        texts = ["\n" + first.partition("\n")[2], *("\n" + part.partition("\n")[2] for part in rest)]
        remaining = iter(facts)
        result = dialogue(Script(*texts), question, nearest=lambda _, remaining=remaining: next(remaining))
        assert result.ended == "answer" and f"{result.text} {result.answer}" == example
    assert STOPS[0] == "Retrieved fact:"


def test_questions_are_asked_in_the_same_steps() -> None:
    """Each dialogue is the one that its question has alone; a dialogue that ended is not written on."""
    scripts = {"A?": [*GOOD], "B?": ["\nno subquestion\n"], "C?": [GOOD[0], f"\n{FINAL} Rome"]}
    sizes = list[int]()

    def write(texts: Sequence[str]) -> list[str]:
        sizes.append(len(texts))
        return [scripts[text.splitlines()[0].removeprefix("Question: ")].pop(0) for text in texts]

    expected = [dialogue(Script(*script), question) for question, script in scripts.items()]
    assert decompose([*scripts], write=write, nearest=MEMORY.get) == expected
    assert sizes == [3, 2, 1]
    assert [result.ended for result in expected] == ["answer", "form", "answer"]
