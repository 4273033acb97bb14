"""QAEdit (Yang et al. 2025): questions that people asked, of Natural Questions, TriviaQA and SimpleQA."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kg_edit.edits.edit import Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    check_fields,
    find_template,
    list_answers,
    make_probes,
    non_blank,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord


class Unrelated(Record):
    """A question that has nothing to do with the edit, and its answer."""

    loc: Text
    loc_ans: Text


class QaeditRow(Record):
    """A row as published."""

    id: int | str = ""
    source: str = ""
    prompt: Text
    target: Name
    subject: Name
    rephrase: str
    locality: Annotated[tuple[Unrelated, ...], Field(strict=False)]


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row as a record; its id begins with the source, as two sources number their questions alike."""
    row = check_fields(QaeditRow, raw)
    record_id = name
    if row.source:
        record_id = f"{row.source}-{name}"
    parts = find_template(row.prompt, row.subject, field="prompt")
    fields = {
        "id": record_id,
        "subject": parts.subject,
        "prompt": parts.prompt,
        "target_new": row.target,
        "paraphrases": non_blank(row.rephrase),
    }
    row_names = {"target_new": "target", "paraphrases": "rephrase"}  # the row's own names, for errors
    edit = build_edit(fields, field_names=row_names)
    right = ((row.target,),)  # one answer, which has one name
    probes = [
        *make_probes("efficacy", edit.text, right, form="sentence"),
        *make_probes("paraphrase", row.rephrase, right, form="sentence"),
    ]
    for question in row.locality:
        probes += make_probes("locality", question.loc, list_answers(question.loc_ans))
    return build_record(edit.id, [edit], probes, form="QAEdit")


QAEDIT = Dataset(
    name="qaedit",
    about="QAEdit (Yang et al. 2025): questions of Natural Questions, TriviaQA and SimpleQA",
    measures=("efficacy", "paraphrase", "locality"),
    parser=lambda: parse,
    edits_have=("paraphrases",),
)
