"""Entity Inferences and ECBD (Onoe et al. 2022, 2023): teach a new entity's definition, then ask what follows from it.

Both mask one span of the definition and one span of a further sentence. The edit completes the definition up to its
mask. The text after the mask is the edit's ``ending``, which is taught too. In Entity Inferences, the further
sentence has labels to choose from; in ECBD the masked span itself is scored. A mask may be within a word ("wide" and
"-body"): a span is then scored without a space before it (`GLUE`), and an edit's target begins with the whole word, so
the sentence is the published one. `read_sentences` and `with_specificity` add sentences about other entities to every
record. They measure the cost of teaching a definition for these entities (specificity).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kg_edit.edits.edit import Name, Record, Text, Texts
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.errors import EditError, EditFileError, Fault
from kg_edit.evaluation.datasets.building import Template, build_edit, build_record, check_fields, find_template
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord, parsed_rows
from kg_edit.writing_systems import GLUE

_MASK = "<extra_id_0>"
_END = "<extra_id_1>"


class Sentence(Record):
    """A sentence with a mask, and the labels to choose from (Entity Inferences) or the masked text (ECBD)."""

    probe_sentence: Text
    labels: Texts = ()
    label: str = ""


class EntityRow(Record):
    """A row as published; fields that describe the entity for other uses are not used."""

    ex_id: Name
    ent_str: Name
    definition: Text
    def_target: Text
    probe_sentences: dict[str, Sentence]
    label: str = ""
    attribute: object = None
    category: object = None
    qid: object = None
    additional_sentences: object = None
    conceptnet: object = None
    generic_sentences: object = None
    specific_sentences: object = None


class Masked(NamedTuple):
    """The texts before and after a mask, and whether the mask follows without a space."""

    before: str
    after: str
    glued: bool


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row as a record with probes inference (labels to choose from) or span (the masked text).

    If the definition does not name the entity before its mask, the edit's prompt begins with the name and a colon.
    """
    row = check_fields(EntityRow, raw)
    defined = _masked(row.definition, field="definition")
    # If the mask continues a word ("(CN<mask>"), the target begins with that word.
    word_start = ""
    if defined.glued:
        word_start = defined.before.split()[-1]
    before = defined.before.removesuffix(word_start).rstrip()
    try:
        parts = find_template(before, row.ent_str, field="definition")
    except EditError:
        parts = Template(f"{{}}: {before}", row.ent_str)
    fields = {
        "id": name,
        **parts._asdict(),
        "target_new": word_start + _unmasked(row.def_target, field="def_target"),
        "ending": defined.after if defined.after.strip(" .") else "",
    }
    edit = build_edit(fields, field_names={"prompt": "definition", "target_new": "def_target", "subject": "ent_str"})

    probes = [_parse_probe(row, key) for key in row.probe_sentences]
    form = "Entity Inferences" if row.label else "ECBD"
    return build_record(name, [edit], probes, form=form)


def _parse_probe(row: EntityRow, key: str) -> Probe:
    """Parse a row's further sentence, which has labels to choose from or a masked text of its own."""
    sentence = row.probe_sentences[key]
    field = f"probe_sentences.{key}"
    masked = _masked(sentence.probe_sentence, field=f"{field}.probe_sentence")
    glue = GLUE if masked.glued else ""
    if sentence.labels:
        labels = [_unmasked(text, field=f"{field}.labels") for text in sentence.labels]
        if row.label not in labels:
            raise EditError([Fault("label", f"{row.label!r} is not among the labels of {field}")])
        measures = "inference"
        right = glue + row.label
        others = tuple(glue + other for other in dict.fromkeys(labels) if other != row.label)
    else:
        measures = "span"
        right = glue + _unmasked(sentence.label, field=f"{field}.label")
        others = ()
    query = Query(prompt=masked.before, answers=((right,),), form="sentence", others=others)
    return Probe(measures=measures, queries=(query,))


class OtherSentence(NamedTuple):
    """A masked sentence without the definition of its entity: what it measures when another entity is edited."""

    entity: str
    measures: str
    query: Query


def read_sentences(path: Path) -> tuple[OtherSentence, ...]:
    """Read the masked sentences of a file, with the span of each or its labels; the definitions are not used."""
    sentences = list[OtherSentence]()
    for record in parsed_rows(path, parse):
        sentences += sentences_of(record)
    if not sentences:
        raise EditFileError(f"{path}: no record has a masked sentence; expected rows of ECBD or Entity Inferences")
    return tuple(sentences)


def sentences_of(record: BenchmarkRecord) -> list[OtherSentence]:
    """Return a record's masked sentences, as questions for the edits of other entities."""
    subject = record.edits[0].subject
    sentences = []
    for group, measures in (("span", "specificity"), ("inference", "inference-specificity")):
        for probe in record.group(group):
            sentences += [OtherSentence(subject, measures, query) for query in probe.queries]
    return sentences


def with_specificity(
    records: Iterable[BenchmarkRecord], sentences: Sequence[OtherSentence]
) -> tuple[BenchmarkRecord, ...]:
    """Add to each record the ``sentences`` that are about other entities, as a specificity probe of each kind."""
    extended = []
    for record in records:
        by_kind: dict[str, list[Query]] = {}
        for sentence in sentences:
            if sentence.entity != record.edits[0].subject:
                by_kind.setdefault(sentence.measures, []).append(sentence.query)
        added = tuple(Probe(measures=measures, queries=tuple(queries)) for measures, queries in by_kind.items())
        extended.append(record.model_copy(update={"probes": (*record.probes, *added)}))
    return tuple(extended)


def _masked(text: str, *, field: str) -> Masked:
    before, mask, after = text.partition(_MASK)
    if not mask or not before.strip():
        raise EditError([Fault(field, f"{text[:60]!r} has no {_MASK} after its beginning; expected the masked place")])
    return Masked(before.rstrip(), after.rstrip(), glued=not before[-1].isspace())


def _unmasked(text: str, *, field: str) -> str:
    match = re.fullmatch(rf"\s*{_MASK}(.*){_END}\s*", text, re.DOTALL)
    if not match or not match[1].strip():
        raise EditError([Fault(field, f"found {text[:60]!r}; expected a text between {_MASK} and {_END}")])
    return match[1].strip(" ")  # a no-break space is part of the text


ENTITY_INFERENCES = Dataset(
    name="entity-inferences",
    about="Entity Inferences and ECBD (Onoe et al. 2022, 2023): a definition is taught",
    measures=("inference", "inference-specificity", "span", "specificity"),
    parser=lambda: parse,
)
