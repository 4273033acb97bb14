"""A step of MEND's training with stored states of the lower blocks, against the plain way.

The plain way runs the whole model in each step, and sends every token of a prompt through the editing network, also
those without a gradient. Both take the same rows, one after the other, and their losses are compared. The edits are
those of CounterFactPlus, or of the demonstration. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from tools.model_edits import some_edits

from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.mend.examples import BatchOrder, Rows
from kg_edit.zoo.mend.gradients import (
    Changes,
    Shape,
    first_block,
    has_gradient,
    mlp_weights,
    read_tokens,
    weight_shapes,
)
from kg_edit.zoo.mend.network import MendNetwork, MendTraining, Pairs
from kg_edit.zoo.mend.training import losses_after
from kg_edit.zoo.trained.lower_states import LowerStates, lower_states


class EveryToken:
    """The same network, which also computes the changes of tokens without a gradient, and multiplies them by 0."""

    def __init__(self, network: MendNetwork) -> None:
        self._network = network

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the edited weights."""
        return self._network.shapes

    def changes(self, factors: Pairs) -> Changes:
        """The factors of each weight's change."""
        changes = {}
        for name, (inputs, deltas) in factors.items():
            better, direction = self._network(name, inputs, deltas)
            changes[name] = (-self._network.compute_rate(name) * direction * has_gradient(deltas)[..., None], better)
        return changes


def step(
    model: LanguageModel, network: MendNetwork | EveryToken, rows: Rows, lower: LowerStates | None
) -> tuple[float, float]:
    """Return the seconds and the loss of a step."""
    start = time.perf_counter()
    losses = losses_after(model, network, rows, edit_weight=0.1, locality_weight=1.0, lower=lower)
    losses.total.backward()
    return time.perf_counter() - start, float(losses.total.detach())


def main() -> None:
    """Time both ways on the same steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    model = LanguageModel.load("smollm2-135m")
    settings = MendTraining(normalise_on=16, validation=8)
    names = mlp_weights(model, settings.blocks)
    network = MendNetwork(weight_shapes(model, names), rank=settings.rank, edit_lr=settings.edit_lr)
    with keep_untouched(model), tempfile.TemporaryDirectory() as folder:
        order = BatchOrder.of(model, some_edits(options.edits), settings)
        start = time.perf_counter()
        prompts = {read_tokens(prompt) for prompt in order.prompts()}
        lower = lower_states(model, prompts, first_block(model, names), Path(folder) / "states.safetensors")
        stored = (time.perf_counter() - start) / len(prompts)
        pairs = [
            (step(model, EveryToken(network), order.rows(at), None), step(model, network, order.rows(at), lower))
            for at in range(options.steps)
        ][1:]
    plain, ours = (median(pair[way][0] for pair in pairs) for way in (0, 1))
    apart = max(abs(pair[0][1] - pair[1][1]) / pair[0][1] for pair in pairs)
    print(f"a step: {plain:.2f} s, with stored states {ours:.2f} s; {plain / ours:.1f} times faster")
    print(f"a stored prompt: {1000 * stored:.0f} ms; losses differ by {apart:.1e} at most, relative")
    print(json.dumps({"plain_s": plain, "stored_s": ours, "ratio": plain / ours, "state_ms": 1000 * stored}))


if __name__ == "__main__":
    main()
