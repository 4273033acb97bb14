"""UltraEdit against a plain transcription of its published algorithm, and what carries on from call to call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.ultraedit.method import UltraEdit, UltraEditConfig
from tests.kg_edit.methods.test_methods import EDIT, SECOND
from tests.kg_edit.tiny import tiny

RATE = 0.01
EDITS = [EDIT, SECOND, EDIT.model_copy(update={"id": "3", "subject": "Spain", "target_new": "Oslo"})]
WEIGHTS = tuple(f"model.layers.{layer}.mlp.{name}_proj.weight" for layer in (1, 2) for name in ("gate", "up", "down"))


def method(model: LanguageModel, **settings: Any) -> UltraEdit:
    return UltraEdit(model, UltraEditConfig.preset("paper", {"weights": WEIGHTS, "rate": RATE, **settings}))


def changes(patch: Patch) -> dict[str, Tensor]:
    assert isinstance(patch, WeightPatch)
    return {name: pair.product for name, pair in patch.factors.items()}


class RunningMeanStd:
    """The published normaliser: Welford's update of a mean and of a sum of squared deviations, batch by batch."""

    def __init__(self) -> None:
        self.n, self.mean, self.var = 0, torch.zeros(()), torch.zeros(())

    def update(self, x: Tensor) -> None:
        n, delta = self.n + len(x), x.mean(0) - self.mean
        # the published code adds len(x) times the variance with len(x) - 1 as divisor; here its exact counterpart
        squares = (x - x.mean(0)).pow(2).sum(0)
        self.var = self.var + squares + self.n * len(x) * delta.pow(2) / n
        self.mean = self.mean + len(x) * delta / n
        self.n = n

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / ((self.var / (self.n - 1)).sqrt() + torch.finfo(torch.float32).eps)


def published(model: LanguageModel, batches: list[list[Edit]], *, shared: bool) -> list[dict[str, Tensor]]:
    """The change of each batch, written down as the paper's pseudo-code: hooks, a loop over edits, a full solve."""
    hf, normalisers, updates = model.model, dict[Any, RunningMeanStd](), list[dict[str, Tensor]]()
    modules: dict[str, nn.Linear] = {name: hf.get_submodule(name.removesuffix(".weight")) for name in WEIGHTS}  # type: ignore[misc]
    before = {name: module.weight.detach().clone() for name, module in modules.items()}
    for batch in batches:
        keys, grads = ({name: list[Tensor]() for name in WEIGHTS} for _ in range(2))
        for edit in batch:
            prompt = model.encode(edit.text, target=edit.target_new)
            seen: dict[str, tuple[Tensor, Tensor]] = {}

            def see(name: str, inputs: Tensor, output: Tensor, seen: dict[str, tuple[Tensor, Tensor]] = seen) -> None:
                output.retain_grad()
                seen[name] = inputs, output

            hooks = [
                module.register_forward_hook(lambda _, args, output, name=name, see=see: see(name, args[0], output))
                for name, module in modules.items()
            ]
            with torch.enable_grad():
                embedded = hf.get_input_embeddings()(torch.tensor([prompt.ids[:-1]])).detach().requires_grad_()
                logits = hf(inputs_embeds=embedded).logits[0, prompt.target_start - 1 :]
                torch.nn.functional.cross_entropy(logits, torch.tensor(prompt.target_ids), reduction="sum").backward()
            for hook in hooks:
                hook.remove()
            for name, (inputs, output) in seen.items():
                assert output.grad is not None
                keys[name].append(inputs[0, prompt.target_start - 1 :].detach().double())
                grads[name].append(output.grad[0, prompt.target_start - 1 :].double())
            hf.zero_grad()
        features = {name: torch.cat([torch.cat(keys[name]), torch.cat(grads[name])], 1) for name in WEIGHTS}
        for name, x in features.items():
            normalisers.setdefault(modules[name].weight.shape if shared else name, RunningMeanStd()).update(x)
        shifts = dict[str, Tensor]()
        for name, x in features.items():
            width = modules[name].weight.shape[1]
            h, normalised = x[:, :width], normalisers[modules[name].weight.shape if shared else name](x)
            hn, gn = normalised[:, :width], normalised[:, width:]
            v = -RATE * (hn * hn).sum(-1, keepdim=True) * gn
            shifts[name] = torch.linalg.solve(h.T @ h + torch.eye(width).double(), h.T @ v).T.float()
        with torch.no_grad():
            for name, module in modules.items():
                module.weight += shifts[name]
        updates.append(shifts)
    with torch.no_grad():
        for name, module in modules.items():
            module.weight.copy_(before[name])
    return updates


@pytest.mark.parametrize("statistics", ["shape", "weight"])
def test_two_batches_are_those_of_the_published_algorithm(statistics: str) -> None:
    """The second batch continues the statistics of the first, and its gradients are those of the edited model."""
    model = tiny("llama")
    expected = published(model, [EDITS[:2], EDITS[2:]], shared=statistics == "shape")
    chosen = method(model, statistics=statistics)
    first = chosen.edit(EDITS[:2])
    for patch, shifts in zip((first, chosen.edit(EDITS[2:], before=first)), expected, strict=True):
        for name, change in changes(patch).items():
            torch.testing.assert_close(change, shifts[name], rtol=1e-3, atol=1e-6 * float(shifts[name].abs().max()))


def test_more_tokens_than_inputs_are_solved_for_the_inputs() -> None:
    """The same change, from a matrix that does not grow with the edits, in a patch that does not either."""
    model = tiny("llama")
    names = ("Spain", "France", "Paris", "London", "Miami", "The dog")
    many = [
        edit.model_copy(update={"id": f"{name} {edit.id}", "subject": name, "target_new": "Oslo and Miami Heat"})
        for name in names
        for edit in (EDIT, SECOND)
    ]
    patch = method(model).edit(many)
    assert isinstance(patch, WeightPatch)
    assert sum(record["tokens"] for record in patch.edits) > max(max(pair.shape) for pair in patch.factors.values())
    assert all(pair.rank == min(pair.shape) for pair in patch.factors.values())
    (expected,) = published(model, [many], shared=True)
    for name, change in changes(patch).items():
        torch.testing.assert_close(
            change, expected[name], rtol=1e-3, atol=1e-5 * float(expected[name].abs().max()), check_dtype=False
        )


def test_statistics_continue_from_a_file(tmp_path: Path) -> None:
    """A resumed run makes the same second batch; the state does not grow with the edits."""
    chosen = method(tiny("llama"))
    first = chosen.edit(EDITS[:2])
    again = Patch.load(first.save(tmp_path / "first.safetensors"))
    uncut, resumed = (chosen.edit(EDITS[2:], start=start) for start in (first, again))
    assert isinstance(first, WeightPatch) and isinstance(uncut, WeightPatch) and isinstance(resumed, WeightPatch)
    for name, tensor in uncut.state.items():
        assert torch.equal(tensor, resumed.state[name]) and tensor.shape == first.state[name].shape
    assert all(torch.equal(change, changes(resumed)[name]) for name, change in changes(uncut).items())
    rest = uncut - first
    assert isinstance(rest, WeightPatch)
    update = chosen.edit(EDITS[2:], before=first)
    assert isinstance(update, WeightPatch)
    for name, tensor in update.state.items():
        torch.testing.assert_close(rest.state[name], tensor)


def test_edit_makes_its_target_likelier() -> None:
    model = tiny("llama")
    chosen = UltraEdit(model, UltraEditConfig(layers=(1, 2), texts=8, rate=1e-3))
    patch = chosen.edit([EDIT])
    again = chosen.edit([EDIT], before=patch)
    assert again.edits[0]["nll_before"] < patch.edits[0]["nll_before"]


def test_weights_are_chosen_by_layer_and_projection_or_by_name() -> None:
    model = tiny("llama")
    for projections, names in {"in": ("gate", "up"), "down": ("down",), "all": ("gate", "up", "down")}.items():
        chosen = UltraEdit(model, UltraEditConfig.preset("default", {"layers": [1], "projections": projections}))
        assert chosen.weights == tuple(f"model.layers.1.mlp.{name}_proj.weight" for name in names)
    assert method(model).layers == (1, 2)
