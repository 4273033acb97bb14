"""The packaged edits of odd shapes: each can be encoded, and is of the shape in its id."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import kg_edit
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.evaluation.records import make_items
from kg_edit.evaluation.scorer import score_cases
from kg_edit.evaluation.tracing.trace import TracedFact, prompt_of
from kg_edit.models.first_token import line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.reports.probes import probes, read
from kg_edit.zoo.mend.examples import make_examples

FILE = Path(kg_edit.__file__).parent / "data" / "own-shapes.jsonl"
SHAPES = {"start", "middle", "after", "last", "twice", "apostrophe", "script", "target", "question"}
LANGUAGES = {"german", "chinese", "korean"}


@pytest.fixture(scope="module")
def edits() -> tuple[Edit, ...]:
    return tuple(read_edits(FILE).edits)


def test_file_has_five_edits_of_each_shape(edits: tuple[Edit, ...]) -> None:
    assert Counter(edit.id.rpartition("-")[0] for edit in edits) == dict.fromkeys(SHAPES | LANGUAGES, 5)
    assert len(edits) == 60


@pytest.mark.slow
def test_each_edit_is_encoded(smollm2: LanguageModel, edits: tuple[Edit, ...]) -> None:
    sizes = []
    for edit in edits:
        prompt = encode(smollm2.tokenizer, edit.prompt, subject=edit.subject, target=edit.target_new)
        assert smollm2.tokenizer.decode(prompt.target_ids).strip() == edit.target_new
        sizes.append(len(prompt.target_ids))
    assert min(sizes) == 1
    assert max(sizes) >= 25


@pytest.mark.slow
def test_shapes_are_those_of_the_ids(smollm2: LanguageModel, edits: tuple[Edit, ...]) -> None:
    def of(shape: str) -> list[Edit]:
        return [edit for edit in edits if edit.id.startswith(shape)]

    assert all(line_break_before(smollm2, edit.text, subject=edit.subject) for edit in of("start"))
    assert not any(
        line_break_before(smollm2, edit.text, subject=edit.subject) for edit in [*of("middle"), *of("after")]
    )
    assert all(edit.prompt.endswith("{}") for edit in of("last"))
    assert all(edit.text.count(edit.subject) == 2 for edit in of("twice"))
    assert not any(edit.subject.isascii() for edit in of("script"))
    assert all(edit.prompt.endswith("?") for edit in of("question"))


@pytest.mark.slow
def test_evaluate_asks_own_edits_as_edit_does(smollm2: LanguageModel, edits: tuple[Edit, ...]) -> None:
    """The verdicts are equal, for the new target and for the one that the model generates.

    In plain text where the model does not read the subject at the start of a text, and in chat form.
    """
    chosen = [edit for edit in edits if edit.id == "start-3"]
    bare = [edit.model_copy(update={"target_true": None, "neighborhood": ()}) for edit in chosen]
    bare.append(bare[0].with_form(chat=True))
    texts = [reading.text for reading in read(smollm2, [probes(smollm2, edit)[0] for edit in bare])]
    generated = [
        edit.model_copy(update={"target_new": " ".join(text.split()[:2])})
        for edit, text in zip(bare, texts, strict=True)
    ]
    both = [edit.model_copy(update={"id": str(number)}) for number, edit in enumerate([*bare, *generated])]
    by_edit = [reading.success for reading in read(smollm2, [probes(smollm2, edit)[0] for edit in both])]
    cases = [item.case for item in make_items([record_of(edit) for edit in both], {}, EvalConfig(), model=smollm2)]
    case_scores = [section.scores for section in score_cases(smollm2, cases)]
    by_evaluate = [scores.get("efficacy.first_sentence", scores["efficacy.greedy"]) for scores in case_scores]
    assert by_evaluate == by_edit
    assert by_edit[len(bare) :] == [True] * len(bare)
    assert not all(by_edit)


@pytest.mark.slow
def test_training_and_tracing_begin_with_a_line_break(smollm2: LanguageModel, edits: tuple[Edit, ...]) -> None:
    """As the edits themselves are made: without, MEND learns, and `locate` traces, the first token of any text."""
    of = {edit.id: edit for edit in edits}
    (unread,), (read,) = (make_examples(smollm2, [of[name]]) for name in ("start-1", "middle-1"))
    assert (unread.edit.text[0], read.edit.text[0]) == ("\n", "T")
    for edit, begin in ((of["start-1"], "\n"), (of["middle-1"], "T")):
        fact = TracedFact(id=edit.id, subject=edit.subject, prompt=edit.prompt)
        assert prompt_of(smollm2, fact).text[0] == begin
