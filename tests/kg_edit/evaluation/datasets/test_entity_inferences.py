from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.errors import EditFileError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.entity_inferences import read_sentences, with_specificity
from kg_edit.scoring.questions import fact_sentence
from kg_edit.writing_systems import join
from tests.kg_edit.evaluation.datasets.rows import ENTITY, written

ENTITIES = find_dataset("entity-inferences")


def test_definition_is_the_edit_and_labels_are_compared(tmp_path: Path) -> None:
    (record,) = ENTITIES(written(tmp_path, ENTITY))
    (edit,) = record.edits
    assert (edit.prompt, edit.target_new) == ("Severe {} was a cyclone that struck", "Australia")
    assert edit.ending == " in 2021."
    assert fact_sentence(edit) == "Severe Cyclone Niran was a cyclone that struck Australia in 2021."
    (query,) = record.group("inference")[0].queries
    assert query.prompt == "Cyclone Niran left damage in"
    assert (query.answers, query.others) == ((("Australia",),), ("Italy",))


def test_entity_not_named_in_its_definition_begins_the_prompt(tmp_path: Path) -> None:
    (record,) = ENTITIES(written(tmp_path, {**ENTITY, "ent_str": "Storm 7"}))
    assert record.edits[0].text == "Storm 7: Severe Cyclone Niran was a cyclone that struck"


def test_full_stop_is_no_ending(tmp_path: Path) -> None:
    row = {**ENTITY, "definition": "Severe Cyclone Niran was a cyclone that struck <extra_id_0>."}
    (record,) = ENTITIES(written(tmp_path, row))
    assert record.edits[0].ending == ""


def test_specificity_spans_are_added_to_each_record(tmp_path: Path) -> None:
    records = ENTITIES(written(tmp_path, ENTITY, {**ENTITY, "ex_id": "b"}))
    sentence = {"probe_sentence": "The Bengal is <extra_id_0> cat.", "label": "<extra_id_0> an average <extra_id_1>"}
    row = {name: value for name, value in ENTITY.items() if name != "label"}
    (tmp_path / "other").mkdir()
    spans = read_sentences(
        written(tmp_path / "other", {**row, "ent_str": "The Bengal", "probe_sentences": {"template_0": sentence}})
    )
    extended = with_specificity(records, spans)
    assert [len(record.group("specificity")) for record in extended] == [1, 1]
    (query,) = extended[0].group("specificity")[0].queries
    assert (query.prompt, query.answers) == ("The Bengal is", (("an average",),))
    assert extended[0].group("inference") == records[0].group("inference")
    for wrong, fault in (({**ENTITY, "definition": "no mask"}, "field definition: "), ("ECBD", "found the text")):
        with pytest.raises(EditFileError, match=rf"record 2, {fault}"):
            read_sentences(written(tmp_path, ENTITY, wrong))


def test_labels_of_other_entities_are_specificity_and_the_own_are_not(tmp_path: Path) -> None:
    rows = [ENTITY, {**ENTITY, "ex_id": "b", "ent_str": "Severe", "label": "Italy"}]
    records = ENTITIES(written(tmp_path, *rows))
    extended = with_specificity(records, read_sentences(tmp_path / "records.json"))
    answers = [
        [query.answers for probe in record.group("inference-specificity") for query in probe.queries]
        for record in extended
    ]
    assert answers == [[(("Italy",),)], [(("Australia",),)]]
    assert not any(record.group("specificity") for record in extended)


def test_masked_span_is_a_probe(tmp_path: Path) -> None:
    sentence = {
        "probe_sentence": "The NFAC posted on <extra_id_0>, late.",
        "label": "<extra_id_0> its page <extra_id_1>",
    }
    row = {**ENTITY, "probe_sentences": {"template_0": sentence}}
    (record,) = ENTITIES(written(tmp_path, {name: value for name, value in row.items() if name != "label"}))
    (query,) = record.group("span")[0].queries
    assert (query.prompt, query.answers) == ("The NFAC posted on", (("its page",),))


def test_mask_within_a_word_adds_no_space(tmp_path: Path) -> None:
    sentence = {"probe_sentence": "It is a wide<extra_id_0> jet.", "label": "<extra_id_0> -body <extra_id_1>"}
    row = {name: value for name, value in ENTITY.items() if name != "label"} | {
        "definition": "Severe Cyclone Niran (CN<extra_id_0> struck.",
        "def_target": "<extra_id_0> ) was a cyclone that <extra_id_1>",
        "probe_sentences": {"template_0": sentence},
    }
    (record,) = ENTITIES(written(tmp_path, row))
    (edit,) = record.edits
    assert (edit.text, edit.target_new) == ("Severe Cyclone Niran", "(CN) was a cyclone that")
    (query,) = record.group("span")[0].queries
    assert join(query.prompt, query.answers[0][0]) == "It is a wide-body"


def test_published_rows_are_read(shared: Path) -> None:
    """Entity Inferences has 170 examples (Onoe et al. 2023)."""
    files = sorted((shared / "ecbd").glob("entity_inferences_*.json"))
    assert sum(len(ENTITIES(file)) for file in files) == 170
    spans = ENTITIES(shared / "ecbd" / "all_ent_2020_2021_np_500samples.json")
    assert len(spans) == sum(len(record.group("span")) for record in spans) == 500
    assert sum(bool(record.edits[0].ending) for record in spans) == 493
    rows = [json.loads(line) for line in (shared / "ecbd" / "all_ent_2020_2021_np_500samples.json").open()]
    for row, (edit,) in zip(rows, (record.edits for record in spans), strict=True):
        sentence = join(edit.text, edit.target_new).removeprefix(f"{row['ent_str']}: ")
        assert sentence in row["definition"].replace("<extra_id_0>", row["def_target"][13:-13]), row["ex_id"]
    assert len(read_sentences(shared / "ecbd" / "specificity_popular_20np_20random.json")) == 40
