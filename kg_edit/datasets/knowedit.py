"""KnowEdit (Zhang et al. 2024): wiki_recent, wiki_counterfact, ZsRE, WikiBio, ConvSent and Sanitation.

Which subset a row belongs to shows in its fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kg_edit.datasets.building import answers, built, built_edit, fields_of, form_of, old_target, probe, template
from kg_edit.datasets.knowedit_rows import Asked, BiographyRow, FactRow, ForgottenRow, OpinionRow
from kg_edit.datasets.reading import Row
from kg_edit.datasets.record import BenchmarkRecord, Probe, Remark
from kg_edit.errors import EditError, Fault

_OPINION = "What do you think of {}?"


def parse(row: Row, name: str) -> BenchmarkRecord:
    """The record of a row of any subset.

    Raises:
        EditError: a field is wrong, or the row is of no subset.
    """
    for field, read in (("ent", _opinion), ("question", _forgotten), ("concept", _biography), ("subject", _fact)):
        if field in row:
            return read(row, name)
    known = "subject (facts), concept (WikiBio), ent (ConvSent) or question (Sanitation)"
    raise EditError([Fault("subject", f"is missing; expected a row of KnowEdit, which has {known}")])


def _fact(raw: Row, name: str) -> BenchmarkRecord:
    row = fields_of(FactRow, raw)
    rephrase = row.rephrase_prompt or row.rephrase
    truth = answers(row.ground_truth) if row.ground_truth else ()
    old, remarks = old_target(row.target_new, truth[0][0] if truth else None)
    place = template(row.prompt, row.subject, field="prompt")
    fields: dict[str, Any] = {
        "id": name,
        "subject": place.subject,
        "prompt": place.prompt,
        "target_new": row.target_new,
        "target_true": old,
        "paraphrases": (rephrase,) if rephrase.strip() else (),
    }
    edit = built_edit(fields, names={"target_true": "ground_truth"})
    right = ((row.target_new,),)
    probes = [
        *probe("efficacy", edit.text, right, form="sentence"),
        *probe("paraphrase", rephrase, right, form="sentence"),
        *_categories("portability", row.portability),
        *_categories("locality", row.locality),
    ]
    return built(name, [edit], probes, form="KnowEdit, facts", remarks=(*remarks, *_unanswered(row)))


def _biography(raw: Row, name: str) -> BenchmarkRecord:
    row = fields_of(BiographyRow, raw)
    place = template(row.text, row.concept, field="text")
    fields = {"id": name, "subject": place.subject, "prompt": place.prompt, "target_new": row.labels}
    edit = built_edit(fields, names={"subject": "concept", "prompt": "text", "target_new": "labels"})
    probes = [*probe("efficacy", edit.text, ((row.labels,),), form="sentence"), *_categories("locality", row.locality)]
    return built(name, [edit], probes, form="KnowEdit, WikiBio", remarks=_unanswered(row))


def _opinion(raw: Row, name: str) -> BenchmarkRecord:
    """The edit is the first good reply to a fixed question; the data set has replies alone."""
    row = fields_of(OpinionRow, raw)
    good, bad = ([reply.strip() for reply in replies] for replies in (row.pos, row.neg))
    fields = {"id": name, "subject": row.ent, "prompt": _OPINION, "target_new": good[0], "target_true": bad[0]}
    edit = built_edit(fields, names={"subject": "ent", "target_new": "pos[0]", "target_true": "neg[0]"})
    replies = tuple((reply,) for reply in dict.fromkeys(good))
    probes = probe("sentiment", edit.text, replies, form="sentence", others=tuple(dict.fromkeys(bad)))
    return built(name, [edit], probes, form=f"KnowEdit, ConvSent; asked {_OPINION!r}, edited towards pos[0]")


def _forgotten(raw: Row, name: str) -> BenchmarkRecord:
    """Where a row names no subject, as the test file's do not, the whole question but for its mark is the subject."""
    row = fields_of(ForgottenRow, raw)
    old, remarks = old_target(row.target_new, row.ground_truth)
    place = template(row.question, row.subject or row.question.strip().rstrip("?").strip(), field="question")
    fields = {"id": name, **place._asdict(), "target_new": row.target_new, "target_true": old}
    edit = built_edit(fields, names={"prompt": "question", "target_true": "ground_truth"})
    probes = [
        *probe("efficacy", edit.text, ((row.target_new,),), form="sentence"),
        *(part for asked, answer in row.kept for part in probe("locality", asked, ((answer,),))),
    ]
    chosen = "the subject is the row's" if row.subject else "the subject is the whole question"
    return built(name, [edit], probes, form=f"KnowEdit, Sanitation; {chosen}", remarks=remarks)


def _categories(family: str, categories: Mapping[str, Sequence[Asked]]) -> list[Probe]:
    """A probe a prompt; prompts that the file gives no answer are left out (and remarked on)."""
    return [
        part
        for category, prompts in categories.items()
        for asked in prompts
        for part in probe(
            f"{family}.{category}",
            asked.prompt,
            answers(asked.ground_truth) if asked.ground_truth else (),
            form=form_of(asked.prompt),
        )
    ]


def _unanswered(row: FactRow | BiographyRow) -> tuple[Remark, ...]:
    """A remark for each category with prompts without an answer."""
    found: dict[str, int] = {}
    for family, categories in (("portability", row.portability), ("locality", row.locality)):
        for category, prompts in categories.items():
            bare = [asked for asked in prompts if not (asked.ground_truth and answers(asked.ground_truth))]
            found |= {f"{family}.{category}": len(bare)} if bare else {}
    messages = (f"{count} prompts of {name} have no answer, and are left out" for name, count in found.items())
    return tuple(Remark(kind="empty-answer", message=message) for message in messages)
