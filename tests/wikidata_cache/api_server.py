"""A loopback Action API over a handful of entities, answering with JSON of the shape that Wikidata's has."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from pyoxigraph import Literal, NamedNode, Quad, Store

from tests.loopback import Loopback, QuietHandler
from tests.wikidata_cache.wikidata_helpers import Fault, reply
from wikidata_cache.ids import DIRECT, ENTITY, RDFS_LABEL

PROP, RANK = "http://www.wikidata.org/prop/", "http://wikiba.se/ontology#"
SAME_AS, DESCRIPTION = "http://www.w3.org/2002/07/owl#sameAs", "http://schema.org/description"


def claim(value: str, rank: str = "normal") -> dict:
    snak = {"value": {"entity-type": "item", "numeric-id": int(value[1:]), "id": value}, "type": "wikibase-entityid"}
    return {"mainsnak": {"snaktype": "value", "datavalue": snak}, "type": "statement", "rank": rank}


NO_VALUE = {"mainsnak": {"snaktype": "somevalue"}, "type": "statement", "rank": "normal"}
TEXT = {"mainsnak": {"snaktype": "value", "datavalue": {"value": "x", "type": "string"}}, "rank": "normal"}


def entity(name: str, label: str, *aliases: str, claims: dict | None = None, description: str = "") -> dict:
    text = {"value": description, "language": "en"}
    return {
        "type": "item",
        "id": name,
        "labels": {"en": {"value": label, "language": "en"}},
        "aliases": {"en": [{"value": alias, "language": "en"} for alias in aliases]} if aliases else {},
        "descriptions": {"en": text} if description else {},
        "claims": claims or {},
    }


USA = entity(
    "Q30",
    "United States of America",
    "USA",
    "United States",
    description="country in North America",
    claims={"P31": [claim("Q6256"), claim("Q3624078")], "P36": [claim("Q61", "preferred"), claim("Q1345")]},
)
ADA = entity("Q7259", "Ada Lovelace", claims={"P31": [claim("Q5")], "P40": [NO_VALUE], "P1": [TEXT]})
PAGE = entity("Q500", "USA", claims={"P31": [claim("Q4167410")]})
SONG = entity("Q501", "USA", claims={"P31": [claim("Q7366")], "P175": [claim("Q9", "deprecated")]})
CLASSES = [entity(q, text) for q, text in (("Q6256", "country"), ("Q3624078", "sovereign state"), ("Q5", "human"))]
BIRTH = entity("P19", "place of birth", "born in")
ENTITIES = {entry["id"]: entry for entry in (USA, ADA, PAGE, SONG, *CLASSES, BIRTH)}
MERGED = {"Q9000": "Q30"}


def entities_of(store: Store) -> Callable[[str], dict]:
    """What the API says of an id, if Wikidata has what is in a store: the same facts in its own format."""

    def values(subject: str, predicate: str) -> list[Quad]:
        return list(store.quads_for_pattern(NamedNode(subject), NamedNode(predicate), None))

    def get(name: str) -> dict:
        subject = f"{ENTITY}{name}"
        quads = list(store.quads_for_pattern(NamedNode(subject), None, None))
        if merged := values(subject, SAME_AS):
            target = merged[0].object.value.removeprefix(ENTITY)
            return get(target) | {"redirects": {"from": name, "to": target}}
        if not quads:
            return {"id": name, "missing": ""}
        claims: dict[str, list[dict]] = {}
        full = {quad.predicate.value for quad in quads if quad.predicate.value.startswith(f"{PROP}P")}
        for quad in quads:
            namespace, _, relation = quad.predicate.value.rpartition("/")
            if f"{namespace}/" == DIRECT and f"{PROP}{relation}" not in full:
                claims.setdefault(relation, []).append(claim(quad.object.value.removeprefix(ENTITY)))
            elif f"{namespace}/" == PROP:
                node = quad.object.value
                [value], [rank] = values(node, f"{PROP}statement/{relation}"), values(node, f"{RANK}rank")
                stated = claim(
                    value.object.value.removeprefix(ENTITY),
                    rank.object.value.removeprefix(RANK).removesuffix("Rank").lower(),
                )
                stated["qualifiers"] = {
                    qualifier: [_snak(triple.object) for triple in values(node, f"{PROP}qualifier/{qualifier}")]
                    for qualifier in ("P580", "P582")
                }
                claims.setdefault(relation, []).append(stated)
        words = {
            field: {
                quad.object.language: {"value": quad.object.value, "language": quad.object.language}
                for quad in values(subject, predicate)
            }
            for field, predicate in (("labels", RDFS_LABEL), ("descriptions", DESCRIPTION))
        }
        counts = [int(quad.object.value) for quad in values(subject, f"{RANK}sitelinks")]
        pages = {"sitelinks": {f"wiki{n}": {"title": name} for n in range(counts[0])}} if counts else {}
        return {"type": "item", "id": name, **words, "claims": claims or [], **pages}

    return get


def _snak(term: Literal | NamedNode) -> dict:
    if isinstance(term, NamedNode):
        return {"snaktype": "somevalue"}
    return {"snaktype": "value", "datavalue": {"type": "time", "value": time_value(_json_time(term.value))}}


def _json_time(text: str) -> str:
    """An xsd:dateTime as the JSON format writes it, whose year before 1 is -1."""
    year, rest = text.removeprefix("-").split("-", 1)
    return f"-{int(year) + 1:04d}-{rest}" if text.startswith("-") else f"+{text}"


def time_value(time: str, *, precision: int = 11, calendar: str = "Q1985727") -> dict:
    return {"time": time, "precision": precision, "calendarmodel": f"{ENTITY}{calendar}", "timezone": 0}


class ApiServer(Loopback):
    """`requests` records parameters and headers; `fault` may answer in its place; `get` returns an entity by id."""

    def __init__(self, get: Callable[[str], dict] | None = None) -> None:
        self.get = get or _get
        self.requests: list[tuple[dict[str, str], dict[str, str]]] = []
        self.fault: Fault | None = None
        super().__init__(ApiHandler, "/w/api.php")


class ApiHandler(QuietHandler):
    server: ApiServer

    def do_GET(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query))
        self.server.requests.append((parameters, dict(self.headers)))
        body = json.dumps(answer(parameters, self.server.get)).encode()
        if self.server.fault is None or not self.server.fault(self, body):
            reply(self, 200, body, kind="application/json; charset=utf-8")


def answer(parameters: dict[str, str], get: Callable[[str], dict]) -> dict:
    if parameters["action"] == "wbgetentities":
        return {"entities": {name: get(name) for name in parameters["ids"].split("|")}, "success": 1}
    if parameters["action"] == "wbsearchentities":  # the beginnings of labels and aliases
        return {"searchinfo": {"search": parameters["search"]}, "search": _beginning(parameters), "success": 1}
    terms = parameters["srsearch"].lower().split()  # words anywhere in a label
    hits = [
        hit for hit in _of_kind(parameters["srnamespace"] == "120") if set(terms) <= set(_label(hit).lower().split())
    ]
    prefix = "Property:" if parameters["srnamespace"] == "120" else ""
    pages = [{"ns": int(parameters["srnamespace"]), "title": prefix + hit["id"], "pageid": 1} for hit in hits]
    return {"batchcomplete": True, "query": {"searchinfo": {"totalhits": len(pages)}, "search": pages}}


def _beginning(parameters: dict[str, str]) -> list[dict]:
    hits = []
    for entry in _of_kind(parameters["type"] == "property"):
        names = [_label(entry), *(alias["value"] for alias in entry["aliases"].get("en", ()))]
        if any(name.lower().startswith(parameters["search"].lower()) for name in names):
            hits.append({"id": entry["id"], "title": entry["id"], "label": _label(entry), "match": {"type": "label"}})
    return hits


def _of_kind(is_property: bool) -> list[dict]:
    return [entry for entry in ENTITIES.values() if (entry["id"][0] == "P") == is_property]


def _label(entry: dict) -> str:
    return entry["labels"]["en"]["value"]


def _get(name: str) -> dict:
    if name in MERGED:
        return ENTITIES[MERGED[name]] | {"redirects": {"from": name, "to": MERGED[name]}}
    return ENTITIES.get(name, {"id": name, "missing": True})
