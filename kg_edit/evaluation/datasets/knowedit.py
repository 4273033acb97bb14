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
    answers,
    built,
    built_edit,
    fields_of,
    old_target,
    probe,
    rephrased_edit,
    template,
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


class Asked(Record):
    """A prompt of a category and its answers: a text, a list of aliases, or a list of such lists.

    If the prompt is a list, its first entry is asked, as in EasyEdit.
    """

    prompt: Annotated[Text, BeforeValidator(lambda value: value[0] if value and isinstance(value, list) else value)]
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
    """Return the rows of a list. Sanitation's locality questions are distributed over the edits: each is asked once."""
    if not isinstance(document, dict):
        return every_row(document)
    for forgotten, locality in _SANITATION.items():
        if forgotten in document and locality in document:
            edited = list(every_row(document[forgotten]))
            local_rows = list(every_row(document[locality]))
            questions = list[tuple[str, str]]()
            faults = list[RowFault]()
            for index, row in enumerate(local_rows):
                match row:
                    case {"question": str(question), "ground_truth": str(answer)} if (
                        question.strip() and answer.strip()
                    ):
                        questions.append((question, answer))
                    case _:
                        message = "expected an object with question and ground_truth, each a text"
                        faults.append(RowFault(f"{locality}[{index}]", f"found {describe(row)}; {message}"))
            # Edit i of n gets the questions i, i + n, i + 2n, …
            for index, row in enumerate(edited):
                if isinstance(row, dict):
                    edited[index] = {**row, "locality": questions[index :: len(edited)]}
            return [*edited, *faults]
    return every_row(document)


def parse(row: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of any subset as a record."""
    for field, read in (("ent", _opinion), ("question", _forgotten), ("concept", _biography), ("subject", _fact)):
        if field in row:
            return read(row, name)
    known = "subject (facts), concept (WikiBio), ent (ConvSent) or question (Sanitation)"
    raise EditError([Fault("subject", f"is missing; expected a row of KnowEdit, which has {known}")])


def _fact(raw: RawRecord, name: str) -> BenchmarkRecord:
    row = fields_of(FactRow, raw)
    rephrase = row.rephrase_prompt or row.rephrase
    truth = answers(row.ground_truth) if row.ground_truth else ()
    old, remarks = old_target(row.target_new, truth[0][0] if truth else None)
    edit = rephrased_edit(
        name, prompt=row.prompt, subject=row.subject, target_new=row.target_new, target_true=old, rephrase=rephrase
    )
    right = ((row.target_new,),)
    category_probes, unanswered = _categories(row)
    probes = [
        *probe("efficacy", edit.text, right, form="sentence"),
        *probe("paraphrase", rephrase, right, form="sentence"),
        *category_probes,
    ]
    return built(name, [edit], probes, form="KnowEdit, facts", remarks=(*remarks, *unanswered))


def _biography(raw: RawRecord, name: str) -> BenchmarkRecord:
    row = fields_of(BiographyRow, raw)
    parts = template(row.text, row.concept, field="text")
    fields = {"id": name, "subject": parts.subject, "prompt": parts.prompt, "target_new": row.labels}
    edit = built_edit(fields, names={"subject": "concept", "prompt": "text", "target_new": "labels"})
    category_probes, unanswered = _categories(row)
    probes = [*probe("efficacy", edit.text, ((row.labels,),), form="sentence"), *category_probes]
    return built(name, [edit], probes, form="KnowEdit, WikiBio", remarks=unanswered)


def _opinion(raw: RawRecord, name: str) -> BenchmarkRecord:
    """The edit is a fixed question with the first good reply as target, because the data set has replies only."""
    row = fields_of(OpinionRow, raw)
    good = [reply.strip() for reply in row.pos]
    bad = [reply.strip() for reply in row.neg]
    fields = {"id": name, "subject": row.ent, "prompt": _OPINION, "target_new": good[0], "target_true": bad[0]}
    edit = built_edit(fields, names={"subject": "ent", "target_new": "pos[0]", "target_true": "neg[0]"})
    replies = tuple((reply,) for reply in dict.fromkeys(good))
    probes = probe("sentiment", edit.text, replies, form="sentence", others=tuple(dict.fromkeys(bad)))
    return built(name, [edit], probes, form=f"KnowEdit, ConvSent; asked {_OPINION!r}, edited towards pos[0]")


def _forgotten(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of Sanitation. If it names no subject, as in the test file, the whole question is the subject."""
    row = fields_of(ForgottenRow, raw)
    old, remarks = old_target(row.target_new, row.ground_truth)
    parts = template(row.question, row.subject or row.question.strip().rstrip("?").strip(), field="question")
    fields = {"id": name, **parts._asdict(), "target_new": row.target_new, "target_true": old}
    edit = built_edit(fields, names={"prompt": "question", "target_true": "ground_truth"})
    probes = [*probe("efficacy", edit.text, ((row.target_new,),), form="sentence")]
    for question, answer in row.locality:
        probes += probe("locality", question, ((answer,),))
    chosen = "the subject is the row's" if row.subject else "the subject is the whole question"
    return built(name, [edit], probes, form=f"KnowEdit, Sanitation; {chosen}", remarks=remarks)


def _categories(row: FactRow | BiographyRow) -> tuple[list[Probe], list[Remark]]:
    """One probe for each prompt of portability and locality, and a remark for each category with unanswered prompts."""
    probes = list[Probe]()
    remarks = list[Remark]()
    for family, categories in (("portability", row.portability), ("locality", row.locality)):
        for category, prompts in categories.items():
            bare = 0
            for prompt in prompts:
                right = answers(prompt.ground_truth) if prompt.ground_truth else ()
                made = probe(f"{family}.{category}", prompt.prompt, right, form=form_of(prompt.prompt))
                probes += made
                if not made:
                    bare += 1
            if bare:
                message = f"left out: {number_of(bare, 'prompt')} of {family}.{category} without an answer"
                remarks.append(Remark(kind="empty-answer", message=message))
    return probes, remarks


KNOWEDIT = Dataset(
    name="knowedit",
    about="KnowEdit (Zhang et al. 2024): wiki_recent, wiki_counterfact, ZsRE, WikiBio, ConvSent, Sanitation",
    measures=(
        "efficacy",
        "paraphrase",
        "locality",
        *CATEGORIES,
        "sentiment",
    ),
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases"),
    rows=rows,
)
