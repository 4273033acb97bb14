"""Each script shows the stages of its method, makes the patch of the library's method, and resumes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.edits.files import read_edits
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.pipelines.scripts import FOLDER, JOINT, RANK_ONE, Script, settings_of
from wikidata_cache import WikidataCache

SCRIPTS: dict[str, dict[str, Any]] = {
    "glame": RANK_ONE,
    # With further steps the random model would be broken, which is refused
    "rome_kg": {**RANK_ONE, "further_steps": 0},
    "rome": {**RANK_ONE, "further_steps": 0},
    "memit": JOINT,
    "memit_kg": JOINT,
}
STAGES = {
    "glame": ["subgraph: 3 nodes", "hidden states of block", "R-GNN, layer 1: by messages", "m*: |m|", "update of"],
    "rome": ["C of block", "prompt: 'LeBron James plays for", "m*: |m|", "update of"],
    "rome_kg": [
        "subgraph: 3 nodes",
        "facts of the graph are edited in",
        "m*: |m|",
        "update of",
    ],
    "memit": ["blocks [0, 1]; C from", "z of LeBron James plays for", "update of"],
    "memit_kg": ["subgraph: 3 nodes", "facts of the graph are edited in", "z of LeBron James plays for", "update of"],
}
TRIPLETS = """subject,relation,new_object
LeBron James,P54,Q2
France,capital,Q4
"""


def test_every_script_is_tested() -> None:
    files = {file.stem.removeprefix("test_") for file in Path(__file__).parent.glob("test_*.py")}
    assert {file.stem for file in FOLDER.glob("*.py")} == {*SCRIPTS, *files} - {"methods"} | {"stages"}


@pytest.mark.parametrize("name", keep_first(SCRIPTS))
def test_script_shows_each_stage_and_writes_the_patch_of_the_library(
    name: str, script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = Path("out") / name.replace("_", "-")  # in the present folder, each method's its own
    options = ("edits.jsonl", "--model", tiny_folder, "--graph", "graph.tsv", "--preset", "default")
    assert script(name, *options, *settings_of(SCRIPTS[name])) == 0
    for number, stage in enumerate(STAGES[name], 1):
        assert re.search(rf"\b{number}\. .*{re.escape(stage)}", caplog.text), stage
    assert "LeBron James plays for" in caplog.text and "edited:" in caplog.text
    files = {file.name for file in out.iterdir()}
    assert {"patch.safetensors", "records.jsonl", "report.md", "run.json"} <= files

    method_class = find_method(name.replace("_", "-"))
    model, graph = LanguageModel.load(str(tiny_folder)), WikidataCache("graph.tsv")
    library = method_class(model, method_class.config_class.preset("default", SCRIPTS[name]), graph=graph)
    patch, expected = Patch.load(out / "patch.safetensors"), library.edit(read_edits("edits.jsonl").edits)
    assert isinstance(patch, WeightPatch) and isinstance(expected, WeightPatch)
    assert patch.factors.keys() == expected.factors.keys()
    for weight, pair in expected.factors.items():
        assert pair.product.norm() > 0
        torch.testing.assert_close(patch.factors[weight].product, pair.product, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_script_reads_a_file_of_triplets(
    script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "triplets.csv").write_text(TRIPLETS)
    options = ("--model", tiny_folder, "--graph", "graph.tsv", "--out", "out", *settings_of(RANK_ONE))
    assert script("glame", "triplets.csv", *options) == 0
    assert "Los Angeles Lakers -- headquarters location -> Los Angeles" in caplog.text


@pytest.mark.slow
def test_script_resumes_where_it_stopped(
    script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("edits.jsonl", "--model", tiny_folder, "--out", "out", *settings_of({**RANK_ONE, "steps": 2}))
    assert script("rome", *options) == 0
    patch = tmp_path / "out" / "patch.safetensors"
    written = patch.read_bytes()
    assert script("rome", *options) == 0
    assert "nothing to compute" in caplog.text and patch.read_bytes() == written
    assert script("rome", *options, "--set", "kl_weight=1") == 2  # other settings do not go into the same folder
    assert patch.read_bytes() == written


@pytest.mark.slow
def test_edit_that_would_break_the_model_is_refused_and_accepted_with_the_option_of_the_message(
    script: Script, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = settings_of({**RANK_ONE, "statements": 1, "clamp_norm_factor": 1000.0})
    options = ("edits.jsonl", "--model", tiny_folder, "--graph", "graph.tsv", "--out", "out", *large)
    assert script("rome_kg", *options) == 2
    assert "add it anyway with --force" in " ".join(capsys.readouterr().err.split())
    assert script("rome_kg", *options, "--force") == 0


def test_mistake_in_a_setting_is_named(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("rome", "edits.jsonl", "--set", "stps=2") == 2
    message = capsys.readouterr().err
    assert "did you mean 'steps'" in message and "Traceback" not in message
