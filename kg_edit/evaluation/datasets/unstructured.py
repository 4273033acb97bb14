"""UnKE (Deng et al. 2025) and AKEW (Wu et al. 2024): unstructured edits, whose target is a paragraph.

UnKE has a question, its paraphrase, the paragraph that answers it, and questions about parts of it. AKEW has MQuAKE's
cases with a paragraph for each edited fact, and the triples that a language model found in the paragraph.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from kg_edit.edits.edit import Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets import mquake
from kg_edit.evaluation.datasets.building import built, built_edit, fields_of, probe, template
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
    row = fields_of(UnkeRow, raw)
    if len(row.sub_question) != len(row.sub_answer):
        message = f"{len(row.sub_answer)} answers to {len(row.sub_question)} questions; give one answer to each"
        raise EditError([Fault("sub_answer", message)])
    fields: dict[str, Any] = {
        "id": name,
        "prompt": row.question,
        "target_text": row.answer,
        "paraphrases": (row.para_question,) if row.para_question.strip() else (),
    }
    edit = built_edit(fields, names={"prompt": "question", "target_text": "answer", "paraphrases": "para_question"})
    pairs = zip(row.sub_question, row.sub_answer, strict=True)
    parts = [part for query, answer in pairs if answer.strip() for part in probe(PARTS, query, ((answer.strip(),),))]
    return built(name, [edit], [*record_of(edit).probes, *parts], form="UnKE")


def parse_akew(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a case of AKEW's MQuAKE-CF as a record: MQuAKE's probes, and edits that are paragraphs.

    The prompt of an edit is the question for its fact. MQuAKE's probe edit, the fact's statement, then asks whether the
    fact follows from the paragraph.
    """
    rewrites = raw.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites or not all(isinstance(rewrite, dict) for rewrite in rewrites):
        raise EditError([Fault("requested_rewrite", "expected a list of edits, each with a paragraph fact_new_uns")])
    mquake_fields = mquake.Rewrite.model_fields.keys()
    bare = [{field: value for field, value in rewrite.items() if field in mquake_fields} for rewrite in rewrites]
    case = mquake.parse({**raw, "requested_rewrite": bare}, name)
    edits = []
    probes = list(case.probes)
    for index, (fact, rewrite) in enumerate(zip(case.edits, rewrites, strict=True)):
        field = f"requested_rewrite[{index}]"
        try:
            row = fields_of(AkewRewrite, rewrite)
        except EditError as error:
            raise EditError(Fault(f"{field}.{fault.field}", fault.message) for fault in error.faults) from None
        parts = template(row.question, row.subject, field=f"{field}.question")
        fields = {
            "id": fact.id,
            "prompt": parts.prompt,
            "subject": parts.subject,
            "subject_id": fact.subject_id,
            "relation_id": fact.relation_id,
            "target_text": row.fact_new_uns,
        }
        edits.append(built_edit(fields, names={"prompt": f"{field}.question", "target_text": f"{field}.fact_new_uns"}))
        probes += record_of(edits[-1]).probes
        for triple in row.unsfact_triplets_GPT:
            prompt = triple.prompt.replace("{}", triple.subject)
            probes += probe(TRIPLE, prompt, ((triple.target,),), form="sentence")
    return case.model_copy(update={"edits": tuple(edits), "probes": tuple(probes), "form": "AKEW, MQuAKE-CF"})


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
