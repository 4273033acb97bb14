"""Edit files in every format: what is read, and what is written."""

from __future__ import annotations

import json
import unicodedata
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg_edit.edits.edit import Edit, Question, is_item_id, is_property_id
from kg_edit.edits.files import read_edits, write_edits
from tests.kg_edit.edit_rows import COUNTERFACT, GOOD, HEADER, ROW, Labels, lines, refusal, write
from tests.wikidata_cache.link_graph import homonyms
from wikidata_cache.linking.edit_file import link_edits

# What is read


def test_prompt_made_of_a_relation_without_template_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"subject": "Oslo", "relation": relation, "target_new": "Ada"} for relation in ("capital of", "twin", "foe")
    ]
    own = {"subject": "Oslo", "relation": "rival", "prompt": "The rival of {} is", "target_new": "Ada"}
    write(tmp_path, "e.jsonl", lines(*rows, own))
    read_edits(tmp_path / "e.jsonl")
    (warning,) = [record.getMessage() for record in caplog.records if "no template" in record.getMessage()]
    assert "line 2: there is no template for the relation 'twin', so the prompt is 'The twin of Oslo is' (1" in warning
    assert warning.endswith("or give `kg-edit edit` a file with a template: --templates FILE")  # not evaluate or locate


def test_paraphrase_without_the_subject_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"subject": "Google", "prompt": "{} was founded by", "target_new": "Ada"}
    texts = (["Who founded google?"], ["It was made by"], ["The maker of {} is"])
    write(tmp_path, "e.jsonl", lines(*({**row, "id": str(at), "paraphrases": text} for at, text in enumerate(texts))))
    read_edits(tmp_path / "e.jsonl")
    (warning,) = [record.getMessage() for record in caplog.records if "does not contain" in record.getMessage()]
    assert "line 2: the paraphrase 'It was made by' does not contain the subject 'Google'" in warning
    assert "(1 more such rows)" in warning


def test_counterfactplus_is_read() -> None:
    if not COUNTERFACT.exists():
        pytest.skip(f"needs CounterFactPlus records in {COUNTERFACT}")
    records = json.loads(COUNTERFACT.read_text(encoding="utf-8"))
    read = read_edits(COUNTERFACT)
    assert len(read.edits) == len(records) == 530
    assert read.problems == ()
    for edit, record in zip(read.edits, records, strict=True):
        rewrite = record["requested_rewrite"]
        assert edit.id == str(record["case_id"])
        assert edit.text == rewrite["prompt"].format(rewrite["subject"])
        assert (edit.target_new, edit.target_new_id) == tuple(rewrite["target_new"].values())
        assert list(edit.paraphrases) == record["paraphrase_prompts"]
        assert list(edit.neighborhood) == record["neighborhood_prompts"]
        assert edit.portability[0].question == record["portability"]["New Question"]
        assert edit.relation
    first = read.edits[0]
    assert (first.id, first.subject, first.relation_id) == ("4488", "The Revenge of Shinobi", "P178")


def test_counterfactplus_round_trips(tmp_path: Path) -> None:
    if not COUNTERFACT.exists():
        pytest.skip(f"needs CounterFactPlus records in {COUNTERFACT}")
    edits = read_edits(COUNTERFACT).edits
    write_edits(tmp_path / "edits.jsonl", edits)
    assert read_edits(tmp_path / "edits.jsonl").edits == edits


@pytest.mark.parametrize(
    "name, content",
    [
        ("edits.jsonl", "\n" + lines(GOOD)),
        ("edits.jsonl", "\ufeff\r\n" + json.dumps(GOOD) + "\r\n"),
        ("edits.csv", HEADER + ROW),
        ("EDITS.CSV", "\ufeff" + (HEADER + ROW).replace("\n", "\r\n")),
        ("edits.tsv", (HEADER + ROW).replace(",", "\t")),
    ],
)
def test_row_is_the_same_edit_in_each_format(tmp_path: Path, name: str, content: str) -> None:
    (edit,) = read_edits(write(tmp_path, name, content)).edits
    assert edit == Edit(id="row-1", **GOOD)


@pytest.mark.parametrize("content", [[GOOD], GOOD])
def test_json_may_be_a_list_or_an_object(tmp_path: Path, content: object) -> None:
    path = write(tmp_path, "edits.json", json.dumps(content, indent=1))
    assert read_edits(str(path)).edits == (Edit(id="row-1", **GOOD),)


def test_edits_of_a_table_keep_their_ids_when_they_are_linked(tmp_path: Path) -> None:
    table = write(tmp_path, "edits.csv", HEADER + 'Ann,"{} lives\nin",Oslo,Rome\n\nBob,{} lives in,Oslo,Rome\n')
    link_edits(homonyms(tmp_path).linker, table, tmp_path / "linked.jsonl")
    assert [edit.id for edit in read_edits(table)] == ["row-1", "row-2"]
    assert [edit.id for edit in read_edits(tmp_path / "linked.jsonl")] == ["row-1", "row-2"]


def test_table_cells_may_be_lists(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "edits.csv",
        "id,subject,prompt,target_new,paraphrases,neighborhood\n"
        'a,Ann,"{}, who lives in",Rome,"Ann, at home in | Ann dwells in",Bob lives in\n'
        '"b","Ann ""Bo"" Ash","{} of\nold is",Rome,,\n'
        "c,Cy,{} is at,Rome,,\n",
    )
    first, second, third = read_edits(path).edits
    assert first.paraphrases == ("Ann, at home in", "Ann dwells in")
    assert first.neighborhood == ("Bob lives in",)
    assert (second.subject, second.prompt, second.paraphrases) == ('Ann "Bo" Ash', "{} of\nold is", ())
    assert third.id == "c"


def test_empty_columns_of_a_spreadsheet_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", f"{HEADER.rstrip()},,\r\n{ROW.rstrip()},,\r\nBob,{{}} is in,Oslo,Bern,,\r\n")
    assert [edit.target_new for edit in read_edits(path)] == ["Rome", "Bern"]
    path.write_text(f"{HEADER.rstrip()},,\n{ROW.rstrip()},,\nBob,{{}} is in,Oslo,Bern,,ask Ann\n")
    fault = "found 'ask Ann' in a column without a name; name the column in the header, or empty the cell"
    assert refusal(path) == f"{path}, line 3, {fault}"


@pytest.mark.parametrize("suffix, separator", [(".csv", ","), (".tsv", "\t")])
def test_table_may_have_triplets(tmp_path: Path, suffix: str, separator: str) -> None:
    text = "subject,relation,object,new_object\nQ36159,P54,Q121783,Q128109\nAnn,place of birth,,Q128109\n"
    labels = Labels()
    first, second = read_edits(write(tmp_path, f"t{suffix}", text.replace(",", separator)), labels=labels).edits
    assert (first.text, first.target_true, first.target_new) == (
        "LeBron James plays for",
        "Los Angeles Lakers",
        "Chicago Bulls",
    )
    assert (second.text, second.target_true, second.relation_id) == ("Ann was born in", None, "P19")
    assert labels.asked == [["Q121783", "Q128109", "Q36159"]], "one call for the whole file"


def test_repeated_row_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert len(read_edits(write(tmp_path, "edits.csv", HEADER + ROW + ROW)).edits) == 2
    (warned, counted) = caplog.messages
    assert "line 3 is the edit of line 2 again; it is made once" in warned
    assert "2 rows" in counted and "1 edit " in counted and counted.endswith("skipped 0 rows")


def test_triplet_with_too_few_answers_is_a_fault_of_its_row(tmp_path: Path) -> None:
    wrong = {
        "subject": "Ann",
        "relation": "country",
        "new_object": "Italy",
        "locality": {"near": {"prompt": ["Snow is", "Coal is"], "ground_truth": ["white"]}},
    }
    file = read_edits(write(tmp_path, "edits.jsonl", lines(wrong, GOOD)), keep_going=True)
    assert (len(file.edits), [problem.number for problem in file.problems]) == (1, [1])
    assert "2 prompts have 1 answers" in str(file.problems[0])


def test_file_may_mix_shapes(tmp_path: Path) -> None:
    triplet = {"subject": "Bob", "relation": "P551", "new_object": "Rome"}
    path = write(tmp_path, "edits.json", json.dumps([GOOD, triplet]))
    assert [edit.text for edit in read_edits(path).edits] == ["Ann lives in", "Bob lives in"]


# Writing


def names() -> st.SearchStrategy[str]:
    """Any text, with those signs often in it that a reader may stumble over."""
    signs = st.sampled_from(list("{}\"'\\|,\t\n\r\u2028\x85\ufeff é漢🏀"))
    texts = st.text(st.one_of(signs, st.characters(exclude_categories=["Cs"])), min_size=1, max_size=12)
    composed = texts.map(partial(unicodedata.normalize, "NFC"))  # as rows are read
    plain = composed.map(str.strip).filter(bool)
    return plain.filter(lambda text: not is_item_id(text) and not is_property_id(text))


def answers() -> st.SearchStrategy[str]:
    return names().filter(lambda text: "\n" not in text)


def prompts() -> st.SearchStrategy[str]:
    part = names().filter(lambda text: "{}" not in text)
    return st.builds("{} {{}} {}".format, part, part).filter(lambda text: text.count("{}") == 1)


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    target = draw(answers())
    ids = st.none() | st.integers(1, 10**9)
    return Edit(
        id=draw(names()),
        subject=draw(names()),
        prompt=draw(prompts()),
        target_new=target,
        target_true=draw(st.none() | answers().filter(lambda text: text.casefold() != target.casefold())),
        relation=draw(st.none() | names()),
        subject_id=draw(ids.map(lambda number: number and f"Q{number}")),
        relation_id=draw(ids.map(lambda number: number and f"P{number}")),
        paraphrases=tuple(draw(st.lists(names(), max_size=2))),
        neighborhood=tuple(draw(st.lists(names(), max_size=2))),
        portability=tuple(draw(st.lists(st.builds(Question, question=names(), answer=answers()), max_size=2))),
    )


@given(st.lists(edits(), min_size=1, max_size=3, unique_by=(lambda edit: edit.id, lambda edit: edit.text)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_write_edits_round_trips(tmp_path: Path, written: list[Edit]) -> None:
    path = tmp_path / "edits.jsonl"
    write_edits(path, written)
    assert list(read_edits(path).edits) == written
    assert list(tmp_path.iterdir()) == [path], "no draft is left behind"


def test_write_edits_leaves_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    write_edits(path, [Edit(id="a", **GOOD)])

    def broken() -> object:
        yield Edit(id="b", **GOOD)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_edits(path, broken())  # type: ignore[arg-type]
    assert [edit.id for edit in read_edits(path).edits] == ["a"]
