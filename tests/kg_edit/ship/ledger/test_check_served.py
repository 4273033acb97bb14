"""A check of a server on the loopback interface: the requests, the edits that hold, and the errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.errors import ConfigError, ServerError
from kg_edit.patches.entries import EditPosition, Entry
from kg_edit.reports.probes import probes
from kg_edit.ship.app.openai_api import CompletionRequest
from kg_edit.ship.ledger.check import KINDS, CompletionServer, check_served
from kg_edit.text.matching import normalised
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.ship.app.serving import served, workshop
from tests.kg_edit.ship.cli.test_patch import HEAT as HEAT_WITH_LOCALITY
from tests.kg_edit.ship.cli.test_patch import LAKERS, RIVER, write_patch
from tests.loopback import Loopback, OtherProtocol, QuietHandler

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

HEAT = HEAT_WITH_LOCALITY.model_copy(update={"locality": ()})
MODELS = {"data": [{"id": "m"}]}


class StandIn(Loopback):
    """Answers prompts by a table (else with nothing), and keeps the requests; ``reply`` takes the place of all that."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.texts: dict[str, str] = {}
        self.answers: dict[str, str] = {}
        self.models: Any = MODELS
        self.reply: Callable[[QuietHandler], tuple[int, bytes]] | None = None
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


class Handler(QuietHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.answer(200, json.dumps(self.server.models).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        if self.server.reply:
            self.answer(*self.server.reply(self))
            return
        if "messages" in body:
            text = self.server.answers.get(body["messages"][0]["content"], "")
            self.answer(200, json.dumps({"choices": [{"message": {"content": text}}]}).encode())
            return
        text = self.server.texts.get(body["prompt"], "")
        self.answer(200, json.dumps({"choices": [{"text": text}]}).encode())


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


def entry(edit: Edit) -> Entry:
    position = EditPosition(1, edit.id)
    return Entry(position=position, name=edit.id, state="active", edit=edit, method="rome", record={})


def test_served_edit_holds_if_its_target_is_generated(standin: StandIn) -> None:
    standin.texts = {"LeBron James plays for": " the Miami Heat.\nLakers", "Thames flows through": " London, and Paris"}
    (heat, river) = check_served(CompletionServer(url=standin.url, key="k"), [entry(HEAT), entry(RIVER)], ("rewrite",))
    assert not heat.failures() and river.failures()
    assert (heat.answers[0].text, river.answers[0].text) == ("the Miami Heat.", "London, and Paris")
    first = standin.asked[0]
    assert (first["model"], first["prompt"], first["temperature"], first["stream"]) == ("m", HEAT.text, 0, False)
    assert first["max_tokens"] >= len("Miami Heat"), "a token may be as short as a letter"
    assert set(standin.keys) == {"Bearer k"}


def test_served_prompt_is_asked_again_after_a_line_break(standin: StandIn) -> None:
    standin.texts = {"\nThames flows through": " Paris", "LeBron James plays for": " Miami Heat"}
    heat, river = check_served(CompletionServer(url=standin.url), [entry(HEAT), entry(RIVER)], ("rewrite",))
    assert not heat.failures() and not heat.answers[0].after_line_break
    assert not river.failures() and river.answers[0].after_line_break
    inside = RIVER.model_copy(update={"prompt": "The river {} flows through"})
    standin.texts = {"\nThe river Thames flows through": " Paris"}
    (checked,) = check_served(CompletionServer(url=standin.url), [entry(inside)], ("rewrite",))
    assert checked.failures() and standin.asked[-1]["prompt"] == inside.text


def test_served_chat_edit_is_asked_as_a_users_turn(standin: StandIn) -> None:
    standin.answers = {
        HEAT.text: "He is in the team of Miami Heat. Before, the Lakers.",
        RIVER.text: "London. Not Paris.",
    }
    heat, river = check_served(
        CompletionServer(url=standin.url),
        [entry(HEAT.with_form(chat=True)), entry(RIVER.with_form(chat=True))],
        ("rewrite",),
    )
    assert not heat.failures() and river.failures(), "in the first sentence"
    assert {len(request["messages"]) for request in standin.asked} == {1} and "prompt" not in standin.asked[0]
    standin.texts = {HEAT.text: " Miami Heat"}
    (plain,) = check_served(
        CompletionServer(url=standin.url), [entry(HEAT.with_form(chat=True))], ("rewrite",), chat=False
    )
    assert not plain.failures() and standin.asked[-1]["prompt"] == HEAT.text


def test_prompts_of_an_edit_in_both_forms() -> None:
    """As in the report: its own prompt in plain text, then as a user's turn."""
    both = HEAT.model_copy(update={"chat": "both", "paraphrases": ("He is with",), "neighborhood": ()})
    prompts = [(prompt.kind, prompt.chat, prompt.ask) for prompt in probes(None, both) if prompt.kind != "portability"]
    rewrite, paraphrase = HEAT.text, "He is with"
    assert prompts == [("rewrite", False, rewrite), ("rewrite", True, rewrite), ("paraphrase", False, paraphrase)]
    assert all(prompt.chat for prompt in probes(None, both, chat=True))


def test_served_check_asks_all_given_kinds(standin: StandIn) -> None:
    probe = {"question": "Where does LeBron James play?", "answer": "Florida"}
    edit = Edit.model_validate(HEAT.model_dump() | {"portability": [probe], "neighborhood": ["Kobe Bryant plays for"]})
    assert [prompt.kind for prompt in probes(None, edit)] == list(KINDS)
    assert "Question: Where does LeBron James play?" in probes(None, edit)[2].ask
    standin.texts = {edit.text: " Miami Heat", "Kobe Bryant plays for": " the Los Angeles Lakers"}
    standin.texts[probes(None, edit)[2].ask] = " In sunny Florida"
    (checked,) = check_served(CompletionServer(url=standin.url), [entry(edit)], KINDS)
    assert [(answer.kind, answer.right) for answer in checked.answers] == [
        ("rewrite", True),
        ("paraphrase", False),
        ("portability", True),
        ("locality", True),
    ]


def test_served_paragraph_is_read_on_over_line_breaks_as_far_as_servers_write(standin: StandIn) -> None:
    """As `kg_edit.reports.probes` reads it; no server is asked for more than `kg-edit serve` writes."""
    text = "Ann Lee grew roses. She sold them in Paris." + " And so on." * 300
    edit = Edit(id="a", prompt="What did Ann Lee do?", target_text=text)
    standin.texts = {edit.text: text.replace(". She", ".\nShe")}
    (checked,) = check_served(CompletionServer(url=standin.url), [entry(edit)], ("rewrite",))
    assert checked.answers[0].right and standin.asked[0]["max_tokens"] == 2048
    CompletionRequest.model_validate({"prompt": "a", "max_tokens": 2048})
    standin.answers = standin.texts
    (chat,) = check_served(CompletionServer(url=standin.url), [entry(edit.with_form(chat=True))], ("rewrite",))
    assert chat.answers[0].right and standin.asked[-1]["max_tokens"] == 2048


def test_served_check_asks_locality_prompts_with_an_answer(standin: StandIn) -> None:
    locality = [{"prompt": "The capital of Italy is", "answer": "Rome", "aliases": ["Roma"]}, "Snow is"]
    edit = Edit.model_validate(HEAT.model_dump() | {"locality": locality, "neighborhood": []})
    standin.texts = {"The capital of Italy is": " Roma, of course"}
    (checked,) = check_served(CompletionServer(url=standin.url), [entry(edit)], ("locality",))
    assert [(answer.target, answer.right) for answer in checked.answers] == [("Rome", True)]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            500,
            b'{"error": {"message": "no such model"}}',
            r"answered with error 500: 'no such model'; check the address",
        ),
        (404, b'{"message": "nowhere"}', r"answered with error 404: 'nowhere'"),
        (
            401,
            b"who are you?",
            r"answered with error 401: 'who are you\?'; set the server's API key in KG_EDIT_SERVER_KEY",
        ),
        (200, b"<html>", r"replied '<html>'; expected JSON"),
        (200, b'{"choices": []}', r"expected a completion with a text in choices\[0\]\.text"),
        (200, b'{"choices": [{"text": null}]}', r"expected a completion with a text in choices\[0\]\.text"),
        (200, b"[" * 200_000, r"expected JSON"),
        (200, b"[]", r"expected a completion"),
    ],
)
def test_served_check_error_names_the_reply(status: int, body: bytes, message: str, standin: StandIn) -> None:
    standin.reply = lambda _: (status, body)
    with pytest.raises(ServerError, match=message) as raised:
        list(check_served(CompletionServer(url=standin.url), [entry(HEAT)], ("rewrite",)))
    assert raised.value.__notes__ == ["asked for the edit 'heat'"]


@pytest.mark.slow
def test_served_check_error_for_slow_and_missing_servers(standin: StandIn) -> None:
    def slow(_: QuietHandler) -> tuple[int, bytes]:
        time.sleep(0.4)
        return 200, b"{}"

    def drips(handler: QuietHandler) -> tuple[int, bytes]:
        handler.send_response(500)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(50):  # each byte within the time limit
            handler.wfile.write(b"x")
            time.sleep(0.02)
        return 500, b""

    standin.reply = slow
    with pytest.raises(ServerError, match=r"did not answer in 0\.1 s; .*longer --timeout"):
        list(check_served(CompletionServer(url=standin.url, seconds=0.1), [entry(HEAT)], ("rewrite",)))
    standin.reply, start = drips, time.monotonic()
    with pytest.raises(ServerError, match="answered with error 500: ''"):
        list(check_served(CompletionServer(url=standin.url, seconds=0.2), [entry(HEAT)], ("rewrite",)))
    assert time.monotonic() - start < 0.8, "the time limit is that of the whole reply"
    with pytest.raises(ServerError, match="can't be reached"):
        CompletionServer(url="http://127.0.0.1:9").resolve_model()
    with pytest.raises(ConfigError, match="expected an address such as"):
        CompletionServer(url="localhost:8080")
    with Loopback(OtherProtocol) as other, pytest.raises(ServerError, match="can't be reached"):
        CompletionServer(url=other.url, model="m").complete("Paris is in", tokens=1)
    with pytest.raises(ConfigError, match="line break or a letter beyond ASCII") as raised:
        CompletionServer(url=standin.url, key="secret\n")
    assert "secret" not in str(raised.value)


def test_named_finds_the_model_of_a_server(standin: StandIn) -> None:
    assert CompletionServer(url=f"{standin.url}/v1/").resolve_model().model == "m"
    standin.models = {"data": [{"id": "base"}, {"id": "edited"}]}
    assert CompletionServer(url=standin.url, model="edited").resolve_model().model == "edited"
    with pytest.raises(ConfigError, match="serves 2 models; name one: --served base or edited"):
        CompletionServer(url=standin.url).resolve_model()
    with pytest.raises(ConfigError, match="does not serve 'edit'; give --served one of base, edited"):
        CompletionServer(url=standin.url, model="edit").resolve_model()
    standin.models = {"models": []}
    with pytest.raises(ServerError, match=r"expected a list of models with data\[\]\.id"):
        CompletionServer(url=standin.url).resolve_model()


def test_check_command_exit_code_for_a_server(kg_edit: Run, place: Path, tiny_folder: Path, standin: StandIn) -> None:
    kg_edit("patch", "add", "ledger", write_patch(place / "one.safetensors", tiny_folder, HEAT, RIVER))
    standin.texts = {HEAT.text: " Miami Heat", RIVER.text: " Paris"}
    good = kg_edit("patch", "check", "ledger", "--server", standin.url)
    assert (good.code, good.out.splitlines()[-1]) == (0, f"{standin.url}: 2 of 2 edits succeed")
    assert kg_edit("patch", "check", "one.safetensors", "--server", standin.url).code == 0, "a patch file alone"
    standin.texts[RIVER.text] = " London"
    bad = kg_edit("patch", "check", "ledger", "--server", standin.url, "--failed-to", "failed.jsonl")
    assert bad.code == 1 and f"{standin.url}: 1 of 2 edits succeed" in bad.out
    assert "river, rewrite: 'Thames flows through': target 'Paris', generated 'London'" in bad.out
    assert "kg-edit patch edit ledger failed.jsonl --method grace" in bad.out
    assert read_edits(place / "failed.jsonl").edits == (RIVER,)
    strict = kg_edit("patch", "check", "ledger", "--server", standin.url, "--strict", "paraphrase")
    assert (
        strict.code == 1 and "heat, paraphrase: 'LeBron James is in': target 'Miami Heat', generated ''" in strict.out
    )
    kg_edit("patch", "add", "ledger", write_patch(place / "two.safetensors", tiny_folder, LAKERS))
    assert "1 contradiction" in kg_edit("patch", "check", "ledger", "--server", standin.url).out
    down = kg_edit("patch", "check", "ledger", "--server", "http://127.0.0.1:9")
    assert down.code == 2 and "can't be reached" in down.err


@pytest.mark.slow
def test_check_command_of_our_own_server(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """A tiny random model says nothing sensible, so what it does say is made the fact."""
    with served(workshop()) as running:
        _, answer = running.post("/v1/completions", {"prompt": RIVER.text, "max_tokens": 40})
        text = normalised(answer["choices"][0]["text"])[0]
        true = RIVER.model_copy(update={"target_new": text, "target_true": None})
        kg_edit("patch", "add", "ledger", write_patch(place / "one.safetensors", tiny_folder, true))
        result = kg_edit("patch", "check", "ledger", "--server", running.url)
        assert (result.code, result.out.splitlines()[-1]) == (0, f"{running.url}: 1 of 1 edits succeed"), result
