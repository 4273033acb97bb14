"""Whether a model knows a fact: two of three forms, none, stored on disk; forms that nothing else uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.evaluation.ripples.knowledge import AskedFact, Knowledge
from kg_edit.evaluation.ripples.words import RippleWords
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import format_question, format_question_with_shots, format_question_with_steps
from kg_edit.text.fact_words import fact_words
from tests.kg_edit.tiny import tiny

EXAMPLES = {
    "P36": [
        AskedFact("P36", "France", ("Paris",)),
        AskedFact("P36", "Japan", ("Tokyo",)),
        AskedFact("P36", "Peru", ("Lima",)),
    ]
}
WORDS = RippleWords.load()


def knowledge(model: LanguageModel, folder: Path) -> Knowledge:
    return Knowledge(model, WORDS, EXAMPLES, folder)


def first_words(model: LanguageModel, thing: str) -> list[str]:
    """What the model itself writes first after each form; not always a word."""
    shown = [(example.thing, example.object) for example in EXAMPLES["P36"]]
    prompts = [
        "\n".join(
            [
                *(form.format(noun="capital", thing=s) + f" {o}" for s, o in shown),
                form.format(noun="capital", thing=thing),
            ]
        )
        for form in WORDS.knowledge
    ]
    texts = continuations(model, prompts, limits=[7] * 3)
    return [text.strip() or "nothing" for text in texts]


def test_knowledge_needs_two_of_three_forms(tmp_path: Path) -> None:
    model = tiny("llama")
    written = first_words(model, "Italy")
    one, two = (AskedFact("P36", "Italy", ("Atlantis", *written[:count])) for count in (1, 2))
    none, example = AskedFact("P36", "Italy", ("Atlantis",)), EXAMPLES["P36"][0]
    without = AskedFact("P99", "Italy", tuple(written))
    model_knowledge = knowledge(model, tmp_path)
    model_knowledge.ask([one, two, none, example, without], about="facts")
    distinct = len(set(written)) == 3
    assert model_knowledge.knows(two)
    assert model_knowledge.knows(one) is not distinct
    assert not model_knowledge.lacks(one)
    assert (model_knowledge.knows(none), model_knowledge.lacks(none)) == (False, True)
    for fact in (example, without):  # shown, or without examples: not asked
        assert (model_knowledge.knows(fact), model_knowledge.lacks(fact)) == (False, False)


def test_knowledge_stores_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fact = tiny("llama"), AskedFact("P36", "Italy", ("Rome",))
    knowledge(model, tmp_path).ask([fact], about="facts")
    (file,) = tmp_path.glob("*.jsonl")
    content = file.read_bytes()
    file.write_bytes(content[:-9])  # killed in the middle of a line
    knowledge(model, tmp_path).ask([fact], about="facts")
    assert file.read_bytes() == content

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("kg_edit.evaluation.ripples.knowledge.greedy", refuse)
    again = knowledge(model, tmp_path)
    again.ask([fact], about="facts")
    assert again.lacks(fact)


def test_knowledge_forms_are_used_nowhere_else() -> None:
    forms = {form.replace("{noun}", "capital").replace("{thing}", "Italy") for form in WORDS.knowledge}
    question = "What is the capital of Italy?"
    others = [form(question) for form in (format_question, format_question_with_shots, format_question_with_steps)]
    others += [wording.replace("[hop]", "capital").replace("{}", "Italy") for wording in fact_words("en").wordings]
    assert not any(form in other for form in forms for other in others)
