"""Every command of the README runs as it stands there, in its order, in a folder with the files that it names.

A tiny model takes the place of smollm2-135m, and a server on loopback that of Wikidata's endpoint.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.kg_edit.command_line import Result, Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.datasets.rows import COUNTERFACT, MQUAKE, QUESTION
from tests.test_readme import README, blocks
from tests.wikidata_cache.wikidata_helpers import Server
from wikidata_cache import cli, packaged_extract
from wikidata_cache.sources.graph_files import load_files

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

MAKEFILE = (Path(__file__).resolve().parents[1] / "Makefile").read_text(encoding="utf-8")
FINDS = {  # exit codes that say what was found, beside 0
    "kg-edit patch check": {1},  # what a tiny model does not say
    "kg-edit data check": {1},  # faults of the file
    "wikidata-cache link": {3},  # no candidate clearly leads
}


def commands() -> Iterator[str]:
    """The lines of all blocks without a language that are commands, without their comments."""
    for block in blocks(""):
        yield from (line.partition("  #")[0].strip() for line in block.splitlines() if not line.startswith("{"))


def test_every_command_is_a_known_one() -> None:
    """So that a line of a new kind is no line that is left out."""
    starts = {" ".join(command.split()[:1]) for command in commands() if command}
    assert starts == {"make", "source", "kg-edit", "wikidata-cache"}
    targets = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert [target for target in targets if f"\n{target}:" not in MAKEFILE] == []


@pytest.fixture
def inputs(place: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files that the commands name, made small."""
    (row,) = [block for block in blocks("") if block.startswith("{")]
    demo = (files("kg_edit") / "data" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    lebron = {**json.loads(demo[1]), "id": "lebron"}
    (place / "edits.jsonl").write_text(f"{row.strip()}\n{json.dumps(lebron)}\n", encoding="utf-8")
    (place / "mine.jsonl").write_text(f"{demo[0]}\n", encoding="utf-8")
    (place / "dev.json").write_text(json.dumps([COUNTERFACT | {"portability": QUESTION}]))
    for name in ("MQuAKE-CF-3k.json", "MQuAKE-CF-3k-v2.json"):
        (place / name).write_text(json.dumps([MQUAKE]))
    shutil.copyfile(packaged_extract(), place / "wikidata.nt.gz")
    for user in ("models.language_model", "export.merged_model"):
        monkeypatch.setattr(f"kg_edit.{user}.resolve_model", _stand_in(tiny_folder))
    monkeypatch.setattr("kg_edit.patches.guards.SHARE", 1e9)  # what a random model's weights are is no measure
    monkeypatch.setattr("kg_edit.cli.serve.run", lambda app, place: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    server = Server(load_files([packaged_extract()])[0])
    monkeypatch.setattr("wikidata_cache.cli.fetch.WIKIDATA", server.url)
    yield place
    server.close()


def _stand_in(folder: Path) -> object:
    return lambda name: str(folder) if name == "smollm2-135m" else name


def wikidata_cache(arguments: list[str]) -> Result:
    done = CliRunner().invoke(cli.app, arguments)
    return Result(done.exit_code, done.output, repr(done.exception))


@pytest.mark.slow
def test_every_command_runs_as_it_stands(inputs: Path, kg_edit: Run) -> None:
    ran = []
    for command in commands():
        tool, *arguments = shlex.split(command) if command else [""]
        if tool not in ("kg-edit", "wikidata-cache"):
            continue
        if command.startswith("kg-edit compare"):  # the second run that it compares: the first line with another method
            first = next(one for one in ran if one.startswith("kg-edit evaluate"))
            other = [part.replace("rome", "glame") for part in shlex.split(first)[1:]]
            assert kg_edit(*other).code == 0
        result = kg_edit(*arguments) if tool == "kg-edit" else wikidata_cache(arguments)
        allowed = {0} | next((codes for start, codes in FINDS.items() if command.startswith(start)), set())
        assert result.code in allowed, f"{command}\n{result.out}\n{result.err}"
        ran.append(command)
    assert len(ran) >= 18
    for made in ("out/patch.safetensors", "out/report.md", "adapter", "comparison.md", "mine.json", "graph.html", "wd"):
        assert (inputs / made).exists(), made


def test_commands_within_a_sentence_are_real_ones(kg_edit: Run) -> None:
    """`kg-edit plan --model …` and the like: the command is there; what it does is tested where it is."""
    named = set(re.findall(r"`kg-edit ([a-z-]+)(?: ([a-z]+))?", README.replace("\n", " ")))
    for name, sub in sorted(named):
        words = (name, sub) if name in ("patch", "data", "mend", "glame-net", "covariance") and sub else (name,)
        assert kg_edit(*words, "--help").code == 0, words
