"""The API over a real connection: an edit before and after, its errors, the ledger, and one edit at a time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from kg_edit.errors import DisablingEditError, LedgerChangedError, PatchError
from kg_edit.patches.base import Patch
from kg_edit.scoring.asking import ask
from kg_edit.scoring.generation import reply_in_chat
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.requests import continue_and_score
from kg_edit.ship.app.messages import PromptToTry, TryRequest, problem_of
from kg_edit.ship.app.server import make_app
from kg_edit.ship.cli.serve import listening
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.listing import Listing
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.ship.app.serving import EDIT, Served, answering, served, workshop
from tests.kg_edit.tiny import chatting, tiny
from wikidata_cache.errors import AmbiguousLabelError, UnknownLabelError

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that leave nothing behind."""
    with served(workshop(tmp_path_factory.mktemp("kept") / "ledger")) as running:
        yield running


def weights() -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in tiny("llama").model.parameters()]


def test_try_shows_each_prompt_and_leaves_the_model_unedited(server: Served) -> None:
    before = weights()
    probes = [{"prompt": "Dwyane Wade plays for"}, {"prompt": "The river", "answer": "Thames"}]
    code, answer = server.post("/api/try", {**EDIT, "target_true": "Miami Heat", "probes": probes})
    assert code == 200, answer
    assert all(torch.equal(old, new) for old, new in zip(before, weights(), strict=True))
    kinds = [(row["kind"], row["prompt"], [c["candidate"] for c in row["chances"]]) for row in answer["outcomes"]]
    assert kinds == [
        ("edit", "LeBron James plays for the", ["Los Angeles Lakers", "Miami Heat"]),
        ("probe", "Dwyane Wade plays for", ["Los Angeles Lakers", "Miami Heat"]),
        ("probe", "The river", ["Thames"]),
    ]
    chance = answer["outcomes"][0]["chances"][0]
    assert 0 <= chance["before"] < chance["after"] <= 1
    assert answer["fact"] == "LeBron James plays for the Los Angeles Lakers"
    assert "rank 1" in answer["patch"]
    assert answer["record"]["method"] == "rome"


def test_probability_is_the_product_over_the_candidates_tokens() -> None:
    model, prompt, name = tiny("llama"), "Dwyane Wade plays for", "Miami Heat"
    encoded = model.encode(prompt, target=name)
    with torch.no_grad():
        logits = model.model(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
    positions = range(encoded.target_start, len(encoded.ids))
    expected = float(sum(logits[at - 1, encoded.ids[at]] for at in positions).exp())
    (evidence,) = ask(model, [continue_and_score(prompt, [name], least=1)])
    assert len(encoded.target_ids) > 1
    assert evidence.scores[Pair(prompt, name)].probability == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "field", "message"),
    [
        ({"prompt": "LeBron James plays for the"}, "prompt", "write '{} plays for the'"),
        ({"subject": " "}, "subject", "is empty"),
        ({"target_true": "los angeles lakers"}, "target_new", "also the old target"),
        ({"target_nwe": "x"}, "target_nwe", "did you mean 'target_new'"),
        ({"probes": [{"prompt": "a"}] * 13}, "probes", "12 items"),
        ({"subject_id": "lebron"}, "subject_id", "a Wikidata id such as"),
        ({"subject": "a" * 201}, "subject", "expected at most 200 characters"),
    ],
)
def test_wrong_field_is_named(server: Served, changed: dict[str, Any], field: str, message: str) -> None:
    code, problem = server.post("/api/try", {**EDIT, **changed})
    assert code == 422
    assert problem["kind"] == "EditError"
    assert message in problem["fields"][field]
    assert message in problem["message"]


@pytest.mark.parametrize(
    ("target", "message"),
    [("Los Angeles\nLakers", "write it on one line"), ("Q121783", "write the label here and the id in target_new_id")],
)
def test_way_out_is_a_field_of_the_request(server: Served, target: str, message: str) -> None:
    """It also named the fields of a file's row: target_text, and those of a triplet."""
    problem = server.post("/api/try", {**EDIT, "target_new": target})[1]
    assert problem["fields"]["target_new"].endswith(message)
    assert problem["message"].endswith(message)


def test_other_bodies_and_unknown_ids_are_answered_in_json(server: Served) -> None:
    code, problem = server.post("/api/try", ["LeBron"])
    assert (code, problem["kind"]) == (422, "ConfigError")
    code, text, _ = server.get("/api/tries/never/subgraph")
    assert (code, json.loads(text)["kind"]) == (404, "UnknownNameError")


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [("GET", "/api/nothing", None, 404), ("DELETE", "/api/try", None, 405), ("POST", "/api/try", "[" * 100_000, 400)],
)
def test_unserved_request_is_answered_by_a_problem(
    server: Served, method: str, path: str, body: str | None, code: int
) -> None:
    status, text, headers = server.send(method, path, body, {"Content-Type": "application/json"})
    problem = json.loads(text)
    assert (status, problem["kind"], problem["fields"]) == (code, "RequestError", {})
    assert "/api/openapi.json" in problem["message"]
    assert (code == 405) == ("allow" in headers)


@pytest.mark.parametrize("path", ["/", "/script.js", "/api/state", "/v1/models"])
def test_head_is_answered_as_get_without_a_body(server: Served, path: str) -> None:
    code, text, headers = server.send("HEAD", path)
    assert (code, text) == (200, "")
    assert headers["content-length"] == server.get(path)[2]["content-length"]
    assert server.send("HEAD", "/api/try")[0] == 405


def test_page_loads_nothing_from_outside(server: Served) -> None:
    for name in ("", "style.css", "script.js"):
        code, text, headers = server.get(f"/{name}")
        assert code == 200
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "://" not in text.replace("http://www.w3.org", "")
    assert server.get("/")[1].count("<label") >= 7


@pytest.mark.slow
def test_subgraph_is_a_page_of_its_own(server: Served) -> None:
    _, answer = server.post("/api/try", {**EDIT, "target_new_id": "Q2"})
    assert answer["subgraph"]
    code, text, headers = server.get(f"/api/tries/{answer['id']}/subgraph")
    assert code == 200
    assert headers["content-type"].startswith("text/html")
    assert "headquarters location" in text
    _, answer = server.post("/api/try", {**EDIT, "target_new": "Miami Heat"})
    assert not answer["subgraph"]
    assert "no node 'Miami Heat'" in answer["no_subgraph"]


@pytest.mark.slow
def test_edits_are_computed_one_at_a_time(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, method = 0, 0, server.workshop.method
    update = method.edit

    def watched(*arguments: Any, **options: Any) -> Patch:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.1)
        running -= 1
        return update(*arguments, **options)

    monkeypatch.setattr(method, "edit", watched)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: server.post("/api/try", EDIT), range(3)))
    assert [code for code, _ in answers] == [200] * 3
    assert most == 1
    assert len({answer["id"] for _, answer in answers}) == 3
    outcomes = [answer["outcomes"] for _, answer in answers]
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_failed_edit_leaves_the_model_unedited(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights()

    def broken(*arguments: Any, **options: Any) -> Patch:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.workshop.method, "edit", broken)
    code, text, headers = server.send("POST", "/api/try", json.dumps(EDIT), {"Content-Type": "application/json"})
    problem = json.loads(text)
    assert (code, problem["kind"]) == (500, "RuntimeError")
    assert "a bug" in problem["message"]
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    monkeypatch.undo()
    assert server.post("/api/try", EDIT)[0] == 200  # the lock is free again
    assert all(torch.equal(old, new) for old, new in zip(before, weights(), strict=True))


def test_added_edit_is_in_the_ledger_for_the_next_edit(tmp_path: Path) -> None:
    with served(workshop(tmp_path / "ledger", graph=False)) as server:
        assert json.loads(server.get("/api/ledger")[1])["edits"] == []
        _, first = server.post("/api/try", EDIT)
        code, ledger = server.post("/api/ledger", {"id": first["id"]})
        assert code == 200
        assert [(edit["name"], edit["state"], edit["target"]) for edit in ledger["edits"]] == [
            ("lebron-james-1", "active", "Los Angeles Lakers")
        ]
        _, second = server.post("/api/try", {**EDIT, "target_new": "Miami Heat", "on_ledger": True})
        assert second["outcomes"][0]["before"] == first["outcomes"][0]["after"]
        _, ledger = server.post("/api/ledger", {"id": second["id"], "force": True})
        assert "keep one of them" in ledger["edits"][0]["conflicts"][0]
        assert json.loads(server.get("/api/state")[1])["active"] == 2
    assert [step.after for step in Ledger.open(tmp_path / "ledger").steps] == [(), (1,)]


@pytest.mark.slow
def test_disabling_edit_is_added_only_with_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise DisablingEditError("use --force", ["its change is 3 times as large as the weight"])

    monkeypatch.setattr("kg_edit.ship.ledger.ledger.SeenEdits.add_checked", refuse)
    with served(workshop(tmp_path / "ledger", graph=False)) as server:
        _, tried = server.post("/api/try", EDIT)
        code, problem = server.post("/api/ledger", {"id": tried["id"]})
        assert (code, problem["kind"]) == (422, "DisablingEditError")
        assert "3 times as large" in problem["message"] and "--force" not in problem["message"]
        assert server.post("/api/ledger", {"id": tried["id"], "force": True})[1]["active"] == 1


@pytest.mark.slow
def test_edit_is_added_once_for_repeated_requests(tmp_path: Path) -> None:
    with served(workshop(tmp_path / "ledger", graph=False)) as server:
        _, tried = server.post("/api/try", EDIT)
        request = {"id": tried["id"], "force": True}
        with ThreadPoolExecutor(2) as pool:  # a double click
            answers = list(pool.map(lambda _: server.post("/api/ledger", request), range(2)))
        assert [(code, ledger["active"]) for code, ledger in answers] == [(200, 1)] * 2
        ledger = Ledger.open(tmp_path / "ledger")
        assert len(ledger.events) == 1
        ledger.undo()
        assert server.post("/api/ledger", request)[1]["active"] == 1  # it is not active any more
        assert len(Ledger.open(tmp_path / "ledger").steps) == 1


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["an event", "no log", "no folder", "a changed patch"])
def test_ledger_that_is_broken_while_it_is_served_is_the_servers_fault(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "ledger"
    tried = workshop(folder)
    tried.add(tried.try_edit(TryRequest(**EDIT)).id, force=True)
    with served(workshop(folder)) as running:
        assert running.get("/api/ledger")[0] == 200
        match broken:
            case "an event":
                (folder / "ledger.jsonl").write_text("{}\n")
            case "no log":  # the unedited model was served
                (folder / "ledger.jsonl").unlink()
            case "no folder":  # and here
                shutil.rmtree(folder)
            case _:
                (folder / "patches" / "0001.safetensors").write_bytes(b"")
        answers = [running.post("/v1/completions", {"prompt": "The river"})]
        answers += [running.post("/api/ledger/undo", {"event": 1})] * (broken != "a changed patch")
    (code, answer), *others = answers
    assert (code, answer["error"]["type"]) == (500, "server_error")
    assert "from a backup" in answer["error"]["message"]
    assert [(code, problem["kind"]) for code, problem in others] == [(500, "DamagedLedgerError")] * len(others)


def test_edit_that_is_active_again_is_not_added_twice(tmp_path: Path) -> None:
    desk = workshop(tmp_path / "ledger", graph=False)
    tried = desk.try_edit(TryRequest(**EDIT))
    ledger = Ledger.open(tmp_path / "ledger")
    assert desk.add(tried.id, force=True).active == 1
    ledger.remove(["lebron-james-1"])
    assert desk.add(tried.id, force=True).active == 1  # as a second step
    ledger.undo()
    ledger.undo()  # the first one is active again
    assert [step.number for step in ledger.steps] == [1]
    assert desk.add(tried.id, force=True).active == 1


def test_edit_is_removed_and_that_is_undone(tmp_path: Path) -> None:
    with served(workshop(tmp_path / "ledger", graph=False)) as server:
        _, tried = server.post("/api/try", EDIT)
        _, ledger = server.post("/api/ledger", {"id": tried["id"], "force": True})
        assert ledger["last_event"] == {"number": 1, "what": "the addition of lebron-james-1"}
        code, ledger = server.post("/api/ledger/remove", {"name": "lebron-james-1"})
        assert (code, ledger["active"], ledger["edits"][0]["state"]) == (200, 0, "removed")
        assert ledger["last_event"] == {"number": 2, "what": "the removal of lebron-james-1"}
        code, problem = server.post("/api/ledger/undo", {"event": 1})
        assert (code, problem["kind"]) == (422, "LedgerChangedError")
        assert server.post("/api/ledger/undo", {"event": 2})[1]["active"] == 1
        code, ledger = server.post("/api/ledger/undo", {"event": 1})
        assert (ledger["edits"], ledger["last_event"]) == ([], None)
        assert server.post("/api/ledger/remove", {"name": "lebron-james-1"})[0] == 404


@pytest.mark.slow
def test_try_says_why_its_edge_is_read_alone() -> None:
    """Only the log said so, and only of the first edit."""
    with served(workshop(method="glame")) as running:
        for outside in ("Miami", "Miami Heat"):
            code, answer = running.post("/api/try", {**EDIT, "relation": "team", "target_new": outside})
            assert code == 200, answer
            why = f"the graph has no statement of o* ({outside}), so glame reads s -r-> o* alone"
            assert (answer["alone"], answer["subgraph"]) == (why, True)
        answer = running.post("/api/try", {**EDIT, "relation": "team"})[1]
        assert answer["alone"] is None


def test_entity_that_the_graph_lacks_is_a_fault_of_its_field() -> None:
    unknown = problem_of(UnknownLabelError("Lakres", "toy.nt"))
    assert list(unknown.fields) == ["target_new"] and "--graph" not in unknown.message
    several = problem_of(AmbiguousLabelError("Paris", ["Q90", "Q167646"], ["Q90 (city)", "Q167646 (hero)"]))
    assert "Q167646 (hero)" in several.fields["target_new_id"]


@pytest.mark.slow
def test_edit_on_a_changed_ledger_is_not_added(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    desk = workshop(tmp_path / "ledger", graph=False)
    requests = {"EDIT": EDIT, "other": {**EDIT, "subject": "Dwyane Wade", "target_new": "Miami Heat"}}
    edits = [TryRequest(**fields).edit(name) for name, fields in requests.items()]
    ledger.add(desk.method.edit(edits), force=True)
    alone, on_top = (desk.try_edit(TryRequest(**EDIT, on_ledger=on)) for on in (False, True))
    ledger.remove(["other"])  # by another process: the step is the same, its file is not
    assert [step.number for step in ledger.steps] == [1]
    for force in (False, True):
        with pytest.raises(PatchError, match="the ledger changed since the edit was tried; try the edit again"):
            desk.add(on_top.id, force=force)
    assert len(ledger.steps) == 1
    ledger.undo()
    assert desk.add(on_top.id, force=True).active == 3  # all is as it was
    assert desk.add(alone.id, force=True).active == 4  # of the unedited model, whatever the ledger holds
    late = desk.try_edit(TryRequest(**EDIT, on_ledger=True))
    ledger.undo()
    with pytest.raises(LedgerChangedError):
        desk.add(late.id, force=True)


@pytest.mark.slow
def test_try_is_on_one_state_of_a_ledger_that_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, used = workshop(tmp_path / "ledger", graph=False), list[Patch]()
    desk.add(desk.try_edit(TryRequest(**EDIT)).id, force=True)
    patch = Listing.patch

    def changed_meanwhile(ledger: Listing) -> Patch:
        Ledger.open(tmp_path / "ledger").undo()
        used.append(patch.fget(ledger))  # type: ignore[attr-defined]
        return used[0]

    monkeypatch.setattr(Listing, "patch", property(changed_meanwhile))
    tried = desk.try_edit(TryRequest(**EDIT, on_ledger=True))
    assert len(used[0].edits) == 1, "of the steps that the try records"
    with pytest.raises(LedgerChangedError, match="try the edit again"):
        desk.add(tried.id, force=True)


@pytest.mark.slow
def test_id_of_a_try_is_secret(server: Served) -> None:
    ids = [server.post("/api/try", EDIT)[1]["id"] for _ in range(2)]
    chances = [re.fullmatch(r"lebron-james-\d+-([0-9a-f]{16})", name) for name in ids]
    assert len({match[1] for match in chances if match}) == 2
    problem = server.post("/api/ledger", {"id": ids[0][:-1]})[1]
    assert problem["kind"] == "UnknownNameError" and not any(name in problem["message"] for name in ids)


@pytest.mark.parametrize("method", keep_first(["grace", "definition", "ft-m", "glame"], keep=2))
def test_try_works_with_patches_of_every_kind(method: str) -> None:
    before, desk = weights(), workshop(method=method)
    answer = desk.try_edit(TryRequest(**EDIT, target_new_id="Q2", probes=(PromptToTry(prompt="The river"),)))
    assert [outcome.kind for outcome in answer.outcomes] == ["edit", "probe"]
    assert answer.outcomes[0].chances[0].before != answer.outcomes[0].chances[0].after
    assert answer.subgraph
    assert all(torch.equal(old, new) for old, new in zip(before, weights(), strict=True))


@pytest.mark.slow
def test_missing_ledger_or_graph_is_named_with_its_option() -> None:
    with served(workshop(graph=False)) as server:
        _, answer = server.post("/api/try", EDIT)
        code, problem = server.post("/api/ledger", {"id": answer["id"]})
        assert code == 422
        assert "--ledger FOLDER" in problem["message"]
        assert "--graph" in answer["no_subgraph"]


@pytest.mark.slow
def test_request_during_which_the_server_is_stopped_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C uvicorn cancels it, which was a traceback of sixty lines and an error 500."""
    desk, begun = workshop(), threading.Event()

    def slow(_: TryRequest) -> None:
        begun.set()
        time.sleep(3)

    monkeypatch.setattr(desk, "try_edit", slow)
    with ThreadPoolExecutor(1) as pool, listening("127.0.0.1", 0) as listener:
        served_at = Served(f"http://127.0.0.1:{listener.getsockname()[1]}", desk)
        with answering(make_app(desk), listener, end_s=1):
            request = pool.submit(served_at.post, "/api/try", EDIT)
            assert begun.wait(30)
        code, answer = request.result(30)
    assert (code, answer["kind"]) == (503, "StoppedError")


@pytest.mark.slow
def test_serve_runs_until_it_is_stopped(
    kg_edit: Run, tiny_folder: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: dict[str, Any] = {}

    def asked_once(running: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with answering(running.config.app, sockets[0]):
            served_at = Served(f"http://127.0.0.1:{sockets[0].getsockname()[1]}", server.workshop)
            state.update(json.loads(served_at.get("/api/state")[1]))
        raise KeyboardInterrupt  # as uvicorn does after Ctrl-C

    monkeypatch.setattr(uvicorn.Server, "run", asked_once)
    short = ("--corpus", "self", "--set", "covariance.tokens=300", "--set", "context_lengths=[[4,1]]")
    options = (*short, "--graph", "graph.tsv", "--ledger", "led")
    result = kg_edit("serve", "--model", tiny_folder, "--method", "rome", "--layer", "1", "--port", "0", *options)
    assert result.code == 0, result.err
    assert "is up; stop it with Ctrl-C" in result.out
    assert result.out.endswith("stopped\n")
    assert (state["method"], state["ledger"], state["settings"]["layer"]) == ("rome", "led", 1)
    assert "led: a new ledger, without edits" in result.err
    assert state["example"]["subject"] == "The Eiffel Tower"


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.5, 5.0])
def test_serve_ends_at_once_during_a_long_edit(tiny_folder: Path, wait_s: float) -> None:
    """It waited for the end of the edit; a second Ctrl-C was a traceback, and an abort after "stopped"."""
    settings = ("covariance.corpus=self", "covariance.tokens=300", "steps=1000000", "stop_below=0")
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "kg_edit", "serve", "--model", tiny_folder, "--method", "rome", "--port", "0"]
    with (
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        ThreadPoolExecutor(1) as pool,
    ):
        assert process.stdout and process.stderr
        url = process.stdout.readline().split(" is up")[0]
        request = pool.submit(Served(url.rstrip("/"), workshop()).post, "/api/try", EDIT)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        time.sleep(wait_s)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stdout.read() == "stopped\n"
        assert not re.search("Traceback|ERROR", process.stderr.read())
        assert request.result(30)[1]["kind"] == "StoppedError"


def test_taken_port_is_refused_before_the_model_is_loaded(kg_edit: Run, server: Served) -> None:
    port = server.url.rpartition(":")[2]
    result = kg_edit("serve", "--model", "no-such-model", "--port", port)
    assert result.code == 2
    assert f"can't listen at 127.0.0.1:{port}" in result.err
    wrong = kg_edit("serve", "--method", "glame", "--graph", "extrct", "--port", "0")
    assert "did you mean 'extract'" in wrong.err
    wrong = kg_edit("serve", "--method", "rome", "--ledger", "no/ledger", "--port", "0")
    assert wrong.code == 2 and "there is no ledger at no/ledger" in wrong.err


@pytest.mark.slow
def test_chat_is_answered_in_the_chat_template(tmp_path: Path) -> None:
    desk = workshop(tmp_path / "ledger")
    desk.model = chatting()
    turns = [{"role": "user", "content": "Who plays for Miami Heat?"}]
    expected = reply_in_chat(desk.model, turns, tokens=5)
    with served(desk) as running:
        code, answer = running.post("/v1/chat/completions", {"messages": turns, "max_tokens": 5, "top_p": 0.9})
        assert code == 200, answer
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected.text}
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"] == {
            "prompt_tokens": expected.read,
            "completion_tokens": 5,
            "total_tokens": expected.read + 5,
        }
        state = json.loads(running.get("/api/state")[1])
    assert state["chat"] is True


def test_chat_needs_a_chat_template(server: Served) -> None:
    code, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi."}]})
    assert code == 400 and "chat template" in answer["error"]["message"]
    code, problem = server.post("/api/try", {**EDIT, "chat": True})
    assert (code, problem["kind"]) == (422, "ChatTemplateError")
