"""Whether the ids of an edit are called in the graph what the edit calls them."""

from collections.abc import Callable, Mapping

from wikidata_cache.edits import EditRow
from wikidata_cache.ids import is_entity
from wikidata_cache.labels.names import normalise

_FIELDS = ("subject", "relation", "target_true", "target_new")


def contradiction(edit: EditRow, label: Callable[[str], str | None], *, redirects: Mapping[str, str]) -> str | None:
    """What is called otherwise, for a person to read; None where the labels agree, case and accents aside.

    `label` gives the graph's label of an id. A merged item is called what the one is called into which it went.
    A graph without a label, and a row without words, contradict nothing.
    """
    faults = []
    for field in _FIELDS:
        text, entity = getattr(edit, field), getattr(edit, f"{field}_id")
        called = label(redirects.get(entity, entity)) if entity and text and not is_entity(text) else None
        if called and normalise(called) != normalise(text):
            faults.append(f"{field}_id {entity} is {called!r} in the graph, the row says {text!r}")
    return f"row {edit.row}: {'; '.join(faults)}; check the id or use `link`" if faults else None
