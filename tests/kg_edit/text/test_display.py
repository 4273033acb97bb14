from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from kg_edit.text.display import escaped_markdown, markdown_row, markdown_table, one_line, plain, terminal_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m\nb\u202ec\u2029d", "a [31m b c d"),  # no control character
        ("\u05e9\u05dc\u05d5\u05dd \u200d e\u0301", "\u05e9\u05dc\u05d5\u05dd \u200d e\u0301"),  # scripts and joiners
    ],
)
def test_one_line_removes_only_control_characters(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_plain_escapes_markup() -> None:
    assert Text.from_markup(plain("[bold]a[/bold]\n[/x]")).plain == "[bold]a[/bold] [/x]"


def test_escaped_markdown_has_no_marks() -> None:
    assert escaped_markdown("a|b *c* [d] e") == "a\\|b \\*c\\* \\[d\\] e"


def test_markdown_table_has_header_ruler_and_rows() -> None:
    table = markdown_table(["metric", "after"], [["efficacy", "1.00"]])
    assert table == "| metric | after |\n| --- | --- |\n| efficacy | 1.00 |"
    numbers = markdown_table(["metric", "before", "after"], [], numbers_from=1)
    assert numbers.splitlines()[1] == "| --- | ---: | ---: |"
    assert markdown_row(["a\\|b", "", "*c*"]) == "| a\\|b |  | *c* |"


def test_table_refuses_uneven_rows() -> None:
    for make in (markdown_table, terminal_table):
        with pytest.raises(ValueError, match=r"a row has 1 cells \(only\), the header 2"):
            make(["one", "two"], [["fits", "too"], ["only"]])
        with pytest.raises(ValueError, match="a row has 0 cells"):
            make(["one", "two"], [[]])


def test_terminal_table_breaks_names_at_dots_and_underscores() -> None:
    shown = StringIO()
    cells = ["portability.teacher_forced", *["0.123 [0.101, 0.145]"] * 3]
    table = terminal_table(["metric", "unedited", "edited", "fact in prompt"], [cells], numbers_from=1)
    Console(file=shown, width=80).print(table)
    pieces = [
        line.strip("│┃ ").split()[0] for line in shown.getvalue().splitlines() if "orta" in line or "forced" in line
    ]
    assert pieces == ["portability.", "teacher_forced"]


def test_terminal_table_has_cells_and_caption() -> None:
    table = terminal_table(["metric", "after"], [["efficacy", "1.00"], ["x", "10.00"]], numbers_from=1, caption="n = 3")
    console = Console(width=60, record=True)
    console.print(table)
    lines = [line.strip() for line in console.export_text().splitlines()]
    assert "│ efficacy │  1.00 │" in lines
    assert "│ x        │ 10.00 │" in lines
    assert lines[-1] == "n = 3"
