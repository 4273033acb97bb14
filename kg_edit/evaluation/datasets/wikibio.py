"""WikiBio hallucinations (Manakul et al., EMNLP 2023: SelfCheckGPT), edited as in GRACE (Hartvigsen et al., NeurIPS
2023).

A row has a passage that GPT-3 wrote about a person, its sentences marked as accurate or not, and the true passage.
Each inaccurate sentence gives one edit. Its prompt is "This is a Wikipedia passage about …." and GPT-3's sentences
before it. Its target is the sentence at the same position of the true passage (the last one, if the true passage is
shorter). Accurate sentences are locality prompts: each is asked once, with the first edit of its passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeGuard

from pydantic import Field

from kg_common.rows import RowFault
from kg_edit.edits.edit import Name, Record, Text, Texts
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    check_fields,
    find_template,
    make_probes,
    old_target,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord, every_row
from kg_edit.text.matching import sentences

HALLUCINATION = "hallucination"
ACCURATE = "accurate"
_MARK = re.compile(r"accurate|(?:\w+_)?inaccurate")
_NAME_ENDS = re.compile(r"\s*(?:\(|,|\b(?:is|was|were|are|born)\b)")
Pairs = Annotated[tuple[tuple[str, str], ...], Field(strict=False)]


class PassageRow(Record):
    """A passage as published; ``concept`` is the person's name, if the file has it.

    ``index`` is that of the sentence to edit, ``locality`` the accurate sentences asked with it; `rows` sets both.
    """

    gpt3_sentences: Annotated[Texts, Field(min_length=1)]
    annotation: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    wiki_bio_text: Text
    gpt3_text: str = ""
    concept: Name | None = None
    wiki_bio_test_idx: object = None
    gpt3_text_samples: object = None
    index: int | None = None
    locality: Pairs = ()


def rows(document: object) -> Iterable[object]:
    """Yield one row for each inaccurate sentence.

    The first row of a passage also gets the accurate sentences to ask: its own, and those of passages without an
    inaccurate sentence before it. At the end of the file, the last row gets the remaining ones.
    """
    waiting = list[tuple[str, str]]()  # accurate sentences that no row has yet: the text before each, and the sentence
    last = dict[str, Any]()  # the newest row, held back because it may get the remaining sentences
    passage = dict[str, Any]()
    for number, row in enumerate(every_row(document), 1):
        if not _is_passage(row):
            yield _refuse(row, number)
            continue
        passage = dict(row)
        inaccurate = []
        for index, mark in enumerate(row["annotation"]):
            if "inaccurate" in mark:  # "major_inaccurate" and "minor_inaccurate" count alike
                inaccurate.append(index)
            else:
                waiting.append((_before(row, index), row["gpt3_sentences"][index]))
        for index in inaccurate:
            if last:
                yield last
            last = {**row, "index": index, "locality": waiting}
            waiting = []
    if last:
        yield {**last, "locality": [*last["locality"], *waiting]}
    elif passage:
        yield passage


def _is_passage(row: object) -> TypeGuard[dict[str, Any]]:
    """Return whether a row has the fields that `rows` needs; `parse` refuses the other rows."""
    if not isinstance(row, dict) or not isinstance(row.get("wiki_bio_text"), str):
        return False
    written = row.get("gpt3_sentences")
    marks = row.get("annotation")
    if not _are_texts(written) or not _are_texts(marks) or len(written) != len(marks):
        return False
    return bool(marks) and all(map(_MARK.fullmatch, marks))


def _are_texts(value: object) -> TypeGuard[list[str]]:
    """Return whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _refuse(row: object, number: int) -> object:
    """Return what is wrong with a row that is not a passage. The fault has the passage's number."""
    if not isinstance(row, dict):
        return row
    try:
        parse({**row, "index": None}, "")
    except EditError as error:
        return RowFault("", f"passage {number}, {error.faults[0]}")
    return row


def _before(row: Mapping[str, Any], index: int) -> str:
    """Return the text before a sentence: the header, and GPT-3's own sentences."""
    header = f"This is a Wikipedia passage about {_concept(row)}."
    before = [sentence.strip() for sentence in row["gpt3_sentences"][:index]]
    return " ".join([header, *before])


def _concept(row: Mapping[str, Any]) -> str:
    """Return the person: the field ``concept``, or else the lower-cased beginning of the true passage."""
    concept = row.get("concept")
    if isinstance(concept, str) and concept.strip():
        return concept.strip()
    first_sentence = next(sentences(row["wiki_bio_text"]), "").rstrip(".")
    person = _NAME_ENDS.split(first_sentence, maxsplit=1)[0]
    return " ".join(person.split()).lower()


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row made by `rows` as a record."""
    row = check_fields(PassageRow, raw)
    if row.index is None:
        marks = "accurate, minor_inaccurate and major_inaccurate, one to be edited"
        raise EditError([Fault("annotation", f"expected a list as long as gpt3_sentences, of {marks}")])
    text = _before(raw, row.index)
    sentence = row.gpt3_sentences[row.index].strip()
    # The true sentence at the same position; a shorter true passage gives its last one.
    true = list(sentences(row.wiki_bio_text))
    right = true[min(row.index, len(true) - 1)]
    old, remarks = old_target(right, sentence)
    parts = find_template(text, _concept(raw), field="wiki_bio_text")
    fields = {"id": name, **parts._asdict(), "target_new": right, "target_true": old}
    edit = build_edit(fields, field_names={"target_new": "wiki_bio_text", "target_true": "gpt3_sentences"})
    others = (sentence,) if old else ()
    probes = list(make_probes(HALLUCINATION, edit.text, ((right,),), form="sentence", others=others))
    for before, accurate in row.locality:
        probes += make_probes(ACCURATE, before, ((accurate.strip(),),), form="sentence")
    return build_record(name, [edit], probes, form="WikiBio hallucinations, as GRACE edits them", remarks=remarks)


WIKIBIO = Dataset(
    name="wikibio",
    about="WikiBio hallucinations (Manakul et al. 2023): GPT-3's sentences, edited to the true ones as in GRACE",
    measures=(HALLUCINATION, ACCURATE),
    parser=lambda: parse,
    edits_have=("target_true",),
    rows=rows,
)
