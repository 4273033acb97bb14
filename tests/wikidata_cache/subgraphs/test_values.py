"""Dates and quantities as nodes, on request: the same by every road, never expanded, and absent by default."""

import json
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest
from pyoxigraph import Store

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.graphs.private_graph import PrivateGraph
from kg_edit.methods.glame.method import GlameConfig
from kg_edit.methods.graph_reader import fetch_subgraph
from kg_edit.methods.rome_kg.method import RomeKgConfig
from tests.wikidata_cache.api_server import ApiServer, claim, entity, time_value
from tests.wikidata_cache.fault_server import hasty
from tests.wikidata_cache.full_graph import PROP, RANK, RDF_TYPE, RDFS, WD, XSD
from tests.wikidata_cache.wikidata_helpers import Server, as_json, facts, run_cli, write_edits, written
from wikidata_cache import WikidataCache, open_source
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.action_api import ActionApi
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import BadOptionError, CacheMissError
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.stores.inputs import LoadOptions
from wikidata_cache.stores.load import load
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.rules import Rules
from wikidata_cache.values import date_value, describe_value, json_value, literal_value, quantity_value

LEBRON, TEAM, CM, HUMAN = "Q36159", "Q169138", "Q174728", "Q5"
LABELS = {
    LEBRON: "LeBron James", TEAM: "Miami Heat", CM: "centimetre", HUMAN: "human", "P31": "instance of",
    "P569": "date of birth", "P571": "inception", "P1082": "population", "P2048": "height", "P54": "sports team",
    "P2046": "area", "P1191": "first performance",
}  # fmt: skip
# (item, property, time or amount, precision or unit), as Wikidata has them; one unit has no label
STATED = [
    (LEBRON, "P569", "1984-12-30", 11),
    (LEBRON, "P2048", "+206", CM),
    (LEBRON, "P2046", "+3", "Q404"),
    (TEAM, "P571", "1988-01-01", 9),
    (TEAM, "P1082", "+3898747.50", "Q199"),
    (TEAM, "P1191", "-0044-01-01", 7),
]
KEPT = {
    LEBRON: [("P2046", "3Q404"), ("P2048", f"206{CM}"), ("P569", "^1984-12-30T00:00:00Z/11")],
    TEAM: [("P1082", "3898747.5"), ("P1191", "^-0044-01-01T00:00:00Z/7"), ("P571", "^1988-01-01T00:00:00Z/9")],
}
WORDS = {"30 December 1984", "206 centimetre", "1988", "3,898,747.5", "1st century BCE"}
EDIT = Edit(
    id="1", subject="Ann", prompt="{} plays with", target_new="LeBron James", target_new_id=LEBRON, relation="teammate"
)
DEEP = SubgraphOptions(hops=3, values=True)


def literal(text: str) -> str:
    return f'"{text}T00:00:00Z"^^<{XSD}dateTime>' if text[0] != "+" else f'"{text}"^^<{XSD}decimal>'


def truthy() -> list[str]:
    lines = [f'<{WD}{name}> <{RDFS}> "{label}"@en .' for name, label in LABELS.items()]
    lines += [f"<{WD}{LEBRON}> <{PROP}direct/P54> <{WD}{TEAM}> .", f"<{WD}{LEBRON}> <{PROP}direct/P31> <{WD}{HUMAN}> ."]
    lines += [f'<{WD}{TEAM}> <{PROP}direct/P1082> "12"^^<{XSD}string> .']
    return lines + [f"<{WD}{item}> <{PROP}direct/{relation}> {literal(text)} ." for item, relation, text, _ in STATED]


def full() -> str:
    """A part of a full RDF dump."""
    lines = truthy()
    for number, (item, relation, text, detail) in enumerate([*STATED, (LEBRON, "P2048", "+199", CM)]):
        node, value = f"<{WD}statement/{item}-{number}>", f"<http://www.wikidata.org/value/{number:032x}>"
        parts = {"timeValue": literal(text), "timePrecision": f'"{detail}"^^<{XSD}integer>'}
        if text[0] == "+":
            parts = {"quantityAmount": literal(text), "quantityUnit": f"<{WD}{detail}>"}
        lines += [
            f"<{WD}{item}> <{PROP}{relation}> {node} .",
            f"{node} <{PROP}statement/{relation}> {literal(text)} .",
            f"{node} <{PROP}statement/value/{relation}> {value} .",
            *(f"{value} <{RANK}{part}> {term} ." for part, term in parts.items()),
        ]
        if number < len(STATED):  # the last one is not of best rank
            lines.append(f"{node} <{RDF_TYPE}> <{RANK}BestRank> .")
    return "\n".join(lines) + "\n"


def entity_json(name: str) -> dict:
    """An entity as the Action API and the JSON dump have it."""
    claims = {"P54": [claim(TEAM)], "P31": [claim(HUMAN)]} if name == LEBRON else {}
    for item, relation, text, detail in STATED:
        if item == name:
            value = {"type": "quantity", "value": {"amount": text, "unit": f"{WD}{detail}"}}
            if detail == "Q199":
                value["value"] = {"amount": text, "unit": "1"}
            if text[0] != "+":
                day = text if detail == 11 else f"{text[:-6]}-00-00"
                day = f"+{day}" if day[0] != "-" else "-0045-00-00"  # JSON has no year 0
                value = {"type": "time", "value": time_value(f"{day}T00:00:00Z", precision=int(detail))}
            snak = {"snaktype": "value", "datavalue": value}
            claims[relation] = [{"mainsnak": snak, "rank": "preferred"}, claim(HUMAN) | {"rank": "deprecated"}]
    if name == LEBRON:
        height = {"type": "quantity", "value": {"amount": "+199", "unit": f"{WD}{CM}"}}
        claims["P2048"].append({"mainsnak": {"snaktype": "value", "datavalue": height}, "rank": "normal"})
    if name not in LABELS:
        return {"id": name, "missing": True}
    return entity(name, LABELS[name], claims=claims) | ({"type": "property"} if name[0] == "P" else {})


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return written(tmp_path / "dump.nt", full())


@pytest.fixture
def server(dump: Path) -> Iterator[Server]:
    with Server(load_files([dump])[0]) as running:
        yield running


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(entity_json) as running:
        yield running


@pytest.mark.slow
def test_every_road_gives_the_same_values(dump: Path, server: Server, api: ApiServer, tmp_path: Path) -> None:
    lines = [json.dumps(entity_json(name)) for name in LABELS]
    as_dump = written(tmp_path / "all.json", "[\n" + ",\n".join(lines) + "\n]\n")
    for source, store in ((dump, "rdf"), (as_dump, "json")):
        load([source], tmp_path / store, options=LoadOptions(values=True))
    roads = [
        WikidataCache(dump),
        WikidataCache(EndpointSource(server.url)),
        WikidataCache(ActionApi(api.url, limiter=hasty())),
        WikidataCache(tmp_path / "rdf"),
        WikidataCache(tmp_path / "json"),
    ]
    hashes = set()
    for road in roads:
        assert road.facts.values([LEBRON, TEAM, HUMAN]) == {**KEPT, HUMAN: []}, road.source.name
        graph = road.subgraph(EDIT, DEEP)
        assert {label for _, label in graph.nodes(data="label")} == WORDS | {
            "Ann",
            "LeBron James",
            "Miami Heat",
            "human",
        }
        assert graph.graph["dropped"] == {"unlabelled_item": 1} and graph.graph["values"] is True
        hashes.add(graph.graph["content_hash"])
    assert len(hashes) == 1
    assert not any("^" in parameters["ids"] for parameters, _ in api.requests)


def test_default_asks_keeps_and_shows_what_it_did(server: Server, api: ApiServer, tmp_path: Path) -> None:
    """The same as from a graph that has no dates, byte for byte."""
    literals = [quad for quad in server.store if str(quad.object).endswith((f"{XSD}dateTime>", f"{XSD}decimal>"))]
    without = Store()
    without.extend(set(server.store).difference(literals))
    results = []
    with Server(without) as bare:
        for endpoint in (server, bare):
            cache = WikidataCache(endpoint.url, cache=tmp_path / f"{len(results)}.sqlite")
            graph = cache.subgraph(EDIT, SubgraphOptions(hops=3))
            rows = AnswerStore(tmp_path / f"{len(results)}.sqlite").database.read("SELECT kind, id, value FROM facts")
            del graph.graph["source"]
            results.append((as_json(graph), sorted(rows), [query for _, _, query in endpoint.requests]))
    assert results[0] == results[1] and "values" not in {kind for kind, *_ in results[0][1]}
    WikidataCache(api.url, cache=tmp_path / "api.sqlite").subgraph(EDIT, SubgraphOptions(hops=3))
    rows = AnswerStore(tmp_path / "api.sqlite").database.read("SELECT kind FROM facts")
    assert {kind for (kind,) in rows} == {"out", "claims", "types", "label", "description", "redirect"}


def test_cache_keeps_both_kinds_of_rows_apart(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    edits = write_edits(
        tmp_path / "e.jsonl",
        EDIT.model_dump(mode="json", include={"subject", "prompt", "relation", "target_new", "target_new_id"}),
    )
    arguments = ["fetch", edits, "--cache", cache]
    plain = run_cli(*arguments, "--endpoint", server.url)[-65:]
    with pytest.raises(CacheMissError, match=r"fetch .*e\.jsonl --values"):
        run_cli(*arguments, "--values", "--offline")
    sent = len(server.requests)
    richer = run_cli(*arguments, "--values", "--endpoint", server.url)[-65:]
    assert 1 <= len(server.requests) - sent <= 2, "the values, and the labels of relations and units"
    assert run_cli(*arguments, "--values", "--offline")[-65:] == richer != plain
    assert run_cli(*arguments, "--offline")[-65:] == plain
    assert "206 centimetre" in run_cli("show", LEBRON, "--values", "--offline", "--cache", cache)


@pytest.mark.parametrize("more", [{"policy": "inverse-hub"}, {"direction": "both"}, {"policy": "relation-stratified"}])
def test_value_is_never_expanded(more: dict[str, str], server: Server) -> None:
    graph = WikidataCache(EndpointSource(server.url)).subgraph(EDIT, SubgraphOptions(hops=5, values=True, **more))
    dates = [node for node in graph if node[0] in "^0123456789"]
    assert len(dates) == 5 and all(graph.out_degree(node) == 0 for node in dates)
    assert not any(f"wd:{node}" in query for _, _, query in server.requests for node in dates)


def test_truthy_file_tells_less_and_nothing_wrong(tmp_path: Path) -> None:
    more = {"gYear": "1712", "gYearMonth": "1712-06", "date": "1712-06-28", "integer": "7", "double": "2.5E3"}
    lines = [f'<{WD}{HUMAN}> <{PROP}direct/P569> "{text}"^^<{XSD}{name}> .' for name, text in more.items()]
    lines += [
        f'<{WD}{HUMAN}> <{PROP}direct/P569> "{day}T00:00:00Z"^^<{XSD}dateTime> .'
        for day in ("1901-01-01", "1901-05-01")
    ]
    path = written(tmp_path / "truthy.nt", "\n".join([*truthy(), *lines]) + "\n")
    source = facts(open_source(path))
    assert source.values([LEBRON])[LEBRON] == [("P2046", "3"), ("P2048", "206"), ("P569", "^1984-12-30T00:00:00Z/11")]
    assert {source.label(value) for _, value in source.values([HUMAN])[HUMAN]} == {
        *("1712", "June 1712", "28 June 1712", "7", "2,500", "1901", "May 1901")
    }


def test_graph_without_values_is_named(cache: WikidataCache, caplog: pytest.LogCaptureFixture) -> None:
    philadelphia = Edit(id="1", subject="Ann", prompt="{} is in", target_new="Philadelphia", target_new_id="Q1345")
    for _ in range(2):
        cache.subgraph(philadelphia, SubgraphOptions(values=True))
    assert caplog.text.count("no date and no quantity") == 1 and "load --values" in caplog.text


@pytest.mark.parametrize("more", [{"statements": "all"}, {"rules": Rules(())}])
def test_options_that_do_not_fit_are_refused(more: dict) -> None:
    with pytest.raises(BadOptionError, match="values=True reads statements of best rank"):
        SubgraphOptions(values=True, **more)


@pytest.mark.slow
def test_exports_show_values(dump: Path, tmp_path: Path) -> None:
    graph = WikidataCache(dump).subgraph(EDIT, DEEP)
    again = written(tmp_path / "again.nt", graph.to_rdflib().serialize(format="nt"))
    assert facts(open_source(again)).values([LEBRON])[LEBRON] == [
        ("P2048", "206"),
        ("P569", "^1984-12-30T00:00:00Z/11"),
    ]
    assert nx.read_graphml(graph.to_graphml(tmp_path / "g.graphml")).nodes[f"206{CM}"]["label"] == "206 centimetre"
    assert "206 centimetre" in set(graph.to_dataframe()["object_label"])
    assert "30 December 1984" in graph.to_svg(tmp_path / "g.svg").read_text()
    page = graph.to_html(tmp_path / "g.html").read_text()
    assert "30 December 1984" in page and "wiki/^" not in page


def test_methods_read_values(dump: Path) -> None:
    source = WikidataCache(dump)
    default, valued = (RomeKgConfig(statements=9, graph={"values": values}) for values in (False, True))
    assert default.model_dump() == RomeKgConfig(statements=9).model_dump(), (
        "a run of an earlier version has the same settings"
    )
    objects = [
        {fact.object for fact in config.facts(EDIT, fetch_subgraph(source, EDIT, config))}
        for config in (default, valued)
    ]
    assert objects[1] - objects[0] >= {"206 centimetre", "30 December 1984"}
    labels = [
        {label for _, label in fetch_subgraph(source, EDIT, config).nodes(data="label")}
        for config in (GlameConfig(), GlameConfig(graph={"values": True}))
    ]
    assert labels[1] - labels[0] == {"206 centimetre", "30 December 1984"}
    private = PrivateGraph(nx.MultiDiGraph([("LeBron James", "Miami", {"label": "city"})]))
    with pytest.raises(ConfigError, match=r"does not support the setting graph\.values"):
        fetch_subgraph(private, EDIT, GlameConfig(graph={"values": True}))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date_value("-0043-03-15T00:00:00Z", 11), "15 March 44 BCE"),
        (date_value("0000-01-01T00:00:00Z", 9), "1 BCE"),
        (date_value("1985-07-09T00:00:00Z", 8), "1980s"),
        (date_value("2000-01-01T00:00:00Z", 7), "20th century"),
        (date_value("1101-01-01T00:00:00Z", 7), "12th century"),
        (date_value("1000-01-01T00:00:00Z", 6), None),
        (date_value("1984-13-01T00:00:00Z", 11), None),
        (quantity_value("-0.50", CM), "-0.5 centimetre"),
        (quantity_value("+1234567890123456789012345678901234567890"), f"{1234567890123456789012345678901234567890:,}"),
        (quantity_value("1E999999999"), None),
        (quantity_value("NaN"), None),
        (quantity_value("5", "http://other.example/entity/Q5"), None),
        (literal_value("5", f"{XSD}string"), None),
        (json_value({"type": "time", "value": {"time": "soon", "precision": 11}}), None),
        (json_value({"type": "time", "value": time_value("+1643-01-00T00:00:00Z", precision=10)}), "January 1643"),
        (json_value({"type": "quantity", "value": None}), None),
    ],
)
def test_words_and_what_is_left_out(value: str | None, expected: str | None) -> None:
    assert (value and describe_value(value, LABELS.get)) == expected
