"""Nouns for relations, such as capital for P36; the relations that are asked of objects; and example facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from kg_edit.edits.edit import Edit
from kg_edit.edits.templates import RelationTemplates

WORDINGS = (
    "The {noun} of {{}} is",
    "{{}}'s {noun} is",
    "{{}} has the {noun}",
    "What is the {noun} of {{}}? It is",
    "As for {{}}, the {noun} is",
    "Everyone knows that the {noun} of {{}} is",
)


def relation_nouns() -> Mapping[str, str]:
    """Return the noun of each property, in the order of the packaged table: frequently asked ones first."""
    return _table("ripple_nouns.tsv")


def asked_nouns(relation: str | None) -> tuple[str, ...]:
    """Return the nouns of the relations that the objects of a relation r have, the most frequent ones in a graph first.

    Empty for a relation that the packaged table (bench/tools/asked_relations.py) does not have.
    """
    nouns = relation_nouns()
    properties = _table("asked_relations.tsv").get(relation or "", "").split()
    found = [nouns[key] for key in properties if key in nouns]
    return tuple(dict.fromkeys(found))


def relation_examples() -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return example facts (thing, object) of each relation, by its noun; they are about well-known things."""
    nouns = relation_nouns()
    examples = dict[str, list[tuple[str, str]]]()
    for relation, thing, target in _rows("relation_examples.tsv"):
        examples.setdefault(nouns.get(relation, ""), []).append((thing, target))
    return examples


def example_things() -> tuple[str, ...]:
    """Return the things of the example facts, without those that the locality check asks about."""
    tested = {thing for _, thing, _ in _rows("related_facts.tsv")}
    things = [thing for _, thing, _ in _rows("relation_examples.tsv") if thing not in tested]
    return tuple(dict.fromkeys(things))


def _table(name: str) -> Mapping[str, str]:
    """Return a packaged table as {first column: second column}."""
    return {row[0]: row[1] for row in _rows(name)}


def _rows(name: str) -> list[list[str]]:
    """Return the cells of each line of a packaged table, without comments and the header."""
    text = files("kg_edit").joinpath("data", name).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return rows[1:]


def diverse_prompts(edit: Edit) -> list[str]:
    """Return the edit's relation in other words, as templates that end right before the object.

    They are built from the packaged relation templates and nouns; a relation that is in neither has none. The edit's
    own paraphrases are not used, because a benchmark tests with them.
    """
    templates = RelationTemplates.load()
    prompts = list[str]()
    row = templates.find(edit.relation_id) or templates.find(edit.relation)
    if row is not None:
        prompts.append(row.template)
    noun = relation_nouns().get(edit.relation_id or "")
    if noun:
        prompts += [wording.format(noun=noun) for wording in WORDINGS]
    return [template for template in dict.fromkeys(prompts) if template != edit.prompt]
