"""A graph of some places as N-Triples, with classes, aliases and one country of the past."""

from __future__ import annotations

from pathlib import Path

from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.words import RippleWords
from wikidata_cache import WikidataCache

ENTITY, DIRECT = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
LABEL, ALIAS = "http://www.w3.org/2000/01/rdf-schema#label", "http://www.w3.org/2004/02/skos/core#altLabel"
LABELS = {
    "Q1": "Rome",
    "Q2": "Milan",
    "Q3": "Osaka",
    "Q4": "Kyoto",
    "Q11": "Italy",
    "Q12": "Japan",
    "Q13": "Papal States",
    "Q14": "Kenya",
    "Q15": "Norway",
    "Q16": "Peru",
    "Q21": "Tokyo",
    "Q22": "Nairobi",
    "Q23": "Oslo",
    "Q24": "Lima",
    "Q31": "Asia",
    "Q32": "Europe",
    "Q6256": "country",
    "Q3024240": "historical country",
    "Q515": "city",
}
ALIASES = [("Q1", "Eternal City"), ("Q21", "Edo"), ("Q12", "JP"), ("Q12", "jp"), ("Q12", "Japan, Asia")]
COUNTRIES, CITIES = ("Q11", "Q12", "Q14", "Q15", "Q16"), ("Q1", "Q2", "Q3", "Q4", "Q21", "Q22", "Q23", "Q24")
FACTS = [
    *((item, "P31", "Q6256") for item in COUNTRIES),
    *((item, "P31", "Q515") for item in CITIES),
    ("Q13", "P31", "Q3024240"),
    ("Q1", "P17", "Q11"),
    ("Q1", "P17", "Q13"),
    ("Q2", "P17", "Q11"),
    ("Q3", "P17", "Q12"),
    ("Q4", "P17", "Q12"),
    ("Q21", "P17", "Q12"),
    ("Q22", "P17", "Q14"),
    ("Q23", "P17", "Q15"),
    ("Q11", "P36", "Q1"),
    ("Q12", "P36", "Q21"),
    ("Q14", "P36", "Q22"),
    ("Q15", "P36", "Q23"),
    ("Q16", "P36", "Q24"),
    ("Q24", "P17", "Q16"),
    ("Q12", "P30", "Q31"),
    ("Q11", "P30", "Q32"),
    ("Q21", "P30", "Q31"),
]


def graph_file(folder: Path) -> Path:
    lines = [f"<{ENTITY}{s}> <{DIRECT}{p}> <{ENTITY}{o}> ." for s, p, o in FACTS]
    lines += [f'<{ENTITY}{item}> <{LABEL}> "{label}"@en .' for item, label in LABELS.items()]
    lines += [f'<{ENTITY}{item}> <{ALIAS}> "{alias}"@en .' for item, alias in ALIASES]
    lines += [f'<{DIRECT.replace("prop/direct/", "entity/")}{p}> <{LABEL}> "{p}"@en .' for p in ("P17", "P30", "P36")]
    file = folder / "toy.nt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def table_of(folder: Path) -> FactTable:
    table = FactTable(WikidataCache(graph_file(folder)), RippleWords.load())
    table.read(LABELS)
    return table
