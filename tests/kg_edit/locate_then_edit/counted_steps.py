"""Count how often a step of a descent, a written token and a scored pass copy to a second device, and wait for it.

It runs in a process of its own, and prints a JSON line for each family of its arguments, with the norm of a whole edit
there, and one for a second solve.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import torch

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.locate_then_edit.descent import FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.methods.rome.method import Rome
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.changes import edit_norms
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.greedy import greedy
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.kg_edit import second_device
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import FIRST, tiny

EDITS = [
    Edit(subject="The lazy dog", prompt="{} lives in", target_new="London"),
    Edit(subject="Spike Hughes", prompt="{} originates from", target_new="Paris"),
]
# The simulated device can't run Falcon
FAMILIES = [family for family in FIRST if not family.startswith("falcon")]
CONTEXTS = ("{}", "It is known that {}", "The river and the people. {}")


def elsewhere(family: str) -> LanguageModel:
    """A tiny model that lies on the second device."""
    on_cpu = tiny(family)
    with TemporaryDirectory() as folder:
        on_cpu.model.save_pretrained(folder)
        on_cpu.tokenizer.save_pretrained(folder)
        return LanguageModel.load(folder, device_map={"": second_device.ELSEWHERE}, dtype="float32")


def descended(model: LanguageModel, *, steps: int, further_steps: int) -> Counter[str]:
    """The counts of a descent, without those of the objective that it minimises."""
    requests = [Request.of(model, edit, CONTEXTS) for edit in EDITS]
    objective = Objective(model, 1, requests, kl_weight=0.0625, engine=find_engine(model, 1))
    delta = FreeDelta(objective.value, learning_rate=1.0, clamp_norm_factor=2.0)
    second_device.COUNTED.clear()
    descend(objective, delta, Stops(steps=steps, stop_below=-1.0, further_steps=further_steps))
    return Counter(second_device.COUNTED)


def written(model: LanguageModel, tokens: int, patches: Sequence[WeightPatch] | None = None) -> Counter[str]:
    """The counts of writing so many tokens after three prompts, each with its patch."""
    rows = [model.encode(text).ids for text in ("The lazy", "Spike Hughes comes from", "The river and the people")]
    second_device.COUNTED.clear()
    greedy(model, rows, limits=[tokens] * 3, patches=patches)
    return Counter(second_device.COUNTED)


def scored(model: LanguageModel) -> Counter[str]:
    """The counts of scoring six pairs, which share a pass."""
    pairs = [Pair(f"The {name} lives in", city) for name in ("dog", "river", "people") for city in ("London", "Rome")]
    second_device.COUNTED.clear()
    score(model, pairs)
    return Counter(second_device.COUNTED)


def edited(model: LanguageModel) -> float | None:
    """The norm of an edit by ROME, from keys to patch."""
    return edit_norms(Rome.on(model, settings=QUICK["rome"]).edit(EDITS[:1]))[0]


def solved_again() -> Counter[str]:
    """The counts of a solve with a covariance that lies here, which was factored on the device by another solve."""
    keys = torch.randn(48, 200, generator=torch.Generator().manual_seed(0))
    covariance = Covariance(moment=keys @ keys.T / 200, tokens=200, ridge=1e-4, id="made up")
    key = keys[:, 0].to(second_device.ELSEWHERE)
    covariance.solve(key)
    second_device.COUNTED.clear()
    covariance.solve(key)
    return Counter(second_device.COUNTED)


if __name__ == "__main__":
    library = second_device.register()
    torch.set_num_threads(1)
    for family in sys.argv[1:]:
        model = elsewhere(family)
        line: dict[str, object] = {"family": family}
        # The difference of two descents is the count of three steps, without what happens once.
        for kind in ("steps", "further_steps"):
            few, more = (descended(model, **{"steps": 2, "further_steps": 0, kind: number}) for number in (2, 5))
            line[kind] = {name: (more[name] - few[name]) / 3 for name in ("waits", "copies")}
        few, more = written(model, 2), written(model, 5)
        line["token"] = {name: (more[name] - few[name]) / 3 for name in ("waits", "copies")}
        name, (out, inner) = model.weight_name(1), weight_matrix(model.down_projection(1)).shape
        patches = [
            WeightPatch(factors={name: Factors(left=torch.ones(out, 1), right=torch.ones(inner, 1))}) for _ in range(3)
        ]
        few, more = written(model, 2, patches), written(model, 5, patches)
        line["patched token"] = {name: (more[name] - few[name]) / 3 for name in ("waits", "copies")}
        line["scored"] = scored(model)["waits"]
        line["norm"] = edited(model)
        print(json.dumps(line))  # noqa: T201
    again = solved_again()
    print(json.dumps({"solve": {name: again[name] for name in ("waits", "copies")}}))  # noqa: T201
