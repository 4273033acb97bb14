"""Requests made to do harm, to a real server: each gets an answer or one error in OpenAI's form, and it goes on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.commands import bounded_memory
from tests.kg_edit.ship.app.serving import Served, served, workshop

pytestmark = pytest.mark.slow

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
GOOD: dict[str, Any] = {"prompt": "LeBron James plays for", "max_tokens": 4}
HI = {"role": "user", "content": "hi"}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
ANSWERED: list[dict[str, Any]] = [
    {"stream": True},
    {"stream": True, "stream_options": {"include_usage": True, "more": 1}},
    {"stream_options": {"include_usage": True}},
    {"stop": []},
    {"stop": ["\n"]},
    {"stop": " "},
    {"prompt": ["a"] * 32, "stream": True},
    {"prompt": "a\n\n"},
    {"max_tokens": 512},
    {"seed": 10**30},
    {"n": 1, "best_of": 1, "temperature": 0, "top_p": 0.1, "user": "x" * 1000, "logprobs": None},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"stop": ""}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop": [None]}, "stop[0]"),
    ({"stop": ["\ud800"]}, "stop[0]"),
    ({"stop": ["a"] * 100_000}, "stop"),
    ({"stop": "a" * 900_000}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": 5}, "stream_options"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "a " * 20_000}, "prompt"),
    ({"prompt": [1, 2]}, "prompt[0]"),
    ({"prompt": None}, "prompt"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"temperature": "nan"}, "temperature"),
    ({"temperature": -1}, ""),
    ({"n": 10**20}, ""),
    ({"model": "\x1b[2J"}, ""),
    ({"unknown": 1}, "unknown"),
]
REFUSED_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [HI | {"role": "tool"}]}, "messages[0].role"),
    ({"messages": [HI | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content"),
    ({"messages": [HI | {"content": "x" * 20_001}]}, "messages[0].content"),
    ({"messages": [HI | {"content": "x " * 9000}] * 3}, ""),  # more tokens than the model was trained on
    ({"messages": [HI] * 201}, "messages"),
    ({"messages": [HI | {"content": "\ud800"}]}, "messages[0].content"),
    ({"max_tokens": 2049}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"n": 2}, "n"),
    ({"stop": ["a"] * 17}, "stop"),
]
BODIES: list[bytes] = [
    b"{",
    b"[" * 100_000,
    b'{"prompt":' + b"[" * 100_000,
    b"\xff\xfe",
    b'{"prompt": NaN}',
    b'{"prompt": "a", "max_tokens": 1e400}',
    b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
    b"null",
    b"",
    b"5",
    b'"' + b"a" * 900_000 + b'"',
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    desk = workshop(Path(tmp_path_factory.mktemp("ledger")) / "ledger")
    with pytest.MonkeyPatch.context() as patched, served(desk) as endpoint:
        patched.setattr(desk.model.tokenizer, "chat_template", TEMPLATE)  # the tiny model is shared with other tests
        yield endpoint


def send(server: Served, path: str, body: bytes) -> tuple[int, str]:
    with bounded_memory():
        code, text, _ = server.send("POST", path, body, {"Content-Type": "application/json"})  # type: ignore[arg-type]
    return code, text


def refused(server: Served, path: str, body: bytes, param: str) -> None:
    code, text = send(server, path, body)
    assert 400 <= code < 500
    error = json.loads(text)["error"]
    assert (error["param"] or "") == param
    assert error["message"].isprintable() and "function" not in error["message"]


@pytest.mark.parametrize("fields", ANSWERED, ids=str)
def test_odd_request_is_answered(fields: dict[str, Any], server: Served) -> None:
    code, text = send(server, COMPLETIONS, json.dumps(GOOD | fields).encode())
    assert code == 200
    if fields.get("stream"):
        *events, end = text.removesuffix("\n\n").split("\n\n")
        assert end == "data: [DONE]" and all(json.loads(event.removeprefix("data: "))["id"] for event in events)


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_hostile_completion_is_refused(fields: dict[str, Any], param: str, server: Served) -> None:
    refused(server, COMPLETIONS, json.dumps(GOOD | fields).encode(), param)


@pytest.mark.parametrize(("fields", "param"), REFUSED_CHAT, ids=lambda value: str(value)[:40])
def test_hostile_conversation_is_refused(fields: dict[str, Any], param: str, server: Served) -> None:
    refused(server, CHAT, json.dumps({"messages": [HI], "max_tokens": 4} | fields).encode(), param)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body[:20]))
def test_hostile_body_is_refused(body: bytes, server: Served) -> None:
    code, text = send(server, COMPLETIONS, body)
    assert 400 <= code < 500 and json.loads(text)["error"]["message"]


def test_server_goes_on_after_cut_connections(server: Served) -> None:
    body = json.dumps(GOOD | {"stream": True, "max_tokens": 64}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    odd = [
        *(request[: len(request) - cut] for cut in range(0, 120, 10)),
        head + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n",
        head + b"Content-Length: -5\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
    ]
    host, port = server.url.removeprefix("http://").split(":")
    for data in odd:
        with socket.create_connection((host, int(port))) as connection, suppress(OSError):
            connection.sendall(data)
    assert send(server, COMPLETIONS, json.dumps(GOOD).encode())[0] == 200


def test_streams_at_once_get_the_text_of_one(server: Served) -> None:
    body, texts = json.dumps(GOOD | {"stream": True}).encode(), list[str]()

    def ask() -> None:
        text = server.send("POST", COMPLETIONS, body, {"Content-Type": "application/json"})[1]  # type: ignore[arg-type]
        texts.append(json.loads(text.split("\n\n")[0].removeprefix("data: "))["choices"][0]["text"])

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 12 and len(set(texts)) == 1
