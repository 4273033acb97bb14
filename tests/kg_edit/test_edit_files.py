"""Edit files in every format: what is read, and how each fault is told with its row, field and way out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kg_edit.edit_io.edit_files import read_edits, write_edits
from kg_edit.edit_io.triplets import FIELDS
from kg_edit.edits import Edit, Question, is_entity_id, is_property_id
from kg_edit.errors import EditFileError, OutputError

COUNTERFACT = Path(__file__).parents[3] / "shared" / "data" / "counterfact_plus" / "dev.json"
GOOD = {"subject": "Ann", "prompt": "{} lives in", "target_true": "Oslo", "target_new": "Rome"}
HEADER = "subject,prompt,target_true,target_new\n"
ROW = "Ann,{} lives in,Oslo,Rome\n"


class Labels:
    """A label source that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    def labels(self, ids: Sequence[str], /) -> dict[str, str]:
        self.asked.append(ids)
        known = {"Q36159": "LeBron James", "Q121783": "Los Angeles Lakers", "Q128109": "Chicago Bulls"}
        return {id_: known[id_] for id_ in ids if id_ in known}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def refusal(path: Path, *, keep_going: bool = False) -> str:
    with pytest.raises(EditFileError) as raised:
        read_edits(path, keep_going=keep_going)
    return str(raised.value)


def lines(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


# What is read


def test_counterfactplus() -> None:
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


def test_counterfactplus_survives_writing(tmp_path: Path) -> None:
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
def test_a_row_is_the_same_edit_in_each_format_of_lines(tmp_path: Path, name: str, content: str) -> None:
    (edit,) = read_edits(write(tmp_path, name, content)).edits
    assert edit == Edit(id="row-2", **GOOD)


@pytest.mark.parametrize("content", [[GOOD], GOOD])
def test_json_is_a_list_or_one_object(tmp_path: Path, content: object) -> None:
    path = write(tmp_path, "edits.json", json.dumps(content, indent=1))
    assert read_edits(str(path)).edits == (Edit(id="row-1", **GOOD),)


def test_null_is_a_field_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"paraphrases": None, "relation": None}))
    assert read_edits(path).edits == (Edit(id="row-1", **GOOD),)


def test_lists_in_a_table(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("suffix, separator", [(".csv", ","), (".tsv", "\t")])
def test_triplets_in_a_table(tmp_path: Path, suffix: str, separator: str) -> None:
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


def test_labels_are_not_asked_in_vain(tmp_path: Path) -> None:
    labels = Labels()
    read_edits(write(tmp_path, "edits.jsonl", lines(GOOD)), labels=labels)
    assert labels.asked == []


def test_shapes_may_be_mixed(tmp_path: Path) -> None:
    triplet = {"subject": "Bob", "relation": "P551", "new_object": "Rome"}
    path = write(tmp_path, "edits.json", json.dumps([GOOD, triplet]))
    assert [edit.text for edit in read_edits(path).edits] == ["Ann lives in", "Bob lives in"]


# Faults of a file


def test_a_missing_file(tmp_path: Path) -> None:
    assert "none.jsonl: no such file; check the path, seen from" in refusal(tmp_path / "none.jsonl")


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; expected a file, give the path of one in it"


def test_another_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.xlsx", b"PK")
    assert refusal(path) == f"{path}: ends in '.xlsx'; expected a file in .jsonl, .json, .csv, .tsv"


@pytest.mark.parametrize(
    "name, content",
    [
        ("edits.jsonl", ""),
        ("edits.jsonl", "\n \n\n"),
        ("edits.json", ""),
        ("edits.json", " \n"),
        ("edits.json", "[]"),
        ("edits.csv", ""),
        ("edits.csv", "\n\n"),
        ("edits.csv", HEADER),
        ("edits.tsv", HEADER.replace(",", "\t") + "\t\t\t\n"),
    ],
)
def test_an_empty_file(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path, name, content)
    assert refusal(path) == f"{path}: holds no rows; expected one edit or triplet a row"


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    content = (HEADER + ROW).encode() + "Zoë,{} lives in,Oslo,Rome\n".encode("latin-1")
    path = write(tmp_path, "edits.csv", content)
    offset = len(HEADER + ROW) + 2
    found = "found the byte 0xeb, which is not UTF-8; save the file as UTF-8"
    assert refusal(path) == f"{path}, line 3, byte offset {offset}: {found}"


def test_malformed_json(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "edits.json", '[\n {"subject": "Ann",}\n]'))
    assert "edits.json, line 2, column " in message
    assert "not JSON: " in message
    message = refusal(write(tmp_path, "edits.json", lines(GOOD, GOOD)))
    assert "line 2, column 1: not JSON: Extra data; expected one list of objects; a file with" in message


@pytest.mark.parametrize("content", ["1" * 5000, "[" * 100_000])
def test_json_beyond_the_parser(tmp_path: Path, content: str) -> None:
    assert "not JSON" in refusal(write(tmp_path, "edits.json", content))


@pytest.mark.parametrize(
    "header, message",
    [
        (
            "prompt,target_new",
            "line 1: lacks the column 'subject'; expected at least subject, prompt,",
        ),
        ("subject,relation,object", "line 1: lacks the column 'new_object'"),
        ("subject,target_new", "line 1: lacks the column 'prompt'"),
        ("Subject,prompt,target_new", "line 1: unknown column 'Subject', did you mean 'subject'?"),
        ("subject,prompt,target_new,portability", "line 1: unknown column 'portability'; known: id, subject"),
        ("subject,prompt,target_new,prompt", "line 1: a column stands there twice: subject, prompt"),
        ('"subject,prompt', "line 1: not a row of a table: unexpected end of data; close the quotes"),
    ],
)
def test_a_header_that_cannot_work(tmp_path: Path, header: str, message: str) -> None:
    path = write(tmp_path, "edits.csv", f"{header}\nAnn,b,c,d\n")
    assert refusal(path).startswith(f"{path}, {message}")


# Faults of a row


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"prompt": "{} is", "target_new": "x"},
            "field subject: is missing; expected s, the entity",
        ),
        (GOOD | {"subject": 7}, "field subject: found the number 7; expected text"),
        (GOOD | {"target_new": ["Rome"]}, "field target_new: found a list; expected text"),
        (
            GOOD | {"target_new": ""},
            "field target_new: is empty; expected o*, what",
        ),
        (GOOD | {"target_new": "oslo"}, "field target_new: 'oslo' is also the old target"),
        (GOOD | {"promt": "x"}, "field promt: unknown field, did you mean 'prompt'?"),
        (GOOD | {"prompt": "Ann lives in"}, "field prompt: 'Ann lives in' has no {}; write '{} lives in'"),
        (
            GOOD | {"prompt": "She lives in"},
            "field prompt: 'She lives in' has no {}; the subject 'Ann'",
        ),
        (GOOD | {"prompt": "{} of {}"}, "field prompt: '{} of {}' has 2 places {}"),
        (GOOD | {"target_new": "Q220"}, "field target_new: 'Q220' is a Wikidata id"),
        (
            {"subject": "Ann", "relation": "P999999", "new_object": "x"},
            "field relation: unknown relation id",
        ),
        (
            {"subject": "Q1", "relation": "P31", "new_object": "x"},
            "field subject: found the id Q1, for",
        ),
        (["Ann", "Rome"], "found a list; expected an object {...} of fields"),
        ("Ann", "found the text 'Ann'; expected an object {...} of fields"),
    ],
)
def test_a_wrong_row_is_named_with_its_field(tmp_path: Path, row: object, message: str) -> None:
    path = write(tmp_path, "edits.jsonl", "\n" + lines(GOOD, row))
    assert refusal(path).startswith(f"{path}, line 3, {message}")
    path = write(tmp_path, "edits.json", json.dumps([GOOD, row], indent=2))
    assert refusal(path).startswith(f"{path}, record 2, {message}")


def test_a_malformed_line(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD) + '{"subject": "Bob"\n')
    assert refusal(path).startswith(f"{path}, line 2, not JSON, column ")
    assert "expected one whole object {...} on the line" in refusal(path)


def test_the_line_of_a_table_row_after_a_cell_of_two_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", HEADER + 'Ann,"{} lives\nin",Oslo,Rome\n\nBob,lives in,Oslo,Rome\n')
    assert refusal(path).startswith(f"{path}, line 5, field prompt: ")


@pytest.mark.parametrize("row, cells", [("Bob,{} is in,Oslo,Rome,\n", 5), ("Bob,{} is in,Rome\n", 3)])
def test_a_row_of_other_length_than_the_header(tmp_path: Path, row: str, cells: int) -> None:
    path = write(tmp_path, "edits.csv", HEADER + ROW + row)
    assert refusal(path).startswith(f"{path}, line 3, found {cells} cells; expected 4, one for each column")


def test_a_quote_out_of_place(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.csv", HEADER + '"Ann" B,{} is in,Oslo,Rome\n' + ROW)
    assert "line 2, not a row of a table: ',' expected after '\"'; close the quotes" in refusal(path)
    assert [edit.id for edit in read_edits(path, keep_going=True).edits] == ["row-3"]


def test_an_id_given_twice(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"id": 5}, GOOD | {"id": "5", "subject": "Bob"}))
    assert refusal(path) == f"{path}, line 2, field id: '5' is the id of line 1 too; give it another"


def test_two_rows_that_edit_one_fact_to_different_targets(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.json", json.dumps([GOOD, GOOD, GOOD | {"target_new": "Bern"}]))
    found = "'Ann lives in' is edited to 'Bern' here and to 'Rome' in record 2; keep one of the two"
    assert refusal(path) == f"{path}, record 3, field target_new: {found}"


def test_conflicts_may_be_allowed_but_not_an_id_given_twice(tmp_path: Path) -> None:
    other = GOOD | {"target_new": "Bern"}
    path = write(tmp_path, "edits.json", json.dumps([GOOD, other]))
    assert [edit.target_new for edit in read_edits(path, allow_conflicts=True).edits] == ["Rome", "Bern"]
    path = write(tmp_path, "edits.json", json.dumps([GOOD | {"id": "a"}, other | {"id": "a"}]))
    with pytest.raises(EditFileError, match="is the id of record 1 too"):
        read_edits(path, allow_conflicts=True)


def test_one_fault_is_shown_and_the_others_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"subject": 1, "target_new": 2}, GOOD, {}))
    assert refusal(path).endswith(
        "line 1, field subject: found the number 1; expected text (4 more such faults in the file)"
    )


def test_keep_going_skips_and_reports_the_wrong_rows(tmp_path: Path) -> None:
    rows = [{"subject": "Ann"}, GOOD, GOOD | {"prompt": "in"}, GOOD | {"subject": "Bob"}]
    read = read_edits(write(tmp_path, "edits.jsonl", lines(*rows) + "oops\n"), keep_going=True)
    assert [edit.id for edit in read.edits] == ["row-2", "row-4"]
    assert [(problem.row, problem.fault.field) for problem in read.problems] == [
        (1, "prompt"),
        (1, "target_new"),
        (3, "prompt"),
        (5, ""),
    ]


def json_rows() -> st.SearchStrategy[object]:
    """Rows with the right names and any values."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    ids = st.sampled_from(["Q1", "P54", "{}", "{} is"])
    inner = st.sampled_from(["str", "id", "prompt", "subject", "target_new", "relation_id", "New Answer"])
    values = st.recursive(
        scalars | ids, lambda some: st.lists(some, max_size=2) | st.dictionaries(inner, some), max_leaves=4
    )
    fields = st.sampled_from([*FIELDS, "case_id", "requested_rewrite", "paraphrase_prompts", "other"])
    return st.dictionaries(fields, values, max_size=6) | values


@given(st.lists(json_rows(), max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_the_error_is_ours(tmp_path: Path, rows: list[object]) -> None:
    path = write(tmp_path, "edits.json", json.dumps([GOOD, *rows]))
    try:
        assert len(read_edits(path).edits) == len(rows) + 1
    except EditFileError:
        assert read_edits(path, keep_going=True).problems


def test_keep_going_needs_one_good_row(tmp_path: Path) -> None:
    path = write(tmp_path, "edits.jsonl", lines(GOOD | {"subject": 1}, GOOD | {"prompt": "in"}))
    message = refusal(path, keep_going=True).splitlines()
    assert message[0] == "no row is good:"
    assert [line.split(":")[0] for line in message[1:]] == [
        f"{path}, line 1, field subject",
        f"{path}, line 2, field prompt",
    ]


# Writing


def names() -> st.SearchStrategy[str]:
    """Any text, with those signs often in it that a reader may stumble over."""
    signs = st.sampled_from(list("{}\"'\\|,\t\n\r\u2028\x85\ufeff é漢🏀"))
    texts = st.text(st.one_of(signs, st.characters(exclude_categories=["Cs"])), min_size=1, max_size=12)
    plain = texts.map(str.strip).filter(bool)
    return plain.filter(lambda text: not is_entity_id(text) and not is_property_id(text))


def prompts() -> st.SearchStrategy[str]:
    part = names().filter(lambda text: "{}" not in text)
    return st.builds("{} {{}} {}".format, part, part).filter(lambda text: text.count("{}") == 1)


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    target = draw(names())
    ids = st.none() | st.integers(1, 10**9)
    return Edit(
        id=draw(names()),
        subject=draw(names()),
        prompt=draw(prompts()),
        target_new=target,
        target_true=draw(st.none() | names().filter(lambda text: text.casefold() != target.casefold())),
        relation=draw(st.none() | names()),
        subject_id=draw(ids.map(lambda number: number and f"Q{number}")),
        relation_id=draw(ids.map(lambda number: number and f"P{number}")),
        paraphrases=tuple(draw(st.lists(names(), max_size=2))),
        neighborhood=tuple(draw(st.lists(names(), max_size=2))),
        portability=tuple(draw(st.lists(st.builds(Question, question=names(), answer=names()), max_size=2))),
    )


@given(st.lists(edits(), min_size=1, max_size=3, unique_by=(lambda edit: edit.id, lambda edit: edit.text)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, written: list[Edit]) -> None:
    path = tmp_path / "edits.jsonl"
    write_edits(path, written)
    assert list(read_edits(path).edits) == written
    assert list(tmp_path.iterdir()) == [path], "no draft is left behind"


def test_writing_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    write_edits(path, [Edit(id="a", **GOOD)])

    def broken() -> object:
        yield Edit(id="b", **GOOD)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_edits(path, broken())  # type: ignore[arg-type]
    assert [edit.id for edit in read_edits(path).edits] == ["a"]


def test_writing_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"edits.csv: edits are written as JSON lines"):
        write_edits(tmp_path / "edits.csv", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't write"):
        write_edits(tmp_path / "file" / "edits.jsonl", [])
