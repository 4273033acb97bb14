"""What another site's page could send is refused, over a real connection; what this page and programs send is not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kg_edit.app.serving import EDIT, Served, served, workshop

JSON = {"Content-Type": "application/json"}
WRONG = json.dumps({**EDIT, "subject": " "})  # read, it is answered by 422


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server at which no edit is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KG_EDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served(workshop(graph=False)) as running:
            yield running


def sent(server: Served, headers: dict[str, str], *, method: str = "POST", path: str = "/api/try") -> tuple[int, str]:
    """Status and kind."""
    code, text, said = server.send(method, path, WRONG, headers)
    assert said["x-content-type-options"] == "nosniff"
    assert json.loads(text)["message"]
    return code, json.loads(text)["kind"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},  # another port of this machine
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://[evil"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    ],
    ids=str,
)
def test_another_sites_page_changes_nothing(server: Served, headers: dict[str, str]) -> None:
    for path in ("/api/try", "/api/ledger"):
        assert sent(server, {**JSON, **headers}, path=path) == (403, "ForeignRequestError")
    assert sent(server, headers, method="DELETE")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/jsonx"},
    ],
    ids=str,
)
def test_what_a_form_can_send_is_no_request(server: Served, headers: dict[str, str]) -> None:
    assert sent(server, headers) == (415, "ContentTypeError")
    assert sent(server, headers, method="PUT")[0] == 415


@pytest.mark.parametrize("site", [None, "same-origin", "none"])
@pytest.mark.parametrize("content", ["application/json", "Application/JSON; charset=utf-8"])
def test_this_page_and_programs_are_answered(server: Served, site: str | None, content: str) -> None:
    headers = {"Content-Type": content} | ({"Sec-Fetch-Site": site, "Origin": server.url} if site else {})
    assert sent(server, headers) == (422, "EditError")


def test_reading_needs_no_origin(server: Served) -> None:
    assert server.send("GET", "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link on another page
