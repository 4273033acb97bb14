"""Every command of the README, of docs/commands.md and of the tutorials runs as written, in its order.

Each page runs in a folder with the files that it shows or names. A tiny model takes the place of smollm2-135m, another
one that of the larger models, and a server on loopback that of Wikidata and of `oxigraph serve-read-only`.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from kg_edit.ship.cli.serve import listening
from tests.kg_edit.command_line import Result, Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.evaluation.datasets.rows import COUNTERFACT, MQUAKE, QUESTION
from tests.kg_edit.ship.app.serving import answering
from tests.kg_edit.tiny import CHAT_TEMPLATE, save_larger
from tests.pages import COMMANDS, LANGUAGES, README, ROOT, TUTORIALS, DocPage
from tests.wikidata_cache.wikidata_helpers import Server
from wikidata_cache import cli, packaged_extract
from wikidata_cache.sources.graph_files import load_files

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [README, COMMANDS, LANGUAGES, *TUTORIALS]
FINDS = {  # exit codes that say what was found, beside 0
    "kg-edit patch check": {1},  # what a tiny model does not say
    "kg-edit patch rebase": {1},
    "kg-edit patch export corrections/": {2},  # the same: --check refuses
    "kg-edit data check": {1},  # faults of the file
    "kg-edit data ripples": {1},  # a tiny model knows no other hop
    "wikidata-cache link": {3},  # no candidate clearly leads
}
SHIPPING = (["patch", "export"], ["patch", "merge"], ["patch", "push"])
MADE = {  # a page: files that its commands leave
    "README": ("out/patch.safetensors", "out/report.md", "out/report.html"),
    "commands": ("out/patch.safetensors", "adapter", "comparison.md", "mine.json", "graph.html", "wd"),
    "languages": ("capitals/report.html", "capitals-scored/summary.json"),
    "first-edit": ("first/report.md",),
    "first-hour-ko": ("demo/report.md", "korean/report.html", "korean-ledger", "lebron/report.md"),
    "first-hour-zh": ("demo/report.md", "chinese/report.html", "chinese-ledger", "lebron/report.md"),
    "from-python": ("python.safetensors", "scored/rome/summary.json", "table.tex", "table.csv", "python-ledger"),
    "private-graph": ("heron/report.md", "heron.safetensors"),
    "offline-wikidata": ("graph.html", "again.jsonl.gz", "edited/report.md", "chinese.jsonl.gz"),
    "honest-comparison": ("comparison.md", "control.md"),
    "larger-models": ("models.md", "every-eval-ever/edited.json"),
    "repeat-a-row": ("table.md", "table.tex", "runs/glame/summary.json"),
    "update-a-model": ("changed.jsonl", "updated/report.md"),
    "correct-a-fact": ("palace/report.md", "corrections"),
    "ship-an-edit": (
        *("merged/model.safetensors", "adapter/adapter_model.safetensors", "adapter-gguf"),
        *("next/model.safetensors", "next-ledger/before/ledger.jsonl"),
    ),
}
BEFORE = {"ship-an-edit": "first-edit"}  # a page that uses another one's files
GGUF = "models/qwen2.5-coder-0.5b.gguf"  # that the first hours in Korean and Chinese download
LARGER = ("EleutherAI/gpt-j-6b", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B")
SERVED = "http://127.0.0.1:8000"  # that `kg-edit serve` answers at
PORT = "http://127.0.0.1:7878/query"  # that `oxigraph serve-read-only` answers at


def stem(page: DocPage) -> str:
    return Path(page.name).stem


@pytest.mark.parametrize("page", PAGES, ids=stem)
def test_page_has_only_known_commands(page: DocPage) -> None:
    """So that a line of a new kind is no line that is left out."""
    starts = {command.split()[0] for command in page.commands()}
    assert starts <= {"make", "source", "pip", "python", "kg-edit", "wikidata-cache", "oxigraph"}
    targets = {command.split()[1] for command in page.commands() if command.startswith("make ")}
    assert [target for target in targets if f"\n{target}:" not in MAKEFILE] == []
    assert set(MADE) == {stem(doc) for doc in PAGES}


@pytest.fixture
def server() -> Iterator[Server]:
    """An endpoint with the packaged extract."""
    with Server(load_files([packaged_extract()])[0]) as endpoint:
        yield endpoint


@pytest.fixture
def inputs(place: Path, tiny_folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the commands name and the page does not show, made small."""
    (row,) = README.blocks("json")
    demo = (files("kg_edit") / "data" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    lebron = {**json.loads(demo[1]), "id": "lebron"}
    (place / "edits.jsonl").write_text(f"{row.text.strip()}\n{json.dumps(lebron)}\n", encoding="utf-8")
    (place / "mine.jsonl").write_text(f"{demo[1]}\n", encoding="utf-8")  # its subject is in the extract
    (place / "prompts.txt").write_text("The capital of Italy is\tRome\n")
    (place / "dev.json").write_text(json.dumps([COUNTERFACT | {"portability": QUESTION}]))
    for name in ("MQuAKE-CF-3k.json", "MQuAKE-CF-3k-v2.json"):
        (place / name).write_text(json.dumps([MQUAKE]))
    shutil.copyfile(packaged_extract(), place / "wikidata.nt.gz")
    shutil.copytree(tiny_folder, place / "tiny")
    (place / "tiny" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    save_larger(place / "larger")
    for user in ("models.language_model", "ship.export.merged_model", "ship.checkpoint.stored"):
        monkeypatch.setattr(f"kg_edit.{user}.resolve_model", _stand_in(place))
    monkeypatch.setattr("kg_edit.ship.export.layout.files_at_hand", lambda name: Path(_stand_in(place)(name)))
    monkeypatch.setattr("kg_edit.patches.guards.SHARE", 1e9)  # what a random model's weights are is no measure
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr("wikidata_cache.cli.fetch.WIKIDATA", (server.url,))
    return place


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The address at which the page's `kg-edit serve` answers until the end of the page, on a free port."""
    addresses: list[str] = []
    with ExitStack() as stack:

        def serve(app: FastAPI, _: socket.socket) -> None:
            listener = stack.enter_context(listening("127.0.0.1", 0))
            stack.enter_context(answering(app, listener))
            addresses.append(f"http://127.0.0.1:{listener.getsockname()[1]}")

        monkeypatch.setattr("kg_edit.ship.cli.serve.run", serve)
        yield addresses


def _stand_in(place: Path) -> Callable[[str], str]:
    models = {
        "smollm2-135m": str(place / "tiny"),
        **dict.fromkeys(LARGER, str(place / "larger")),
    }
    return lambda name: models.get(str(name), name)


Shell = Callable[[str], Result | None]


@pytest.fixture
def shell(kg_edit: Run, server: Server, served: list[str]) -> Shell:
    """A command of a page; None where it is not run here."""

    def run(command: str) -> Result | None:
        tool, *arguments = shlex.split(command.replace(GGUF, "smollm2-135m"))
        if tool == "python":
            runpy.run_path(arguments[0], run_name="__main__")
            return Result(0, "", "")
        if arguments[:2] in SHIPPING and "--check" not in arguments:
            arguments.append("--force")  # a tiny model generates no target, and failed edits are not shipped
        if tool == "kg-edit":
            return kg_edit(*(served[-1] if part == SERVED else part for part in arguments))
        if tool == "wikidata-cache":
            result = CliRunner().invoke(cli.app, [server.url if part == PORT else part for part in arguments])
            return Result(result.exit_code, result.output, repr(result.exception))
        return None

    return run


def follow(page: DocPage, shell: Shell) -> list[str]:
    """Write the page's files and run its commands; those that ran."""
    for block in page.blocks():
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
    ran: list[str] = []
    for command in page.commands():
        if page is COMMANDS and command.startswith("kg-edit compare"):  # the second run that it compares
            first = next(earlier for earlier in ran if earlier.startswith("kg-edit evaluate"))
            assert (other := shell(first.replace("rome", "glame"))) and other.code == 0
        if (result := shell(command)) is None:
            continue
        allowed = {0} | next((codes for start, codes in FINDS.items() if command.startswith(start)), set())
        assert result.code in allowed, f"{command}\n{result.out}\n{result.err}"
        ran.append(command)
    return ran


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=stem)
def test_page_runs_as_written(page: DocPage, inputs: Path, shell: Shell) -> None:
    before = [other for other in PAGES if stem(other) == BEFORE.get(stem(page))]
    ran = [command for doc in (*before, page) for command in follow(doc, shell)]
    assert len(ran) >= (18 if page is COMMANDS else 1)
    assert [name for name in MADE[stem(page)] if not (inputs / name).exists()] == []


@pytest.mark.parametrize("page", [README, COMMANDS, DocPage("docs/models.md"), DocPage("docs/limits.md")], ids=stem)
def test_command_in_a_sentence_exists(page: DocPage, kg_edit: Run) -> None:
    """`kg-edit plan --model …` and the like: the command is there; what it does is tested where it is."""
    named = set(re.findall(r"`kg-edit ([a-z-]+)(?: ([a-z]+))?", page.text.replace("\n", " ")))
    for name, sub in sorted(named):
        words = (
            (name, sub)
            if name in ("patch", "data", "mend", "ke", "malmen", "rledit", "serac", "covariance") and sub
            else (name,)
        )
        assert kg_edit(*words, "--help").code == 0, words
