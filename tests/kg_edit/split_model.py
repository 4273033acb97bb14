"""Everything that asks a model, on one that lies on two devices: run as a module, it writes a line a job.

With ``no-float64`` after the file's name, the model lies on one device, which has no float64; with ``cuda``, on a card.

It is a program because the second device can't be taken back once torch knows it.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate.big_modeling import attach_align_device_hook_on_blocks
from torch import Tensor

from kg_edit.errors import UnsupportedModelError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.tracing.run import locate
from kg_edit.evaluation.tracing.trace import TraceSettings, facts_of
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.zoo.malmen.training import train as train_malmen
from kg_edit.zoo.mend.training import train
from kg_edit.zoo.serac.training import train as train_serac
from tests.kg_edit import second_device
from tests.kg_edit.methods.test_matrix import EDIT, METHODS, SECOND, logits_after, method
from tests.kg_edit.tiny import tiny, weights_of
from tests.kg_edit.zoo.malmen.examples import apart
from tests.kg_edit.zoo.malmen.examples import quick as quick_malmen
from tests.kg_edit.zoo.mend.examples import edits, quick
from tests.kg_edit.zoo.serac.test_serac import quick as quick_serac

Job = Callable[[LanguageModel], Tensor]
EXACT = (
    "alphaedit",
    "comeba",
    "eamet",
    "emmet",
    "ext-sub",
    "glame",
    "glame-plus",
    "memit",
    "mend",
    "pmet",
    "r-rome",
    "rome",
)
"""The methods that compute in float64."""
ON_CARD = ("llama", "gpt2", "gptj", "qwen3_5_text")
RESTRAINED = (
    ("restrained-memit", "rect", 0.4),
    ("restrained-memit", "prune", 1.2),
    ("memit", "anchor", 2.0),
    ("restrained-memit", "sphere", 0.8),
)
SPLITS = (("llama", "cpu"), ("gpt2", second_device.ELSEWHERE))


def split(model: LanguageModel, *, first: str) -> LanguageModel:
    """A copy with its later blocks, last norm and head (unless tied) on the other device, by accelerate's own hooks."""
    second = "cpu" if first != "cpu" else second_device.ELSEWHERE
    parted = copy.deepcopy(model)
    hf, base = parted.model, parted.model.base_model_prefix
    device_map = {f"{base}.{name}": first for name, _ in hf.base_model.named_children()}
    del device_map[parted.spec.blocks]
    device_map |= {
        f"{parted.spec.blocks}.{n}": first if n < len(parted.blocks) / 2 else second for n in range(len(parted.blocks))
    }
    device_map |= {parted.spec.final_norm: second, "lm_head": first if hf.config.tie_word_embeddings else second}
    devices = {name: torch.device(device) for name, device in device_map.items()}
    attach_align_device_hook_on_blocks(
        hf,
        execution_device={**devices, "": torch.device(second_device.ELSEWHERE)},
        offload=dict.fromkeys(devices, False),
    )
    hf.tie_weights()
    return LanguageModel.wrap(hf, parted.tokenizer, name=model.name)


def _edited(name: str, model: LanguageModel, **settings: Any) -> Tensor:
    chosen = method(name, model, **settings)
    with TemporaryDirectory() as folder:
        first = Patch.load(chosen.edit([EDIT]).save(Path(folder) / "patch.safetensors"))
    patch = chosen.edit([SECOND], start=first)
    with patch.applied(model) as edited:
        return torch.cat([logits_after(edited, edit.text).cpu() for edit in (EDIT, SECOND)])


def _evaluated(model: LanguageModel) -> Tensor:
    with TemporaryDirectory() as folder:
        summary = evaluate(
            method("rome", model), model, [EDIT, SECOND], out=Path(folder), config=EvalConfig(general="The fox. " * 40)
        )
    scores = {**summary.base, **{f"{name} after": score for name, score in summary.edited.items()}}
    return _numbers(score.mean for _, score in sorted(scores.items()))


def _traced(model: LanguageModel) -> Tensor:
    with TemporaryDirectory() as folder:
        trace = locate(model, facts_of([EDIT]), TraceSettings(samples=2), out=Path(folder), progress=False)
    return _numbers([trace.clean, trace.corrupted, *chain.from_iterable(role.mean for role in trace.roles.values())])


def _numbers(values: Iterable[float | None]) -> Tensor:
    return torch.tensor([number for number in values if number is not None])


def _trained(model: LanguageModel) -> Tensor:
    with TemporaryDirectory() as folder:
        result = train(model, edits(), quick(steps=4), Path(folder), progress=False)
    return torch.tensor([validation.total for validation in result.validations])


def _malmen_trained(model: LanguageModel) -> Tensor:
    with TemporaryDirectory() as folder:
        result = train_malmen(model, apart(), quick_malmen(steps=4), Path(folder), progress=False)
    return torch.tensor([validation.total for validation in result.validations])


def _serac_trained(model: LanguageModel) -> Tensor:
    """With states of the last block."""
    with TemporaryDirectory() as folder:
        result = train_serac(model, edits(), quick_serac(layer=3, steps=4), Path(folder), progress=False)
    return torch.tensor([validation.total for validation in result.validations])


JOBS: dict[str, Job] = {
    **{name: partial(_edited, name) for name in METHODS},
    "evaluate": _evaluated,
    "locate": _traced,
    "malmen train": _malmen_trained,
    "mend train": _trained,
    "serac train": _serac_trained,
}


def report() -> Iterator[dict[str, object]]:
    """What came of each job: how far it is from the same on one device, and whether the model is as it was."""
    try:
        torch.ones(2) + torch.ones(2, device=second_device.ELSEWHERE)
    except RuntimeError as error:
        yield {"job": "mixing", "error": str(error)}
    try:
        _loaded({"model": second_device.ELSEWHERE, "lm_head": "cpu"})
    except UnsupportedModelError as error:  # accelerate keeps such weights on the CPU, and moves them for each pass
        yield {"job": "offloading", "error": str(error)}
    yield {"job": "loading", **_outcome(JOBS["rome"], tiny("llama"), _loaded({"": second_device.ELSEWHERE}))}
    for (family, first), (name, job) in product(SPLITS, JOBS.items()):
        yield {"job": f"{name} {family} {first}", **_outcome(job, tiny(family), split(tiny(family), first=first))}


def report_without_float64() -> Iterator[dict[str, object]]:
    """What came of the methods that compute in float64."""
    try:
        torch.ones(2, device=second_device.ELSEWHERE).double()
    except TypeError as error:
        yield {"job": "float64", "error": str(error)}
    for name in EXACT:
        model = _loaded({"": second_device.ELSEWHERE})
        yield {"job": name, **_outcome(JOBS[name], tiny("llama"), model)}


def report_of_a_card() -> Iterator[dict[str, object]]:
    """What came of each job on CUDA; families of each kind, of which one has recurrent blocks."""
    jobs = dict(JOBS)
    for name, setting, number in RESTRAINED:
        jobs[f"{name} {setting}={number}"] = partial(_edited, name, **{setting: number})
    for family, (name, job) in product(ON_CARD, jobs.items()):
        yield {"job": f"{name} {family}", **_outcome(job, tiny(family), _loaded({"": "cuda"}, family))}


def _loaded(device_map: dict[str, int | str], family: str = "llama") -> LanguageModel:
    model = tiny(family)
    with TemporaryDirectory() as folder:
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return LanguageModel.load(folder, device_map=device_map, dtype="float32")


def _outcome(job: Job, whole: LanguageModel, parted: LanguageModel) -> dict[str, object]:
    before = weights_of(parted)
    try:
        difference = float((job(parted) - job(whole)).abs().max())
    except Exception as error:  # any is a finding
        return {"error": f"{type(error).__name__}: {error}"}
    after = weights_of(parted)
    return {"difference": difference, "untouched": all(torch.equal(after[key], value) for key, value in before.items())}


if __name__ == "__main__":
    path, *options = sys.argv[1:]
    if options != ["cuda"]:
        library = second_device.register(refused=[torch.float64] if options else [])
    torch.set_num_threads(1)
    reports = {"no-float64": report_without_float64, "cuda": report_of_a_card}
    with Path(path).open("w", encoding="utf-8") as file:
        for line in reports[options[0]]() if options else report():
            file.write(json.dumps(line) + "\n")
            file.flush()
