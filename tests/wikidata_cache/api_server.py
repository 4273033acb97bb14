"""A loopback Action API over a handful of entities, answering with JSON of the shape that Wikidata's has."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.wikidata_cache.wikidata_helpers import reply

Fault = Callable[[BaseHTTPRequestHandler], bool]  # True: the answer has been given


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
ENTITIES = {one["id"]: one for one in (USA, ADA, PAGE, SONG, *CLASSES, BIRTH)}
MERGED = {"Q9000": "Q30"}


class ApiServer:
    """`requests` records parameters and headers; `fault` may answer in its place."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, str]]] = []
        self.fault: Fault | None = None
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}/w/api.php"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parameters = dict(parse_qsl(urlsplit(self.path).query))
                server.requests.append((parameters, dict(self.headers)))
                if server.fault is None or not server.fault(self):
                    body = json.dumps(answer(parameters)).encode()
                    reply(self, 200, body, kind="application/json; charset=utf-8")

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def answer(parameters: dict[str, str]) -> dict:
    if parameters["action"] == "wbgetentities":
        return {"entities": {one: _get(one) for one in parameters["ids"].split("|")}, "success": 1}
    if parameters["action"] == "wbsearchentities":  # the beginnings of labels and aliases
        return {"searchinfo": {"search": parameters["search"]}, "search": _beginning(parameters), "success": 1}
    terms = parameters["srsearch"].lower().split()  # words anywhere in a label
    hits = [
        one for one in _of_kind(parameters["srnamespace"] == "120") if set(terms) <= set(_label(one).lower().split())
    ]
    prefix = "Property:" if parameters["srnamespace"] == "120" else ""
    pages = [{"ns": int(parameters["srnamespace"]), "title": prefix + one["id"], "pageid": 1} for one in hits]
    return {"batchcomplete": True, "query": {"searchinfo": {"totalhits": len(pages)}, "search": pages}}


def _beginning(parameters: dict[str, str]) -> list[dict]:
    found = []
    for one in _of_kind(parameters["type"] == "property"):
        names = [_label(one), *(alias["value"] for alias in one["aliases"].get("en", ()))]
        if any(name.lower().startswith(parameters["search"].lower()) for name in names):
            found.append({"id": one["id"], "title": one["id"], "label": _label(one), "match": {"type": "label"}})
    return found


def _of_kind(is_property: bool) -> list[dict]:
    return [one for one in ENTITIES.values() if (one["id"][0] == "P") == is_property]


def _label(one: dict) -> str:
    return one["labels"]["en"]["value"]


def _get(name: str) -> dict:
    if name in MERGED:
        return ENTITIES[MERGED[name]] | {"redirects": {"from": name, "to": MERGED[name]}}
    return ENTITIES.get(name, {"id": name, "missing": True})
