"""The answered examples that MeLLo shows a model before a question: dialogues of the loop, with the facts put in.

They are invented, so no benchmark contains their facts. As in the publication there are four, of two to three steps,
and the memory has the right fact for some steps only. Those in other languages are in ``data/mello_words.toml``.
"""

from __future__ import annotations

from collections.abc import Sequence

from kg_edit.languages import ENGLISH
from kg_edit.text.fact_words import has_translated_words
from kg_edit.writing_systems import join
from kg_edit.zoo.mello.loop import ENGLISH_LOOP, LoopWords, loop_words, packaged_loop


def show_demonstrations(count: int, language: str = ENGLISH) -> str:
    """Return the first ``count`` examples in a language, each followed by an empty line."""
    examples: Sequence[str] = DEMONSTRATIONS
    if has_translated_words(language):
        words = loop_words(language)
        examples = []
        for row in packaged_loop(language)["examples"]:
            examples.append(_write_example(row["question"], *row["hops"], final=row["final"], words=words))
    return "".join(f"{example}\n\n" for example in examples[:count])


def _write_example(
    question: str, *hops: tuple[str, str, str, str, bool], final: str, words: LoopWords = ENGLISH_LOOP
) -> str:
    """Write an example, given its hops: subquestion, generated answer, fact, intermediate answer, contradiction."""
    lines = [join(words.question, question)]
    for subquestion, believed, fact, answer, contradicts in hops:
        check = words.contradicts if contradicts else words.agrees
        lines.append(join(words.subquestion, subquestion))
        lines.append(join(words.believed, believed))
        lines.append(words.state(fact))
        lines.append(join(check, answer))
    lines.append(join(words.final, final))
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
