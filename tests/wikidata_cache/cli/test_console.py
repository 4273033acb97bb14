"""Printed labels do not control the terminal, and every kind of error has its own exit code."""

import importlib
import json
import logging
from functools import reduce
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kg_common.terminal import harmless, one_line
from tests.wikidata_cache.api_server import ApiServer
from tests.wikidata_cache.fault_server import status
from tests.wikidata_cache.linking.test_online import entity_body
from tests.wikidata_cache.wikidata_helpers import Server, run_main, save_facts
from wikidata_cache import cli
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.cli.console import HarmlessFormatter
from wikidata_cache.sources.source import Fact

EVIL = "\x1b]0;owned\x07\x1b[2J\u202eLos\x9bAngeles\ud800\n[red]x[/b]"
runner = CliRunner()


@pytest.fixture
def evil(tmp_path: Path) -> str:
    """A cache of labels that control terminals, as another program may have written it."""
    facts = [
        Fact("label", "Q65", [EVIL, "en"]),
        Fact("description", "Q65", EVIL),
        Fact("out", "Q65", [["P31", "Q5"]]),
        Fact("types", "Q5", []),
        Fact("types", "Q65", ["Q5"]),
        Fact("label", "Q5", [EVIL, "en"]),
        Fact("label", "P31", [EVIL, "en"]),
        Fact("label", "P19", [EVIL, "en"]),
        Fact("description", "P19", EVIL),
        Fact("out", "P19", []),
        Fact("redirect", "Q65", None),
        Fact("named", "Q65", []),
    ]
    return str(save_facts(tmp_path / "evil.sqlite", *facts).path)


@pytest.mark.parametrize(
    "command",
    [
        ["labels", "Q65", "P19"],
        ["show", "Q65"],
        ["show", "P19"],
        ["link", "Q65"],
        ["link", "Q65", "--json"],
        ["find", EVIL],
        ["link", EVIL],
    ],
    ids=lambda command: " ".join(command)[:15],
)
def test_labels_do_not_control_the_terminal(command: list[str], evil: str) -> None:
    result = runner.invoke(cli.app, [*command, "--offline", "--cache", evil])
    assert result.exit_code in (0, 1, 3) and (result.exception is None or isinstance(result.exception, SystemExit))
    output = result.output
    assert all(letter.isprintable() or letter in "\n\t" for letter in output)
    if "--json" in command:
        assert json.loads(output)["candidates"][0]["label"] == EVIL
    elif command[0] == "labels":
        assert output.splitlines()[0].split("\t")[0] == "Q65" and len(output.splitlines()) == 2
    elif command[0] == "show":
        assert "[red]x[/b]" in output  # as it is written, and no markup


def test_harmless_text_is_unchanged() -> None:
    for text in ("Los Ángeles\t名前\n", "عربى", "a\u200db", "🏳️‍🌈"):
        assert harmless(text) == text
    assert one_line("a\nb\tc") == "a b c"


def test_log_is_harmless() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "row %s", ("\x1b[2Jgone",), None)
    assert HarmlessFormatter("%(message)s").format(record) == "row  [2Jgone"


def test_malformed_answer_has_exit_code_2() -> None:
    body = entity_body(labels=7)
    with ApiServer() as api:
        api.fault = status(200, body, kind="application/json")
        code, error = run_main("link", "Q30", "--online", "--api", api.url)
    assert code == 2 and "bad answer" in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_fault_has_exit_code_70(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("wikidata_cache.cache.WikidataCache.labels", broken)
    assert run_main("labels", "Q65")[0] == 70


@pytest.mark.parametrize(
    ("command", "target", "hint"),
    [
        (
            ["load", "x.nt", "--store", "s"],
            "wikidata_cache.stores.load:load",
            "; run the same command again to continue",
        ),
        (["import", "x.jsonl.gz"], "wikidata_cache.cli.app:import_snapshot", "; the cache is unchanged"),
        (["export", "x.jsonl.gz"], "wikidata_cache.cli.app:export_snapshot", "; nothing was written"),
        (["show", "Q65"], "wikidata_cache.cache:WikidataCache.neighbourhood", ""),
        (["labels", "Q65"], "wikidata_cache.cache:WikidataCache.labels", ""),
        (["find", "load"], "wikidata_cache.cache:WikidataCache.find", ""),
    ],
)
def test_ctrl_c_ends_every_command_with_one_line(
    command: list[str], target: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    module, _, path = target.partition(":")  # the package has an `app` of its own, so the module is imported by name
    *holders, name = path.split(".")
    monkeypatch.setattr(reduce(getattr, holders, importlib.import_module(module)), name, interrupted)
    code, error = run_main(*command)
    assert code == 130 and error.splitlines()[-1] == f"stopped{hint}"


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "replaced"])
def test_deleted_cache_is_an_error(server: Server, tmp_path: Path, again: bool) -> None:
    path = tmp_path / "cache.sqlite"

    def deleting(handler: object, body: bytes) -> bool:
        if path.exists() and len(server.requests) == 1:
            for file in tmp_path.glob("cache.sqlite*"):
                file.unlink() if file.is_file() else None
            if again:
                path.touch()
        return False

    server.fault = deleting
    command = ["fetch", "--kind", "label", "Q65", "--endpoint", server.url, "--cache", path]
    code, error = run_main(*command)
    assert code == 2 and "was deleted or replaced while it was in use" in error
    assert run_main(*command)[0] == 0
    assert AnswerStore(path).look_up("wikidata", "label", ["Q65"]) == {"Q65": ["Los Angeles", "en"]}
