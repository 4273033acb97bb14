"""Files as rows, before their fields are interpreted."""

import json
from pathlib import Path

import pytest

from kg_common.rows import RawRow, RowFault, raw_rows
from wikidata_cache.errors import EditRowError


def rows(folder: Path, name: str, text: str) -> list[RawRow]:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return raw_rows(path)


def test_rows_have_the_number_of_their_first_line(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.jsonl", '\n{"a": 1}\r\n\r\n{"a": "\u2028"}') == [
        RawRow(2, {"a": 1}),
        RawRow(4, {"a": "\u2028"}),
    ]
    table = 'a,b\n"one\ntwo",x\n\ny,\n'
    assert rows(tmp_path, "a.csv", table) == [RawRow(2, {"a": "one\ntwo", "b": "x"}), RawRow(5, {"a": "y"})]
    assert rows(tmp_path, "a.json", json.dumps([[1], None])) == [RawRow(1, [1]), RawRow(2, None)]
    assert rows(tmp_path, "b.json", '\ufeff{"a": 1}') == [RawRow(1, {"a": 1})]


def test_texts_are_composed(tmp_path: Path) -> None:
    apart, composed = "Se\u0301oul", "S\u00e9oul"  # which look the same
    nested = {"a": apart, "b": [apart, {"c": [apart]}]}
    for escaped in (True, False):
        (row,) = rows(tmp_path, "a.jsonl", json.dumps(nested, ensure_ascii=escaped))
        assert row.value == {"a": composed, "b": [composed, {"c": [composed]}]}
    assert rows(tmp_path, "a.csv", f"a,b\n{apart},x\n")[0].value == {"a": composed, "b": "x"}


def test_bad_row_is_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    first, cut, last = rows(tmp_path, "a.jsonl", '{"a": 1}\n{"a": \n3')
    assert (first.value, last) == ({"a": 1}, RawRow(3, 3))
    assert isinstance(cut.value, RowFault) and cut.value.message.startswith("not JSON, column ")
    _, long, open_quote = rows(tmp_path, "a.tsv", 'a\tb\nx\ty\nx\ty\tz\nx\t"y\nz')
    assert long.line == 3 and isinstance(long.value, RowFault) and "found 3 cells; expected 2" in long.value.message
    assert isinstance(open_quote.value, RowFault) and "close the quotes" in open_quote.value.message


def test_repeated_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EditRowError, match=r"a\.csv, line 1: the column 'b' occurs twice; keep one"):
        rows(tmp_path, "a.csv", "a,b,b\n1,2,3\n")
    assert rows(tmp_path, "b.csv", "a,,\n1,,\n") == [RawRow(2, {"a": "1"})]  # a spreadsheet's empty columns


def test_repeated_name_is_a_fault_at_any_depth(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "a.jsonl", '{"a": [{"b": 1}, {"b": {"c": 1, "c": 2}}]}')
    assert row.value == RowFault("a[1].b.c", "occurs twice; keep one")


def test_header_check_refuses_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\nsubject;target\nA;B\n", encoding="utf-8")
    seen: list[list[str]] = []

    def refuse(header: object) -> str:
        seen.append(header)  # type: ignore[arg-type]
        return "no such column"

    with pytest.raises(EditRowError, match=r"a\.csv, line 2: no such column") as caught:
        raw_rows(path, header_fault=refuse)
    assert seen == [["subject", "target"]]
    assert (caught.value.position, caught.value.row) == ("line 2", None)


def test_cut_off_letter_is_located_by_row_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": 1}\n\n{"a": "é'.encode()[:-1])
    with pytest.raises(EditRowError, match=r"row 2: found the byte 0xc3, which is not UTF-8") as caught:
        raw_rows(path)
    assert caught.value.position == "line 3, byte offset 17"


@pytest.mark.parametrize("ending", [".jsonl", ".odd"])
def test_name_that_no_file_can_have_is_refused(ending: str, tmp_path: Path) -> None:
    with pytest.raises(EditRowError, match=r"name too long|no such file"):
        raw_rows(tmp_path / f"{'a' * 300}{ending}")


def test_cell_above_the_limit_says_that_the_rows_behind_it_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a,b\n1,2\n{'x' * 200_000},3\n4,5\n")
    first, fault = raw_rows(path)
    assert first.value == {"a": "1", "b": "2"}
    assert isinstance(fault.value, RowFault) and "not read" in fault.value.message and ".jsonl" in fault.value.message
