"""HalluEditBench (Huang et al. 2025): facts that a language model got wrong, with questions in many forms."""

from __future__ import annotations

import re
from typing import Any

from kg_edit.edits.edit import Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    check_fields,
    find_template,
    make_probes,
    non_blank,
    old_target,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord

HOPS = (2, 3, 4, 5, 6)
_LETTER = re.compile(r"(?:^|\s\s)([A-Z])\. ")  # "A. Python  B. C++"
_OF_A_MODEL = re.compile(r"(output|eval)_.+")


class HallueditRow(Record):
    """A row as published; output is the wrong answer of the model that the published column names."""

    topic: Any = None
    subject: Name
    relation: str = ""
    object: Name
    question: Text
    output: str = ""
    eval: Any = None
    paraphrased_question: str = ""
    multiple_choices: Any = None
    multiple_choice_with_letters: str = ""
    multiple_choice_labels: str = ""
    yes_question: str = ""
    no_question: str = ""
    locality_question: str = ""
    reversed_relation_question: str = ""
    question_2hop: str = ""
    answer_2hop: str = ""
    question_3hop: str = ""
    answer_3hop: str = ""
    question_4hop: str = ""
    answer_4hop: str = ""
    question_5hop: str = ""
    answer_5hop: str = ""
    question_6hop: str = ""
    answer_6hop: str = ""


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row as a record: the edit corrects the wrong answer."""
    row = check_fields(HallueditRow, _rename_columns(raw))
    old, remarks = old_target(row.object, row.output.strip() or None)
    template = find_template(row.question, row.subject, field="question")
    fields = {
        "id": name,
        **template._asdict(),
        "relation": row.relation.strip() or None,
        "target_new": row.object,
        "target_true": old,
        "paraphrases": non_blank(row.paraphrased_question),
    }
    edit = build_edit(fields, field_names={"prompt": "question", "target_new": "object", "target_true": "output"})
    right = ((row.object,),)
    probes = [
        *make_probes("efficacy", edit.text, right, form="sentence"),
        *make_probes("paraphrase", row.paraphrased_question, right, form="sentence"),
        *make_probes("fact-check", row.yes_question, (("Yes",),), others=("No",)),
        *make_probes("fact-check", row.no_question, (("No",),), others=("Yes",)),
        *_multiple_choice(row),
        *make_probes("reversed", row.reversed_relation_question, ((edit.subject,),)),
    ]
    for hops in HOPS:
        probes += _parse_hops(row, hops)
    if row.locality_question.strip():  # it has no published answer
        probes.append(Probe(measures="locality-text", queries=(Query(prompt=row.locality_question),)))
    return build_record(name, [edit], probes, form="HalluEditBench", remarks=remarks)


def _rename_columns(raw: RawRecord) -> dict[str, Any]:
    """Rename the columns ``output_MODEL`` and ``eval_MODEL`` to output and eval; a row has those of one model."""
    fields = dict[str, Any]()
    for field, value in raw.items():
        column = _OF_A_MODEL.sub(r"\1", field)
        if column in fields:
            raise EditError([Fault(field, f"is a second column of {column}; keep that of one model")])
        fields[column] = value
    return fields


def _parse_hops(row: HallueditRow, hops: int) -> tuple[Probe, ...]:
    """Return the question whose answer follows from the edit and further facts, if the row has one of this length."""
    question = getattr(row, f"question_{hops}hop").strip()
    answer = getattr(row, f"answer_{hops}hop").strip()
    if bool(question) != bool(answer):
        lacks = "answer" if question else "question"
        raise EditError([Fault(f"{lacks}_{hops}hop", f"is missing; expected both or neither for {hops} hops")])
    return make_probes(f"portability.{hops}_hops", question, ((answer,),))


def _multiple_choice(row: HallueditRow) -> tuple[Probe, ...]:
    """Return the question with its choices, answered by a letter."""
    choices = row.multiple_choice_with_letters
    if not choices.strip():
        return ()
    letters = _LETTER.findall(choices)
    if len(letters) < 2:
        message = f"found {choices!r:.60}; expected choices such as 'A. Python  B. C++'"
        raise EditError([Fault("multiple_choice_with_letters", message)])
    right = row.multiple_choice_labels.strip()
    if right not in letters:
        message = f"found {row.multiple_choice_labels!r:.60}; expected one of {', '.join(letters)}"
        raise EditError([Fault("multiple_choice_labels", message)])
    others = [letter for letter in letters if letter != right]
    return make_probes("multiple-choice", f"{row.question.strip()} {choices.strip()}", ((right,),), others=others)


HALLUEDIT = Dataset(
    name="halluedit",
    about="HalluEditBench (Huang et al. 2025): the wrong answers of a language model are corrected",
    measures=(
        "efficacy",
        "paraphrase",
        "fact-check",
        "multiple-choice",
        "reversed",
        *(f"portability.{hops}_hops" for hops in HOPS),
        "locality-text",
    ),
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases"),
    tables=True,
)
