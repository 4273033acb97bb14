"""Small graphs as rows of text; the graph of homonyms is small enough to count points by hand."""

from pathlib import Path

from wikidata_cache import WikidataCache
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL
from wikidata_cache.linking.candidates import Candidate, LinkResult

_PREDICATES = {
    "label": RDFS_LABEL,
    "alias": "http://www.w3.org/2004/02/skos/core#altLabel",
    "description": "http://schema.org/description",
    "merged into": "http://www.w3.org/2002/07/owl#sameAs",
}

# Two Parises and a person of that name, a film and its novel, a language and its speakers.
ROWS = """\
Q90 | label | Paris
Q90 | alias | City of Light
Q90 | description | capital of France
Q90 | P31 | Q515
Q90 | P17 | Q142
Q90 | P1 | Q1
Q90 | P2 | Q1
Q90 | P3 | Q1
Q90 | P4 | Q1
Q90 | P5 | Q1
Q90 | P6 | Q1
Q90 | P7 | Q1
Q90 | P8 | Q1
Q830149 | label | Paris
Q830149 | description | city in Texas
Q830149 | P31 | Q515
Q47899 | label | Paris
Q47899 | P31 | Q5
Q200 | label | Paris
Q200 | P31 | Q4167410
Q201 | label | Category:Paris
Q201 | P31 | Q4167836
Q1000 | label | Old Paris
Q1000 | merged into | Q90
Q515 | label | city
Q5 | label | human
Q142 | label | France
Q142 | P31 | Q6256
Q6256 | label | country
Q4167410 | label | Wikimedia disambiguation page
Q11 | label | Anna
Q11 | P31 | Q5
Q11 | P19 | Q830149
Q12 | label | Anna
Q12 | P31 | Q5
Q12 | P19 | Q300
Q300 | label | Rome
Q300 | alias | Paris of the South
Q300 | P31 | Q515
Q150 | label | French
Q150 | P31 | Q34770
Q121842 | label | French
Q121842 | P31 | Q41710
Q34770 | label | language
Q41710 | label | ethnic group
P19 | label | place of birth
P19 | alias | born in
P20 | label | place of death
P103 | label | native language
P31 | label | instance of
Q1490 | label | 東京
Q2 | label | Earth
"""


def write_graph(folder: Path, rows: str = ROWS) -> Path:
    """The rows as N-Triples."""
    path = folder / "homonyms.nt"
    path.write_text("".join(map(_line, rows.splitlines())), encoding="utf-8")
    return path


def homonyms(folder: Path, rows: str = ROWS) -> WikidataCache:
    return WikidataCache(write_graph(folder, rows))


def only(linked: LinkResult) -> Candidate:
    """The candidate that clearly leads."""
    assert linked.status == "exact"
    return linked.candidates[0]


def _line(row: str) -> str:
    subject, relation, value = row.split(" | ")
    predicate = _PREDICATES.get(relation, DIRECT + relation)
    is_id = relation not in ("label", "alias", "description")
    term = f"<{ENTITY}{value}>" if is_id else f'"{value}"@en'
    return f"<{ENTITY}{subject}> <{predicate}> {term} .\n"
