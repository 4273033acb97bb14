from __future__ import annotations

import pytest
from rich.console import Console

from kg_edit.text.tables import markdown_row, markdown_table, terminal_table


def test_a_table_has_a_ruler_and_a_line_a_row() -> None:
    assert markdown_table(["metric", "after"], [["efficacy", "1.00"]]) == (
        "| metric | after |\n| --- | --- |\n| efficacy | 1.00 |"
    )


def test_columns_of_numbers_stand_to_the_right() -> None:
    table = markdown_table(["metric", "before", "after"], [], numbers_from=1)
    assert table.splitlines()[1] == "| --- | ---: | ---: |"


def test_a_row_that_does_not_fit_the_header_is_an_error() -> None:
    for make in (markdown_table, terminal_table):
        with pytest.raises(ValueError, match=r"a row has 1 cells \(only\), the header 2"):
            make(["one", "two"], [["fits", "too"], ["only"]])
        with pytest.raises(ValueError, match="a row has 0 cells"):
            make(["one", "two"], [[]])


def test_cells_are_taken_as_they_are() -> None:
    assert markdown_row(["a\\|b", "", "*c*"]) == "| a\\|b |  | *c* |"


def test_the_terminal_shows_the_same_cells_and_the_caption() -> None:
    table = terminal_table(["metric", "after"], [["efficacy", "1.00"], ["x", "10.00"]], numbers_from=1, caption="n = 3")
    console = Console(width=60, record=True)
    console.print(table)
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert "│ efficacy │  1.00 │" in lines
    assert "│ x        │ 10.00 │" in lines
    assert lines[-1] == "n = 3"
