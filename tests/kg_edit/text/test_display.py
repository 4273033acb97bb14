from __future__ import annotations

import pytest
from rich.console import Console
from rich.text import Text

from kg_edit.text.display import escaped_markdown, markdown_row, markdown_table, one_line, plain, terminal_table


def test_one_line_has_no_control_character() -> None:
    assert one_line("a\x1b[31m\nb\u202ec\u2029d") == "a [31m b c d"


def test_one_line_keeps_scripts_and_joiners() -> None:
    assert one_line("\u05e9\u05dc\u05d5\u05dd \u200d e\u0301") == "\u05e9\u05dc\u05d5\u05dd \u200d e\u0301"


def test_plain_text_is_not_taken_for_markup() -> None:
    assert Text.from_markup(plain("[bold]a[/bold]\n[/x]")).plain == "[bold]a[/bold] [/x]"


def test_markdown_marks_are_escaped() -> None:
    assert escaped_markdown("a|b *c* [d] e") == "a\\|b \\*c\\* \\[d\\] e"


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
