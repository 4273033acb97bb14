"""What programs generate with one patch of edits: kg-edit itself, PEFT, and llama.cpp with adapter and merged model.

    python bench/tools/shipped.py out/ --work shipped/

``out/`` is a folder of `kg-edit edit` for a model that is a GGUF file. Exports are written to ``--work``. Printed: how
many edits succeed in each program (greedily, 10 tokens, asked as `kg-edit edit` asks), and in how many the line of ten
tokens is kg-edit's, and the first token; then the texts that differ. Ends with one JSON line. Needs peft and
llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from llama_cpp import Llama
from peft import PeftModel
from transformers import AutoModelForCausalLM

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import resolve_model
from kg_edit.patches.base import Patch
from kg_edit.reports.probes import probes
from kg_edit.scoring.generation import continuations
from kg_edit.ship.export.card import base_model
from kg_edit.ship.export.gguf_files import ADAPTER, KINDS, MODEL
from kg_edit.ship.export.shipment import Shipment, gguf_of
from kg_edit.ship.ledger.listing import active_at
from kg_edit.text.matching import begins_with

TOKENS = 10
Ask = Callable[[str], str]


def main() -> None:
    """Export, ask every program, and print what each generates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    patch, entries = active_at(options.folder)
    name = patch.provenance["model"]["name"]
    model = LanguageModel.load(name)
    targets = {probes(model, entry.edit)[0].ask: entry.edit.target_new for entry in entries}
    edits = [entry.edit for entry in entries]
    shipment = Shipment(patch=patch, edits=edits, model=name, base=base_model(name))
    programs = exported(shipment, patch, model, options.work)
    texts = {program: {prompt: ask(prompt) for prompt in targets} for program, ask in programs.items()}
    report(model, targets, texts)


def exported(shipment: Shipment, patch: Patch, model: LanguageModel, work: Path) -> dict[str, Ask]:
    """Each program with the patch in the form that it reads."""
    base = gguf_of(shipment.model, None)
    shipment.to_peft(work / "peft")
    shipment.to_gguf(work / "gguf")
    for kind in KINDS:
        shipment.to_gguf_model(work / kind, model, base=base, kind=kind)
    return {
        "kg-edit generate": with_patch(model, patch),
        "PEFT": with_peft(model, shipment.model, work / "peft"),
        "llama.cpp, unedited": with_llama(base),
        "llama.cpp, adapter": with_llama(base, work / "gguf" / ADAPTER),
        **{f"llama.cpp, merged, {kind}": with_llama(work / kind / MODEL) for kind in KINDS},
    }


def with_patch(model: LanguageModel, patch: Patch) -> Ask:
    """What `kg-edit generate --patch` writes."""

    def ask(prompt: str) -> str:
        with patch.applied(model) as edited:
            return continuations(edited, [prompt], limits=[TOKENS])[0].strip()

    return ask


def with_peft(model: LanguageModel, name: str, adapter: Path) -> Ask:
    """What PEFT's model writes, over the weights that the edits were made on."""
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(resolve_model(name)), str(adapter)).eval()

    def ask(prompt: str) -> str:
        ids = torch.tensor([model.encode(prompt).ids])
        with torch.no_grad():
            tokens = loaded.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS
            )
        text = model.tokenizer.decode(tokens[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
        return str(text).split("\n", 1)[0].strip()

    return ask


def with_llama(file: Path, adapter: Path | None = None) -> Ask:
    """What llama.cpp writes."""
    lora = str(adapter) if adapter else None
    loaded = Llama(str(file), lora_path=lora, n_ctx=256, n_threads=1, verbose=False)

    def ask(prompt: str) -> str:
        completion = loaded.create_completion(prompt, max_tokens=TOKENS, temperature=0.0)
        return str(completion["choices"][0]["text"]).split("\n", 1)[0].strip()

    return ask


def report(model: LanguageModel, asked: Mapping[str, str], texts: Mapping[str, Mapping[str, str]]) -> None:
    """Print the counts of each program, and its texts that are not kg-edit's."""
    ours = texts["kg-edit generate"]
    result: dict[str, dict[str, int]] = {}
    for program, answers in texts.items():
        result[program] = {
            "success": sum(begins_with(answers[prompt], target) for prompt, target in asked.items()),
            "same first token": sum(first(model, answers[prompt]) == first(model, ours[prompt]) for prompt in asked),
            "same line": sum(answers[prompt] == ours[prompt] for prompt in asked),
        }
        print(f"{program:24} {result[program]}")
    for program in (program for program in texts if "unedited" not in program):
        for prompt in (prompt for prompt in asked if texts[program][prompt] != ours[prompt]):
            print(f"{program}: {prompt!r}: {texts[program][prompt]!r}, kg-edit {ours[prompt]!r}")
    print(json.dumps({"name": "shipped", "n": len(asked), **result}))


def first(model: LanguageModel, text: str) -> int | None:
    """The first token of a text."""
    ids = model.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    return int(ids[0]) if ids else None


if __name__ == "__main__":
    main()
