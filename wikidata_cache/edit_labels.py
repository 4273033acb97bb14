"""Whether the ids of an edit are called in the graph what the edit calls them."""

from collections.abc import Mapping

from wikidata_cache.edits import EditRow
from wikidata_cache.ids import is_entity
from wikidata_cache.linking.names import normalise

_FIELDS = ("subject", "relation", "target_true", "target_new")


def given_ids(edit: EditRow) -> dict[str, str]:
    """The ids that stand in an edit, by the field that says them in words."""
    return {field: entity for field in _FIELDS if (entity := getattr(edit, f"{field}_id"))}


def contradiction(edit: EditRow, labels: Mapping[str, str], redirects: Mapping[str, str]) -> str | None:
    """What is called otherwise, for a person to read; None where the labels agree, case and accents aside.

    An id that was merged is called what the item is called into which it went. A graph without a label, and
    a row without words, contradict nothing.
    """
    faults = []
    for field, entity in given_ids(edit).items():
        text, label = getattr(edit, field), labels.get(redirects.get(entity, entity))
        if label and text and not is_entity(text) and normalise(label) != normalise(text):
            faults.append(f"{field}_id {entity} is {label!r} in the graph, the row says {text!r}")
    return f"row {edit.row}: {'; '.join(faults)}; check the id or use `link`" if faults else None
