"""What version 0.1.0 wrote is still read, resumed and added to; its files are in tests/data/release_0_1_0."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from kg_edit import __version__
from kg_edit.covariance.files import read_manifest
from kg_edit.covariance.store import stored_covariances
from kg_edit.edits.files import read_edits
from kg_edit.evaluation.summary import Summary
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.probes import ReportRow
from kg_edit.reports.report import before_and_after
from kg_edit.ship.ledger import Ledger
from tests.data.release_0_1_0.make import HERE, MODEL, ROME, SEQUENCE, SHARDS, SINGLE
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, content, kg_edit
from tests.wikidata_cache.wikidata_helpers import Server
from wikidata_cache.cli.app import app
from wikidata_cache.sources.graph_files import load_files

__all__ = ["kg_edit"]  # a fixture
EDITS = ("james", "france", "hughes")
AS_THEN = ("--set", "remember=0")  # the default since is 1
SETTINGS_OF_THE_USER = ("KG_OFFLINE", "KG_CACHE", "KG_PACKS", "KG_GRAPH", "KG_EDIT_CONTACT")
EVALUATIONS = pytest.mark.parametrize(
    ("name", "options"), keep_first([("single", SINGLE), ("sequence", SEQUENCE)], unpack=True)
)
PATCHES = pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("edit/patch.safetensors", "weights"),
        ("memit.safetensors", "weights"),
        ("grace.safetensors", "adapter"),
        ("ike.safetensors", "prompt"),
    ],
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all files, as the current folder."""
    folder = tmp_path / "made"
    shutil.copytree(HERE, folder)
    for run in folder.glob("*/run.json"):
        as_of_this_version(run)
    for name in SETTINGS_OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KG_EDIT_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(place: Path) -> LanguageModel:
    return LanguageModel.load("tiny-model", device="cpu")


@pytest.fixture
def endpoint(place: Path) -> Iterator[Server]:
    with Server(load_files([place / "graph.tsv"])[0]) as server:
        yield server


def as_of_this_version(run: Path) -> None:
    """A run resumes only in the version that began it, because scores may change; here the files are tested."""
    text = run.read_text()
    assert '"kg_edit": "0.1.0"' in text
    run.write_text(text.replace('"kg_edit": "0.1.0"', f'"kg_edit": "{__version__}"'))


def wikidata(*arguments: str | Path) -> str:
    """`wikidata-cache` with arguments: what it says."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


def done(run: Run, *arguments: str | Path) -> str:
    """`kg-edit` with arguments: what it says."""
    result = run(*arguments)
    assert result.code == 0, result.err
    return result.out


def near(numbers: Any) -> Any:
    """The same numbers, on another machine."""
    return pytest.approx(numbers, rel=1e-3, abs=1e-4)


def ids(patch: Patch) -> tuple[str, ...]:
    return tuple(record["edit"]["id"] for record in patch.edits)


def columns(patch: Patch, edits: int) -> dict[str, torch.Tensor]:
    """Both factors of each weight's change, for the first so many edits."""
    assert isinstance(patch, WeightPatch)
    sides = {(name, side): getattr(pair, side) for name, pair in patch.factors.items() for side in ("left", "right")}
    return {f"{name}.{side}": factor[:, :edits] for (name, side), factor in sides.items()}


def parts(file: Path) -> tuple[dict[str, str], dict[str, list[float]]]:
    """A file of tensors: what it says of them, and all their numbers."""
    with safe_open(file, framework="pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name).tolist() for name in opened.keys()}  # noqa: SIM118


def shown(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without locks."""
    return {name: text for name, text in (content(folder) or {}).items() if Path(name).name[0] != "."}


@PATCHES
def test_patch_is_read_and_written_back(file: str, kind: str, place: Path, model: LanguageModel) -> None:
    patch = Patch.load(file)
    assert (patch.kind, ids(patch), patch.fingerprint) == (kind, EDITS, model.fingerprint)
    rows = before_and_after(model, patch, read_edits(place / "edits.jsonl").edits, progress=False)
    assert any(row.unedited != row.edited for row in rows)
    assert parts(patch.save(place / "again.safetensors")) == parts(place / file)


def test_patch_has_the_same_effect(place: Path, model: LanguageModel) -> None:
    patch, edits = Patch.load("edit/patch.safetensors"), read_edits(place / "edits.jsonl").edits
    rows = before_and_after(model, patch, edits, progress=False)
    kept = [ReportRow.model_validate_json(line) for line in (place / "edit" / "records.jsonl").read_text().splitlines()]
    assert [(row.edit, row.probe) for row in rows] == [(row.edit, row.probe) for row in kept]
    assert [row.edited.nats for row in rows] == near([row.edited.nats for row in kept])


def test_patches_of_several_kinds_add_up(model: LanguageModel, kg_edit: Run) -> None:
    total = Patch.load("edit/patch.safetensors") + Patch.load("memit.safetensors") + Patch.load("ike.safetensors")
    with total.applied(model):
        assert ids(total) == 3 * EDITS  # it fits the model
    assert "3 edits succeed" in kg_edit("patch", "check", "memit.safetensors").out


def test_finished_run_is_left_unchanged(kg_edit: Run, place: Path) -> None:
    before = shown(place)
    done(kg_edit, "edit", "edits.jsonl", *ROME, *AS_THEN, "--out", "edit")
    assert shown(place) == before


def test_killed_run_resumes(kg_edit: Run, place: Path) -> None:
    partial, covariances = Patch.load("edit-killed/patch.partial.safetensors"), content(place / "cache")
    done(kg_edit, "edit", "edits.jsonl", *ROME, *AS_THEN, "--out", "edit-killed")
    patch, full = Patch.load("edit-killed/patch.safetensors"), Patch.load("edit/patch.safetensors")
    (first,) = partial.edits
    assert patch.edits[0] == first
    torch.testing.assert_close(columns(patch, 1), columns(partial, 1), rtol=0, atol=0)
    torch.testing.assert_close(columns(patch, 3), columns(full, 3), rtol=1e-2, atol=1e-3)
    assert (ids(patch), patch.provenance["methods"]) == (EDITS, full.provenance["methods"])
    assert content(place / "cache") == covariances


@pytest.mark.slow
@EVALUATIONS
def test_killed_evaluation_resumes(name: str, options: tuple[str, ...], kg_edit: Run, place: Path) -> None:
    out = place / f"evaluate-{name}"
    before = shown(out)
    done(kg_edit, "evaluate", *options, *AS_THEN, "--out", out.name)
    after = shown(out)
    phases = Counter((line["id"], line["phase"]) for line in map(json.loads, after["records.jsonl"].splitlines()))
    assert set(phases.values()) == {1}
    assert {id_ for id_, phase in phases if phase == "edited"} == {str(number) for number in range(6)}
    assert all(after[file].startswith(text) for file, text in before.items())
    assert after["run.json"] == before["run.json"]
    assert means(out / "summary.json") == near(means(place / f"whole-{name}.json"))
    assert out.name in done(kg_edit, "compare", out.name)


def means(summary: Path) -> dict[tuple[str, str], float]:
    """All means that there are."""
    return {
        (section, metric): estimate.mean
        for section, estimates in Summary.load(summary).sections.items()
        for metric, estimate in estimates.items()
        if estimate.mean is not None
    }


def test_ledger_is_read(kg_edit: Run) -> None:
    listing = done(kg_edit, "patch", "list", "ledger")
    assert all(name in listing for name in (*EDITS, "tower", "wade"))
    assert "of 5 edits succeed" in kg_edit("patch", "check", "ledger").out
    assert [step.after for step in Ledger.open("ledger").steps] == [(), (1,)]


def test_ledger_is_added_to_and_undone(kg_edit: Run, place: Path) -> None:
    before, total = shown(place / "ledger"), Ledger.open("ledger").patch
    assert "ledger: step 3, 1 edit of rome" in done(kg_edit, "patch", "edit", "ledger", "third.jsonl", *ROME)
    assert ids(Ledger.open("ledger").patch) == (*ids(total), "thames")
    assert "of 6 edits succeed" in kg_edit("patch", "check", "ledger").out
    assert "undid event 3: added step 3" in done(kg_edit, "patch", "undo", "ledger")
    torch.testing.assert_close(columns(Ledger.open("ledger").patch, 5), columns(total, 5), rtol=0, atol=0)
    after = shown(place / "ledger")
    assert all(after[file].startswith(text) for file, text in before.items())
    assert after.keys() - before.keys() == {"patches/0003.safetensors"}


def test_ledger_recomputes_edits(kg_edit: Run, place: Path) -> None:
    """Those of the second step, of which the first one's were in the model; with the settings that the patches tell."""
    total, covariances = Ledger.open("ledger").patch, content(place / "cache")
    assert "removed james; 4 edits left" in done(kg_edit, "patch", "remove", "ledger", "james", *MODEL)
    assert ids(Ledger.open("ledger").patch) == ("france", "hughes", "tower", "wade")
    assert "james" in done(kg_edit, "patch", "show", "ledger")
    done(kg_edit, "patch", "undo", "ledger")
    assert Ledger.open("ledger").patch.edits == total.edits
    assert content(place / "cache") == covariances


def test_covariances_are_found_and_one_is_added(kg_edit: Run, place: Path) -> None:
    folder = place / "cache" / "covariance"
    before, covariances = shown(folder), stored_covariances(folder)
    assert [entry.module for entry in covariances] == ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]
    assert covariances[0].id in done(kg_edit, "covariance", "list")
    done(kg_edit, "covariance", *MODEL, "--layers", "1-3", "--corpus", "self", "--tokens", "300")
    assert len(stored_covariances(folder)) == 3
    assert before.items() < shown(folder).items()


def test_shard_is_merged_with_the_other(kg_edit: Run, place: Path) -> None:
    done(kg_edit, "covariance", *SHARDS, "--shard", "1/2")
    (merged,) = (place / "shards").glob("*.safetensors")
    (stored, _) = stored_covariances(place / "cache" / "covariance")
    manifest = read_manifest(merged)
    assert (manifest.module, manifest.count) == ("model.layers.3.mlp.down_proj", stored.count)


def fetched(place: Path, *options: str | Path) -> bytes:
    """The subgraphs of the edits that were asked about."""
    wikidata("fetch", "known.jsonl", *options, "--out", "found.jsonl")
    return (place / "found.jsonl").read_bytes()


def test_answers_need_no_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    kept = ("--offline", "--cache", "answers.sqlite")
    assert fetched(place, *kept) == (place / "subgraphs.jsonl").read_bytes()
    assert wikidata("labels", "Q1", "Q2", *kept) == "Q1\tLeBron James\nQ2\tFrance\n"
    wikidata("export", "again.jsonl.gz", "--cache", "answers.sqlite")
    again, answers = (gzip.decompress((place / f"{name}.jsonl.gz").read_bytes()) for name in ("again", "answers"))
    assert again == answers


def test_answers_are_added_to(endpoint: Server, place: Path) -> None:
    options = ("-g", endpoint.url, "--cache", "answers.sqlite")
    assert wikidata("labels", "Q1", "Q22", *options) == "Q1\tLeBron James\nQ22\tNorway\n"
    ((_, _, query),) = endpoint.requests
    assert "wd:Q22 " in query and "wd:Q1 " not in query
    assert wikidata("labels", "Q22", "--offline", "--cache", "answers.sqlite") == "Q22\tNorway\n"
    assert fetched(place, "--offline", "--cache", "answers.sqlite") == (place / "subgraphs.jsonl").read_bytes()
    assert "ok" in wikidata("doctor", "--cache", "answers.sqlite")


def test_snapshot_of_answers_is_imported(place: Path) -> None:
    wikidata("import", "answers.jsonl.gz", "--cache", "new.sqlite")
    assert fetched(place, "--offline", "--cache", "new.sqlite") == (place / "subgraphs.jsonl").read_bytes()
