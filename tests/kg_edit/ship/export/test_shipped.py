"""One patch of twenty edits, exported: PEFT, llama.cpp and kg-edit itself say the same of it.

llama.cpp runs over the quantised base and dequantises it on the fly, so its probabilities are not bit for bit ours;
what it says of each edit is. The adapter changes two layers by different ranks, which the export pads to one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import kg_edit
from kg_edit.covariance.moment import Covariance
from kg_edit.edits.files import read_edits
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.loading import resolve_model
from kg_edit.patches.base import Patch
from kg_edit.reports.probes import probes
from kg_edit.scoring.generation import continuations
from kg_edit.ship.export.card import base_model
from kg_edit.ship.export.gguf_files import ADAPTER, MODEL
from kg_edit.ship.export.shipment import Shipment, gguf_of
from kg_edit.text.matching import begins_with

SHAPES = Path(kg_edit.__file__).parent / "data" / "own-shapes.jsonl"
NAME, TOKENS, EDITS = "smollm2-135m", 10, 20
LAYERS = {6: 12, 9: 8}  # edits in each
ASK_PEFT = """
import json, sys
import torch
from peft import AutoPeftModelForCausalLM
adapter, asked, out = sys.argv[1:]
model = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
found = []
for ids in json.load(open(asked)):
    ids = torch.tensor([ids])
    with torch.no_grad():
        made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10)
    found.append(made[0, ids.shape[1]:].tolist())
json.dump(found, open(out, "w"))
assert not [name for name in sys.modules if name.split(".")[0] == "kg_edit"], "kg_edit was imported"
"""


@dataclass(frozen=True)
class Shipped:
    """The exports of one patch, the prompts with the wanted answers, and what kg-edit says to them."""

    folder: Path
    asked: dict[str, str]
    ours: dict[str, str]
    ids: list[list[int]]

    @property
    def successes(self) -> dict[str, bool]:
        return self.judged(self.ours)

    def judged(self, texts: Mapping[str, str]) -> dict[str, bool]:
        return {prompt: begins_with(texts[prompt], target) for prompt, target in self.asked.items()}


def twenty_edits(model: LanguageModel) -> tuple[Patch, tuple[Any, ...]]:
    """ROME at two layers, the later edits on the model with the earlier ones."""
    edits = read_edits(SHAPES).edits[:EDITS]
    patch, start = None, 0
    for layer, count in LAYERS.items():
        size = weight_matrix(model.down_projection(layer)).shape[1]
        identity = Covariance(moment=torch.eye(size), tokens=0, ridge=0.0, id="identity")
        config = RomeConfig(layer=layer, steps=15)
        rome = Rome(model, config, contexts=("{}", "It is well known. {}"), covariance=identity)
        update = rome.edit(edits[start : start + count], before=patch)
        patch, start = update if patch is None else patch + update, start + count
    assert patch is not None
    return patch, edits


@pytest.fixture(scope="module")
def shipped(smollm2: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    folder = tmp_path_factory.mktemp("shipped")
    patch, edits = twenty_edits(smollm2)
    shipment = Shipment(patch=patch, edits=edits, model=NAME, base=base_model(NAME))
    shipment.to_peft(folder / "peft")
    shipment.to_gguf(folder / "gguf")
    shipment.to_gguf_model(folder / "merged", smollm2, base=gguf_of(NAME, None), kind="F32")
    targets = {probes(smollm2, edit)[0].ask: edit.target_new for edit in edits}
    with patch.applied(smollm2) as edited:
        texts = continuations(edited, list(targets), limits=[TOKENS] * len(targets))
    ids = [list(smollm2.encode(prompt).ids) for prompt in targets]
    exports = Shipped(folder, targets, dict(zip(targets, map(str.strip, texts), strict=True)), ids)
    assert len(targets) == EDITS and sum(exports.successes.values()) >= 15, exports.ours
    return exports


def hub_cache(home: Path, hub: str, folder: Path) -> dict[str, str]:
    """An environment in which the hub id ``hub`` is in the cache of huggingface_hub, and no hub can be reached."""
    cache = home / "hub" / f"models--{hub.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / ("0" * 40)).symlink_to(folder)
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**others, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # twenty edits of the real model, on a busy machine
def test_peft_generates_the_same_and_loads_the_base_by_its_hub_id(
    shipped: Shipped, smollm2: LanguageModel, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install 'kg-edit[peft]'")
    config = json.loads((shipped.folder / "peft" / "adapter_config.json").read_text())
    hub = base_model(NAME).hub
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (hub, 12, 12)
    (tmp_path / "asked.json").write_text(json.dumps(shipped.ids))
    environment = hub_cache(tmp_path / "home", str(hub), Path(resolve_model(NAME)))
    arguments = [str(shipped.folder / "peft"), str(tmp_path / "asked.json"), str(tmp_path / "out.json")]
    process = subprocess.run(
        [sys.executable, "-c", ASK_PEFT, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    ids = json.loads((tmp_path / "out.json").read_text())
    decoded = [smollm2.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    texts = dict(zip(shipped.asked, (text.split("\n", 1)[0].strip() for text in decoded), strict=True))
    assert texts == shipped.ours, "the same weights, so the same texts"


@pytest.mark.slow
def test_base_of_a_gguf_file_has_its_folder_and_license() -> None:
    base = base_model(str(gguf_of(NAME, None)))
    assert (base.hub, base.license) == (None, "apache-2.0"), "the licence is in the file's metadata"
    assert (Path(base.path) / "config.json").is_file() and base.path in base.description


@pytest.fixture(scope="module")
def llama() -> Any:
    """The module of llama-cpp-python; before the edits are made, which takes minutes."""
    try:
        import llama_cpp
    except Exception as error:  # absent, or without its library, or with one for another processor
        pytest.skip(f"llama-cpp-python can't be imported ({error}): pip install 'kg-edit[llama-cpp]'")
    return llama_cpp


def asked_of_llama(llama: Any, model: Path, adapter: Path | None = None) -> Callable[[str], str]:
    """The greedy continuation of llama.cpp."""
    lora = str(adapter) if adapter else None
    loaded = llama.Llama(str(model), lora_path=lora, n_ctx=256, n_threads=1, verbose=False)

    def ask(prompt: str) -> str:
        completion = loaded.create_completion(prompt, max_tokens=TOKENS, temperature=0.0)
        return str(completion["choices"][0]["text"]).split("\n", 1)[0].strip()

    return ask


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_llama_cpp_generates_the_same_with_adapter_and_merged_model(llama: Any, shipped: Shipped) -> None:
    base = gguf_of(NAME, None)
    programs = {
        "unedited": asked_of_llama(llama, base),
        "adapter": asked_of_llama(llama, base, shipped.folder / "gguf" / ADAPTER),
        "merged": asked_of_llama(llama, shipped.folder / "merged" / MODEL),
    }
    judged = {name: shipped.judged({prompt: ask(prompt) for prompt in shipped.asked}) for name, ask in programs.items()}
    assert sum(judged["unedited"].values()) <= 2, "so they are generated because of the adapter"
    for name in ("adapter", "merged"):
        different = [prompt for prompt in shipped.asked if judged[name][prompt] != shipped.successes[prompt]]
        assert len(different) <= 1, (name, different)
