"""HalluEditBench (Huang et al. 2025): facts that a language model got wrong, with questions in many forms."""

from __future__ import annotations

import re
from typing import Any

from kg_edit.edits.edit import Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets.building import built, built_edit, fields_of, old_target, probe, template
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
    row = fields_of(HallueditRow, _rename_columns(raw))
    old, remarks = old_target(row.object, row.output.strip() or None)
    fields = {
        "id": name,
        **template(row.question, row.subject, field="question")._asdict(),
        "relation": row.relation.strip() or None,
        "target_new": row.object,
        "target_true": old,
        "paraphrases": (row.paraphrased_question,) if row.paraphrased_question.strip() else (),
    }
    edit = built_edit(fields, names={"prompt": "question", "target_new": "object", "target_true": "output"})
    right = ((row.object,),)
    probes = [
        *probe("efficacy", edit.text, right, form="sentence"),
        *probe("paraphrase", row.paraphrased_question, right, form="sentence"),
        *probe("fact-check", row.yes_question, (("Yes",),), others=("No",)),
        *probe("fact-check", row.no_question, (("No",),), others=("Yes",)),
        *_multiple_choice(row),
        *probe("reversed", row.reversed_relation_question, ((edit.subject,),)),
    ]
    for hops in HOPS:
        probes += _parse_hops(row, hops)
    if row.locality_question.strip():  # it has no published answer
        probes.append(Probe(measures="locality-text", queries=(Query(prompt=row.locality_question),)))
    return built(name, [edit], probes, form="HalluEditBench", remarks=remarks)


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
    """The question whose answer follows from the edit and further facts, if the row has one of this length."""
    question = getattr(row, f"question_{hops}hop").strip()
    answer = getattr(row, f"answer_{hops}hop").strip()
    if bool(question) != bool(answer):
        lacks = "answer" if question else "question"
        raise EditError([Fault(f"{lacks}_{hops}hop", f"is missing; expected both or neither for {hops} hops")])
    return probe(f"portability.{hops}_hops", question, ((answer,),))


def _multiple_choice(row: HallueditRow) -> tuple[Probe, ...]:
    """The question with its choices, answered by a letter."""
    choices = row.multiple_choice_with_letters
    right = row.multiple_choice_labels.strip()
    letters = _LETTER.findall(choices)
    if not choices.strip():
        return ()
    if right not in letters or len(letters) < 2:
        expected = f"one of {', '.join(letters)}" if len(letters) > 1 else "choices such as 'A. Python  B. C++'"
        field = "multiple_choice_labels" if len(letters) > 1 else "multiple_choice_with_letters"
        raise EditError([Fault(field, f"found {getattr(row, field)!r:.60}; expected {expected}")])
    others = [letter for letter in letters if letter != right]
    return probe("multiple-choice", f"{row.question.strip()} {choices.strip()}", ((right,),), others=others)


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
