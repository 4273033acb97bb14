"""Write two tables from a graph: which relations the objects of a relation have, and examples of each relation.

python bench/tools/asked_relations.py wikidata.nt.gz kg_edit/data

asked_relations.tsv: for each relation r the relations r' that its objects have. glame-plus asks the model for these r'
of an o* where the graph states nothing. Counted over the 200 most frequent objects of r: an r' counts for an object if
exactly one object is current (`kg_edit.evaluation.ripples.facts`), as a question has to have one answer. Kept are r'
that a tenth of them have, the most frequent first.

relation_examples.tsv: five facts of each relation, of the things that most statements lead to, with five different
objects: what a model is shown before it is asked for another one.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from kg_edit.edits.templates import RelationTemplates
from kg_edit.evaluation.ripples.edits import hash_of, is_plain
from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.questions import find_fact
from kg_edit.evaluation.ripples.words import RippleWords
from kg_edit.storage.atomic import write_text
from kg_edit.text.relation_nouns import relation_nouns
from wikidata_cache import WikidataCache

_OBJECTS = 200
_SHARE = 0.1
_MOST = 12
_SUBJECTS = 3000
_EXAMPLES = 5
_VAGUE = {"P31", "P279", "P361", "P527", "P1889", "P1552", "P172"}  # kinds, parts, counterparts: no question of people


def asked_of(table: FactTable, relation: str) -> list[tuple[str, float]]:
    """The r' of a relation's objects, with the share of objects that have one."""
    frequent = Counter(o for _, o in table.pairs(relation)).most_common(_OBJECTS)
    objects = [o for o, _ in frequent]
    table.read(objects)
    counts = Counter(id_ for o in objects for id_ in relation_nouns() if id_ not in _VAGUE and table.current(o, id_))
    shares = ((id_, count / max(len(objects), 1)) for id_, count in counts.most_common(_MOST))
    return [(id_, share) for id_, share in shares if share >= _SHARE]


def examples_of(table: FactTable, relation: str) -> list[tuple[str, str]]:
    """Five facts (thing, object) of a relation, in words."""
    subjects = sorted({s for s, _ in table.pairs(relation)}, key=lambda item: hash_of("example", item))[:_SUBJECTS]
    mentions = table.mentions(subjects)
    known = sorted(subjects, key=lambda item: (-mentions[item], item))[:_OBJECTS]
    table.read(known)
    facts = (find_fact(table, item, relation) for item in known if is_plain(table.label(item)))
    things: dict[str, str] = {}
    for fact in facts:
        if fact:
            things.setdefault(fact.object, fact.thing)
    return [(thing, target) for target, thing in things.items()][:_EXAMPLES]


def main(graph: str, folder: Path) -> None:
    """Write the tables."""
    table = FactTable(WikidataCache(graph), RippleWords.load())
    templates = RelationTemplates.load()
    nouns = sorted(relation_nouns(), key=lambda name: int(name[1:]))
    by_relation = {r: asked_of(table, r) for r in nouns if templates.find(r)}
    rows = [f"{r}\t{' '.join(id_ for id_, _ in shares)}" for r, shares in by_relation.items() if shares]
    head = "# Relations r' of the objects of a relation r, most frequent first: bench/tools/asked_relations.py"
    write_text(folder / "asked_relations.tsv", "\n".join([head, "property\tasked", *rows, ""]))
    shown = [f"{r}\t{thing}\t{target}" for r in nouns for thing, target in examples_of(table, r)]
    head = "# Facts of well-known things, relation by relation: bench/tools/asked_relations.py"
    write_text(folder / "relation_examples.tsv", "\n".join([head, "property\tthing\tobject", *shown, ""]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
