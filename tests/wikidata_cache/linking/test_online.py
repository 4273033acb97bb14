"""Linking through the Action API: both searches, few requests, clear errors, and never offline."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.wikidata_cache.api_server import ENTITIES, ApiServer
from tests.wikidata_cache.fault_server import hasty, status
from tests.wikidata_cache.link_graph import homonyms, only
from tests.wikidata_cache.wikidata_helpers import Fault
from wikidata_cache.endpoints.action_api import ActionApi
from wikidata_cache.errors import BadOptionError, EndpointError, OfflineError
from wikidata_cache.languages import language_chain
from wikidata_cache.linking.linker import Linker, open_linker
from wikidata_cache.linking.online import OnlineKnowledge


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def client(api: ApiServer) -> ActionApi:
    return ActionApi(api.url, contact="me@example.org", limiter=hasty())


@pytest.fixture
def linker(client: ActionApi, tmp_path: Path) -> Linker:
    return open_linker(homonyms(tmp_path).facts, api=client)


def ids(linker: Linker, text: str) -> list[str]:
    return [candidate.id for candidate in linker.link(text).candidates]


def test_search_joins_names_and_words(linker: Linker, client: ActionApi) -> None:
    assert client.search("USA") == ["Q30", "Q500", "Q501"]  # an alias: only by names
    assert client.search("Lovelace, Ada") == ["Q7259"]  # another order: only by words
    assert ids(linker, "Lovelace, Ada") == ["Q7259"]


def test_candidates_have_names_types_and_statements(linker: Linker, api: ApiServer) -> None:
    linked = linker.link("USA")
    assert [candidate.id for candidate in linked.candidates] == ["Q501", "Q30"]  # a disambiguation page is none
    assert linked.status == "ambiguous"  # the song's label, the country's alias
    usa = linked.candidates[1]
    assert (usa.info.label, usa.info.description) == ("United States of America", "country in North America")
    assert usa.type_labels == ("country", "sovereign state")
    reasons = " / ".join(map(str, usa.reasons))
    assert "+8.0 its alias, exact match" in reasons
    assert "3 statements about it" in reasons  # of the two capitals the preferred one alone is truthy
    assert "one statement about it" in str(linked.candidates[0].reasons)  # deprecated ones are none
    assert linked.source == api.url


def test_link_of_an_id_checks_labels_and_follows_redirects(linker: Linker) -> None:
    assert linker.link("Q30", expected_label="usa").status == "exact"
    assert linker.link("Q30", expected_label="Canada").status == "ambiguous"
    merged = only(linker.link("Q9000"))
    assert merged.id == "Q30"
    assert "Q9000 was merged into it" in " / ".join(map(str, merged.reasons))
    assert linker.link("Q123456").status == "ambiguous"


def test_link_searches_properties_in_their_namespace(linker: Linker) -> None:
    assert only(linker.link("born in", kind="property")).id == "P19"
    assert linker.link("birth place of", kind="property").candidates[0].id == "P19"


def test_link_sends_few_requests_with_a_contact(linker: Linker, api: ApiServer) -> None:
    linker.link("USA")
    assert len(api.requests) == 4  # two searches, the candidates, the names of their types
    linker.link("USA")
    assert len(api.requests) == 4  # each search and entity is requested once
    for parameters, headers in api.requests:
        assert headers["User-Agent"].startswith("wikidata-cache/")
        assert "(me@example.org)" in headers["User-Agent"]
        assert (parameters["format"], parameters["formatversion"]) == ("json", "2")


def test_entities_are_requested_fifty_at_a_time(client: ActionApi, api: ApiServer) -> None:
    entities = client.entities(f"Q{n}" for n in range(1, 121))
    assert sorted(entities) == ["Q30", "Q5"]
    assert [len(parameters["ids"].split("|")) for parameters, _ in api.requests] == [50, 50, 20]


@pytest.mark.parametrize(
    "text", ['haswbstatement:P31=Q5 "x" -y', "insource:/x/ OR *", "a|b&action=edit#", "\u202eزenit", '"']
)
def test_search_escapes_operators_and_parameters(client: ActionApi, api: ApiServer, text: str) -> None:
    client.search(text)
    for parameters, _ in api.requests:
        assert parameters["action"] in ("wbsearchentities", "query")
        assert not set('":-*/|&#=') & set(parameters.get("srsearch", ""))
    assert api.requests[0][0]["search"] == text


@pytest.mark.parametrize("text", ["", "  ", "x" * 251, "caf\udce9"])
def test_search_of_no_name_sends_no_request(client: ActionApi, api: ApiServer, text: str) -> None:
    assert client.search(text) == []
    assert api.requests == []


answers = partial(status, kind="application/json")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (answers(403, b"banned"), "banned, or your User-Agent was refused"),
        (answers(200, b"<html>proxy</html>", kind="text/html"), "found text/html"),
        (
            answers(200, b'{"error": {"code": "badvalue", "info": "Unrecognized value"}}'),
            "badvalue: Unrecognized value",
        ),
        (answers(200, b'{"hello": 1}'), "found application/json"),
        (answers(200, b"[]"), "found application/json"),
        (answers(404, b"no"), "HTTP 404"),
    ],
)
def test_search_raises_lasting_failures_at_once(client: ActionApi, api: ApiServer, fault: Fault, message: str) -> None:
    api.fault = fault
    with pytest.raises(EndpointError, match=message):
        client.search("USA")
    assert len(api.requests) == 1


def test_offline_forbids_the_api(client: ActionApi, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(OfflineError):
        ActionApi(api.url)
    with pytest.raises(OfflineError):
        client.search("USA")
    assert api.requests == []


def test_relation_is_looked_up_in_the_graph(linker: Linker) -> None:
    linked = linker.link("USA", relation="P17")
    assert "country, like 100% of the values of P17" in str(linked.candidates[0].reasons)
    with pytest.raises(BadOptionError):
        linker.link("USA", relation="country")


def entity_body(**fields: object) -> bytes:
    """A wbgetentities answer about Q30 with some fields of another shape."""
    entity = {"id": "Q30", "labels": {}, "aliases": {}, "descriptions": {}, "claims": {}} | fields
    return json.dumps({"entities": {"Q30": entity}}).encode()


SNAK = {"mainsnak": {"datavalue": {"value": {"id": "Q5"}}}, "rank": "normal"}


@pytest.mark.parametrize(
    "body",
    [
        entity_body(id=7),
        entity_body(id="Q30; DROP"),
        entity_body(labels=7),
        entity_body(labels={"en": {"value": None}}),
        entity_body(labels={"en": {"language": "en"}}),
        entity_body(aliases={"en": {"value": "x"}}),
        entity_body(claims=[7]),
        entity_body(claims={"P31": [{"mainsnak": {}}]}),
        entity_body(claims={"P31": [SNAK | {"rank": ["normal"]}]}),
        entity_body(claims={"P31": [SNAK | {"mainsnak": None}]}),
        entity_body(claims={"P31": [SNAK | {"mainsnak": {"datavalue": {"value": {"id": 7}}}}]}),
        entity_body(claims={"Q31": [SNAK]}),
        b'{"entities": null}',
        b'{"entities": {"Q666": {"id": "Q666"}}}',
        b'{"error": "text"}',
        b'{"error": {"code": ["x"], "info": {"a": "\\u001b[2J"}}}',
        b'{"entities": ' + b"[" * 100_000,
        b"7",
    ],
)
def test_malformed_entities_raise_endpoint_error(client: ActionApi, api: ApiServer, body: bytes) -> None:
    api.fault = answers(200, body)
    with pytest.raises(EndpointError) as caught:
        client.entities(["Q30"])
    assert caught.value.trouble in ("bad answer", "rejected", "cut off") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b'{"search": null}',
        b'{"search": [{}]}',
        b'{"search": {"id": "Q30"}}',
        b'{"search": [{"id": "None"}]}',
    ],
)
def test_malformed_search_raises_endpoint_error(client: ActionApi, api: ApiServer, body: bytes) -> None:
    api.fault = answers(200, body)
    with pytest.raises(EndpointError) as caught:
        client.search("USA")
    assert caught.value.trouble == "bad answer"


def test_empty_parts_may_be_lists(client: ActionApi, api: ApiServer) -> None:
    api.fault = answers(200, entity_body(labels=[], aliases=[], descriptions=[], claims=[]))
    assert client.entities(["Q30"])["Q30"].names == ()


def test_search_and_labels_are_in_the_language(api: ApiServer, tmp_path: Path) -> None:
    usa = ENTITIES["Q30"] | {"labels": {"en": {"value": "USA"}, "ko": {"value": "미국"}}}
    api.get = lambda name: usa if name == "Q30" else ENTITIES.get(name, {"id": name, "missing": True})
    knowledge = OnlineKnowledge(ActionApi(api.url, limiter=hasty()), languages=language_chain("ko,zh"))
    found = {match.id: (match.text, match.language) for match in knowledge.named("미국", limit=5, kind="item")}
    searches = [parameters["language"] for parameters, _ in api.requests if parameters["action"] == "wbsearchentities"]
    assert searches == ["ko", "zh"] and found == {}, "the test server knows English names alone"
    found = {match.id: (match.text, match.language) for match in knowledge.named("USA", limit=5, kind="item")}
    assert found["Q30"][0] == "USA"
    assert knowledge.info(["Q30"])["Q30"].label == "미국"
