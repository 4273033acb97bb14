from __future__ import annotations

from rich.text import Text

from kg_edit.text.safe_text import escaped_markdown, one_line, plain


def test_one_line_has_no_control_character() -> None:
    assert one_line("a\x1b[31m\nb\u202ec\u2029d") == "a [31m bc d"


def test_one_line_keeps_scripts_and_joiners() -> None:
    assert one_line("\u05e9\u05dc\u05d5\u05dd \u200d e\u0301") == "\u05e9\u05dc\u05d5\u05dd \u200d e\u0301"


def test_plain_text_is_not_taken_for_markup() -> None:
    assert Text.from_markup(plain("[bold]a[/bold]\n[/x]")).plain == "[bold]a[/bold] [/x]"


def test_markdown_marks_are_escaped() -> None:
    assert escaped_markdown("a|b *c* [d] e") == "a\\|b \\*c\\* \\[d\\] e"
