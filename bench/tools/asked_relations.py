"""Write kg_edit/data/asked_relations.tsv: for each relation r the relations r' that its objects have in a graph.

python bench/tools/asked_relations.py wikidata.nt.gz > kg_edit/data/asked_relations.tsv

glame-plus asks the model for these r' of an o* where the graph says nothing. Counted over the 200 most frequent objects
of r: an r' counts for an object if exactly one object is current (`kg_edit.ripples.facts`), as a question has to have
one answer. Kept are r' that a tenth of them have, the most frequent first.
"""

from __future__ import annotations

import sys
from collections import Counter

from kg_edit.edits.templates import RelationTemplates
from kg_edit.ripples.facts import FactTable
from kg_edit.ripples.words import RippleWords
from kg_edit.text.relation_nouns import relation_nouns
from wikidata_cache import WikidataCache

_OBJECTS, _SHARE, _MOST = 200, 0.1, 12
_VAGUE = {"P31", "P279", "P361", "P527", "P1889", "P1552", "P172"}  # kinds, parts, counterparts: no question of people


def asked_of(table: FactTable, relation: str) -> list[tuple[str, float]]:
    """The r' of a relation's objects, with the share of objects that have one."""
    frequent = Counter(o for _, o in table.pairs(relation)).most_common(_OBJECTS)
    objects = [o for o, _ in frequent]
    table.read(objects)
    counts = Counter(
        asked for o in objects for asked in relation_nouns() if asked not in _VAGUE and table.current(o, asked)
    )
    shares = ((asked, count / max(len(objects), 1)) for asked, count in counts.most_common(_MOST))
    return [(asked, share) for asked, share in shares if share >= _SHARE]


def main(graph: str) -> None:
    """Print the table."""
    table = FactTable(WikidataCache(graph), RippleWords.load())
    print("# Relations r' of the objects of a relation r, most frequent first: bench/tools/asked_relations.py")
    print("property\tasked")
    templates = RelationTemplates.load()
    for relation in sorted(relation_nouns(), key=lambda name: int(name[1:])):
        if templates.find(relation) and (found := asked_of(table, relation)):
            print(f"{relation}\t{' '.join(asked for asked, _ in found)}")


if __name__ == "__main__":
    main(sys.argv[1])
