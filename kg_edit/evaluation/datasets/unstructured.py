"""UnKE (Deng et al. 2025) and AKEW (Wu et al. 2024): unstructured edits, whose target is a paragraph.

UnKE has a question, its paraphrase, the paragraph that answers it, and questions about parts of it. AKEW has MQuAKE's
cases with a paragraph for each edited fact, and the triples that a language model found in the paragraph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from kg_edit.edits.edit import Edit, Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets import mquake
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    check_fields,
    find_template,
    make_probes,
    non_blank,
)
from kg_edit.evaluation.datasets.own_edits import TEXTS, record_of
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord

PARTS = "sub-question"
TRIPLE = "triple"
_Strings = Annotated[tuple[str, ...], Field(strict=False)]


class UnkeRow(Record):
    """A row of UnKE, or of AnyEdit's set of the same form, which has categories and no questions about parts."""

    id: int | str | None = None
    question: Text
    para_question: str = ""
    answer: Text
    sub_question: _Strings = ()
    sub_answer: _Strings = ()
    category: object = None


class AkewTriple(Record):
    """A fact of a paragraph, as GPT wrote it; the prompt has {} for the subject."""

    subject: Name
    prompt: Name
    target: Name


class AkewRewrite(mquake.Rewrite):
    """An edit of MQuAKE, with its paragraph (``fact_new_uns``) and the paragraph's facts."""

    fact_new: str = ""
    fact_new_uns: Text
    verify_unsfact_GPT: object = None  # noqa: N815 - their name
    unsfact_triplets_GPT: Annotated[tuple[AkewTriple, ...], Field(strict=False)] = ()  # noqa: N815


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of UnKE as a record."""
    row = check_fields(UnkeRow, raw)
    if len(row.sub_question) != len(row.sub_answer):
        message = f"{len(row.sub_answer)} answers to {len(row.sub_question)} questions; give one answer to each"
        raise EditError([Fault("sub_answer", message)])
    fields: dict[str, Any] = {
        "id": name,
        "prompt": row.question,
        "target_text": row.answer,
        "paraphrases": non_blank(row.para_question),
    }
    edit = build_edit(
        fields, field_names={"prompt": "question", "target_text": "answer", "paraphrases": "para_question"}
    )
    probes = list(record_of(edit).probes)
    for question, answer in zip(row.sub_question, row.sub_answer, strict=True):
        if answer.strip():
            probes += make_probes(PARTS, question, ((answer.strip(),),))
    return build_record(name, [edit], probes, form="UnKE")


def parse_akew(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a case of AKEW's MQuAKE-CF as a record: MQuAKE's probes, and edits that are paragraphs.

    The prompt of an edit is the question for its fact. MQuAKE's probe edit, the fact's statement, then asks whether the
    fact follows from the paragraph.
    """
    rewrites = raw.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites or not all(isinstance(rewrite, dict) for rewrite in rewrites):
        raise EditError([Fault("requested_rewrite", "expected a list of edits, each with a paragraph fact_new_uns")])
    known = mquake.Rewrite.model_fields
    of_mquake = []
    for rewrite in rewrites:
        of_mquake.append({field: value for field, value in rewrite.items() if field in known})
    case = mquake.parse({**raw, "requested_rewrite": of_mquake}, name)
    edits = []
    probes = list(case.probes)
    for index, (fact, rewrite) in enumerate(zip(case.edits, rewrites, strict=True)):
        field = f"requested_rewrite[{index}]"
        row = _check_rewrite(rewrite, field=field)
        edit = _build_paragraph_edit(row, fact, field=field)
        edits.append(edit)
        probes += record_of(edit).probes
        for triple in row.unsfact_triplets_GPT:
            prompt = triple.prompt.replace("{}", triple.subject)
            probes += make_probes(TRIPLE, prompt, ((triple.target,),), form="sentence")
    return case.model_copy(update={"edits": tuple(edits), "probes": tuple(probes), "form": "AKEW, MQuAKE-CF"})


def _check_rewrite(rewrite: Mapping[str, Any], *, field: str) -> AkewRewrite:
    """Check an edit's fields; a fault names its place in the case."""
    try:
        return check_fields(AkewRewrite, rewrite)
    except EditError as error:
        faults = [Fault(f"{field}.{fault.field}", fault.message) for fault in error.faults]
        raise EditError(faults) from None


def _build_paragraph_edit(row: AkewRewrite, fact: Edit, *, field: str) -> Edit:
    """Build the edit whose target is the paragraph, with the ids of MQuAKE's edit ``fact``."""
    parts = find_template(row.question, row.subject, field=f"{field}.question")
    fields = {
        "id": fact.id,
        "prompt": parts.prompt,
        "subject": parts.subject,
        "subject_id": fact.subject_id,
        "relation_id": fact.relation_id,
        "target_text": row.fact_new_uns,
    }
    return build_edit(fields, field_names={"prompt": f"{field}.question", "target_text": f"{field}.fact_new_uns"})


UNKE = Dataset(
    name="unke",
    about="UnKE (Deng et al. 2025), also AnyEdit's set of this form: a question and the paragraph that answers it",
    measures=("efficacy", "paraphrase", *TEXTS, PARTS),
    parser=lambda: parse,
    edits_have=("paraphrases",),
)
AKEW = Dataset(
    name="akew",
    about="AKEW (Wu et al. 2024): MQuAKE-CF, its facts as paragraphs and as triples",
    measures=("efficacy", TEXTS[0], TRIPLE, "multihop", "edit", "hops"),
    parser=lambda: parse_akew,
)
