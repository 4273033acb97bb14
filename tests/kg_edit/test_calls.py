"""Calls from Python: what is meant is understood, and every wrong call is a `KgEditError` that says what to write."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kg_edit import (
    Edit,
    Glame,
    KgEditError,
    LanguageModel,
    LocalityPrompt,
    Patch,
    Question,
    Rome,
    RomeConfig,
    ask,
    before_and_after,
    compare_prompts,
    find_method,
    read_edits,
)
from kg_edit.edits.files import EditFile
from kg_edit.edits.inputs import as_edits
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import as_records
from kg_edit.evaluation.run import evaluate
from kg_edit.methods import EditingMethod
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.command_line import tiny_folder
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up
from tests.kg_edit.tiny import tiny

__all__ = ["tiny_folder"]  # a fixture

ROW = {"subject": "Google", "prompt": "{} was founded by", "target_true": "Larry Page", "target_new": "Ada <b>Lovelace"}
EDIT = Edit(**ROW)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "e.jsonl"
    path.write_text(json.dumps({"id": EDIT.id, **ROW}))
    return path


def rome(model: LanguageModel | str | Path | None = None) -> Rome:
    return Rome.on(model or tiny("llama"), settings=QUICK["rome"])


def test_a_methods_class_is_found_as_its_name() -> None:
    assert find_method(Rome) is find_method("rome") is Rome


def test_edits_are_given_in_any_form(file: Path) -> None:
    forms: list[Any] = [EDIT, [EDIT], ROW, [ROW], read_edits(file), file, str(file), iter([EDIT])]
    assert [as_edits(form) for form in forms] == [(EDIT,)] * len(forms)
    triplet = {"subject": "Google", "relation": "founder", "object": "Larry Page", "new_object": "Ada"}
    assert as_edits(triplet)[0].target_true == "Larry Page"


def test_records_are_given_in_any_form(file: Path) -> None:
    (record,) = as_records(EDIT)
    forms: list[Any] = [[EDIT], ROW, [ROW], read_edits(file), record, [record]]
    assert [as_records(form) for form in forms] == [(record,)] * len(forms)
    with_locality = EDIT.model_copy(
        update={"locality": (LocalityPrompt(prompt="Snow is"), LocalityPrompt(prompt="2 + 2 is", answer="4"))}
    )
    (full_record,) = as_records([with_locality])
    assert [probe.measures for probe in full_record.probes] == ["efficacy", "locality-text", "locality"]
    assert as_records(file)[0].edits == record.edits and as_records([record, EDIT]) == (record, record)


@pytest.mark.slow
def test_methods_and_ledgers_take_edits_in_any_form(file: Path, tmp_path: Path) -> None:
    method = rome()
    (each,) = method.edit_each(ROW)
    assert isinstance(each, Patch)
    for patch in (method.edit(EDIT), method.edit(str(file)), method.edit(read_edits(file)), each):
        assert [record["edit"]["id"] for record in patch.edits] == [EDIT.id]
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(method, ROW)
    assert repr(ledger) == f"Ledger('{tmp_path}/ledger': 1 active edit)"
    assert [record["edit"]["id"] for record in Patch.load(ledger.folder).edits] == [EDIT.id]


def test_a_models_name_is_loaded(tiny_folder: Path) -> None:
    patch = rome(tiny_folder).edit(EDIT)
    assert patch.provenance["model"]["name"] == str(tiny_folder)
    with patch.applied(str(tiny_folder)) as edited:
        assert ask(edited, "Google", tokens=3) == ask(edited, "Google", tokens=3)
    assert ask(str(tiny_folder), "Google", tokens=3) == ask(tiny("llama"), "Google", tokens=3)
    assert ask(tiny("llama"), "Google", max_new_tokens=3) == ask(tiny("llama"), "Google", tokens=3), (
        "transformers' name"
    )


WRONG: dict[str, tuple[Callable[[Any], object], str]] = {
    "a second record with a wrong field": (
        lambda _: as_records([EDIT, *as_records(EDIT), {"subject": "Rome"}]),
        "edit 2: field prompt: is missing",
    ),
    "a list with something else": (lambda _: rome().edit([7]), "edit 1: found the number 7; expected an Edit"),
    "a sentence": (lambda _: rome().edit("The Louvre is in Madrid"), "expected an Edit, a list of edits, or the path"),
    "a sentence with full stops": (
        lambda _: rome().edit("J. K. Rowling lives in"),
        "expected an Edit, a list of edits",
    ),
    "something else": (lambda _: rome().edit(7), "found the number 7; expected an Edit, a list of edits, or the path"),
    "an answer of no tokens": (lambda _: ask(tiny("llama"), "Google", tokens=0), "found tokens=0; give at least 1"),
    "no edits": (lambda _: rome().edit([]), "found no edits; expected an Edit, a list of edits, or the path"),
    "no edits, each alone": (lambda _: rome().edit_each(iter(())), "found no edits; expected"),
    "no edits to compare": (lambda _: before_and_after(tiny("llama"), rome().empty_patch(), []), "found no edits"),
    "a file without a row": (
        lambda folder: rome().edit(folder / "no.jsonl"),
        "no.jsonl: has no rows; expected one edit",
    ),
    "a file without a right row": (lambda _: rome().edit(EditFile(())), "no row of the file is an edit; expected"),
    "no records": (lambda _: evaluate(rome(), tiny("llama"), [], out="none"), "found no records; expected records"),
    "a path in a list": (lambda _: rome().edit(["e.jsonl"]), "edit 1: found the text 'e.jsonl'; expected an Edit"),
    "a file that is missing": (lambda _: rome().edit("none.jsonl"), "none.jsonl: no such file"),
    "a row with a wrong field": (
        lambda _: rome().edit([EDIT, {**ROW, "prompt": "Google was founded by"}]),
        "edit 2: field prompt: 'Google was founded by' has no {}; write '{} was founded by'",
    ),
    "a record of a benchmark": (
        lambda _: rome().edit(as_records(EDIT)[0]),
        "found a value of the type BenchmarkRecord",
    ),
    "an unknown model": (lambda _: Rome.on("smollm2-135"), "did you mean 'smollm2-135m'"),
    "a model of transformers": (lambda _: Rome.on(tiny("llama").model), r"LanguageModel\.wrap\(model, tokenizer, name"),
    "a misspelled graph": (
        lambda _: Glame.on(tiny("llama"), graph="extrct"),
        "graph extrct: there is no such file and no packaged graph of this name, did you mean 'extract'",
    ),
    "a graph that is none": (
        lambda _: Glame.on(tiny("llama"), graph="compny"),
        r"expected a packaged graph \(extract, .*\), a file of facts \(\.csv, \.tsv, \.graphml\)",
    ),
    "a patch and a model, exchanged": (
        lambda _: before_and_after(rome().empty_patch(), tiny("llama"), EDIT),
        "a LanguageModel in the place of the patch; give the model first",
    ),
    "an unknown setting": (
        lambda _: Rome.on(tiny("llama"), settings={"learning_rat": 3}),
        "unknown setting of rome 'learning_rat', did you mean 'learning_rate'",
    ),
    "a setting behind its method's name": (
        lambda _: Rome.on(tiny("llama"), settings={"rome.steps": 3}),
        "unknown setting of rome 'rome.steps': leave out the method's name, steps=3",
    ),
    "a setting's wrong value": (
        lambda _: Rome.on(tiny("llama"), settings={"steps": "many"}),
        "setting steps of rome: found the text 'many'",
    ),
    "settings as text": (lambda _: Rome.on(tiny("llama"), settings="steps=3"), "expected settings={'name': value}"),
    "a config with an unknown setting": (
        lambda _: RomeConfig(step=3),
        "setting step: unknown field, did you mean 'steps'",
    ),
    "a run's config": (lambda _: EvalConfig(schedul="single"), "field schedul: unknown field, did you mean 'schedule'"),
    "no prompt": (lambda _: ask(tiny("llama"), ""), "found an empty text; expected one text to continue"),
    "several prompts": (lambda _: ask(tiny("llama"), ["x"]), "found a list; expected one text to continue; ask once"),
    "a model and a prompt, exchanged": (lambda _: ask("The capital is", tiny("llama")), "of the type LanguageModel"),
    "a list as the graph": (
        lambda _: Glame.on(tiny("llama"), graph=[("a", "r", "b")]),
        "found a list; expected a graph",
    ),
    "an edit without names": (
        lambda _: Edit("LeBron James", "{} plays for", "Lakers"),  # type: ignore[misc,call-arg]
        r"'LeBron James' without a name; give fields by name: Edit\(subject=…, prompt=…, target_new=…\)",
    ),
    "an edit without a place for the subject": (
        lambda _: Edit(subject="x", prompt="who is y", target_new="z"),
        "field prompt: 'who is y' has no {}",
    ),
    "an edit with an unknown field": (
        lambda _: Edit(subject="x", prompt="{} y", target="z"),
        "field target: unknown field, did you mean 'target_new'",
    ),
    "a question without its answer": (lambda _: Question(question="Who?"), "field answer: is missing"),
    "a folder without a patch": (lambda folder: Patch.load(folder), "e.jsonl|no ledger"),
    "a method's name": (
        lambda _: evaluate("rome", tiny("llama"), EDIT, out="x"),
        r"the text 'rome'; .* Rome\.on\(model\)",
    ),
    "a method's class": (
        lambda folder: Ledger.open(folder / "new").make(Rome, EDIT),
        "the class Rome; .* a method made",
    ),
    "a graph that is not read": (
        lambda _: Rome.on("none", graph="extract"),
        "graph has no effect: rome reads no graph",
    ),
    "a patch that is none": (lambda _: compare_prompts(tiny("llama"), 3, "x"), "found the number 3; expected the path"),
    "a number among prompts": (
        lambda _: compare_prompts(tiny("llama"), rome().empty_patch(), [3]),
        "found the number 3 in the place of a prompt; give a text",
    ),
    "a number as prompts": (lambda _: compare_prompts(tiny("llama"), rome().empty_patch(), 3), "found the number 3 in"),
    "an edit of an empty ledger": (
        lambda folder: Ledger.open(folder / "new").remove(["ipone"]),
        "unknown edit 'ipone': there is no edit$",
    ),
    "a number as a path": (lambda _: Patch.load(3), "expected the path of a patch, a run's folder or a ledger"),
    "a name to merge into": (
        lambda _: rome().empty_patch().merge_into("smollm2-135m"),
        r"the text 'smollm2-135m'; expected a LanguageModel; .*LanguageModel\.load",
    ),
    "a number as a method's name": (lambda _: find_method(3), "found the number 3; expected the name of a method"),
    "nothing as a path": (lambda _: read_edits(None), r"found None \(null\); expected the path"),
    "a list as a path": (lambda _: read_edits([EDIT]), "found a list; expected the path of a file of edits"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_call_says_what_to_write(case: str, tmp_path: Path) -> None:
    call, message = WRONG[case]
    (tmp_path / "notes.txt").touch()
    (tmp_path / "no.jsonl").touch()
    with pytest.raises(KgEditError, match=message):
        call(tmp_path)


def test_a_folder_of_a_run_is_read_as_its_patch(tmp_path: Path) -> None:
    patch = made_up(edits_of(1))
    patch.save(tmp_path / "out" / "patch.safetensors")
    assert Patch.load(tmp_path / "out").provenance == patch.provenance
    assert repr(Patch.load(tmp_path / "out")) == repr(patch)


def test_calls_take_a_patch_by_its_path(tmp_path: Path) -> None:
    model, other = tiny("llama"), {**ROW, "subject": "Apple"}
    patch = rome().edit(EDIT)
    path = patch.save(tmp_path / "out" / "patch.safetensors")
    assert before_and_after(model, path.parent, EDIT) == before_and_after(model, patch, EDIT)
    (comparison,) = compare_prompts(model, str(path), "Google was founded by")
    assert comparison.unedited != comparison.edited and comparison.asked.prompt == "Google was founded by"
    assert [record["edit"]["subject"] for record in rome().edit(other, start=path).edits] == ["Google", "Apple"]
    assert rome().edit(other, before=path).edits == rome().edit(other, before=patch).edits
    ledger, again = Ledger.open(tmp_path / "ledger"), Ledger.open(tmp_path / "again")
    ledger.add(path.parent, model=model)
    again.add(ledger.folder)
    assert again.patch.provenance == ledger.patch.provenance == Patch.load(path).provenance
    with pytest.raises(KgEditError, match="is already in the ledger, as step 1"):
        ledger.add(str(path.parent))


def test_reprs_are_one_line() -> None:
    """Also of what contains tensors."""
    method = rome()
    patch = method.edit(EDIT)
    model = "LanguageModel('tiny-llama': llama, 4 layers, width 32, 0.1M weights, float32 on cpu)"
    weight = "model.layers.1.mlp.down_proj.weight"
    assert repr(method.model) == model
    assert repr(patch) == (
        "WeightPatch(1 edit of tiny-llama by rome: 'Google was founded by' → 'Ada <b>Lovelace'; "
        f"{weight}: rank 1; 0.5 kB)"
    )
    assert isinstance(patch, WeightPatch) and repr(patch.factors) == f"{{'{weight}': Factors(32 x 48, rank 1)}}"
    assert repr(method).startswith("Rome('tiny-llama', layer 1, settings={'layer': 1, 'steps': 4")
    assert repr(EDIT).startswith(f"Edit(id='{EDIT.id}', subject='Google', prompt=") and "chat" not in repr(EDIT)
    assert repr(EditFile((EDIT,))) == "EditFile(1 edit)" and len(EditFile((EDIT,))) == 1
    assert repr(patch + made_up(edits_of(3), model=patch.fingerprint or "")).count("\n") == 0
    glame = Glame.on(tiny("llama"), graph="extract", settings=QUICK["glame"])
    assert "graph extract.nt.gz (a packaged sample" in repr(glame)
    memit = EditingMethod.__repr__(method)
    assert memit.count("\n") == 0


def test_notebooks_show_tables_with_escaped_text() -> None:
    method = rome()
    for shown in (method.edit(EDIT), EditFile((EDIT,)), method, method.model):
        html = shown._repr_html_()
        assert "<b>" not in html and "\n" not in html
    assert "<td>Larry Page</td><td>Ada &lt;b&gt;Lovelace</td>" in method.edit(EDIT)._repr_html_()
    many = EditFile(tuple(edits_of(60)))._repr_html_()
    assert many.count("<tr>") == 52 and "… and 10 more" in many


def test_a_method_refuses_a_model_that_changed_since() -> None:
    """Its contexts and covariances are those of the model before the merge."""
    model = copy.deepcopy(tiny("llama"))
    method = rome(model)
    patch = method.edit(EDIT)
    patch.merge_into(model)
    with pytest.raises(KgEditError, match=r"merged into the model since this Rome was made; make it again: Rome\.on"):
        method.edit(EDIT)
    method = rome(model)
    with pytest.raises(KgEditError, match="before a patch was merged into it"):
        method.edit(EDIT, start=patch)
    assert "covariances" not in vars(method), "refused before C is measured"
    later = method.edit({**ROW, "subject": "Apple"})
    assert repr(model).endswith("on cpu, with 1 merged patch)")
    assert later.fingerprint == model.fingerprint != patch.fingerprint
    with later.applied(model):
        pass
