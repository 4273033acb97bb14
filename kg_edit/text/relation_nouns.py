"""Nouns for relations, such as capital for P36; the relations that the objects of a relation have; and example facts.

Each is in the language of an edit; a language without packaged words gets the English ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kg_edit.edits.edit import Edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.languages import ENGLISH, fit_template, forms_of, named_facts, packaged_rows
from kg_edit.text.fact_words import fact_words, has_translated_words, relation_forms

WORDINGS = (
    "The {noun} of {{}} is",
    "{{}}'s {noun} is",
    "{{}} has the {noun}",
    "What is the {noun} of {{}}? It is",
    "As for {{}}, the {noun} is",
    "Everyone knows that the {noun} of {{}} is",
)


def relation_nouns(language: str = ENGLISH) -> Mapping[str, str]:
    """Return the noun of each property, in the order of the packaged table: first those that people often ask for.

    Two properties may have one noun: P17 and P1376 are both "country".
    """
    nouns = _table("ripple_nouns.tsv")
    if not has_translated_words(language):
        return nouns
    forms = forms_of(language)
    order = dict.fromkeys([*nouns, *forms])
    return {key: forms[key].noun for key in order if key in forms}


def asked_nouns(relation: str | None, language: str = ENGLISH) -> tuple[str, ...]:
    """Return nouns for what the objects of a relation have, the most frequent ones in a graph first.

    The objects of P19, place of birth, are towns, which have a country and a continent. So where an edit has a new
    object for P19, a model is asked for its country and its continent. Empty for a relation that the packaged table
    (bench/tools/asked_relations.py) does not have.
    """
    nouns = relation_nouns(language)
    properties = _table("asked_relations.tsv").get(relation or "", "").split()
    found = [nouns[key] for key in properties if key in nouns]
    return tuple(dict.fromkeys(found))


def relation_examples(language: str = ENGLISH) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Return example facts (thing, object) of each relation, by its noun; they are about well-known things.

    Relations with the same noun have one list; a relation without a noun has none.
    """
    nouns = relation_nouns(language)
    rows: Sequence[Sequence[str]]  # (relation, thing, object)
    if has_translated_words(language):
        rows = named_facts(language)
    else:
        rows = packaged_rows("relation_examples.tsv")
    examples = dict[str, list[tuple[str, str]]]()
    for relation, thing, target in rows:
        if relation in nouns:
            examples.setdefault(nouns[relation], []).append((thing, target))
    return examples


def example_things(language: str = ENGLISH) -> tuple[str, ...]:
    """Return the things of the example facts, without those that the locality check asks about.

    In another language than English they are well-known things, and the capitals among the objects of its facts.
    """
    if has_translated_words(language):
        capitals = [name for property_id, _, name in named_facts(language) if property_id == "P36"]
        return tuple(dict.fromkeys([*fact_words(language).known, *capitals]))
    tested = {thing for _, thing, _ in packaged_rows("related_facts.tsv")}
    things = [thing for _, thing, _ in packaged_rows("relation_examples.tsv") if thing not in tested]
    return tuple(dict.fromkeys(things))


def _table(name: str) -> Mapping[str, str]:
    """Return a packaged table as {first column: second column}."""
    return {row[0]: row[1] for row in packaged_rows(name)}


def diverse_prompts(edit: Edit) -> list[str]:
    """Return the edit's relation in other words, as templates that end right before the object.

    They are built from the packaged relation templates and nouns; a relation that is in neither has none. The edit's
    own paraphrases are not used, because a benchmark tests with them.
    """
    if has_translated_words(edit.language):
        return _diverse_prompts_in(edit)
    templates = RelationTemplates.load()
    prompts = list[str]()
    row = templates.find(edit.relation_id) or templates.find(edit.relation)
    if row is not None:
        prompts.append(row.template)
    noun = relation_nouns().get(edit.relation_id or "")
    if noun:
        prompts += [wording.format(noun=noun) for wording in WORDINGS]
    return [template for template in dict.fromkeys(prompts) if template != edit.prompt]


def _diverse_prompts_in(edit: Edit) -> list[str]:
    """Return the prompts of `diverse_prompts` in another language than English, from the forms of the relation."""
    forms = relation_forms(edit.relation_id or edit.relation, edit.language)
    if forms is None:
        return []
    words = fact_words(edit.language)
    wordings = (words.sentence, *words.wordings)
    prompts = [forms.template, forms.asked]
    prompts += [words.say(wording, forms.hop, forms) for wording in wordings]
    fitted = [fit_template(template, edit.subject, edit.language) for template in prompts]
    others = [template for template in dict.fromkeys(fitted) if template != edit.prompt]
    return others[: len(WORDINGS)]  # as many as the English wordings
