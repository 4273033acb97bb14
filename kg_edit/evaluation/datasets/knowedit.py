"""KnowEdit (Zhang et al. 2024): wiki_recent, wiki_counterfact, ZsRE, WikiBio, ConvSent and Sanitation.

A row's fields show to which subset it belongs. This file first has the published form of each subset's rows, then the
functions that parse them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field

from kg_common.rows import RowFault
from kg_common.terminal import number_of
from kg_edit.edits.edit import Name, Record, Text, Texts
from kg_edit.edits.record import BenchmarkRecord, Probe, Remark, form_of
from kg_edit.errors import EditError, Fault, describe
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    build_rephrased_edit,
    check_fields,
    find_template,
    list_answers,
    make_probes,
    old_target,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord, every_row

# Field of the questions to forget -> field of the locality questions, in the two published files.
_SANITATION = {"success": "locality", "K_F": "K_R"}
CATEGORIES = (
    "portability.Reasoning",
    "portability.Subject_Aliasing",
    "portability.Logical_Generalization",
    "locality.Relation_Specificity",
    "locality.Forgetfulness",
)
_OPINION = "What do you think of {}?"


def _first_entry(value: object) -> object:
    """Return the first entry of a list; any other value, and an empty list, as it is."""
    if value and isinstance(value, list):
        return value[0]
    return value


class Asked(Record):
    """A prompt of a category and its answers: a text, a list of aliases, or a list of such lists.

    If the prompt is a list, its first entry is asked, as in EasyEdit.
    """

    prompt: Annotated[Text, BeforeValidator(_first_entry)]
    ground_truth: object = None


Categories = dict[str, Annotated[tuple[Asked, ...], Field(strict=False)]]


class FactRow(Record):
    """A row of wiki_recent, wiki_counterfact or ZsRE."""

    subject: Name
    prompt: Text
    target_new: Name
    ground_truth: object = None
    rephrase_prompt: str = ""
    rephrase: str = ""
    cond: str = ""
    portability: Categories = Field(default_factory=dict)
    locality: Categories = Field(default_factory=dict)


class BiographyRow(Record):
    """A row of WikiBio: a passage, and the sentence that shall follow it."""

    concept: Name
    text: Text
    labels: Name
    portability: Categories = Field(default_factory=dict)
    locality: Categories = Field(default_factory=dict)


class OpinionRow(Record):
    """A row of ConvSent: replies about an entity."""

    ent: Name
    pos: Annotated[Texts, Field(min_length=1)]
    neg: Annotated[Texts, Field(min_length=1)]


class ForgottenRow(Record):
    """A row of Sanitation: a question whose answer the model shall forget, and locality questions with answers."""

    question: Text
    subject: str = ""
    ground_truth: Name
    target_new: Name
    locality: Annotated[tuple[tuple[str, str], ...], Field(strict=False)] = ()


def rows(document: object) -> Iterable[object]:
    """Return the rows of a list, or those of Sanitation, which has its locality questions beside the edits."""
    if isinstance(document, dict):
        for forgotten, locality in _SANITATION.items():
            if forgotten in document and locality in document:
                return _distribute_questions(document[forgotten], document[locality], field=locality)
    return every_row(document)


def _distribute_questions(forgotten: object, locality: object, *, field: str) -> list[object]:
    """Return Sanitation's edits, each with a part of the locality questions, so that each question is asked once.

    Edit i of n gets the questions i, i + n, i + 2n, … A question that can't be read becomes a fault of its own.
    """
    questions = list[tuple[str, str]]()
    faults = list[RowFault]()
    for index, row in enumerate(every_row(locality)):
        match row:
            case {"question": str(question), "ground_truth": str(answer)} if question.strip() and answer.strip():
                questions.append((question, answer))
            case _:
                message = "expected an object with question and ground_truth, each a text"
                faults.append(RowFault(f"{field}[{index}]", f"found {describe(row)}; {message}"))
    edits = list(every_row(forgotten))
    for index, row in enumerate(edits):
        if isinstance(row, dict):
            edits[index] = {**row, "locality": questions[index :: len(edits)]}
    return [*edits, *faults]


def parse(row: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of any subset as a record."""
    if "ent" in row:
        return _parse_opinion(row, name)
    if "question" in row:
        return _parse_forgotten(row, name)
    if "concept" in row:
        return _parse_biography(row, name)
    if "subject" in row:
        return _parse_fact(row, name)
    known = "subject (facts), concept (WikiBio), ent (ConvSent) or question (Sanitation)"
    raise EditError([Fault("subject", f"is missing; expected a row of KnowEdit, which has {known}")])


def _parse_fact(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Return the record of a row that edits a fact, with the probes of its categories of questions."""
    row = check_fields(FactRow, raw)
    rephrase = row.rephrase_prompt or row.rephrase
    old_answers = list_answers(row.ground_truth)
    old_name = old_answers[0][0] if old_answers else None
    old, remarks = old_target(row.target_new, old_name)
    edit = build_rephrased_edit(
        name, prompt=row.prompt, subject=row.subject, target_new=row.target_new, target_true=old, rephrase=rephrase
    )
    right = ((row.target_new,),)
    category_probes, unanswered = _parse_categories(row)
    probes = [
        *make_probes("efficacy", edit.text, right, form="sentence"),
        *make_probes("paraphrase", rephrase, right, form="sentence"),
        *category_probes,
    ]
    return build_record(name, [edit], probes, form="KnowEdit, facts", remarks=(*remarks, *unanswered))


def _parse_biography(raw: RawRecord, name: str) -> BenchmarkRecord:
    row = check_fields(BiographyRow, raw)
    parts = find_template(row.text, row.concept, field="text")
    fields = {"id": name, "subject": parts.subject, "prompt": parts.prompt, "target_new": row.labels}
    edit = build_edit(fields, field_names={"subject": "concept", "prompt": "text", "target_new": "labels"})
    category_probes, unanswered = _parse_categories(row)
    probes = [*make_probes("efficacy", edit.text, ((row.labels,),), form="sentence"), *category_probes]
    return build_record(name, [edit], probes, form="KnowEdit, WikiBio", remarks=unanswered)


def _parse_opinion(raw: RawRecord, name: str) -> BenchmarkRecord:
    """The edit is a fixed question with the first good reply as target, because the data set has replies only."""
    row = check_fields(OpinionRow, raw)
    good = [reply.strip() for reply in row.pos]
    bad = [reply.strip() for reply in row.neg]
    fields = {"id": name, "subject": row.ent, "prompt": _OPINION, "target_new": good[0], "target_true": bad[0]}
    edit = build_edit(fields, field_names={"subject": "ent", "target_new": "pos[0]", "target_true": "neg[0]"})
    replies = tuple((reply,) for reply in dict.fromkeys(good))
    probes = make_probes("sentiment", edit.text, replies, form="sentence", others=tuple(dict.fromkeys(bad)))
    return build_record(name, [edit], probes, form=f"KnowEdit, ConvSent; asked {_OPINION!r}, edited towards pos[0]")


def _parse_forgotten(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of Sanitation. If it names no subject, as in the test file, the whole question is the subject."""
    row = check_fields(ForgottenRow, raw)
    old, remarks = old_target(row.target_new, row.ground_truth)
    subject = row.subject or row.question.strip().rstrip("?").strip()
    parts = find_template(row.question, subject, field="question")
    fields = {"id": name, **parts._asdict(), "target_new": row.target_new, "target_true": old}
    edit = build_edit(fields, field_names={"prompt": "question", "target_true": "ground_truth"})
    probes = list(make_probes("efficacy", edit.text, ((row.target_new,),), form="sentence"))
    for question, answer in row.locality:
        probes += make_probes("locality", question, ((answer,),))
    chosen = "the subject is the whole question"
    if row.subject:
        chosen = "the subject is the row's"
    return build_record(name, [edit], probes, form=f"KnowEdit, Sanitation; {chosen}", remarks=remarks)


def _parse_categories(row: FactRow | BiographyRow) -> tuple[list[Probe], list[Remark]]:
    """Return a probe for each prompt of portability and locality, and a remark for a category with unanswered ones."""
    probes = list[Probe]()
    remarks = list[Remark]()
    for family, categories in (("portability", row.portability), ("locality", row.locality)):
        for category, prompts in categories.items():
            unanswered = 0
            for asked in prompts:
                right = list_answers(asked.ground_truth)
                added = make_probes(f"{family}.{category}", asked.prompt, right, form=form_of(asked.prompt))
                probes += added
                if not added:
                    unanswered += 1
            if unanswered:
                message = f"left out: {number_of(unanswered, 'prompt')} of {family}.{category} without an answer"
                remarks.append(Remark(kind="empty-answer", message=message))
    return probes, remarks


KNOWEDIT = Dataset(
    name="knowedit",
    about="KnowEdit (Zhang et al. 2024): wiki_recent, wiki_counterfact, ZsRE, WikiBio, ConvSent, Sanitation",
    measures=("efficacy", "paraphrase", "locality", *CATEGORIES, "sentiment"),
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases"),
    rows=rows,
)
