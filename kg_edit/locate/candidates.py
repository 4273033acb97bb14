"""Which layers a sweep tries: those around the default, the traced peak, and one halfway between."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kg_edit.edits.edit import Edit
from kg_edit.locate.corrupted_run import CleanRun, CorruptedRun
from kg_edit.locate.noise import draw_noise, noise_level
from kg_edit.locate.sites import default_window, window_around
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.value.optimise import untouched

_SAMPLES = 5
_STEP = 15  # the neighbours of the default stand this part of the depth away


def candidates(layers: int, *, default: int, traced: int) -> tuple[int, ...]:
    """At most five layers, in order. The last one is none of them: what changes there reaches no later token."""
    step = max(1, round(layers / _STEP))
    wanted = {default - step, default, default + step, traced, (default + traced) // 2}
    return tuple(sorted(layer for layer in wanted if 0 <= layer < max(1, layers - 1)))


def traced_peak(model: LanguageModel, edits: Sequence[Edit], *, seed: int = 0) -> int:
    """The layer at which restoring MLPs at the subject's last token brings most of the prediction back, on average.

    The tracing of `kg_edit.locate.trace` for that one token, with five samples of the noise.

    Raises:
        PromptError: a subject can't be found in its prompt's tokens.
    """
    prompts = [encode(model.tokenizer, edit.prompt, subject=edit.subject) for edit in edits]
    level, window, layers = noise_level(model, prompts), default_window(model, "mlp"), len(model.blocks)
    total = torch.zeros(layers)
    with untouched(model):
        for prompt in prompts:
            clean = CleanRun(model, prompt, kind="mlp")
            noise = draw_noise(model, prompt, level=level, samples=_SAMPLES, seed=seed)
            run = CorruptedRun(clean, noise=noise, answer=int(clean.probabilities.argmax()))
            found = [
                run.restored(window_around(layer, size=window, layers=layers), [[prompt.edited_at]]).mean()
                for layer in range(layers)
            ]
            total += torch.stack(found) - run.probability.mean()
    return int(total.argmax())
