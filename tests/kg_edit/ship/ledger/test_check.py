"""A check asks the edited model the prompts of its edits again, and reports which edits succeed."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from rich.text import Text

from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.entries import Entry, list_patch_entries
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger.check import check
from kg_edit.ship.ledger.view import check_table
from tests.kg_edit.tiny import tiny


def swapped() -> tuple[Edit, Edit]:
    """Two edits that want the opposite: on any model just one of them holds."""
    common = {"subject": "LeBron James", "prompt": "{} plays for", "paraphrases": ("LeBron James is in",)}
    heat, lakers = "Miami Heat", "Los Angeles Lakers"
    return (
        Edit(id="a", target_new=heat, target_true=lakers, neighborhood=("Dwyane Wade plays for",), **common),
        Edit(id="b", target_new=lakers, target_true=heat, **common),
    )


def entries(model: LanguageModel) -> tuple[Entry, ...]:
    rows, columns = weight_matrix(model.down_projection(1)).shape
    records = [{"edit": edit.model_dump(mode="json", exclude_defaults=True), "method": "rome"} for edit in swapped()]
    factors = {model.weight_name(1): Factors(left=torch.zeros(rows, 2), right=torch.zeros(columns, 2))}
    return list_patch_entries(WeightPatch(factors=factors, provenance={"edits": records}))


def test_check_reports_edits_that_hold_and_edits_that_fail() -> None:
    model = tiny("llama")
    checked = check(model, entries(model))
    assert [edit.entry.name for edit in checked] == ["a", "b"]
    assert [len(edit.answers) for edit in checked] == [3, 2]
    failing = [edit for edit in checked if edit.failures()]
    assert len(failing) == 1
    (answer,) = failing[0].failures()
    assert answer.prompt == "LeBron James plays for" and not answer.right


@pytest.mark.parametrize(
    ("success", "right", "sign", "colour"), [(1, 1, "✓", "green"), (0, 1, "~", "yellow"), (0, 0, "✗", "red")]
)
def test_check_table_marks_only_generated_targets_green(success: int, right: int, sign: str, colour: str) -> None:
    (first, _) = check(model := tiny("llama"), entries(model))
    text = "Massachusetts Pennsylvania Constantinople administrative"
    answers = [replace(answer, success=bool(success), right=bool(right), text=text) for answer in first.answers]
    table = check_table([replace(first, answers=tuple(answers))])
    (cell,) = table.columns[1].cells
    assert isinstance(cell, Text) and (cell.plain, cell.style) == (sign, colour)
    shown = io.StringIO()
    Console(file=shown, width=80).print(table)
    assert set(text.split()) <= set(shown.getvalue().split()), "no word is broken"


def test_failures_are_of_the_given_kinds() -> None:
    model = tiny("llama")
    (first, _) = check(model, entries(model))
    wrong = replace(first, answers=tuple(replace(answer, right=False) for answer in first.answers))
    assert [answer.kind for answer in wrong.failures(("locality",))] == ["locality"]


def test_locality_prompts_with_an_answer_are_asked_again() -> None:
    """What the model generates counts as right, by any name of the answer; a prompt without an answer is not asked."""
    model = tiny("llama")
    text = "The river Thames flows"
    (checked,) = check(model, [asking({"prompt": text, "answer": "nowhere"}, "Snow is")])
    (wrong,) = checked.of("locality")
    assert (wrong.prompt, wrong.right) == (text, False) and checked.failures(("locality",)) == (wrong,)
    generated = wrong.text.split()[0]
    (checked,) = check(model, [asking({"prompt": text, "answer": "nowhere", "aliases": [generated]})])
    assert [answer.right for answer in checked.of("locality")] == [True]


def asking(*locality: object) -> Entry:
    """The entry of an edit with these locality prompts."""
    edit = Edit.model_validate(swapped()[1].model_dump() | {"locality": list(locality)})
    first = entries(tiny("llama"))[0]
    return replace(first, edit=edit)


def test_check_names_the_edit_whose_prompt_is_too_long() -> None:
    model = tiny("gpt2")
    (first, _) = entries(model)
    long = first.edit.model_copy(update={"paraphrases": ("so " * 300 + "on",)})
    entry = Entry(position=first.position, name="a", state="active", edit=long, method="rome", record={})
    with pytest.raises(ModelError) as error:
        check(model, [entry])
    assert "'a'" in "".join(error.value.__notes__)
