"""Linking through the Action API: both searches, polite requests, clear errors, and never offline."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.wikidata_cache.api_server import ApiServer
from tests.wikidata_cache.fault_server import hasty
from tests.wikidata_cache.link_graph import homonyms
from tests.wikidata_cache.wikidata_helpers import reply
from wikidata_cache.errors import BadOptionError, EndpointError, MissingContactError, OfflineError
from wikidata_cache.linking.linker import Linker, open_linker
from wikidata_cache.linking.online import ActionApi


@pytest.fixture
def api() -> Iterator[ApiServer]:
    running = ApiServer()
    yield running
    running.close()


@pytest.fixture
def client(api: ApiServer) -> ActionApi:
    return ActionApi(api.url, contact="me@example.org", limiter=hasty())


@pytest.fixture
def linker(client: ActionApi, tmp_path: Path) -> Linker:
    return open_linker(homonyms(tmp_path).facts, api=client)


def ids(linker: Linker, text: str) -> list[str]:
    return [candidate.id for candidate in linker.link(text).candidates]


def test_each_search_finds_what_the_other_does_not(linker: Linker, client: ActionApi) -> None:
    assert client.search("USA") == ["Q30", "Q500", "Q501"]  # an alias: only by names
    assert client.search("Lovelace, Ada") == ["Q7259"]  # another order: only by words
    assert ids(linker, "Lovelace, Ada") == ["Q7259"]


def test_candidates_come_with_names_types_and_statements(linker: Linker, api: ApiServer) -> None:
    linked = linker.link("USA")
    assert [candidate.id for candidate in linked.candidates] == ["Q501", "Q30"]  # a disambiguation page is none
    assert linked.status == "ambiguous"  # the song's label, the country's alias
    usa = linked.candidates[1]
    assert (usa.label, usa.description) == ("United States of America", "country in North America")
    assert usa.types == ("country", "sovereign state")
    reasons = " / ".join(map(str, usa.reasons))
    assert "+8.0 its alias, exact match" in reasons
    assert "3 statements about it" in reasons  # of the two capitals the preferred one alone is truthy
    assert "one statement about it" in str(linked.candidates[0].reasons)  # deprecated ones are none
    assert linked.source == api.url


def test_ids_are_checked_online_and_redirects_followed(linker: Linker) -> None:
    assert linker.link("Q30", expected_label="usa").status == "exact"
    assert linker.link("Q30", expected_label="Canada").status == "ambiguous"
    merged = linker.link("Q9000").only()
    assert merged.id == "Q30"
    assert "Q9000 was merged into it" in " / ".join(map(str, merged.reasons))
    assert linker.link("Q123456").status == "ambiguous"


def test_properties_are_searched_in_their_own_namespace(linker: Linker) -> None:
    assert linker.link("born in", kind="property").only().id == "P19"
    assert linker.link("birth place of", kind="property").candidates[0].id == "P19"


def test_requests_are_polite_and_few(linker: Linker, api: ApiServer) -> None:
    linker.link("USA")
    assert len(api.requests) == 4  # two searches, the candidates, the names of their types
    linker.link("USA")
    assert len(api.requests) == 4  # searches and entities are asked for once
    for asked, headers in api.requests:
        assert headers["User-Agent"].startswith("wikidata-cache/")
        assert "(me@example.org)" in headers["User-Agent"]
        assert (asked["format"], asked["formatversion"]) == ("json", "2")


def test_more_than_fifty_ids_go_in_several_requests(client: ActionApi, api: ApiServer) -> None:
    found = client.entities(f"Q{n}" for n in range(1, 121))
    assert sorted(found) == ["Q30", "Q5"]
    assert [len(asked["ids"].split("|")) for asked, _ in api.requests] == [50, 50, 20]


@pytest.mark.parametrize(
    "text", ['haswbstatement:P31=Q5 "x" -y', "insource:/x/ OR *", "a|b&action=edit#", "\u202eزenit", '"']
)
def test_no_text_is_an_operator_or_a_parameter(client: ActionApi, api: ApiServer, text: str) -> None:
    client.search(text)
    for asked, _ in api.requests:
        assert asked["action"] in ("wbsearchentities", "query")
        assert not set('":-*/|&#=') & set(asked.get("srsearch", ""))
    assert api.requests[0][0]["search"] == text


@pytest.mark.parametrize("text", ["", "  ", "x" * 251])
def test_what_can_be_no_name_is_not_asked_for(client: ActionApi, api: ApiServer, text: str) -> None:
    assert client.search(text) == []
    assert api.requests == []


def once(spoil: object) -> object:
    """Spoil the first answer only."""
    left = [spoil]
    return lambda handler: bool(left) and left.pop()(handler)  # type: ignore[operator]


def says(status: int, body: bytes, *, kind: str = "application/json", headers: dict[str, str] | None = None) -> object:
    def spoil(handler: BaseHTTPRequestHandler) -> bool:
        return reply(handler, status, body, kind=kind, headers=headers)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        says(429, b"slow down", headers={"Retry-After": "7"}),
        says(503, b"upstream"),
        says(200, b'{"error": {"code": "maxlag", "info": "Waiting for a host"}}', headers={"Retry-After": "5"}),
        says(200, b'{"error": {"code": "ratelimited", "info": "too many"}}'),
        says(200, b'{"search": [{"id": "Q3'),
    ],
)
def test_what_passes_is_asked_again(client: ActionApi, api: ApiServer, spoil: object) -> None:
    api.spoil = once(spoil)  # type: ignore[assignment]
    assert client.search("USA") == ["Q30", "Q500", "Q501"]
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (says(403, b"banned"), "banned, or your User-Agent was refused"),
        (says(200, b"<html>proxy</html>", kind="text/html"), "found text/html"),
        (says(200, b'{"error": {"code": "badvalue", "info": "Unrecognized value"}}'), "badvalue: Unrecognized value"),
        (says(200, b'{"hello": 1}'), "found application/json"),
        (says(200, b"[]"), "found application/json"),
        (says(404, b"no"), "HTTP 404"),
    ],
)
def test_what_does_not_pass_is_said_at_once(client: ActionApi, api: ApiServer, spoil: object, message: str) -> None:
    api.spoil = spoil  # type: ignore[assignment]
    with pytest.raises(EndpointError, match=message):
        client.search("USA")
    assert len(api.requests) == 1


def test_wikidata_needs_a_contact() -> None:
    with pytest.raises(MissingContactError, match="contact"):
        ActionApi()


def test_offline_forbids_it(client: ActionApi, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_OFFLINE", "1")
    with pytest.raises(OfflineError):
        ActionApi(api.url)
    with pytest.raises(OfflineError):
        client.search("USA")
    assert api.requests == []


def test_a_relation_is_looked_up_in_the_graph(linker: Linker) -> None:
    linked = linker.link("USA", relation="P17")
    assert "country, like 100% of the values of P17" in str(linked.candidates[0].reasons)
    with pytest.raises(BadOptionError):
        linker.link("USA", relation="country")


def made(**fields: object) -> bytes:
    """A wbgetentities answer about Q30 with some fields of another shape."""
    said = {"id": "Q30", "labels": {}, "aliases": {}, "descriptions": {}, "claims": {}} | fields
    return json.dumps({"entities": {"Q30": said}}).encode()


SNAK = {"mainsnak": {"datavalue": {"value": {"id": "Q5"}}}, "rank": "normal"}


@pytest.mark.parametrize(
    "body",
    [
        made(id=None),
        made(id=7),
        made(id="Q30; DROP"),
        made(labels=7),
        made(labels={"en": "text"}),
        made(labels={"en": {"value": None}}),
        made(labels={"en": {"language": "en"}}),
        made(aliases={"en": {"value": "x"}}),
        made(aliases={"en": [7]}),
        made(descriptions="x"),
        made(claims=[7]),
        made(claims={"P31": 7}),
        made(claims={"P31": [7]}),
        made(claims={"P31": [{"mainsnak": {}}]}),
        made(claims={"P31": [SNAK | {"rank": ["normal"]}]}),
        made(claims={"P31": [SNAK | {"mainsnak": None}]}),
        made(claims={"P31": [SNAK | {"mainsnak": {"datavalue": None}}]}),
        made(claims={"P31": [SNAK | {"mainsnak": {"datavalue": {"value": {"id": 7}}}}]}),
        made(claims={"Q31": [SNAK]}),
        b'{"entities": null}',
        b'{"entities": []}',
        b'{"entities": {"Q30": null}}',
        b'{"entities": {"Q666": {"id": "Q666"}}}',
        b'{"error": null}',
        b'{"error": "text"}',
        b'{"error": {"code": ["x"], "info": {"a": "\\u001b[2J"}}}',
        b'{"entities": ' + b"[" * 100_000,
        b"null",
        b"7",
    ],
)
def test_a_malformed_answer_is_an_error_in_words(client: ActionApi, api: ApiServer, body: bytes) -> None:
    api.spoil = says(200, body)  # type: ignore[assignment]
    with pytest.raises(EndpointError) as caught:
        client.entities(["Q30"])
    assert caught.value.trouble in ("bad answer", "rejected", "cut off") and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b'{"search": null}',
        b'{"search": [null]}',
        b'{"search": [{}]}',
        b'{"search": [{"id": null}]}',
        b'{"search": {"id": "Q30"}}',
        b'{"search": [{"id": "None"}]}',
    ],
)
def test_a_malformed_search_is_an_error_in_words(client: ActionApi, api: ApiServer, body: bytes) -> None:
    api.spoil = says(200, body)  # type: ignore[assignment]
    with pytest.raises(EndpointError) as caught:
        client.search("USA")
    assert caught.value.trouble == "bad answer"


def test_empty_parts_may_be_lists(client: ActionApi, api: ApiServer) -> None:
    api.spoil = says(200, made(labels=[], aliases=[], descriptions=[], claims=[]))  # type: ignore[assignment]
    assert client.entities(["Q30"])["Q30"].names == ()


def test_a_wait_without_end_is_none(client: ActionApi, api: ApiServer) -> None:
    body = b'{"error": {"code": "maxlag", "info": "x"}}'
    api.spoil = says(200, body, headers={"Retry-After": "9" * 40})  # type: ignore[assignment]
    with pytest.raises(EndpointError, match=r"maxlag|no request is allowed before"):
        client.search("USA")
