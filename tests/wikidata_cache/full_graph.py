"""A small graph in the shapes of Wikidata's full dump, with everything that engines and samplers trip over."""

from tests.wikidata_cache.wikidata_helpers import Edit

WD = "http://www.wikidata.org/entity/"
PROP = "http://www.wikidata.org/prop/"
RANK = "http://wikiba.se/ontology#"
XSD = "http://www.w3.org/2001/XMLSchema#"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
RDFS = "http://www.w3.org/2000/01/rdf-schema#label"

ADA, CAVS, HEAT, LAKERS, HUB, OLD, LOOP, CYCLE, NAMELESS = (f"Q99000000{i}" for i in range(1, 10))
DEPRECATED, TWIN = "Q990000010", "Q990000011"
FANS = [f"Q99000{1000 + i}" for i in range(510)]  # more than a hub may have

MOVES = Edit(
    "Ada", "Heat", "Lakers", "plays for", subject_id=ADA, relation_id="P54", target_new_id=HEAT, target_true_id=LAKERS
)
LOOPS = Edit("Ada", "Loop", subject_id=ADA, relation_id="P361", target_new_id=LOOP)
MERGED = Edit("Ada", "Cavs", subject_id=ADA, relation_id="P361", target_new_id=OLD)
FULL_EDITS = [MOVES, LOOPS, MERGED]
EVERYWHERE = ("target_new", "subject", "target_true")


def full_graph() -> str:
    """N-Triples: truthy and full statements, qualifiers, labels in several languages, a merged item."""
    lines = [
        *_claim(ADA, "P54", CAVS, "a", start="2003-07-01T00:00:00Z", end="2010-07-01T00:00:00Z"),
        *_claim(ADA, "P54", CAVS, "b", start="2014-07-01T00:00:00Z", end="2018-07-01T00:00:00Z"),
        *_claim(ADA, "P54", HEAT, "c", start="2010-07-01T00:00:00Z", end="2014-07-01T00:00:00Z"),
        *_claim(ADA, "P54", LAKERS, "d", rank="Preferred", start="2018-07-01T00:00:00Z", truthy=True),
        f"<{WD}statement/{ADA}-d> <{PROP}qualifier/P582> <http://www.wikidata.org/.well-known/genid/unknown>",
        *_claim(ADA, "P54", DEPRECATED, "e", rank="Deprecated"),
        *_claim(ADA, "P27", HUB, "f", truthy=True),
        *_claim(ADA, "P361", NAMELESS, "g", truthy=True),
        *_claim(HEAT, "P27", HUB, "h", truthy=True),
        *_claim(HEAT, "P361", LOOP, "i", truthy=True),
        *_claim(CAVS, "P27", HUB, "j", truthy=True, start="-0044-03-15T00:00:00Z"),
        *_claim(CAVS, "P361", TWIN, "k", truthy=True),
        *_claim(LAKERS, "P27", HUB, "l", truthy=True),
        *_claim(HUB, "P361", LOOP, "m", truthy=True),
        *_claim(LOOP, "P361", LOOP, "n", truthy=True),
        *_claim(LOOP, "P361", CYCLE, "o", truthy=True),
        *_claim(CYCLE, "P361", LOOP, "p", truthy=True),
        *_claim(TWIN, "P54", HEAT, "q", truthy=True),
        f"<{WD}{OLD}> <http://www.w3.org/2002/07/owl#sameAs> <{WD}{CAVS}>",
    ]
    for fan in FANS:
        lines += [*_claim(fan, "P27", HUB, "z", truthy=True), _label(fan, f"Fan {fan}")]
    return "".join(f"{line} .\n" for line in lines + _labels())


def _labels() -> list[str]:
    return [
        _label(ADA, "Ada"),
        _label(CAVS, r"Cavs \"C\" } . #\nsecond line"),
        _label(HEAT, "Хит 😀", "mul"),
        _label(LAKERS, "Lakers", "en-GB"),
        _label(HUB, "مصر"),
        _label(LOOP, "Twin"),
        _label(TWIN, "Twin"),
        _label(CYCLE, "</script>", "mul"),
        _label(CYCLE, "Zyklus", "de"),
        _label(NAMELESS, "nur deutsch", "de"),
        _label(DEPRECATED, "never so"),
        _label("P54", "member of sports team"),
        _label("P27", "country of citizenship"),
        _label("P361", "part of"),
    ]


def _label(entity: str, text: str, language: str = "en") -> str:
    return f'<{WD}{entity}> <{RDFS}> "{text}"@{language}'


def _claim(
    s: str, p: str, o: str, key: str, *, rank: str = "Normal", start: str = "", end: str = "", truthy: bool = False
) -> list[str]:
    """One statement as the dump writes it: the statement node, its rank, value and qualifiers."""
    node = f"<{WD}statement/{s}-{key}>"
    lines = [
        f"<{WD}{s}> <{PROP}{p}> {node}",
        f"{node} <{RDF_TYPE}> <{RANK}Statement>",
        f"{node} <{RANK}rank> <{RANK}{rank}Rank>",
        f"{node} <{PROP}statement/{p}> <{WD}{o}>",
        f'{node} <{PROP}qualifier/P1545> "1"',
    ]
    for qualifier, time in (("P580", start), ("P582", end)):
        if time:
            lines.append(f'{node} <{PROP}qualifier/{qualifier}> "{time}"^^<{XSD}dateTime>')
            lines.append(f"{node} <{PROP}qualifier/value/{qualifier}> <http://www.wikidata.org/value/abc>")
    if truthy:
        lines.append(f"<{WD}{s}> <{PROP}direct/{p}> <{WD}{o}>")
    return lines
