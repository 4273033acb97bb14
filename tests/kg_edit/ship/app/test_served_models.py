"""Several models in one served process: which patch answers which name, and what is loaded and unloaded meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kg_edit.models.language_model import weight_matrix
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from kg_edit.ship.app.models_api import LOAD, UNLOAD
from kg_edit.ship.export.layout import ModuleLayout
from kg_edit.ship.export.peft_adapter import write_peft
from kg_edit.ship.ledger import Ledger
from tests.kg_edit.command_line import Run, cache, kg_edit, place
from tests.kg_edit.ship.app.serving import Served, served, workshop
from tests.kg_edit.ship.cli.test_patch import HEAT, RIVER
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "kg_edit", "place"]  # fixtures
PROMPT = "The river"


def patch_of(number: int) -> WeightPatch:
    """A large random change of a layer of the tiny model, with the record of an edit."""
    model = tiny("llama")
    rows, columns = weight_matrix(model.down_projection(1)).shape
    draw = torch.Generator().manual_seed(number)
    left, right = torch.randn(rows, 1, generator=draw), torch.randn(columns, 1, generator=draw)
    edit = (HEAT, RIVER)[number % 2].model_copy(update={"id": f"e{number}"})
    provenance = {
        "model": {"name": model.name, "fingerprint": model.fingerprint},
        "methods": [{"name": "rome", "config": {}}],
        "edits": [{"edit": edit.model_dump(mode="json", exclude_defaults=True), "method": "rome"}],
    }
    return WeightPatch(factors={model.weight_name(1): Factors(left=2 * left, right=right)}, provenance=provenance)


def text_with(*patches: WeightPatch) -> str:
    """What the tiny model generates with these patches."""
    total = WeightPatch(factors={})
    for patch in patches:
        total = total + patch
    with total.applied(tiny("llama")) as model:
        return continuations(model, [PROMPT], limits=[6])[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server with the ledger ``facts``, whose second step was added and then removed."""
    ledger = Ledger.open(tmp_path / "facts")
    ledger.add(patch_of(0))
    ledger.add(patch_of(1), force=True)
    ledger.remove("2/*")
    with served(workshop(tmp_path / "facts")) as running:
        yield running


def ask(server: Served, model: str) -> str:
    code, answer = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 6, "model": model})
    assert code == 200, answer
    assert answer["model"] == model
    return answer["choices"][0]["text"]


def names(server: Served) -> list[str]:
    return [entry["id"] for entry in json.loads(server.get("/v1/models")[1])["data"]]


def test_request_chooses_among_the_models(server: Served) -> None:
    base = tiny("llama").name
    assert names(server) == [base, "unedited", "facts", "facts@1", "facts@2", "facts@3"]
    one, both, none = text_with(patch_of(0)), text_with(patch_of(0), patch_of(1)), text_with()
    assert len({one, both, none}) == 3
    found = {name: ask(server, name) for name in names(server)}
    assert found == {base: one, "unedited": none, "facts": one, "facts@1": one, "facts@2": both, "facts@3": one}
    for unknown in ("facts@4", "facts@0", "other"):
        code, answer = server.post("/v1/completions", {"prompt": PROMPT, "model": unknown})
        assert code == 404 and repr(unknown) in answer["error"]["message"]


@pytest.mark.slow
def test_patch_is_loaded_replaced_and_unloaded(server: Served, tmp_path: Path) -> None:
    model = tiny("llama")
    file = patch_of(2).save(tmp_path / "p.safetensors")
    adapter = write_peft(patch_of(3), tmp_path / "adapter", layout=ModuleLayout(model.model))
    assert server.post(LOAD, {"lora_name": "mine", "lora_path": str(file)})[0] == 200
    assert ask(server, "mine") == text_with(patch_of(2))
    assert names(server)[-1] == "mine"
    code, answer = server.post(LOAD, {"lora_name": "mine", "lora_path": str(adapter)})
    assert code == 400 and "already been loaded" in answer["error"]["message"]
    assert server.post(LOAD, {"lora_name": "mine", "lora_path": str(adapter), "load_inplace": True})[0] == 200
    assert ask(server, "mine") == text_with(patch_of(3))
    assert server.post(UNLOAD, {"lora_name": "mine"})[0] == 200
    assert server.post(UNLOAD, {"lora_name": "mine"})[0] == 404
    assert "mine" not in names(server)


def test_patch_that_does_not_fit_is_refused_and_the_old_one_stays(server: Served, tmp_path: Path) -> None:
    good = patch_of(2).save(tmp_path / "good.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    foreign = {**patch_of(2).provenance, "model": {"name": "other", "fingerprint": "other"}}
    other = WeightPatch(factors=patch_of(2).factors, provenance=foreign).save(tmp_path / "other.safetensors")
    assert server.post(LOAD, {"lora_name": "mine", "lora_path": str(good)})[0] == 200
    for path in (tmp_path / "broken.safetensors", tmp_path / "nowhere", other):
        code, _ = server.post(LOAD, {"lora_name": "mine", "lora_path": str(path), "load_inplace": True})
        assert code == 400, path
    for taken in ("unedited", "facts", "facts@1", tiny("llama").name):
        assert server.post(LOAD, {"lora_name": taken, "lora_path": str(good), "load_inplace": True})[0] == 400
    assert ask(server, "mine") == text_with(patch_of(2))


def test_no_request_fails_while_patches_come_and_go(server: Served, tmp_path: Path) -> None:
    one, two = (patch_of(number).save(tmp_path / f"{number}.safetensors") for number in (2, 3))
    assert server.post(LOAD, {"lora_name": "mine", "lora_path": str(one)})[0] == 200
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(ask(server, "mine") for _ in range(4))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for path in (two, one, two):
        assert server.post(LOAD, {"lora_name": "mine", "lora_path": str(path), "load_inplace": True})[0] == 200
    for thread in threads:
        thread.join(60)
    assert len(found) == 12 and set(found) <= {text_with(patch_of(2)), text_with(patch_of(3))}
    assert ask(server, "mine") == text_with(patch_of(3))


@pytest.mark.slow
def test_request_that_waits_is_answered_with_a_patch_that_is_unloaded_meanwhile(tmp_path: Path) -> None:
    desk = workshop(None)
    desk.models.load("mine", str(patch_of(2).save(tmp_path / "p.safetensors")))
    found: list[str] = []
    with desk._lock:  # another request is computed
        thread = threading.Thread(target=lambda: found.append(desk.complete([PROMPT], tokens=6, name="mine")[0].text))
        thread.start()
        thread.join(0.5)
        desk.models.unload("mine")
    thread.join(60)
    assert found == [text_with(patch_of(2))]


@pytest.mark.slow
def test_push_and_pull_of_our_own_server(kg_edit: Run, place: Path, server: Served) -> None:
    patch_of(2).save(place / "p.safetensors")
    command = ("patch", "push", "p.safetensors", "--server", server.url, "--as", "mine", "--force")
    assert kg_edit(*command).code == 0
    assert ask(server, "mine") == text_with(patch_of(2))
    assert kg_edit("patch", "pull", "mine", "--server", server.url).code == 0
    taken = kg_edit(*command[:-2], "facts", "--force")
    assert taken.code == 2 and "not an adapter" in taken.err
