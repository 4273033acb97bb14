"""Each page makes the patch of the library's method, and goes on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.glame.method import Glame, GlameConfig
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.tiny import chatting
from tests.pipelines.scripts import FOLDER, JOINT, RANK_ONE, Script, module, settings_of
from wikidata_cache import WikidataCache, packaged_extract

PAGES: dict[str, dict[str, Any]] = {
    "rome": RANK_ONE,
    "glame": RANK_ONE,
    "rome_kg": {**RANK_ONE, "further_steps": 0},  # with them the random model would be broken, which is refused
    "memit": JOINT,
    "memit_kg": JOINT,
}


def method_name(page: str) -> str:
    return page.replace("_", "-")


def from_page(page: str) -> type[EditingMethod]:
    found: type[EditingMethod] = getattr(module(page), page.title().replace("_", ""))
    return found


def same(found: Patch, wanted: Patch) -> None:
    """Changes, state and provenance; numbers up to rounding."""
    assert isinstance(found, WeightPatch) and isinstance(wanted, WeightPatch)
    assert found.factors.keys() == wanted.factors.keys()
    for name, pair in wanted.factors.items():
        assert pair.product.norm() > 0
        assert found.factors[name].rank == pair.rank
        torch.testing.assert_close(found.factors[name].product, pair.product, rtol=1e-5, atol=1e-6)
    assert found.state.keys() == wanted.state.keys()
    for name, tensor in wanted.state.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-6)
    said, expected = _leaves(found.provenance), _leaves(wanted.provenance)
    numbers = {name for name, leaf in expected.items() if isinstance(leaf, float)}
    assert numbers and {name: said[name] for name in said.keys() - numbers} == {
        name: expected[name] for name in expected.keys() - numbers
    }
    for name in numbers:
        assert said[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested values by its path."""
    if isinstance(value, Mapping):
        return {key: leaf for part in value for key, leaf in _leaves(value[part], f"{name}/{part}").items()}
    if isinstance(value, (list, tuple)):
        return {key: leaf for at, part in enumerate(value) for key, leaf in _leaves(part, f"{name}/{at}").items()}
    return {name: value}


def test_every_script_is_tested() -> None:
    files = {file.stem.removeprefix("test_") for file in Path(__file__).parent.glob("test_*.py")}
    assert {file.stem for file in FOLDER.glob("*.py")} == {*PAGES, *files} - {"pages"}


@pytest.mark.parametrize("page", keep_first(PAGES, keep=2))
def test_a_page_from_edits_to_the_patch_of_the_librarys_method(
    page: str, script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = () if page in ("rome", "memit") else ("--graph", "graph.tsv")
    options = ("edits.jsonl", "--model", tiny_folder, *graph, "--out", "out", *settings_of(PAGES[page]))
    assert script(page, *options) == 0
    assert "LeBron James plays for" in caplog.text and "after:" in caplog.text
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"patch.safetensors", "records.jsonl", "report.md", "run.json"} <= files
    assert ("subgraph-lebron.svg" in files) == bool(graph)

    found = find_method(method_name(page))
    model = LanguageModel.load(str(tiny_folder))
    library = found(model, found.config_class.preset("default", PAGES[page]), graph=WikidataCache("graph.tsv"))
    same(Patch.load(tmp_path / "out" / "patch.safetensors"), library.edit(read_edits(Path("edits.jsonl")).edits))


def test_glames_page_reads_the_settings_of_the_public_program(
    script: Script, tmp_path: Path, tiny_folder: Path
) -> None:
    """Both edits: the second one starts from the R-GNN of the first."""
    own = {**RANK_ONE, **{name: GlameConfig.presets["code"][name] for name in ("slope", "self_loops", "warm_start")}}
    own |= {"dropout": 0.15, "gate": False, "clamp_norm_factor": 0.5, "pooling": "mean"}
    options = ("edits.jsonl", "--model", tiny_folder, "--graph", "graph.tsv", "--out", "out", *settings_of(own))
    assert script("glame", *options) == 0
    library = Glame(
        LanguageModel.load(str(tiny_folder)), GlameConfig.preset("default", own), graph=WikidataCache("graph.tsv")
    )
    edits = read_edits(Path("edits.jsonl")).edits
    assert len(edits) > 1
    same(Patch.load(tmp_path / "out" / "patch.safetensors"), library.edit(edits))


@pytest.mark.parametrize("form", [True, "both"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_edits_the_forms_that_the_library_edits(page: str, form: Literal[True, "both"]) -> None:
    """In chat form, an edit's further facts are in this form too; in both forms, an edit has twice as many prompts."""
    model, graph = chatting(), nx.DiGraph()
    graph.add_edge("Rome", "Italy", label="country")
    edits = [
        Edit(id="1", subject="LeBron", relation="plays for", prompt="{} plays for the", target_new="Rome", chat=form)
    ]
    edits += [Edit(id="2", subject="Mary", relation="city", prompt="{} lives in", target_new="Rome")]
    found = find_method(method_name(page))
    config = found.config_class.preset("default", PAGES[page])
    made = from_page(page)(model, config, graph=graph).edit(edits)
    same(made, found(model, config, graph=graph).edit(edits))


def test_a_page_goes_on_where_it_stopped(
    script: Script, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("edits.jsonl", "--model", tiny_folder, "--out", "out", *settings_of({**RANK_ONE, "steps": 2}))
    assert script("rome", *options) == 0
    patch = tmp_path / "out" / "patch.safetensors"
    written = patch.read_bytes()
    assert script("rome", *options) == 0
    assert "nothing to compute" in caplog.text and patch.read_bytes() == written
    assert script("rome", *options, "--set", "kl_weight=1") == 2  # other settings don't go into the same folder
    assert patch.read_bytes() == written


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_makes_the_librarys_patch_of_the_real_model(page: str, smollm2: LanguageModel) -> None:
    graph = WikidataCache(packaged_extract())
    edits = read_edits(FOLDER.parent / "kg_edit" / "data" / "demo.jsonl").edits[:2]
    found = find_method(method_name(page))
    few: dict[str, Any] = {"statements": 1, "composed": 1} if page.endswith("_kg") else {}
    few |= {"layers": [5, 6]} if page.startswith("memit") else {}
    config = found.config_class.preset("default", {"covariance": {"tokens": 2000}, "steps": 6, **few})
    made = from_page(page)(smollm2, config, graph=graph).edit(edits)
    assert content_fingerprint(smollm2.model) == smollm2.fingerprint
    same(made, found(smollm2, config, graph=graph).edit(edits))
