"""Names that people and other tools write for the fields of a row, and rows that were linked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kg_edit.edits.aliases import ALIASES
from kg_edit.edits.edit import Edit, LocalityPrompt
from kg_edit.edits.files import read_edits
from kg_edit.evaluation.datasets.building import find_template
from tests.kg_edit.edit_rows import GOOD, lines, refusal, write
from wikidata_cache import WikidataCache, cli, packaged_extract

EASY_EDIT = {
    "case_id": 3561,
    "prompt": "In Colombia, the language spoken is",
    "target_new": "Portuguese",
    "subject": "Colombia",
    "ground_truth": "Spanish",
    "cond": "Spanish >> Portuguese || In Colombia, the language spoken is",
    "rephrase_prompt": "The official language of Colombia is",
    "locality_prompt": "In Peru, the language spoken is",
    "locality_ground_truth": "Spanish",
    "portability": {"Reasoning": [{"prompt": "Which country shares it?", "ground_truth": [["Brazil"], ["Portugal"]]}]},
}


def read(tmp_path: Path, *rows: object) -> tuple[Edit, ...]:
    return read_edits(write(tmp_path, "edits.jsonl", lines(*rows))).edits


@pytest.mark.parametrize(
    ("subject", "prompt", "expected"),
    [
        ("Rome", "Romelu plays in Rome", "Romelu plays in {}"),
        ("中国", "中国的首都是", "{}的首都是"),
        ("iPhone", "このiPhoneを作ったのは", "この{}を作ったのは"),
        ("파리", "파리는 어느 나라에 있나", "{}는 어느 나라에 있나"),
    ],
)
def test_subject_is_found_in_its_prompt(subject: str, prompt: str, expected: str, tmp_path: Path) -> None:
    (edit,) = read(tmp_path, {**EASY_EDIT, "subject": subject, "prompt": prompt})
    unstructured = Edit(subject=subject, prompt=prompt, target_text="A text.")
    assert edit.prompt == unstructured.prompt == find_template(prompt, subject, field="prompt").prompt == expected


def test_recalled_relation_of_an_easy_edit_row_is_read(tmp_path: Path) -> None:
    probe = {"New Question": "Who speaks it?", "New Answer": "Brazil", "Recalled Relation": "(Portuguese, of, Brazil)"}
    (edit,) = read(tmp_path, {**EASY_EDIT, "portability": probe})
    assert edit.plain_questions[0].recalled_relation == "(Portuguese, of, Brazil)"


@pytest.mark.parametrize("name", ALIASES)
def test_alias_is_read_as_the_field(name: str, tmp_path: Path) -> None:
    field = ALIASES[name]
    values = {"id": "a", "portability": [{"question": "Where?", "answer": "Italy"}], "target_true": "Bern"}
    value = values.get(field, ["Bob lives in"])
    rest = {key: held for key, held in GOOD.items() if key != field}
    assert read(tmp_path, {**rest, name: value}) == read(tmp_path, {**rest, field: value})
    if field not in values:
        assert read(tmp_path, {**rest, name: "Bob lives in"}) == read(tmp_path, {**rest, field: value}), "a text alone"


def test_fault_has_the_rows_own_name(tmp_path: Path) -> None:
    row = {key: value for key, value in GOOD.items() if key != "target_true"} | {"ground_truth": 7}
    assert "field ground_truth: found the number 7" in refusal(write(tmp_path, "edits.jsonl", lines(row)))


@pytest.mark.parametrize("value", [5, "Q99999999"], ids=["number", "unknown-id"])
def test_fault_of_a_triplet_has_the_rows_own_name(value: object, tmp_path: Path) -> None:
    row = {"subject": "Rome", "relation": "country", "new_object": "Peru", "ground_truth": value}
    assert "field ground_truth: found the" in refusal(write(tmp_path, "edits.jsonl", lines(row)))


def test_case_id_of_a_triplet_or_a_table_is_its_id(tmp_path: Path) -> None:
    triplet = {"case_id": 7, "subject": "Rome", "relation": "country", "new_object": "Peru"}
    assert read(tmp_path, triplet)[0].id == "7"
    table = "\n".join(",".join(map(str, row)) for row in (triplet, triplet.values()))
    assert read_edits(write(tmp_path, "edits.csv", table)).edits[0].id == "7"


def test_easy_edit_row_is_read(tmp_path: Path) -> None:
    (edit,) = read(tmp_path, EASY_EDIT)
    assert (edit.id, edit.prompt, edit.text) == ("3561", "In {}, the language spoken is", EASY_EDIT["prompt"])
    assert (edit.target_true, edit.paraphrases) == ("Spanish", (EASY_EDIT["rephrase_prompt"],))
    assert edit.neighborhood == ("In Peru, the language spoken is",)
    (query,) = edit.portability
    assert (query.question, query.answer, query.aliases) == ("Which country shares it?", "Brazil", ("Portugal",))
    assert query.category == "Reasoning"
    (other,) = read(tmp_path, {**EASY_EDIT, "locality_ground_truth": "Quechua"})
    kept = LocalityPrompt(prompt="In Peru, the language spoken is", answer="Quechua")
    assert (other.neighborhood, other.locality) == ((), (kept,)), "with another answer, it is no neighbour of the fact"


def test_easy_edit_lists_are_read(tmp_path: Path) -> None:
    locality = {
        "neighborhood": {"prompt": ["In Peru, one speaks", "In Chad, one speaks"], "ground_truth": ["Spanish", "x"]}
    }
    bare = {name: part for name, part in EASY_EDIT.items() if not name.startswith("locality")}
    (edit,) = read(tmp_path, {**bare, "ground_truth": ["Spanish"], "locality": locality})
    assert edit.neighborhood == ("In Peru, one speaks",)
    assert edit.locality == (LocalityPrompt(prompt="In Chad, one speaks", answer="x"),)


PROMPTS = (
    LocalityPrompt(prompt="In Peru, one speaks", answer="Quechua"),
    LocalityPrompt(prompt="Snow is"),
)


@pytest.mark.parametrize(
    ("locality", "categories"),
    [
        ([{"prompt": "In Peru, one speaks", "answer": "Quechua"}, "Snow is"], (None, None)),
        ([{"prompt": "In Peru, one speaks", "ground_truth": "Quechua"}, {"prompt": "Snow is"}], (None, None)),
        (
            {"a": {"prompt": "In Peru, one speaks", "ground_truth": "Quechua"}, "b": [{"prompt": ["Snow is"]}]},
            ("a", "b"),
        ),
    ],
)
def test_locality_prompts_have_their_own_answers(
    locality: object, categories: tuple[str | None, ...], tmp_path: Path
) -> None:
    prompts = tuple(p.model_copy(update={"category": name}) for p, name in zip(PROMPTS, categories, strict=True))
    for row in (GOOD, {"subject": "Ann", "relation": "P19", "object": "Oslo", "new_object": "Rome"}):
        assert read(tmp_path, {**row, "locality": locality})[0].locality == prompts
        assert read(tmp_path, {**row, "locality": "Snow is"})[0].locality == PROMPTS[1:]


def test_locality_columns_of_a_table_are_read(tmp_path: Path) -> None:
    text = "subject,prompt,target_new,locality,locality_answer\nAnn,{} is in,Rome,In Peru, one speaks | Snow is,"
    text = text.replace("In Peru, one speaks | Snow is", '"In Peru, one speaks | Snow is"')
    (edit,) = read_edits(write(tmp_path, "edits.csv", f"{text}Quechua | \n")).edits
    assert edit.locality == PROMPTS
    path = write(tmp_path, "edits.csv", f"{text}Quechua\n")
    assert "line 2, field locality_answer: 2 prompts have 1 answers" in refusal(path)


def test_fault_of_a_locality_prompt_has_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines({**GOOD, "locality": ["Snow is", {"prompt": " "}, 7]}))
    assert [line.partition(", field ")[2] for line in refusal(path).splitlines()] == [
        "locality[1].prompt: is empty; expected a prompt about anything else than the edited fact",
        "locality[2]: found the number 7; expected an object {...}",
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"subject": "Spike Hughes", "relation": "place of birth", "object": "London", "new_object": "Philadelphia"},
        {"subject": "Spike Hughes", "relation": "place of birth", "target_new": "Philadelphia"},
        {"subject": "Spike Hughes", "prompt": "{} originates from", "target_new": "Philadelphia"},
        {"subject": "Spike Hughes", "relation": "P19", "object": "London", "new_object": "Los Angeles"},
        {
            "case_id": 1,
            "requested_rewrite": {
                "prompt": "{} originates from",
                "relation_id": "P19",
                "target_new": {"str": "Philadelphia"},
                "target_true": {"str": "London"},
                "subject": "Spike Hughes",
            },
        },
    ],
)
def test_linked_rows_are_read(row: dict[str, object], tmp_path: Path) -> None:
    """Also where a person still has to choose: the row then has `candidates`."""
    source, out = write(tmp_path, "edits.jsonl", lines(row)), tmp_path / "linked.jsonl"
    result = CliRunner().invoke(cli.app, ["link", str(source), "--out", str(out)])
    assert result.exit_code in (0, 3), result.output
    linked = json.loads(out.read_text())
    (edit,) = read_edits(out, labels=WikidataCache(packaged_extract())).edits
    ids = linked.get("requested_rewrite", linked)
    assert edit.subject_id == ids.get("subject_id") == "Q1632204"
    if "target_new_id" in linked:
        assert edit.target_new_id == linked["target_new_id"]


def test_linked_table_has_the_lists_of_its_cells(tmp_path: Path) -> None:
    head = "id,subject,prompt,target_new,paraphrases,rephrase_prompts,locality,locality_answer,chat"
    rows = [
        "a,Spike Hughes,{} originates from,Philadelphia,Spike Hughes is of | He is of,,Snow is | Rome is,white |,true"
    ]
    rows += ["b,Spike Hughes,{} was born in,Los Angeles,,Spike Hughes is of | It is,Snow is,white,both"]
    source, out = write(tmp_path, "edits.csv", "\n".join([head, *rows])), tmp_path / "linked.jsonl"
    assert CliRunner().invoke(cli.app, ["link", str(source), "--out", str(out)]).exit_code in (0, 3)
    ids = {"subject_id": None, "target_new_id": None}
    linked, plain = (read_edits(path).edits for path in (out, source))
    assert [len(edit.paraphrases) for edit in plain] == [2, 2] and [len(edit.locality) for edit in plain] == [2, 1]
    assert [edit.model_copy(update=ids) for edit in linked] == list(plain)


def test_triplet_may_have_target_ids(tmp_path: Path) -> None:
    row = {"subject": "Ann", "relation": "P19", "new_object": "Rome", "target_new_id": "Q220", "target_true_id": "Q585"}
    (edit,) = read(tmp_path, row)
    assert (edit.target_new_id, edit.target_true_id) == ("Q220", "Q585")
    path = write(tmp_path, "edits.jsonl", lines(row | {"new_object_id": "Q220"}))
    assert "field new_object_id: is the same field as 'target_new_id'" in refusal(path)


@pytest.mark.parametrize("shape", ["new_object", "target_new"])
def test_unknown_relation_is_worded_or_has_a_prompt(shape: str, tmp_path: Path) -> None:
    with_prompt = {"subject": "Ann", "relation": "place of brith", "prompt": "{} is from", shape: "Rome"}
    assert read(tmp_path, with_prompt)[0].prompt == "{} is from"
    (other,) = read(tmp_path, {"subject": "Ann", "relation": "best friend", shape: "Rome"})
    assert other.prompt == "The best friend of {} is"
