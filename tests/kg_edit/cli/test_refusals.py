"""What the command line refuses: each mistake is one message, and nothing is written.

Here are mistakes of each kind; the faults of rows, models and settings are tested where they are found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kg_edit.patches.weight_patch import WeightPatch
from tests.kg_edit.command_line import (
    EDITS,
    GLAME,
    GOOD,
    QUICK,
    ROME,
    TRIPLET,
    Run,
    cache,
    content,
    generate,
    kg_edit,
    place,
    refused,
    rows,
    tiny_folder,
)

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


def good_but(**fields: object) -> bytes:
    """A good row, and a second one that is wrong in one field."""
    return rows(GOOD, {**GOOD, **fields})


BAD_FILES: dict[str, tuple[bytes | None, tuple[str, ...], str]] = {
    "missing file": (None, ROME, "edits.jsonl: no such file; check the path"),
    "empty file": (b"", ROME, "edits.jsonl: has no rows"),
    "form that is none": (good_but(chat="bth"), ROME, "found the text 'bth'; expected true or false, or 'both'"),
    "target empty": (good_but(target_new=" "), ROME, "line 2, field target_new: is empty"),
    "QID without label": (
        rows(TRIPLET, {**TRIPLET, "new_object": "Q6"}),
        GLAME,
        "line 2, field new_object: found the id Q6, for which the graph graph.tsv (11 triples) has no label; write the "
        "label here and the id in new_object_id, or give a larger --graph",
    ),
    "QIDs without a graph": (
        rows(TRIPLET),
        ROME,
        "line 1, field subject: found the id Q1, for which there is no label",
    ),
    "QIDs with a graph of names": (
        rows(TRIPLET),
        ("--graph", "facts.csv"),
        "found the id Q1, for which the graph facts.csv (statements between names: 1) has no label",
    ),
    "graph without o*": (
        rows({**GOOD, "id": "fr", "target_new_id": "Q77"}),
        (*GLAME, "--require-graph"),
        "Q77 (Rome) is not in the graph graph.tsv",
    ),
    "o* that the graph can't name": (
        rows({**GOOD, "target_new": "Atlantis"}),
        (*GLAME, "--require-graph"),
        "No entity is labelled 'Atlantis'",
    ),
    "folder for a file": (EDITS.encode(), (*ROME, "--templates", "."), "cannot be read"),
}

BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "corrupt graph file": (("--method", "glame", "--graph", "corrupt.nt.gz"), "corrupt or cut-off gzip"),
    "graph file that is text": (("--method", "glame", "--graph", "text.nt"), "text.nt, line 1: is not N-Triples"),
    "missing graph file": (("--method", "glame", "--graph", "none.nt"), "none.nt: does not exist"),
    "misspelt packaged graph": (("--method", "glame", "--graph", "extrct"), "did you mean 'extract'?"),
    "unknown model": (
        (*ROME, "--model", "smollm-135m"),
        "there is no model 'smollm-135m', did you mean 'smollm2-135m'?",
    ),
    "damaged model": ((*ROME, "--model", "damaged"), "can't load the model 'damaged'"),
    "unknown method": (("--method", "gleam"), "unknown method 'gleam', did you mean 'glame'"),
    "unknown preset": ((*ROME, "--preset", "papers"), "unknown preset 'papers'"),
    "unknown inner setting": ((*ROME, "--set", "covariance.token=3"), "unknown field, did you mean 'tokens'"),
    "setting without value": ((*ROME, "--set", "steps"), "--set steps: expected NAME=VALUE"),
    "setting out of range": (
        (*ROME, "--set", "learning_rate=-1"),
        "setting learning_rate of rome: found the number -1",
    ),
    "setting beyond reason": (
        (*ROME, "--set", "steps=1000000000000"),
        "setting steps of rome: found the number 1000000000000",
    ),
    "inner setting beyond reason": ((*ROME, "--set", "context_lengths=[[5, 2000000]]"), "expected at most 1000000"),
    "tokens beyond reason": (
        (*ROME, "--set", "covariance.tokens=99999999999"),
        "setting covariance.tokens of rome: found",
    ),
    "setting that is no number": ((*ROME, "--set", "learning_rate=NaN"), "setting learning_rate"),
    "setting given twice": ((*ROME, "--set", "layer=1", "--layer", "2"), "layer is set twice"),
    "missing corpus": (
        (*ROME, "--set", "covariance.corpus=none.txt"),
        "can't read the corpus none.txt: No such file or directory; give",
    ),
    "layer that is not there": ((*ROME, "--layer", "4"), "there is no layer 4: "),
    "inner layer that is not there": ((*GLAME, "--set", "representation_layer=9"), "there is no layer 9: "),
    "unknown device": (
        (*ROME, "--device", "gpu"),
        "here: torch does not know this name; use auto",
    ),
    "absent device": ((*ROME, "--device", "cuda:97"), "there is no device 'cuda:97' here"),
    "missing templates": ((*ROME, "--templates", "none.tsv"), "none.tsv: no such file"),
}


@pytest.fixture
def faulty(place: Path) -> Path:
    """Files and folders that are no good, beside the good ones."""
    (place / "corrupt.nt.gz").write_bytes(b"\x1f\x8b\x08 and then nothing")
    (place / "text.nt").write_text("Paris is the capital of France\n")
    (place / "damaged").mkdir()
    (place / "damaged" / "config.json").write_text('{"model_type": "llama"}')
    (place / "damaged" / "tokenizer.json").write_text("{")
    return place


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder as a whole run leaves it (filled by the first test that asks)."""
    return tmp_path_factory.mktemp("runs") / "finished"


def in_each_folder(cases: Iterable[str]) -> pytest.MarkDecorator:
    """Each mistake where there is no folder every day, and where there is a run in `make test-all`."""
    names = [*cases]
    fresh = [pytest.param(case, "no folder") for case in names]
    beside_a_run = [pytest.param(case, "a finished run", marks=pytest.mark.slow) for case in names]
    return pytest.mark.parametrize(("case", "out"), [*fresh, *beside_a_run], indirect=["out"])


@pytest.fixture
def out(request: pytest.FixtureRequest, finished: Path, kg_edit: Run, place: Path, tiny_folder: Path) -> Path:
    """The output folder: not there, or with a run that must not be lost."""
    if request.param == "a finished run":
        if not finished.exists():
            quick = (*ROME, *QUICK, "--model", tiny_folder, "--set", "steps=3")
            assert kg_edit("edit", "edits.jsonl", *quick, "--out", finished).code == 0
        shutil.copytree(finished, place / "out")
    return place / "out"


@in_each_folder(BAD_FILES)
def test_bad_file_is_refused(case: str, kg_edit: Run, place: Path, out: Path, tiny_folder: Path) -> None:
    written, options, message = BAD_FILES[case]
    (place / "facts.csv").write_text("Rome,country,Italy\n")
    (place / "edits.jsonl").unlink() if written is None else (place / "edits.jsonl").write_bytes(written)
    refused(kg_edit, "edit", "edits.jsonl", *options, "--model", tiny_folder, "--out", out, message=message, out=out)


@in_each_folder(BAD_OPTIONS)
def test_bad_option_is_refused(case: str, kg_edit: Run, faulty: Path, out: Path, tiny_folder: Path) -> None:
    options, message = BAD_OPTIONS[case]
    model = () if "--model" in options else ("--model", tiny_folder)
    refused(kg_edit, "edit", "edits.jsonl", *options, *model, "--out", out, message=message, out=out)


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("none.safetensors", "can't read the patch none.safetensors: there is no such file"),
        ("edits.jsonl", "edits.jsonl is not a patch; give a .safetensors file"),
        (".", ". has no patch.safetensors and no ledger (ledger.jsonl); check the path"),
        ("stranger.safetensors", "stranger.safetensors is not a patch: expected the format kg-edit-patch, found"),
        ("half.safetensors", "the patch half.safetensors lacks a factor of w"),
        ("gpt2.safetensors", "this patch is for 'gpt2'"),
    ],
)
def test_bad_patch_is_refused(patch: str, message: str, kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    tensors = {"w.left": torch.zeros(2, 1)}
    save_file(tensors, place / "stranger.safetensors")
    header = json.dumps({"format": "kg-edit-patch", "version": 1, "kind": "weights", "provenance": {}, "content": None})
    save_file(tensors, place / "half.safetensors", {"kg_edit": header})
    WeightPatch(factors={}, provenance={"model": {"name": "gpt2", "fingerprint": "2-f"}}).save(
        place / "gpt2.safetensors"
    )
    before = content(place)
    result = generate(kg_edit, tiny_folder, "--patch", patch)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert content(place) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edit", "edits.jsonl"), "Missing option '--out'"),
        (("edit", "--out", "out"), "Missing argument 'EDITS'"),
        (("edit", "edits.jsonl", "--out", "out", "--metod", "rome"), "No such option: --metod"),
        (("edit", "edits.jsonl", "-out", "out"), "No such option: -out; did you mean --out?"),
        (("edt",), "No such command 'edt'"),
        (("generate", "x", "--tokens", "0"), "Invalid value for '--tokens': found '0'; expected at least 1"),
        (("evaluate", "--limit", "four"), "Invalid value for '--limit': found 'four'; expected a whole number"),
        (("serve", "--port", "99999"), "Invalid value for '--port': found '99999'; expected at most 65535"),
    ],
)
def test_wrong_use_is_refused(arguments: tuple[str, ...], message: str, kg_edit: Run, place: Path) -> None:
    before = content(place)
    result = kg_edit(*arguments)
    assert result.code == 2
    assert message in " ".join(result.err.split())
    assert content(place) == before


def test_evaluate_refuses_before_the_model_is_loaded(kg_edit: Run, place: Path) -> None:
    options = ("--data", "edits.jsonl", *ROME, "--model", "none/such", "--out")
    assert "did you mean 'counterfact'" in kg_edit("evaluate", "--dataset", "counterfct", *options, "out").err
    assert "field case_id: is missing" in kg_edit("evaluate", *options, "out").err
    refused(kg_edit, "evaluate", "--dataset", "edits", *options, ".", message=". is not empty", out=place)
