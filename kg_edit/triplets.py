"""One row of an edit file to an Edit. A row has one of three shapes:

- an edit: the fields of `Edit`, taken as they are;
- a triplet: subject, relation, object, new_object (and a prompt, if wanted), as labels or Wikidata ids;
- a CounterFact or CounterFactPlus record.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from kg_edit.edits import (
    ENTITY_ID,
    PROPERTY_ID,
    Edit,
    EntityId,
    Name,
    PropertyId,
    Record,
    Text,
    Texts,
    checked,
    is_wikidata_id,
)
from kg_edit.errors import EditError, Fault, did_you_mean
from kg_edit.relation_templates import RelationTemplates

Row = Mapping[str, object]
Labels = Mapping[str, str]

# A triplet's names for the fields of an Edit.
_TRIPLET = {
    "object": "target_true",
    "new_object": "target_new",
    "object_id": "target_true_id",
    "new_object_id": "target_new_id",
}
_ENTITIES = ("subject", "target_true", "target_new")
FIELDS = (*Edit.model_fields, *_TRIPLET)


class Target(Record):
    """An object in a CounterFact record."""

    str: Name
    id: EntityId | None = None


class RequestedRewrite(Record):
    """The edit in a CounterFact record."""

    prompt: Name
    relation_id: PropertyId | None = None
    target_new: Target
    target_true: Target | None = None
    subject: Name


class Portability(Record):
    """What CounterFactPlus adds to a CounterFact record."""

    relation: str | None = Field(None, alias="Recalled Relation")
    question: Text = Field(alias="New Question")
    answer: Name = Field(alias="New Answer")


class CounterFactRecord(Record):
    """A record of CounterFact (Meng et al. 2022); the last three fields are accepted and not used."""

    case_id: int | str
    requested_rewrite: RequestedRewrite
    paraphrase_prompts: Texts = ()
    neighborhood_prompts: Texts = ()
    portability: Portability | None = None
    attribute_prompts: Annotated[object, Field(exclude=True)] = None
    generation_prompts: Annotated[object, Field(exclude=True)] = None
    pararel_idx: Annotated[object, Field(exclude=True)] = None
