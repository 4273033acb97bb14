"""zsRE (Levy et al. 2017) as a set of edits, in the MEND/ROME form (Mitchell et al. 2022) and in EasyEdit's form.

Published programs edit the same file towards different targets: ROME and MEMIT towards ``answers[0]``, the true
answer; EasyEdit towards ``alt``, another answer.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from kg_edit.edits.edit import Name, Question, Record, Text
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.edits.rows import Portability
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
        return _parse_easyedit(fields_of(EasyEditRow, raw), name)
    return _parse_published(fields_of(ZsreRow, raw), name, towards=towards)


def _parse_easyedit(row: EasyEditRow, name: str) -> BenchmarkRecord:
    old, remarks = old_target(row.target_new, row.ground_truth or None)
    edit = rephrased_edit(
        name,
        prompt=row.prompt,
        subject=row.subject,
        target_new=row.target_new,
        target_true=old,
        rephrase=row.rephrase_prompt,
    )
    probes = _probes(edit.text, row.target_new, row.rephrase_prompt, row.locality_prompt, row.locality_ground_truth)
    return built(name, [edit], probes, form="zsRE, EasyEdit's form; the target is target_new", remarks=remarks)


def _parse_published(row: ZsreRow, name: str, *, towards: Towards) -> BenchmarkRecord:
    new = row.answers[0] if towards == "answers" else row.alt
    old, remarks = old_target(new, row.answers[0]) if towards == "alt" else (None, ())
    parts = template(row.src, row.subject, field="src")
    # The portability and the inverse question were written for ``alt``: they are asked only if it is the target.
    is_alt = new.strip().casefold() == row.alt.strip().casefold()
    fields: dict[str, Any] = {
        "id": name,
        "subject": parts.subject,
        "prompt": parts.prompt,
        "target_new": new,
        "target_true": old,
        "paraphrases": (row.rephrase,) if row.rephrase.strip() else (),
        "portability": (Question.model_validate(row.portability.model_dump()),) if row.portability and is_alt else (),
    }
    target = "answers[0]" if towards == "answers" else "alt"
    edit = built_edit(fields, names={"target_new": target, "target_true": "answers[0]", "prompt": "src"})
    inverse = row.inverse_question or "" if is_alt else ""
    probes = [
        *_probes(edit.text, new, row.rephrase, row.loc, row.loc_ans),
        *probe("portability.Inverse_Relation", inverse, ((parts.subject,),)),
        *probe("portability.Subject_Replace", row.alter_subject_question or "", ((new,),)),
    ]
    chosen = "answers[0], as ROME and MEMIT" if towards == "answers" else "alt, as EasyEdit"
    return built(name, [edit], probes, form=f"zsRE, MEND/ROME form; the target is {chosen}", remarks=remarks)


def _probes(prompt: str, target: str, rephrase: str, locality: str, answer: str) -> list[Probe]:
    right = ((target,),)
    # ROME's program ends the prompts of Natural Questions with a question mark.
    if locality.startswith(_NQ) and not locality.rstrip().endswith("?"):
        locality = f"{locality.rstrip()}?"
    probes = [
        *probe("efficacy", prompt, right, form="sentence"),
        *probe("paraphrase", rephrase, right, form="sentence"),
    ]
    if locality.strip() and not answer.strip():  # what the unedited model generates is the reference
        return [*probes, Probe(measures="locality-text", queries=(Query(prompt=locality, form="sentence"),))]
    return [*probes, *probe("locality", locality, answers(answer), form="sentence")]


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
