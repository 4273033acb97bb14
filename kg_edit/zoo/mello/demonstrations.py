"""The answered examples that MeLLo shows a model before a question: dialogues of the loop, with the facts put in.

They are invented, so no benchmark contains their facts. As in the publication there are four, of two to three steps,
and the memory has the right fact for some steps only.
"""

from __future__ import annotations

from kg_edit.zoo.mello.loop import BELIEVED, FINAL, QUESTION, RETRIEVED, SUBQUESTION

_CONTRADICTS = "Retrieved fact contradicts to generated answer, so the intermediate answer is:"
_AGREES = "Retrieved fact does not contradict to generated answer, so the intermediate answer is:"


def show_demonstrations(count: int) -> str:
    """Return the first ``count`` examples (of `DEMONSTRATIONS`), each followed by an empty line."""
    return "".join(f"{example}\n\n" for example in DEMONSTRATIONS[:count])


def _write_example(question: str, *hops: tuple[str, str, str, str, bool], final: str) -> str:
    """Write an example, given its hops: subquestion, generated answer, fact, intermediate answer, contradiction."""
    lines = [f"{QUESTION} {question}"]
    for subquestion, believed, fact, answer, contradicts in hops:
        check = _CONTRADICTS if contradicts else _AGREES
        lines.append(f"{SUBQUESTION} {subquestion}")
        lines.append(f"{BELIEVED} {believed}")
        lines.append(f"{RETRIEVED} {fact}")
        lines.append(f"{check} {answer}")
    lines.append(f"{FINAL} {final}")
    return "\n".join(lines)


DEMONSTRATIONS = (
    _write_example(
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
    _write_example(
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
    _write_example(
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
    _write_example(
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
