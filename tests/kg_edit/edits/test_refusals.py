"""Files and rows of edits, and files of templates, that are refused: the place, and the word that a user needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits, write_edits
from kg_edit.edits.templates import RelationTemplates, utf8_text
from kg_edit.errors import EditError, EditFileError, OutputError
from tests.kg_edit.edit_rows import GOOD, HEADER, ROW, lines
from tests.kg_edit.edits.test_aliases import EASY_EDIT
from tests.kg_edit.edits.test_rows import TRIPLET, edit
from tests.kg_edit.edits.test_templates import HEADER as TEMPLATES
from tests.refusals import Call, check_refused, put, refusals

Row = tuple[Call, type[Exception], str]


def file(name: str, content: str | bytes, keyword: str) -> Row:
    """A file with this content is read."""
    return (lambda folder: read_edits(put(folder, name, content)), EditFileError, keyword)


def row(keyword: str, **fields: object) -> Row:
    """A file of a good row, and of one with further fields."""
    return file("edits.jsonl", lines(GOOD, {**GOOD, **fields}), f"line 2, {keyword}")


def easy(keyword: str, **fields: object) -> Row:
    """A row in EasyEdit's form, of which some fields are others."""
    return file("edits.jsonl", lines({**EASY_EDIT, **fields}), keyword)


def table(header: str, keyword: str) -> Row:
    """A table with this header."""
    return file("edits.csv", f"{header}\nAnn,b,c,d\n", f"edits.csv, line 1: {keyword}")


def text(text_of_row: str, keyword: str) -> Row:
    """A file of a good row, and of one in these words."""
    return file("edits.jsonl", f"{lines(GOOD)}{text_of_row}\n", f"line 2, {keyword}")


def templates(rows: str | bytes, keyword: str) -> Row:
    """A user's own templates are read."""
    content = rows if isinstance(rows, bytes) else rows.encode()
    return (lambda folder: RelationTemplates.load(put(folder, "own.tsv", content)), EditFileError, keyword)


def template(wrong: str, keyword: str) -> Row:
    return templates(f"{TEMPLATES}P17\tcountry\t{{}} is in\n{wrong}\n", f"own.tsv, line 3: {keyword}")


def triplet(keyword: str, **fields: object) -> Row:
    """A row of ids, of which some fields are others, or None to leave them out."""
    values = {name: value for name, value in {**TRIPLET, **fields}.items() if value is not None}
    return (lambda _: edit(values), EditError, keyword)


def same_id_with_conflicts(folder: Path) -> object:
    other = {**GOOD, "target_new": "Bern", "id": "a"}
    return read_edits(put(folder, "edits.json", json.dumps([{**GOOD, "id": "a"}, other])), allow_conflicts=True)


def file_without_an_end(_: Path) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kg_common.rows._LARGEST", 1_000_000)
        return utf8_text(Path("/dev/zero"))


COUNTERFACT = {"subject": "Ann", "prompt": "{} is", "target_new": {"str": "x"}}
HALF_A_PAIR = {"New Question": "Who?", "New Answer": "x", "Recalled Relation": "\ud800"}
FILES: dict[str, Row] = {
    "no file": (lambda folder: read_edits(folder / "none.jsonl"), EditFileError, "no such file; check the path"),
    "folder": (read_edits, EditFileError, "is a folder; expected a file"),
    "another ending": file("edits.xlsx", b"PK", "ends in '.xlsx'; expected a file in .jsonl, .json, .csv, .tsv"),
    "file without an end": (file_without_an_end, EditFileError, "at most 1 MB are read"),
    **{
        f"empty {name}: {content!r}": file(name, content, "has no rows; expected one edit or triplet per row")
        for name, content in (
            ("edits.jsonl", ""),
            ("edits.jsonl", "\n \n\n"),
            ("edits.json", ""),
            ("edits.json", " \n"),
            ("edits.json", "[]"),
            ("edits.csv", ""),
            ("edits.csv", "\n\n"),
            ("edits.csv", HEADER),
            ("edits.tsv", HEADER.replace(",", "\t") + "\t\t\t\n"),
        )
    },
    "byte that is no UTF-8": file(
        "edits.csv",
        (HEADER + ROW).encode() + "Zoë,{} lives in,Oslo,Rome\n".encode("latin-1"),
        f"line 3, byte offset {len(HEADER + ROW) + 2}: found the byte 0xeb",
    ),
    "comma at the end": file("edits.json", '[\n {"subject": "Ann",}\n]', "edits.json, line 2, column "),
    "lines in a file of one list": file("edits.json", lines(GOOD, GOOD), "line 2, column 1: not JSON: Extra data"),
    "long number": file("edits.json", "1" * 5000, "not JSON"),
    "deep list": file("edits.json", "[" * 100_000, "not JSON"),
    "id twice, conflicts allowed": (same_id_with_conflicts, EditFileError, "is the id of record 1 too"),
    "edits written as a table": (
        lambda folder: write_edits(folder / "edits.csv", []),
        OutputError,
        "edits are written as JSON lines",
    ),
    "edits written below a file": (
        lambda folder: write_edits(put(folder, "file") / "edits.jsonl", []),
        OutputError,
        "can't write",
    ),
}
TABLES: dict[str, Row] = {
    "no subject": table("prompt,target_new", "lacks the column 'subject'; expected at least subject, prompt,"),
    "no new object": table("subject,relation,object", "lacks the column 'new_object'"),
    "no prompt": table("subject,target_new", "lacks the column 'prompt'"),
    "capital letter": table("Subject,prompt,target_new", "unknown column 'Subject', did you mean 'subject'?"),
    "unknown column": table("a,prompt,target_new", "unknown column 'a'; known:"),
    "questions": table("subject,prompt,target_new,portability", "the column 'portability': questions with answers"),
    "questions by another name": table("subject,prompt,target_new,questions", "the column 'questions': questions"),
    "no header": table("Marie Curie,was born in,Rome", "no name of a column ('Marie Curie', …)"),
    "column twice": table("subject,prompt,target_new,prompt", "the column 'prompt' occurs twice"),
    "open quotes": table('"subject,prompt', "not a row of a table: unexpected end of data; close the quotes"),
    "cell of two lines": file(
        "edits.csv", HEADER + 'Ann,"{} lives\nin",Oslo,Rome\n\nBob,lives in,Oslo,Rome\n', "line 5, field prompt: "
    ),
    "cell too many": file("edits.csv", HEADER + ROW + "Bob,{} is in,Oslo,Rome,\n", "line 3, found 5 cells; expected 4"),
    "cell too few": file("edits.csv", HEADER + ROW + "Bob,{} is in,Rome\n", "line 3, found 3 cells; expected 4"),
    "misplaced quote": file(
        "edits.csv", HEADER + '"Ann" B,{} is in,Oslo,Rome\n' + ROW, "line 2, not a row of a table: ',' expected after"
    ),
    "answer without a prompt": file(
        "edits.csv",
        "subject,prompt,target_new,locality_answer\nAnn,{} is in,Rome,white\n",
        "field locality_answer: found a list, and no prompt",
    ),
}
ROWS: dict[str, Row] = {
    "no subject": text('{"prompt": "{} is", "target_new": "x"}', "field subject: is missing; expected s, the entity"),
    "id without a label": text(
        '{"subject": "Q1", "relation": "P31", "new_object": "x"}', "field subject: found the id Q1, for"
    ),
    "half a surrogate pair": text(
        json.dumps({"case_id": 1, "requested_rewrite": COUNTERFACT, "portability": HALF_A_PAIR}),
        "field portability.Recalled Relation: '\\ud800' contains half a surrogate pair",
    ),
    "list": text('["Ann", "Rome"]', "found a list; expected an object {...} of fields"),
    "text": text('"Ann"', "found the text 'Ann'; expected an object {...} of fields"),
    "open bracket": text('{"subject": "Bob"', "not JSON, column "),
    "id of an earlier row": file(
        "edits.jsonl",
        lines({**GOOD, "id": 5}, {**GOOD, "id": "5", "subject": "Bob"}),
        "line 2, field id: '5' is the id of line 1 too; give it another",
    ),
    "contradiction": file(
        "edits.json",
        json.dumps([GOOD, GOOD, {**GOOD, "target_new": "Bern"}]),
        "record 3, field target_new: 'Ann lives in' is edited to 'Bern' here and to 'Rome' in record 2; keep",
    ),
    "number as a relation": triplet("field relation: found the number 54; expected text", relation=54),
    "triplet without a relation": triplet("field relation: ", relation=None),
    "triplet without a subject": triplet("field subject: is missing; expected s, the entity", subject=None),
    "list as a prompt": triplet("field prompt: found a list; expected text", prompt=[]),
    "number as a prompt": triplet("field prompt: found the number 0; expected text", prompt=0),
    # JSON itself would silently use the last one
    **{
        f"{place} twice": text(f"{json.dumps(GOOD)[:-1]}, {more}}}", f"field {place}: occurs twice; keep one")
        for place, more in (
            ("target_new", '"target_new": "Bern"'),
            ("paraphrases", '"paraphrases": [], "paraphrases": ["Ann is in"]'),
            ("portability[0].answer", '"portability": [{"question": "a?", "answer": "b", "answer": "c"}]'),
            ("requested_rewrite.target_new.str", '"requested_rewrite": {"target_new": {"str": "b", "str": "c"}}'),
        )
    },
    # Names of other tools
    "two names of a list": row("field neighborhood: is the same field as 'neighbours'", neighbours=[], neighborhood=[]),
    "two names of the target": file(
        "edits.jsonl",
        lines({**GOOD, "ground_truth": "rome"}),
        "is the same field as 'target_true', which the row has too",
    ),
    "fewer answers than prompts": easy(
        "field portability.Reasoning.ground_truth: 2 prompts have 1 answers",
        portability={"Reasoning": {"prompt": ["Which country?", "Which sea?"], "ground_truth": ["Brazil"]}},
    ),
    "more answers than prompts": easy(
        "field locality_ground_truth: 1 prompts have 2 answers",
        locality_prompt=["In Peru"],
        locality_ground_truth=["a", "b"],
    ),
    "question in place of a prompt": easy(
        "field portability.Reasoning.question: found the text",
        portability={"Reasoning": [{"question": "Where?", "answer": "Italy"}]},
    ),
    "text in place of a group": easy(
        "field locality.Forgetfulness: found the text", locality={"Forgetfulness": ["Snow is"]}
    ),
    "prompts in place of a prompt": easy(
        "field locality.Forgetfulness.prompts: found the text", locality={"Forgetfulness": {"prompts": ["Snow is"]}}
    ),
    "locality_answer alone": row(
        "field locality_answer: found the text 'white', and no prompt", locality_answer="white"
    ),
    "locality_ground_truth alone": row(
        "field locality_ground_truth: found the text 'white', and no prompt", locality_ground_truth="white"
    ),
    **{
        f"misspelt relation to {shape}": text(
            json.dumps({"subject": "Ann", "relation": "place of brith", shape: "Rome"}),
            "field relation: there is no template for 'place of brith', did you mean 'place of birth'?",
        )
        for shape in ("new_object", "target_new")
    },
}
OWN_TEMPLATES: dict[str, Row] = {
    "two cells": template("P54\tplays for", "found 2 cells; expected 3, separated by tabs"),
    "item in place of a property": template("Q54\tplays for\t{} plays for", "property: found 'Q54'; expected an id"),
    "no label": template("P54\t\t{} plays for", "label: is empty"),
    "no place": template("P54\tplays for\tplays for", "template: found 'plays for'; expected one {} for the subject"),
    "two places": template("P54\tplays for\t{} and {}", "template: found '{} and {}'"),
    "property twice": template("P17\tplays for\t{} plays for", "p17: already has a template on an earlier line"),
    "quotes": template('P54\tplays for\t"{}" plays for', "not a row of a table: "),
    **{
        f"no header: {content!r}": templates(
            content, "expected a header line with the columns property, label, template"
        )
        for content in ("", "# nothing\n", "P54\tplays for\t{} plays for\n", "property,label,template\n")
    },
    "no file": (lambda folder: RelationTemplates.load(folder / "own.tsv"), EditFileError, "no such file"),
    "byte that is no UTF-8": templates(
        TEMPLATES.encode() + b"P1\tcaf\xe9\t{} is", "line 2, byte offset 30: found the byte 0xe9, which is not UTF-8"
    ),
}


@refusals(
    {
        f"{group}: {mistake}": row
        for group, rows in (("file", FILES), ("table", TABLES), ("row", ROWS), ("template", OWN_TEMPLATES))
        for mistake, row in rows.items()
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
