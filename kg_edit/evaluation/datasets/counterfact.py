"""CounterFact (Meng et al. 2022) and CounterFactPlus (Yao et al. 2023), which adds one portability question per record.

EasyEdit's flat form of CounterFact has one paraphrase and one neighbour per record. ROME's attribute_snippets.json has
the reference texts of the metric consistency.tfidf (`read_references`): texts about entities that have a given relation
to a given object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from kg_edit.edits.edit import Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.edits.rows import to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    check_fields,
    find_template,
    make_probes,
    old_target,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord, parsed_rows

_NO_QUESTION = (
    "has no portability question; expected one in each record of CounterFactPlus. Read a file without questions as "
    "'counterfact'"
)

References = Mapping[tuple[str, str], tuple[str, ...]]  # (relation id, object id) -> texts


class FlatRecord(Record):
    """A record of EasyEdit's counterfact-{edit,train,val}.json."""

    case_id: int
    prompt: Text
    target_new: Name
    subject: Name
    ground_truth: Name
    rephrase_prompt: Text
    locality_prompt: Text
    locality_ground_truth: Name


def parse(row: RawRecord, name: str, *, templates: RelationTemplates) -> BenchmarkRecord:
    """Parse a row of CounterFact, or of its flat form, as a record."""
    if "requested_rewrite" not in row:
        return parse_flat(row, name)
    edit = to_edit(row, row_id=name, labels={}, templates=templates)
    # Fluency and consistency are judged on texts that the model generates from these prompts.
    prompts = row.get("generation_prompts") or ()
    queries = tuple(Query(prompt=prompt, form="sentence") for prompt in prompts if prompt.strip())
    probes = []
    if queries:
        probes.append(Probe(measures="generation", queries=queries))
    return build_record(edit.id, [edit], probes, form="CounterFact")


def parse_plus(row: RawRecord, name: str, *, templates: RelationTemplates) -> BenchmarkRecord:
    """Parse a row of CounterFactPlus as a record."""
    record = parse(row, name, templates=templates)
    if not record.edits[0].portability:
        raise EditError([Fault("portability", f"{record.id!r}: {_NO_QUESTION}")])
    return record


def parse_flat(row: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of EasyEdit's flat form as a record.

    The locality prompt is a locality probe. If its answer is the edit's old target, as in CounterFact, it is also a
    neighborhood prompt.
    """
    flat = check_fields(FlatRecord, row)
    parts = find_template(flat.prompt, flat.subject, field="prompt")
    old, remarks = old_target(flat.target_new, flat.ground_truth)
    fields: dict[str, Any] = {
        "id": name,
        "subject": parts.subject,
        "prompt": parts.prompt,
        "target_new": flat.target_new,
        "target_true": old,
        "paraphrases": (flat.rephrase_prompt,),
        "neighborhood": (flat.locality_prompt,) if flat.locality_ground_truth == old else (),
    }
    row_names = {"target_true": "ground_truth", "paraphrases": "rephrase_prompt"}  # the row's own names, for errors
    edit = build_edit(fields, field_names=row_names)
    locality = make_probes("locality", flat.locality_prompt, ((flat.locality_ground_truth,),), form="sentence")
    return build_record(name, [edit], locality, form="CounterFact, EasyEdit's flat form", remarks=remarks)


class Sample(Record):
    """A text about one entity; the entity's name and id are not used."""

    text: Text
    name: object = None
    entity_id: object = None


class Snippets(Record):
    """A row of attribute_snippets.json: texts about entities that have one relation to one object."""

    relation_id: Text
    target_id: Text
    samples: Annotated[tuple[Sample, ...], Field(strict=False)]
    name: object = None


def read_references(path: Path) -> References:
    """Read a file in the form of ROME's attribute_snippets.json; return its texts by relation and object."""
    texts: dict[tuple[str, str], list[str]] = {}
    for snippets in parsed_rows(path, _parse_snippets):
        listed = texts.setdefault((snippets.relation_id, snippets.target_id), [])
        listed += [sample.text for sample in snippets.samples]
    return {key: tuple(listed) for key, listed in texts.items()}


def _parse_snippets(row: object, _: str) -> Snippets:
    return check_fields(Snippets, row)


def with_references(records: Iterable[BenchmarkRecord], references: References) -> tuple[BenchmarkRecord, ...]:
    """Add to each record the texts about the relation and the new target of its first edit, if there are any."""
    extended = []
    for record in records:
        edit = record.edits[0]
        key = (edit.relation_id or "", edit.target_new_id or "")
        extended.append(record.model_copy(update={"references": references.get(key, ())}))
    return tuple(extended)


COUNTERFACT = Dataset(
    name="counterfact",
    about="CounterFact (Meng et al. 2022), also in EasyEdit's flat form",
    measures=("generation", "locality"),
    # Called once for each file, so the templates are loaded once, and only if a file is read
    parser=lambda: partial(parse, templates=RelationTemplates.load()),
    edits_have=("target_true", "paraphrases", "neighborhood"),
)


COUNTERFACT_PLUS = Dataset(
    name="counterfact-plus",
    about="CounterFact with a portability question a record (Yao et al. 2023)",
    measures=("generation",),
    # Called once for each file, as above
    parser=lambda: partial(parse_plus, templates=RelationTemplates.load()),
    edits_have=("target_true", "paraphrases", "neighborhood", "questions"),
    precedence=1,  # CounterFact can read each of its records too
)
