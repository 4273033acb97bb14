"""zsRE (Levy et al. 2017) as a set of edits, in the MEND/ROME form (Mitchell et al. 2022) and in EasyEdit's form.

Published programs edit the same file towards different targets: ROME and MEMIT towards ``answers[0]``, the true
answer; EasyEdit towards ``alt``, another answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from kg_edit.datasets.building import answers, built, built_edit, fields_of, old_target, probe, rephrased_edit, template
from kg_edit.datasets.reading import Dataset, RawRecord
from kg_edit.datasets.record import BenchmarkRecord, Probe
from kg_edit.edits.edit import Name, Question, Record, Text
from kg_edit.edits.rows import Portability

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


def parse(row: RawRecord, name: str, *, towards: Towards = "answers") -> BenchmarkRecord:
    """Parse a row as a record, edited ``towards`` its answer (ROME, MEMIT) or its alternative (EasyEdit).

    A row in EasyEdit's form has its own target, so ``towards`` does not matter.

    Raises:
        EditError: a field is wrong; the message names it.
    """
    return _easy_edit(row, name) if "prompt" in row else _rome(fields_of(ZsreRow, row), name, towards)


def parse_alt(row: RawRecord, name: str) -> BenchmarkRecord:
    """`parse` with ``alt`` as the target.

    Raises:
        EditError: a field is wrong; the message names it.
    """
    return parse(row, name, towards="alt")


def _rome(row: ZsreRow, name: str, towards: Towards) -> BenchmarkRecord:
    new = row.answers[0] if towards == "answers" else row.alt
    old, remarks = old_target(new, row.answers[0]) if towards == "alt" else (None, ())
    place = template(row.src, row.subject, field="src")
    fields: dict[str, Any] = {
        "id": name,
        "subject": place.subject,
        "prompt": place.prompt,
        "target_new": new,
        "target_true": old,
        "paraphrases": (row.rephrase,) if row.rephrase.strip() else (),
        "portability": _portability(row, new),
    }
    edit = built_edit(fields, names={"target_new": "answers[0]" if towards == "answers" else "alt", "prompt": "src"})
    added = _added(row, place.subject, new)
    probes = [*_accuracy(edit.text, row.rephrase, new), *_locality(row.loc, row.loc_ans), *added]
    chosen = "answers[0], as ROME and MEMIT" if towards == "answers" else "alt, as EasyEdit"
    return built(name, [edit], probes, form=f"zsRE, MEND/ROME form; the target is {chosen}", remarks=remarks)


def _easy_edit(raw: RawRecord, name: str) -> BenchmarkRecord:
    row = fields_of(EasyEditRow, raw)
    old, remarks = old_target(row.target_new, row.ground_truth or None)
    edit = rephrased_edit(
        name,
        prompt=row.prompt,
        subject=row.subject,
        target_new=row.target_new,
        target_true=old,
        rephrase=row.rephrase_prompt,
    )
    locality = _locality(row.locality_prompt, row.locality_ground_truth)
    probes = [*_accuracy(edit.text, row.rephrase_prompt, row.target_new), *locality]
    return built(name, [edit], probes, form="zsRE, EasyEdit's form; the target is target_new", remarks=remarks)


def _accuracy(prompt: str, rephrase: str, target: str) -> tuple[Probe, ...]:
    right = ((target,),)
    return (
        *probe("efficacy", prompt, right, form="sentence"),
        *probe("paraphrase", rephrase, right, form="sentence"),
    )


def _locality(prompt: str, answer: str) -> tuple[Probe, ...]:
    """A probe of the Natural Questions prompt, with a question mark at its end as in ROME's program."""
    asked = f"{prompt.rstrip()}?" if prompt.startswith(_NQ) and not prompt.rstrip().endswith("?") else prompt
    return probe("locality", asked, answers(answer), form="sentence")


def _portability(row: ZsreRow, new: str) -> tuple[Question, ...]:
    """The portability question; () unless the edit is towards ``alt``, for which the question was written."""
    if not row.portability or not _towards_alt(row, new):
        return ()
    return (Question.model_validate(row.portability.model_dump()),)


def _towards_alt(row: ZsreRow, new: str) -> bool:
    return new.strip().casefold() == row.alt.strip().casefold()


def _added(row: ZsreRow, subject: str, new: str) -> tuple[Probe, ...]:
    """Two probes: the inverse question, answered by the subject, and a question with another name of the subject."""
    inverse = row.inverse_question if _towards_alt(row, new) else None
    return (
        *probe("portability.Inverse_Relation", inverse or "", ((subject,),)),
        *probe("portability.Subject_Replace", row.alter_subject_question or "", ((new,),)),
    )


ZSRE = Dataset(
    name="zsre",
    about="zsRE, edited towards answers[0] as ROME and MEMIT do; EasyEdit's form names its target itself",
    measures=("efficacy", "paraphrase", "locality", "portability.Inverse_Relation", "portability.Subject_Replace"),
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases", "questions"),
)


ZSRE_ALT = Dataset(
    name="zsre-alt",
    about="zsRE, edited towards alt as EasyEdit does",
    measures=("efficacy", "paraphrase", "locality", "portability.Inverse_Relation", "portability.Subject_Replace"),
    parser=lambda: parse_alt,
    edits_have=("target_true", "paraphrases", "questions"),
)
