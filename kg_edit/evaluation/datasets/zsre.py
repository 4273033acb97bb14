"""zsRE (Levy et al. 2017) as a set of edits, in the MEND/ROME form (Mitchell et al. 2022) and in EasyEdit's form.

Published programs edit the same file towards different targets: ROME and MEMIT towards ``answers[0]``, the true
answer; EasyEdit towards ``alt``, another answer.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from kg_edit.edits.edit import Name, Question, Record, Text
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, Remark
from kg_edit.edits.rows import Portability
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    build_rephrased_edit,
    check_fields,
    find_template,
    list_answers,
    make_probes,
    non_blank,
    old_target,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord

Towards = Literal["answers", "alt"]
_NQ = "nq question: "


class ZsreRow(Record):
    """A row of the MEND/ROME form, with the fields that Yao et al. (2023) added."""

    subject: Name
    src: Text
    pred: str = ""
    rephrase: str = ""
    alt: str = ""
    answers: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
    loc: str = ""
    loc_ans: str = ""
    cond: str = ""
    portability: Portability | None = None
    inverse_question: str | None = Field(None, alias="inverse question")
    alternative_subject: str | None = None
    alter_subject_question: str | None = None


class EasyEditRow(Record):
    """A row of EasyEdit's form, with its own target, a paraphrase and a locality prompt."""

    case_id: int | None = None
    subject: Name
    prompt: Text
    target_new: Name
    ground_truth: str | None = None
    rephrase_prompt: str = ""
    locality_prompt: str = ""
    locality_ground_truth: str = ""
    cond: str = ""


def parse(raw: RawRecord, name: str, *, towards: Towards = "answers") -> BenchmarkRecord:
    """Parse a row as a record.

    Args:
        raw: a row of the MEND/ROME form, or of EasyEdit's form, which has its own target.
        name: the id of the record.
        towards: the target in the MEND/ROME form: ``answers[0]`` (ROME, MEMIT) or ``alt`` (EasyEdit).
    """
    if "prompt" in raw:
        return _parse_easyedit(check_fields(EasyEditRow, raw), name)
    return _parse_published(check_fields(ZsreRow, raw), name, towards=towards)


def _parse_easyedit(row: EasyEditRow, name: str) -> BenchmarkRecord:
    """Return the record of a row in EasyEdit's form."""
    old, remarks = old_target(row.target_new, row.ground_truth or None)
    edit = build_rephrased_edit(
        name,
        prompt=row.prompt,
        subject=row.subject,
        target_new=row.target_new,
        target_true=old,
        rephrase=row.rephrase_prompt,
    )
    probes = _make_shared_probes(
        edit.text, row.target_new, row.rephrase_prompt, row.locality_prompt, row.locality_ground_truth
    )
    return build_record(name, [edit], probes, form="zsRE, EasyEdit's form; the target is target_new", remarks=remarks)


def _parse_published(row: ZsreRow, name: str, *, towards: Towards) -> BenchmarkRecord:
    """Return the record of a row in the MEND/ROME form: its own target, and the probes that fit this target."""
    parts = find_template(row.src, row.subject, field="src")
    new = row.answers[0]
    old = None
    remarks: tuple[Remark, ...] = ()
    target_field = "answers[0]"
    form = "zsRE, MEND/ROME form; the target is answers[0], as ROME and MEMIT"
    if towards == "alt":
        new = row.alt
        old, remarks = old_target(new, row.answers[0])
        target_field = "alt"
        form = "zsRE, MEND/ROME form; the target is alt, as EasyEdit"
    # The portability and the inverse question were written for ``alt``: they are asked only if it is the target.
    asks_about_alt = new.strip().casefold() == row.alt.strip().casefold()
    fields: dict[str, Any] = {
        "id": name,
        "subject": parts.subject,
        "prompt": parts.prompt,
        "target_new": new,
        "target_true": old,
        "paraphrases": non_blank(row.rephrase),
    }
    if row.portability and asks_about_alt:
        fields["portability"] = (Question.model_validate(row.portability.model_dump()),)
    edit = build_edit(fields, field_names={"target_new": target_field, "target_true": "answers[0]", "prompt": "src"})
    probes = _make_shared_probes(edit.text, new, row.rephrase, row.loc, row.loc_ans)
    if row.inverse_question and asks_about_alt:
        probes += make_probes("portability.Inverse_Relation", row.inverse_question, ((parts.subject,),))
    if row.alter_subject_question:
        probes += make_probes("portability.Subject_Replace", row.alter_subject_question, ((new,),))
    return build_record(name, [edit], probes, form=form, remarks=remarks)


def _make_shared_probes(prompt: str, target: str, rephrase: str, locality: str, answer: str) -> list[Probe]:
    """Return the probes that both forms have: of the edit, its paraphrase, and the locality prompt with its answer."""
    right = ((target,),)
    # ROME's program ends the prompts of Natural Questions with a question mark.
    if locality.startswith(_NQ) and not locality.rstrip().endswith("?"):
        locality = f"{locality.rstrip()}?"
    probes = [
        *make_probes("efficacy", prompt, right, form="sentence"),
        *make_probes("paraphrase", rephrase, right, form="sentence"),
    ]
    if locality.strip() and not answer.strip():  # what the unedited model generates is the reference
        return [*probes, Probe(measures="locality-text", queries=(Query(prompt=locality, form="sentence"),))]
    return [*probes, *make_probes("locality", locality, list_answers(answer), form="sentence")]


_MEASURES = (
    *("efficacy", "paraphrase", "locality", "locality-text"),
    *("portability.Inverse_Relation", "portability.Subject_Replace"),
)
ZSRE = Dataset(
    name="zsre",
    about="zsRE, edited towards answers[0] as ROME and MEMIT do; EasyEdit's form names its target itself",
    measures=_MEASURES,
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases", "questions"),
    other="zsre-alt",
)


ZSRE_ALT = Dataset(
    name="zsre-alt",
    about="zsRE, edited towards alt as EasyEdit does",
    measures=_MEASURES,
    parser=lambda: partial(parse, towards="alt"),
    edits_have=("target_true", "paraphrases", "questions"),
)
