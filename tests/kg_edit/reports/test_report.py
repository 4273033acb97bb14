"""The verdict, and the tables, which stay tables whatever the texts in them have."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.advice import BEST, JudgedRun
from kg_edit.reports.edit_results import EditDetails
from kg_edit.reports.report import markdown, terminal_table
from kg_edit.reports.rows import Reading, ReportProbe, ReportRow
from kg_edit.reports.verdict import Verdict

NASTY = {
    "newlines": "a\nb\r\nc\u2028d\x85e\vf",
    "pipes": "a | b \\| c \\\\| d",
    "backticks": "`a` ``b` |`|`",
    "markup": "<b>*a*</b> _b_ [c](d) # e ~~f~~ $g$ &amp; [bold]h[/bold]",
    "right to left": "שלום עולם — السلام عليكم",
    "joiners": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 👩\u200d🔬",
    "overrides": "abc\u202edef\u2066ghi",
    "control": "a\x1b[31mred\x00\x07\tb",
    "wide": "東京都 is the capital",
}
PATCH = WeightPatch(
    factors={"model.layers.1.mlp.down_proj.weight": Factors(left=torch.zeros(2, 1), right=torch.zeros(3, 1))},
    provenance={"model": {"name": "a_folder/with|pipe"}, "edits": [{"method": "rome"}]},
)


def row(text: str, *, edit: str = "1", right: bool = True, success: bool = True) -> ReportRow:
    probe = ReportProbe(kind="rewrite", prompt=text, ask=text, score=text, wanted=text)
    reading = Reading(text=text, nats=1.25, success=success, right=right)
    return ReportRow(edit=edit, probe=probe, unedited=reading, edited=reading)


def cells(line: str) -> list[str]:
    """The cells of a Markdown row, as GitHub reads it: a pipe with a backslash before it is a letter."""
    inner = re.fullmatch(r"\| (.*) \|", line)
    assert inner
    return re.split(r"(?<!\\)(?:\\\\)*\|", inner[1])


def test_verdict_counts_the_edits_own_prompts() -> None:
    rows = [row("a", edit="row-1"), row("b", edit="row-2", success=False)]
    rows.append(row("c", edit="row-3", success=False, right=False))
    rows.append(
        row("d", edit="row-3").model_copy(update={"probe": row("d").probe.model_copy(update={"kind": "portability"})})
    )
    verdict = Verdict.of(rows)
    assert str(verdict) == (
        "1 of 3 edits succeeded; 2 failed: row-2 ('b': target 'b', generated 'b', though the target is more likely "
        "than the old one); row-3 ('c': target 'c', generated 'c')"
    )
    assert str(Verdict.of(rows[:1])) == "1 of 1 edits succeeded"
    assert str(Verdict.of([row("x", edit=str(number), success=False) for number in range(12)])).endswith("; and 2 more")
    assert len(str(Verdict.of([row("x" * 5000, edit="long", success=False)]))) < 500
    assert "**1 of 3 edits succeeded; 2 failed: row-2" in markdown(rows, PATCH)


def test_failed_paragraph_gets_advice_of_its_own() -> None:
    line = row("a", edit="row-1", success=False)
    text = line.model_copy(update={"edit": "row-2", "probe": line.probe.model_copy(update={"several_lines": True})})
    advice, other, page = Verdict.of([line, text], details={"row-2": EditDetails(alone=False)}).advice
    assert advice.startswith("row-2: a paragraph") and "--set steps=" in advice and ".md#" in page
    assert other.startswith("row-1: the target is not generated") and "ft-m" not in other


def test_verdict_shows_where_a_long_text_differs() -> None:
    failed = row("a shepherd " * 30, success=False)
    failed = failed.model_copy(
        update={"probe": failed.probe.model_copy(update={"wanted": "a shepherd " * 29 + "lost"})}
    )
    target, generated = re.findall(r"(?:target|generated) '(.*?)'", str(Verdict.of([failed])))
    assert target.endswith("lost") and not generated.endswith("lost") and len(target) < 50


def test_verdict_shows_where_a_text_ends_too_early() -> None:
    probe = row("a shepherd " * 12).probe.model_copy(update={"wanted": "a shepherd " * 12 + "and a dog"})
    failed = row("a shepherd " * 12, success=False).model_copy(update={"probe": probe})
    target, generated = re.findall(r"(?:target|generated) '(.*?)'", str(Verdict.of([failed])))
    assert target.endswith("and a dog") and len(target) > len(generated)


def test_advice_names_other_methods_than_the_one_that_failed() -> None:
    failed = [row("a", success=False)]
    for cause, details in (
        ("together", EditDetails(alone=True)),
        ("long", EditDetails(tokens=27)),
        ("fails alone", EditDetails(alone=False)),
    ):
        for method in BEST[cause]:
            name, _, preset = method.partition(" --preset ")
            run = JudgedRun(method=name, preset=preset or "default", joint=name == "alphaedit")
            line = Verdict.of(failed, run=run, details={"1": details}).advice[0]
            assert f"--method {method}" not in line and line.count("--method ") == 2, line


@pytest.mark.parametrize(("method", "way"), [("lora", "ike"), ("ike", "rag"), ("rag", "ike")])
def test_advice_for_a_mixture_of_experts_names_no_method_that_refuses_it(method: str, way: str) -> None:
    rows = [row("a", edit="row-1"), row("b", edit="row-2", success=False), row("c", edit="row-3", success=False)]
    run = JudgedRun(method=method, model="m", experts=True)
    details = {"row-2": EditDetails(alone=True, tokens=2), "row-3": EditDetails(alone=False)}
    verdict = Verdict.of(rows, run=run, details=details)
    text = " ".join([*verdict.advice, *verdict.commands])
    assert not re.search(r"--method (rome|grace|alphaedit|ft-m)", text)
    assert verdict.commands[-2].endswith(f"--method {way} --model m") and f"--method {way}" in verdict.advice[1]


@pytest.mark.parametrize(
    ("cause", "details"),
    [
        ("together", EditDetails(alone=True, subject="row-2")),
        ("one subject", EditDetails(alone=True, subject="row-1")),
        ("long", EditDetails(alone=True, tokens=27)),
        ("fails alone", EditDetails(alone=False)),
        ("untried", EditDetails()),
    ],
)
def test_commands_are_those_of_the_best_way_for_a_cause(cause: str, details: EditDetails) -> None:
    rows = [row("a", edit="row-1"), row("b", edit="row-2", success=False)]
    judged = JudgedRun(method="ft", model="m", folder=Path("out"))
    known = {"row-1": EditDetails(subject="row-1"), "row-2": details}
    commands = Verdict.of(rows, run=judged, details=known).commands
    method = BEST[cause][0]
    assert commands[-2].endswith(f"--method {method} --model m")
    removes = commands[1].startswith("kg-edit patch remove")
    assert removes == (method != "grace") and len(commands) == 3 + removes


@pytest.mark.parametrize("run", [{}, {"joint": True}, {"reads_graph": True}, {"experts": True}])
def test_all_edits_are_made_anew_where_that_helps(run: dict[str, bool]) -> None:
    """After `grace`, which is not made again, edits that spoil each other are made at once."""
    rows = [row("a", edit="row-1"), row("b", edit="row-2", success=False)]
    judged = JudgedRun(method="grace", model="m", folder=Path("out"), **run)
    commands = Verdict.of(rows, run=judged, details={"row-2": EditDetails(alone=True)}).commands
    if run:
        assert len(commands) > 2 and "alphaedit" not in " ".join(commands)
    else:
        way = "--method alphaedit --preset fast --model m --out out-alphaedit/"
        assert commands == (f"kg-edit edit out/edits.jsonl {way}",)


def test_commands_follow_the_cause_of_most_failures() -> None:
    rows = [row("a", edit="row-1")]
    rows += [row("b", edit=name, success=False) for name in ("row-2", "row-3", "row-4")]
    long = EditDetails(tokens=27)
    spoiled = EditDetails(alone=True)
    run = JudgedRun(method="ft", model="m", folder=Path("out"))
    for third, cause in ((long, "long"), (spoiled, "together")):
        details = {"row-2": long, "row-3": third, "row-4": spoiled}
        commands = Verdict.of(rows, run=run, details=details).commands
        assert f"--method {BEST[cause][0]} " in commands[-2]


def test_edit_in_both_forms_succeeds_in_both() -> None:
    rows = [row("a", edit="row-1"), row("b", edit="row-2")]
    chat = rows[1].probe.model_copy(update={"chat": True})
    rows.append(row("b", edit="row-2", success=False).model_copy(update={"probe": chat}))
    run = JudgedRun(method="rome", model="m", folder=Path("out"), graph=("my facts.csv",))
    verdict = Verdict.of(rows, run=run)
    assert verdict.counted == "1 of 2 edits succeeded" and "row-2 ('b', in chat form: target 'b'" in str(verdict)
    _, remove, edit, _ = verdict.commands
    assert remove.endswith("--model m --graph 'my facts.csv'")
    assert edit.endswith("--method ike --model m"), "grace makes an edit in one form only"
    assert not Verdict.of(rows[:2]).failed


def test_edit_in_both_forms_is_judged_by_the_worse_row() -> None:
    """Both forms are a success, but in plain text the old object is the more likely one."""
    plain = row("plain", right=False)
    in_chat = row("chat")
    in_chat = in_chat.model_copy(update={"probe": in_chat.probe.model_copy(update={"chat": True})})
    (result,) = Verdict.of([plain, in_chat]).edits
    assert (result.generated, result.likelier, result.both, result.chat) == ("plain", False, True, False)


def test_id_that_begins_with_a_dash_is_no_option_of_a_command() -> None:
    rows = [row("a", edit="row-1"), row("b", edit="-x y", success=False)]
    run = JudgedRun(model="m", folder=Path("out"), graph=("facts.csv",))
    verdict = Verdict.of(rows, run=run, details={"-x y": EditDetails(tokens=27)})  # a long target: removed, and `ike`
    assert verdict.commands[1] == "kg-edit patch remove out-ledger/ --model m --graph facts.csv -- '-x y'"


def test_verdict_says_what_add_refuses_and_what_to_do() -> None:
    rows = [row("a", edit="row-1"), row("b", edit="row-2", success=False)]
    run = JudgedRun(refused=("row-2: too large",), model="m", folder=Path("an out"))
    verdict = Verdict.of(rows, run=run, details={"row-2": EditDetails(alone=False)})
    always, _, _, refused, *_ = verdict.advice
    first, second, *_ = BEST["fails alone"]
    assert always == f"row-2: made alone, the edit fails too; --method {first} or --method {second} may make it"
    assert refused == "kg-edit patch add refuses this patch without --force: row-2: too large"
    assert verdict.commands[0] == "kg-edit patch add 'an out-ledger/' 'an out' --force"
    for some in (rows[:1], rows[1:]):
        assert not Verdict.of(some, run=JudgedRun(model="m")).commands
    assert Verdict.of(rows[1:]).advice[0].endswith(f"generated; --method {first} or --method {second} may make it")


def test_verdict_counts_failed_paraphrases() -> None:
    rows = [row("a", edit="row-1"), row("b", edit="row-1", success=False), row("c", edit="row-1")]
    rows[1:] = [
        entry.model_copy(update={"probe": entry.probe.model_copy(update={"kind": "paraphrase"})}) for entry in rows[1:]
    ]
    verdict = Verdict.of(rows)
    likelier = "though after 1 of them it is more likely than the old object"
    assert (str(verdict), verdict.remarks) == (
        "1 of 1 edits succeeded",
        (
            f"1 of 2 paraphrases failed (the target is not generated, {likelier}): row-1 ('b': generated 'b')",
            *verdict.advice,
        ),
    )
    unlikely = rows[1].model_copy(update={"edited": rows[1].edited.model_copy(update={"right": False})})
    assert likelier not in Verdict.of([unlikely]).remarks[0]
    assert "- 1 of 2 paraphrases failed" in markdown(rows, PATCH)
    many = Verdict.of(rows[1:2] * 12).remarks[0]
    assert many.startswith("12 of 12 paraphrases failed") and many.endswith("; and 2 more")


def test_verdict_counts_questions_and_names_the_edits_that_lost_some() -> None:
    asked = row("q").probe.model_copy(update={"kind": "portability"})
    right, wrong = (row("q", success=answer, right=answer).edited for answer in (True, False))
    rows = [row("a", edit="row-1"), row("b", edit="row-2")]
    for edit, before, after in (("row-1", right, wrong), ("row-1", wrong, wrong), ("row-2", wrong, right)):
        rows.append(ReportRow(edit=edit, probe=asked, unedited=before, edited=after))
    verdict = Verdict.of(rows)
    line = "1 → 1 of 3 portability questions are right; fewer after row-1 (1 → 0 of 2)"
    assert verdict.remarks == (line, *verdict.advice)
    assert f"- {line}" in markdown(rows, PATCH)
    assert "fewer" not in Verdict.of([rows[1], rows[-1]]).remarks[0]


def test_verdict_counts_neighborhood_prompts_that_changed() -> None:
    probe = row("Rome").probe.model_copy(update={"kind": "locality"})
    states = {name: row(name, success=name != "no", right=name == "yes").edited for name in ("yes", "wrong", "no")}
    pairs = [("yes", "yes"), ("yes", "wrong"), ("wrong", "no"), ("no", "no"), ("no", "yes")]
    rows = [row("a")] + [
        ReportRow(edit="1", probe=probe, unedited=states[old], edited=states[new]) for old, new in pairs
    ]
    expected = "2 of 5 neighborhood prompts changed: 1 ('Rome': generated 'wrong'); 1 ('Rome': generated 'no')"
    assert Verdict.of(rows).remarks == (expected, *Verdict.of(rows).advice)
    assert not any("neighborhood" in line for line in Verdict.of(rows[:2]).remarks)


@pytest.mark.parametrize("case", NASTY)
def test_markdown_is_a_table(case: str) -> None:
    lines = markdown([row(NASTY[case]), row("plain")], PATCH).split("\n")
    start = lines.index("|---|---|---|---|---|---|")
    assert [len(cells(line)) for line in lines[start + 1 : start + 3]] == [6, 6]
    assert lines[start + 3] == ""
    assert len("\n".join(lines).splitlines()) == len(lines) - 1


@pytest.mark.parametrize("case", ["right to left", "joiners", "wide"])
def test_markdown_leaves_scripts_alone(case: str) -> None:
    assert NASTY[case] in markdown([row(NASTY[case])], PATCH)


def test_markdown_escapes_its_letters() -> None:
    report = markdown([row(NASTY["markup"])], PATCH)
    assert r"\<b\>\*a\*\</b\> \_b\_ \[c\](d) \# e \~\~f\~\~ \$g\$ \&amp;" in report
    assert report.startswith("# 1 edit of a\\_folder/with\\|pipe by rome\n")


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("case", NASTY)
def test_terminal_table_fits(case: str, width: int) -> None:
    shown = io.StringIO()
    rows = [row(NASTY[case]), row("x", edit="2", right=False), row("y", edit="3", success=False)]
    Console(file=shown, width=width).print(terminal_table(rows))
    text = shown.getvalue()
    assert "\x1b" not in text
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "✓" in text and "✗" in text and "~" in text
    if width == 200 and case == "markup":
        assert "[bold]h[/bold]" in text  # a model's text is no markup of ours


def test_terminal_table_breaks_no_word_in_80_columns() -> None:
    words = "Philadelphia, Pennsylvania, Massachusetts Constantinople administrative"
    rows = [row(words), row(f"{words} again", edit="2", success=False)]
    shown = io.StringIO()
    Console(file=shown, width=80).print(terminal_table(rows))
    table = shown.getvalue().split("✓ begins")[0].split()
    assert all(table.count(word) == 2 * 4 for word in words.split()), shown.getvalue()


@pytest.mark.parametrize(
    ("success", "right", "sign", "colour"),
    [
        (True, True, "✓", "green"),
        (False, True, "~", "yellow"),
        (False, False, "✗", "red"),
        (True, False, "~", "yellow"),  # generated, yet less likely than the other target
    ],
)
def test_sign_has_its_colour(success: bool, right: bool, sign: str, colour: str) -> None:
    report_row = row("text", success=success, right=right)
    written = "\\~" if sign == "~" else sign  # Markdown could strike through text between two of them
    assert f"| text | {written} text | {written} text |" in markdown([report_row], PATCH)
    (cell,) = terminal_table([report_row]).columns[3].cells
    assert isinstance(cell, Text)
    assert (cell.plain, cell.style) == (f"{sign} text", colour)


def test_note_explains_every_sign() -> None:
    note = markdown([row("text")], PATCH).splitlines()[-1]
    assert note.startswith(
        r"✓ begins with the target and prefers it to the other object; \~ only one of the two; ✗ neither."
    )
    assert "locality" not in note and "Portability" not in note, "only what the table has"
    assert str(terminal_table([row("text")]).caption) == note.replace("\\~", "~")
