"""Convert a row of an edit file to an `Edit`. The row has one of three shapes:

- an edit: the fields of `Edit`, used unchanged;
- a triplet: subject, relation, object and new_object, each a label or a Wikidata id;
- a record of CounterFact or CounterFactPlus.

Field names of other tools are understood too (`kg_edit.edits.aliases`), and so are the fields that `wikidata-cache
link` adds. docs/files.md shows every field.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from kg_common.ids import bare_id
from kg_common.rows import TRIPLET_NAMES
from kg_edit.edits.aliases import translate_row
from kg_edit.edits.edit import (
    Answer,
    Edit,
    EntityId,
    Language,
    Locality,
    Name,
    PropertyId,
    Question,
    Record,
    Text,
    TextOrEmpty,
    Texts,
    is_item_id,
    is_property_id,
    parse_record,
)
from kg_edit.edits.templates import RelationTemplate, RelationTemplates
from kg_edit.errors import ConfigError, EditError, Fault, did_you_mean
from kg_edit.languages import ENGLISH, FORM_LANGUAGES, check_language, fill, fit_template
from kg_edit.writing_systems import is_syllable

Row = Mapping[str, object]
Labels = Mapping[str, str]
Fields = dict[str, object]  # by the names of `Edit`
NameInFile = Mapping[str, str]  # a field name of `Edit` -> the name of the same field in the file, where it differs

# Field name of `Edit` -> its name in a triplet, and in a CounterFact record.
_EDIT_TO_TRIPLET = {edit_name: triplet_name for triplet_name, edit_name in TRIPLET_NAMES.items()}
_EDIT_TO_COUNTERFACT = {
    "id": "case_id",
    "subject": "requested_rewrite.subject",
    "prompt": "requested_rewrite.prompt",
    "target_new": "requested_rewrite.target_new.str",
    "target_new_id": "requested_rewrite.target_new.id",
}
_EDIT_FIELDS = tuple(Edit.model_fields)
_TRIPLET_FIELDS = tuple(_EDIT_TO_TRIPLET.get(name, name) for name in _EDIT_FIELDS)
_ENTITIES = ("subject", "target_true", "target_new")
MADE_UP = "The {} of {{}} is"  # the prompt for a relation that has no template
FIELDS = tuple(dict.fromkeys(_EDIT_FIELDS + _TRIPLET_FIELDS))


class Target(Record):
    """An object in a CounterFact record."""

    label: Name = Field(alias="str")
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
    """A record of CounterFact (Meng et al. 2022), and our own fields ``locality``, ``chat`` and ``language``.

    The last three fields are not used.
    """

    case_id: Name
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: Texts = ()
    neighborhood_prompts: Texts = ()
    portability: Portability | None = None
    locality: Locality = ()
    chat: bool | Literal["both"] = False
    language: Language = ENGLISH
    attribute_prompts: object = None
    generation_prompts: Annotated[tuple[TextOrEmpty, ...], Field(strict=False)] = ()
    pararel_idx: object = None


def to_edit(
    row: Row,
    *,
    row_id: str | None = None,
    labels: Labels,
    templates: RelationTemplates,
    looked_in: str = "",
    language: str = ENGLISH,
) -> Edit:
    """Build the edit that a row of any shape describes.

    Args:
        row: the fields; one that is null counts as absent.
        row_id: the id of an edit without one; None: an id is made of its fact.
        labels: the labels of the ids that `ids_to_label` returns.
        templates: for rows without a prompt.
        looked_in: the graph that the labels are from, in words; empty: there was none.
        language: that of a row without the field.
    """
    filled = _number_as_text(_drop_nulls(row))
    if language != ENGLISH:
        filled = {"language": language, **filled}
    if "requested_rewrite" in filled:
        fields, name_in_file = _from_counterfact(filled, labels, templates)
    elif _is_triplet(filled):
        fields, name_in_file = _from_triplet(filled, labels, templates, looked_in)
    else:
        fields, name_in_file = _from_edit_row(filled, labels, templates)
    if "ending" in fields:
        fields["ending"] = _with_space(fields["ending"])
    if row_id is not None:
        fields.setdefault("id", row_id)
    try:
        return parse_record(Edit, fields)
    except EditError as error:
        raise EditError(Fault(name_in_file.get(name, name), message) for name, message in error.faults) from None


def language_of(row: Row, default: str) -> str:
    """Return the language of a row; the default if the field is missing, or is not a language.

    `to_edit` refuses a row whose field is not a language.
    """
    code = row.get("language")
    if not isinstance(code, str):
        return default
    try:
        return check_language(code)
    except ConfigError:
        return default


def ids_to_label(row: Row, templates: RelationTemplates, *, language: str = ENGLISH) -> set[str]:
    """Return the Wikidata ids in a row whose labels `to_edit` will need; none if `to_edit` will refuse the row."""
    row = _drop_nulls(row)
    rewrite = row.get("requested_rewrite")
    ids = list[object]()
    if isinstance(rewrite, dict):
        ids = [rewrite.get("relation_id")]
    elif _is_triplet(row):
        try:
            triplet, _ = translate_row(row, triplet=True)
            fields = _triplet_to_edit(triplet)
        except EditError:  # to_edit raises it again, where the row's number is known
            return set()
        ids = [fields.get(name) for name in (*_ENTITIES, "relation", "relation_id")]
    elif _needs_prompt(row):
        ids = [_bare(row.get("relation")), _bare(row.get("relation_id"))]
    items = {id_ for id_ in ids if is_item_id(id_)}
    properties = {id_ for id_ in ids if is_property_id(id_)}
    without_template = {id_ for id_ in properties if not templates.find(id_, language)}  # a template has a label
    return items | without_template


def _drop_nulls(row: Row) -> Row:
    """Return the row without fields that are null."""
    return {name: value for name, value in row.items() if value is not None}


def _number_as_text(row: Row) -> Row:
    """Return the row with its id as a text: published files number their records."""
    for name in ("id", "case_id"):
        if type(row.get(name)) is int:  # true and false are ints for `isinstance`
            row = {**row, name: str(row[name])}
    return row


def _with_space(ending: object) -> object:
    """Return `Edit.ending`, the text after the object, with the space before its first word, which a cell loses.

    So "in Paris" becomes " in Paris". There is no space before Chinese, Japanese and Thai words, before a Korean
    particle, and before a mark such as a comma.
    """
    if not isinstance(ending, str) or not ending:
        return ending
    begins_with_word = ending[0].isalnum() and not is_syllable(ending[0])
    if begins_with_word:
        return f" {ending}"
    return ending


def _needs_prompt(row: Row) -> bool:
    """Return whether the row of an edit names a relation in place of a prompt, so that the prompt is made from it."""
    return "prompt" not in row and ("relation" in row or "relation_id" in row)


def _is_triplet(row: Row) -> bool:
    """Return whether the row has a field that only triplets have."""
    return not row.keys().isdisjoint(_EDIT_TO_TRIPLET.values())


def _refuse_unknown(row: Row, known: tuple[str, ...]) -> None:
    """Refuse fields that are not known, and name the field that the writer probably meant."""
    unknown = [name for name in row if name not in known]
    if unknown:
        raise EditError(Fault(name, f"unknown field{_hint_at_field(name, known)}") for name in unknown)


def _hint_at_field(name: str, known: tuple[str, ...]) -> str:
    """Return what an error adds about the unknown field ``name``: the field that was probably meant, or all fields."""
    if name in _EDIT_TO_TRIPLET:  # the row is a triplet, with a field of an edit
        return f" in a triplet; expected {_EDIT_TO_TRIPLET[name]!r}"
    return did_you_mean(name, FIELDS) or f"; known: {', '.join(known)}"


def _from_counterfact(row: Row, labels: Labels, templates: RelationTemplates) -> tuple[Fields, NameInFile]:
    """Return the fields of the edit that a CounterFact record describes, and their names in the record."""
    used, _ = translate_row(row, triplet=False)  # a record has no other names; its unused fields are removed
    record = parse_record(CounterFactRecord, used)
    rewrite = record.requested_rewrite
    template = templates.find(rewrite.relation_id, record.language)
    questions = tuple[Question, ...]()
    if record.portability is not None:
        questions = (Question.model_validate(record.portability.model_dump()),)
    fields: Fields = {
        "id": record.case_id,
        "subject": rewrite.subject,
        "subject_id": rewrite.subject_id,
        "prompt": rewrite.prompt,
        "target_new": rewrite.target_new.label,
        "target_new_id": rewrite.target_new.id,
        "relation": template.label if template else labels.get(rewrite.relation_id or ""),
        "relation_id": rewrite.relation_id,
        "paraphrases": record.paraphrase_prompts,
        "neighborhood": record.neighborhood_prompts,
        "portability": questions,
        "locality": record.locality,
        "chat": record.chat,
        "language": record.language,
    }
    old = rewrite.target_true
    if old is not None:
        fields["target_true"] = old.label
        fields["target_true_id"] = old.id
    return fields, _EDIT_TO_COUNTERFACT


def _from_edit_row(row: Row, labels: Labels, templates: RelationTemplates) -> tuple[Fields, NameInFile]:
    """Return the fields of an edit; its prompt is made from its relation if it has none."""
    fields, name_in_file = translate_row(row, triplet=False)
    _refuse_unknown(fields, _EDIT_FIELDS)
    if _needs_prompt(fields):
        for name in ("relation", "relation_id"):
            if name in fields:
                fields[name] = _bare(fields[name])
        fields |= _complete_relation(fields, labels, templates)
    return fields, name_in_file


def _from_triplet(row: Row, labels: Labels, templates: RelationTemplates, looked_in: str) -> tuple[Fields, NameInFile]:
    """Return the fields of the edit that a triplet describes; ids in the place of names get their labels."""
    triplet, own_names = translate_row(row, triplet=True)
    _refuse_unknown(triplet, _TRIPLET_FIELDS)
    fields = _triplet_to_edit(triplet)
    name_in_file = dict[str, str]()
    # A field has up to three names: target_true of an Edit is object in a triplet, and may be ground_truth in this row.
    for edit_name in _EDIT_FIELDS:
        triplet_name = _EDIT_TO_TRIPLET.get(edit_name, edit_name)
        name_in_file[edit_name] = own_names.get(triplet_name, triplet_name)
    for edit_name in _ENTITIES:
        entity = fields.get(edit_name)
        stated_id = fields.get(f"{edit_name}_id")
        if is_item_id(entity) and stated_id in (None, entity):  # an id in the place of a label
            if not labels.get(entity):
                message = _say_no_label(entity, f"{_EDIT_TO_TRIPLET.get(edit_name, edit_name)}_id", looked_in)
                raise EditError([Fault(name_in_file[edit_name], message)])
            fields[edit_name] = labels[entity]
            fields[f"{edit_name}_id"] = entity
    fields |= _complete_relation(fields, labels, templates)
    return fields, name_in_file


def _triplet_to_edit(triplet: Row) -> Fields:
    """Rename the fields of a triplet to those of an `Edit`, and shorten each Wikidata address to its id."""
    fields = Fields()
    for edit_name in _EDIT_FIELDS:
        triplet_name = _EDIT_TO_TRIPLET.get(edit_name, edit_name)
        if triplet_name in triplet:
            fields[edit_name] = _bare(triplet[triplet_name])
    return fields


def _bare(value: object) -> object:
    """Return a text without white space around it, and a Wikidata address as its id; other values unchanged."""
    if not isinstance(value, str):
        return value
    return bare_id(value.strip())


def _say_no_label(entity: str, id_field: str, looked_in: str) -> str:
    """Return the message for an id for which the graph ``looked_in`` ("": there was none) has no label.

    ``id_field`` is the field for the id, if the label is given.
    """
    where = "there is"
    graph = "a --graph with labels"
    if looked_in:
        where = f"the graph {looked_in} has"
        graph = "a larger --graph (a store of a dump, or a SPARQL URL)"
    way = f"write the label here and the id in {id_field}, or give {graph}"
    return f"found the id {entity}, for which {where} no label; {way}"


def _complete_relation(fields: Row, labels: Labels, templates: RelationTemplates) -> Fields:
    """Return the fields of an edit that its relation decides.

    Each has the first of these values that there is:

        relation       the row's label, the template's label, the graph's label
        relation_id    the row's id, the template's id
        prompt         the row's prompt, the template with the subject, in English "The [label] of [subject] is"
        paraphrases    the template's, if the prompt is the template's too and the row has no paraphrases
    """
    stated = _read_relation(fields)
    if stated is None:
        return {}  # the check of the edit's types gives a better message
    language = language_of(fields, ENGLISH)
    template = templates.find(stated.id, language) or templates.find(stated.label, language)
    if template is None:
        return _complete_without_template(stated, labels, templates, language)
    property_id = stated.id or template.property_id
    relation: Fields = {"relation": stated.label or template.label, "relation_id": property_id or None}
    if stated.prompt:
        return relation | {"prompt": stated.prompt}
    return relation | _fill_template(template, fields, language)


class _StatedRelation(NamedTuple):
    """What a row says about its relation."""

    label: str | None
    id: str | None
    prompt: str | None


def _read_relation(fields: Row) -> _StatedRelation | None:
    """Return what a row says about its relation; None if a value is not a text."""
    label = fields.get("relation")
    property_id = fields.get("relation_id")
    prompt = fields.get("prompt")
    if not (isinstance(label, str | None) and isinstance(property_id, str | None) and isinstance(prompt, str | None)):
        return None
    if is_property_id(label) and property_id in (None, label):  # an id in the place of a label
        return _StatedRelation(None, label, prompt)
    return _StatedRelation(label, property_id, prompt)


def _complete_without_template(
    stated: _StatedRelation, labels: Labels, templates: RelationTemplates, language: str
) -> Fields:
    """Return the relation's label and id, and the prompt, for a relation without a template."""
    if stated.label and not stated.id and not stated.prompt:
        _refuse_misspelt(stated.label, templates)
    label = stated.label or labels.get(stated.id or "", "")
    prompt = stated.prompt
    if label and not prompt and language == ENGLISH:
        prompt = MADE_UP.format(label)
    if not prompt:
        raise EditError([Fault("relation", _why_no_prompt(stated.id, label, language))])
    return {"relation": label or None, "relation_id": stated.id or None, "prompt": prompt}


def _fill_template(template: RelationTemplate, fields: Row, language: str) -> Fields:
    """Return the prompt that a relation's template makes, and a paraphrase if it has one and the row has none.

    The prompt keeps its {} for the subject (`fit_template`); a paraphrase contains the subject (`fill`).
    """
    subject = str(fields.get("subject") or "")
    prompts: Fields = {"prompt": fit_template(template.template, subject, language)}
    if template.paraphrase and not fields.get("paraphrases"):
        prompts["paraphrases"] = [fill(template.paraphrase, subject, language)]
    return prompts


def _refuse_misspelt(relation: str, templates: RelationTemplates) -> None:
    """Refuse a relation without a template whose name is almost that of one with a template."""
    near = templates.find_near(relation)
    if near:
        message = (
            f"there is no template for {relation!r}, did you mean {near!r}? If not, give the row a prompt, or give "
            "`kg-edit edit` a file with a template for it: --templates FILE"
        )
        raise EditError([Fault("relation", message)])


def _why_no_prompt(relation_id: str | None, label: str, language: str) -> str:
    """Return the message for a row of whose relation no prompt can be made."""
    if language != ENGLISH and (relation_id or label):
        way = "give the row a prompt, or give `kg-edit edit` a file with a template for it: --templates FILE"
        if language not in FORM_LANGUAGES:
            return f"no relation has a template in the language {language}; {way}"
        return f"there is no template for {relation_id or label} in the language {language}; {way}"
    if relation_id is None:
        return "is missing; expected the label or the id of a relation, or a prompt"
    return (
        f"unknown relation id without template: {relation_id} has no label either; give the row a prompt, or "
        "give `kg-edit edit` a file with a template for it: --templates FILE"
    )
