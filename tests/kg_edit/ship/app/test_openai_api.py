"""OpenAI's completions of the served model: what the ledger holds is in them, and what is not done is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kg_edit.scoring.generation import continuations, continue_prompts, reply_in_chat
from kg_edit.ship.app.messages import TryRequest
from kg_edit.ship.app.openai_api import CHAT
from tests.kg_edit.ship.app.serving import EDIT, Served, served, workshop
from tests.kg_edit.tiny import chatting, tiny

PROMPTS = ["LeBron James plays for the", "The river", "\nParis is the capital of"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(workshop(tmp_path_factory.mktemp("kept") / "ledger", steps=5)) as running:
        yield running


def completed(server: Served, prompt: str | list[str], **options: object) -> list[str]:
    code, answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 6, **options})
    assert code == 200, answer
    return [choice["text"] for choice in answer["choices"]]


def test_completions_equal_generate_with_the_active_edits(server: Served) -> None:
    plain = continuations(tiny("llama"), PROMPTS, limits=[6] * 3)
    assert completed(server, PROMPTS) == list(plain)
    assert completed(server, PROMPTS[0], temperature=0, model=tiny("llama").name, stream=False) == [plain[0]]
    tried = server.workshop.try_edit(TryRequest.model_validate(EDIT))
    server.workshop.add(tried.id, force=True)
    edited = completed(server, PROMPTS[0], max_tokens=16)
    assert edited[0].strip().startswith(tried.outcomes[0].after.split()[0])
    assert completed(server, PROMPTS[0]) != [plain[0]]
    assert continuations(tiny("llama"), PROMPTS, limits=[6] * 3) == plain, "the model is as before"


@pytest.mark.slow
def test_completion_counts_the_tokens_that_were_generated() -> None:
    """Not those of its text: a character that is cut is written again in more tokens."""
    completions = continue_prompts(tiny("llama"), PROMPTS, limits=[4] * 3)
    assert "length" in (reasons := ["stop" if completion.ended else "length" for completion in completions])
    with served(workshop(None)) as running:
        _, answer = running.post("/v1/completions", {"prompt": PROMPTS, "max_tokens": 4})
    assert [choice["finish_reason"] for choice in answer["choices"]] == reasons
    read, written = (sum(getattr(completion, name) for completion in completions) for name in ("read", "written"))
    assert 4 < written <= 12 and read == sum(len(tiny("llama").encode(prompt).ids) for prompt in PROMPTS)
    assert answer["usage"] == {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def test_models_lists_the_served_model(server: Served) -> None:
    code, text, _ = server.get("/v1/models")
    assert code == 200 and tiny("llama").name in text and '"data":[' in text
    code, text, _ = server.get(f"/v1/models/{tiny('llama').name}")
    assert code == 200 and json.loads(text)["id"] == tiny("llama").name
    assert server.get("/v1/models/other")[0] == 404


@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"temperature": 0.7}, None, "send temperature 0"),
        ({"n": 2}, None, "n 1"),
        ({"best_of": 3}, None, "best_of 1"),
        ({"logprobs": 5}, None, "leave out logprobs"),
        ({"presence_penalty": 1}, None, "leave out presence_penalty"),
        ({"stop": [""]}, "stop", "stop"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens"),
        ({"prompt": []}, "prompt", "prompt"),
        ({"prompt": 7}, "prompt", "prompt"),
        ({"tools": []}, "tools", "unknown field"),
    ],
)
def test_unsupported_options_are_refused_in_openais_form(
    options: dict[str, object], field: str | None, message: str, server: Served
) -> None:
    code, answer = server.post("/v1/completions", {"prompt": "The river", "max_tokens": 2, **options})
    assert code == 400 and list(answer) == ["error"], answer
    error = answer["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert message in error["message"] and error["type"] == "invalid_request_error"
    assert str(error["param"]).startswith(str(field))


def test_other_errors_have_openais_form_too(server: Served) -> None:
    code, answer = server.post("/v1/completions", {"prompt": "The river", "model": "gpt-4"})
    assert (code, answer["error"]["code"]) == (404, "model_not_found")
    assert "this server has only" in answer["error"]["message"]
    asked = {"messages": [{"role": "user", "content": "Who?"}], "model": "gpt-4"}
    assert server.post(CHAT, asked)[0] == 404  # as completions do
    assert server.post("/v1/embeddings", {})[1]["error"]["type"] == "invalid_request_error"
    code, text, _ = server.send("POST", "/v1/completions", "x" * 2_000_000, {"Content-Type": "application/json"})
    assert code == 413 and "send less" in json.loads(text)["error"]["message"]
    code, text, _ = server.send("POST", "/v1/completions", "{}", {"Origin": "http://evil.example"})
    assert code == 403 and "comes from" in json.loads(text)["error"]["message"]


def test_stop_ends_a_continuation_before_the_first_of_its_texts(server: Served) -> None:
    (text,) = completed(server, PROMPTS[0], max_tokens=12)
    first, later = text[4:7], text[-3:]
    for stop in (first, ["not in the text", later, first]):
        _, answer = server.post("/v1/completions", {"prompt": PROMPTS[0], "max_tokens": 12, "stop": stop})
        (choice,) = answer["choices"]
        assert choice["text"] == text[: text.index(first)] and choice["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] < 12, "what was not sent is not counted"
    assert completed(server, PROMPTS[0], max_tokens=12, stop=None) == [text]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
def test_null_is_the_same_as_an_absent_field(path: str) -> None:
    desk = workshop(None)
    desk.model = chatting()
    body = {"prompt": "The river"} if path != CHAT else {"messages": [{"role": "user", "content": "Who?"}]}
    null = dict.fromkeys(("max_tokens", "temperature", "n", "stream", "model", "stop", "tools"))
    with served(desk) as running:
        (code, plain), (_, answer) = running.post(path, body), running.post(path, {**body, **null})
        missing = running.post(path, dict.fromkeys(body))[1]["error"]["param"]
    assert code == 200 and answer["choices"] == plain["choices"]
    assert missing == next(iter(body))


def events(server: Served, path: str, body: dict[str, object]) -> list[dict[str, Any]]:
    """The events of a stream, as a client reads them."""
    code, text, headers = server.send("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    assert code == 200 and headers["content-type"].startswith("text/event-stream")
    *parts, last = text.removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_stream_sends_the_finished_texts_as_events(server: Served) -> None:
    body = {"prompt": PROMPTS, "max_tokens": 6, "stream": True, "stream_options": {"include_usage": True}}
    *parts, last = events(server, "/v1/completions", body)
    assert [part["choices"][0]["text"] for part in parts] == completed(server, PROMPTS)
    assert [part["choices"][0]["index"] for part in parts] == [0, 1, 2]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] > 0
    assert {part["object"] for part in parts} == {"text_completion"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": "a", "stop": ["b", ""]}, "field stop[1]: found an empty text; expected at least 1"),
        ({"prompt": ["a", 5]}, "field prompt[1]: found the number 5; expected text"),
        ({"prompt": 5}, "field prompt: found the number 5; expected text"),
        ({"prompt": ["a"] * 33}, "field prompt: found a list; expected at most 32 items"),
        ({"prompt": []}, "field prompt: found a list; expected at least 1 of them"),
        ({"prompt": "a" * 2001}, f"field prompt: found the text '{'a' * 60}'; expected at most 2000 characters"),
    ],
)
def test_fault_in_a_list_is_named_where_a_text_or_a_list_is_allowed(server: Served, body: dict, message: str) -> None:
    """It was: found a list; expected text."""
    code, answer = server.post("/v1/completions", body)
    assert code == 400
    assert answer["error"]["message"].startswith(message)


def test_chat_streams_stops_and_takes_text_parts() -> None:
    desk = workshop(None)
    desk.model = chatting()
    turns = [{"role": "user", "content": "Who plays for Miami Heat?"}]
    text = reply_in_chat(desk.model, turns, tokens=8).text
    stop = text.split()[1]
    with served(desk) as running:
        first, last = events(running, CHAT, {"messages": turns, "max_tokens": 8, "stream": True, "stop": stop})
        _, refused = running.post(CHAT, {"messages": [], "stream": True})
        parts = [{"type": "text", "text": "Who plays for"}, {"type": "text", "text": "Miami Heat?"}]
        _, joined = running.post(CHAT, {"messages": [{"role": "user", "content": parts}], "max_tokens": 8})
        image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        code, other = running.post(CHAT, {"messages": [{"role": "user", "content": image}]})
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": text[: text.index(stop)]}
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert refused["error"]["param"] == "messages"
    turn = {"role": "user", "content": "Who plays for\nMiami Heat?"}
    assert joined["choices"][0]["message"]["content"] == reply_in_chat(desk.model, [turn], tokens=8).text
    assert (code, other["error"]["param"]) == (400, "messages[0].content")
    assert "found a part 'image_url'; expected text parts" in other["error"]["message"]


@pytest.mark.slow
def test_chat_takes_back_its_own_empty_answer() -> None:
    desk, turn = workshop(None), {"role": "user", "content": "Who plays for Miami Heat?"}
    desk.model = chatting()
    start = reply_in_chat(desk.model, [turn], tokens=8).text[0]
    with served(desk) as running:
        _, answer = running.post(CHAT, {"messages": [turn], "max_tokens": 8, "stop": start})
        message = answer["choices"][0]["message"]
        code, later = running.post(CHAT, {"messages": [turn, message, turn], "max_tokens": 8})
    assert message["content"] == "" and code == 200, later


@pytest.mark.slow
def test_chat_ignores_further_fields_of_a_message_and_wants_a_users_last() -> None:
    """An answer as OpenAI's client writes it was refused for its nulls."""
    desk, turn = workshop(None), {"role": "user", "content": "Who plays for Miami Heat?"}
    desk.model = chatting()
    expected = reply_in_chat(desk.model, [turn], tokens=8).text
    message = {"role": "assistant", "content": "He does.", "refusal": None, "tool_calls": None}
    with served(desk) as running:
        code, answer = running.post(CHAT, {"messages": [{**turn, "name": "ann"}], "max_tokens": 8})
        assert (code, answer["choices"][0]["message"]["content"]) == (200, expected), answer
        assert running.post(CHAT, {"messages": [turn, message, turn], "max_tokens": 2})[0] == 200
        code, answer = running.post(CHAT, {"messages": [turn, message]})
        system = running.post(CHAT, {"messages": [{"role": "system", "content": "Be brief."}]})[1]
        plain = {"tools": [], "response_format": {"type": "text"}, "logprobs": False}
        assert running.post(CHAT, {"messages": [turn], "max_tokens": 2, **plain})[0] == 200
        for field, value in (("tools", [{}]), ("response_format", {"type": "json_object"}), ("logprobs", True)):
            refused, _ = running.post(CHAT, {"messages": [turn], "max_tokens": 2, field: value})
            assert refused == 400, field
    assert (code, answer["error"]["param"]) == (400, "messages")
    assert "the last message is the assistant's; expected a user's" in answer["error"]["message"]
    assert "the last message is the system's; expected a user's" in system["error"]["message"]


def test_completions_without_a_ledger_are_of_the_unedited_model(tmp_path: Path) -> None:
    desk = workshop(None)
    assert desk.complete(PROMPTS, tokens=3) == continue_prompts(tiny("llama"), PROMPTS, limits=[3] * 3)
