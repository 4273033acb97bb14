"""Convert a row of an edit file to an `Edit`. The row has one of three shapes:

- an edit: the fields of `Edit`, used unchanged;
- a triplet: subject, relation, object and new_object, each a label or a Wikidata id;
- a record of CounterFact or CounterFactPlus.

Field names of other tools are understood too (`kg_edit.edits.aliases`), and so are the fields that `wikidata-cache
link` adds. docs/files.md shows every field.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from kg_common.ids import bare_id
from kg_common.rows import TRIPLET_NAMES
from kg_edit.edits.aliases import canonical
from kg_edit.edits.edit import (
    Answer,
    Edit,
    EntityId,
    Locality,
    Name,
    PropertyId,
    Question,
    Record,
    Text,
    TextOrEmpty,
    Texts,
    checked,
    is_entity_id,
    is_property_id,
)
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import EditError, Fault, did_you_mean

Row = Mapping[str, object]
Labels = Mapping[str, str]

# Field name of `Edit` -> its name in a triplet, and in a CounterFact record.
_TRIPLET = {own: theirs for theirs, own in TRIPLET_NAMES.items()}
_COUNTERFACT = {
    "id": "case_id",
    "subject": "requested_rewrite.subject",
    "prompt": "requested_rewrite.prompt",
    "target_new": "requested_rewrite.target_new.str",
    "target_new_id": "requested_rewrite.target_new.id",
}
_EDIT_FIELDS = tuple(Edit.model_fields)
_TRIPLET_FIELDS = tuple(_TRIPLET.get(name, name) for name in _EDIT_FIELDS)
_ENTITIES = ("subject", "target_true", "target_new")
MADE_UP = "The {} of {{}} is"  # the prompt for a relation that has no template
FIELDS = tuple(dict.fromkeys(_EDIT_FIELDS + _TRIPLET_FIELDS))


class Target(Record):
    """An object in a CounterFact record."""

    str: Name
    id: EntityId | None = None


class RequestedRewrite(Record):
    """The part of a CounterFact record that describes the edit; linking adds `subject_id`."""

    prompt: Name
    subject_id: EntityId | None = None
    relation_id: PropertyId | None = None
    target_new: Target
    target_true: Target | None = None
    subject: Name


class Portability(Record):
    """The fields that CounterFactPlus adds to a CounterFact record."""

    recalled_relation: TextOrEmpty | None = Field(None, alias="Recalled Relation")
    question: Text = Field(alias="New Question")
    answer: Answer = Field(alias="New Answer")


class CounterFactRecord(Record):
    """A record of CounterFact (Meng et al. 2022), and our own fields ``locality`` and ``chat``.

    The last three fields are not used.
    """

    case_id: Name
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: Texts = ()
    neighborhood_prompts: Texts = ()
    portability: Portability | None = None
    locality: Locality = ()
    chat: bool | Literal["both"] = False
    attribute_prompts: object = None
    generation_prompts: Annotated[tuple[TextOrEmpty, ...], Field(strict=False)] = ()
    pararel_idx: object = None


def to_edit(
    row: Row, *, row_id: str | None = None, labels: Labels, templates: RelationTemplates, looked_in: str = ""
) -> Edit:
    """Build the edit that a row of any shape describes.

    Args:
        row: the fields; one that is null counts as absent.
        row_id: the id of an edit without one; None: an id is made of its fact.
        labels: the labels of the ids that `ids_to_label` returns.
        templates: for rows without a prompt.
        looked_in: the graph that the labels are from, in words; empty: there was none.
    """
    row = _given(row)
    # Published files number their records; an id is a text.
    numbers = {name: str(row[name]) for name in ("id", "case_id") if type(row.get(name)) is int}
    row = {**row, **numbers}
    row, names = canonical(row, triplet=_is_triplet(row))
    if "requested_rewrite" in row:
        fields = _from_counterfact(checked(CounterFactRecord, row), labels, templates)
        names = _COUNTERFACT
    elif _is_triplet(row):
        _refuse_unknown(row, _TRIPLET_FIELDS)
        fields = _from_triplet(row, labels, templates, looked_in)
        names = {**_TRIPLET, **names}
    else:
        _refuse_unknown(row, _EDIT_FIELDS)
        if _lacks_prompt(row):
            row = {**row, **{name: _bare(row[name]) for name in ("relation", "relation_id") if name in row}}
            row |= _relation_fields(row, labels, templates)
        fields = row
    try:
        # The cell of a table has lost the space before its ending; scripts without case, such as Chinese, take none.
        ending = fields.get("ending")
        if isinstance(ending, str) and ending and (ending[0].isdigit() or ending[0].lower() != ending[0].upper()):
            fields = {**fields, "ending": f" {ending}"}
        return checked(Edit, fields if row_id is None else {"id": row_id, **fields})
    except EditError as error:
        raise EditError(Fault(names.get(field, field), message) for field, message in error.faults) from None


def ids_to_label(row: Row, templates: RelationTemplates) -> set[str]:
    """Return the Wikidata ids in a row whose labels `to_edit` will need; none if `to_edit` will refuse the row."""
    row = _given(row)
    ids = list[object]()
    if isinstance(rewrite := row.get("requested_rewrite"), dict):
        ids = [rewrite.get("relation_id")]
    elif _is_triplet(row):
        try:
            fields = _renamed(canonical(row, triplet=True)[0])
        except EditError:  # to_edit raises it again, where the row's number is known
            return set()
        ids = [fields.get(name) for name in (*_ENTITIES, "relation", "relation_id")]
    elif _lacks_prompt(row):
        ids = [_bare(row.get("relation")), _bare(row.get("relation_id"))]
    return {id_ for id_ in ids if is_entity_id(id_) or (is_property_id(id_) and not templates.find(id_))}


def _given(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def _lacks_prompt(row: Row) -> bool:
    """Whether the row is an edit without a prompt, whose prompt is made from its relation, as for a triplet."""
    return "prompt" not in row and ("relation" in row or "relation_id" in row)


def _is_triplet(row: Row) -> bool:
    return not row.keys().isdisjoint(_TRIPLET.values())


def _refuse_unknown(row: Row, known: tuple[str, ...]) -> None:
    if unknown := [name for name in row if name not in known]:
        # the field that the writer probably meant
        near = {
            name: f" in a triplet; expected {_TRIPLET[name]!r}"
            if name in FIELDS
            else did_you_mean(name, FIELDS) or f"; known: {', '.join(known)}"
            for name in unknown
        }
        raise EditError(Fault(name, f"unknown field{hint}") for name, hint in near.items())


def _from_counterfact(record: CounterFactRecord, labels: Labels, templates: RelationTemplates) -> Row:
    rewrite = record.requested_rewrite
    true = record.requested_rewrite.target_true
    question = record.portability
    relation = templates.find(rewrite.relation_id)
    return {
        "id": record.case_id,
        "subject": rewrite.subject,
        "subject_id": rewrite.subject_id,
        "prompt": rewrite.prompt,
        "target_true": true.str if true else None,
        "target_true_id": true.id if true else None,
        "target_new": rewrite.target_new.str,
        "target_new_id": rewrite.target_new.id,
        "relation": relation.label if relation else labels.get(rewrite.relation_id or ""),
        "relation_id": rewrite.relation_id,
        "paraphrases": record.paraphrase_prompts,
        "neighborhood": record.neighborhood_prompts,
        "portability": (Question.model_validate(question.model_dump()),) if question else (),
        "locality": record.locality,
        "chat": record.chat,
    }


def _renamed(row: Row) -> dict[str, object]:
    """Rename the fields of a triplet to those of an `Edit`, and shorten each Wikidata address to its id."""
    fields = {name: row[column] for name, column in zip(_EDIT_FIELDS, _TRIPLET_FIELDS, strict=True) if column in row}
    return {name: _bare(value) for name, value in fields.items()}


def _bare(value: object) -> object:
    """A text without white space around it, and a Wikidata address as its id."""
    return bare_id(value.strip()) if isinstance(value, str) else value


def _from_triplet(row: Row, labels: Labels, templates: RelationTemplates, looked_in: str) -> Row:
    fields = _renamed(row)
    for name in _ENTITIES:
        entity = fields.get(name)
        if is_entity_id(entity) and fields.get(f"{name}_id") in (None, entity):
            if not labels.get(entity):
                field = _TRIPLET.get(name, name)
                where = f"the graph {looked_in} has" if looked_in else "there is"
                other = (
                    "a larger --graph (a store of a dump, or a SPARQL URL)" if looked_in else "a --graph with labels"
                )
                way_out = f"write the label here and the id in {field}_id, or give {other}"
                raise EditError([Fault(field, f"found the id {entity}, for which {where} no label; {way_out}")])
            fields |= {name: labels[entity], f"{name}_id": entity}
    return fields | _relation_fields(fields, labels, templates)


def _relation_fields(fields: Row, labels: Labels, templates: RelationTemplates) -> dict[str, object]:
    """Return the relation's id, its label, and the prompt: the row's own prompt, or else one made from the relation."""
    name = fields.get("relation")
    id_ = fields.get("relation_id")
    prompt = fields.get("prompt")
    if not (isinstance(name, str | None) and isinstance(id_, str | None) and isinstance(prompt, str | None)):
        return {}  # checking the edit's types gives a better message
    if is_property_id(name) and id_ in (None, name):
        name, id_ = None, name
    row = templates.find(id_) or templates.find(name)
    if name and not (row or id_ or prompt) and (near := templates.near(name)):
        message = (
            f"there is no template for {name!r}, did you mean {near!r}? If not, give the row a prompt, or give "
            "`kg-edit edit` a file with a template for it: --templates FILE"
        )
        raise EditError([Fault("relation", message)])
    label = name or (row.label if row else labels.get(id_ or ""))
    prompt = prompt or (row.template if row else label and MADE_UP.format(label))
    if not prompt:
        message = "is missing; expected the label or the id of a relation, or a prompt"
        if id_ is not None:
            message = (
                f"unknown relation id without template: {id_} has no label either; give the row a prompt, or "
                "give `kg-edit edit` a file with a template for it: --templates FILE"
            )
        raise EditError([Fault("relation", message)])
    return {"relation": label, "relation_id": id_ or (row and row.property_id) or None, "prompt": prompt}
