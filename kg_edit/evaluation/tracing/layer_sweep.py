"""Choose the layer to edit (``--layer auto``) by a short sweep on a few of the user's own edits.

Causal tracing shows where a fact is stored, but not which layer is best to edit (Hase et al. 2023, "Does localization
inform editing?", arXiv 2301.04213). So tracing only names one layer to try; the scores of the edits decide.

- `auto_layer`: the sweep; its outcome is cached, so that the same command uses the same layer again.
- `choose_layer`: the sweep itself. `list_candidates`: the layers that it tries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_edit.covariance.store import find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.evaluation.tracing.corrupted_run import (
    CleanRun,
    CorruptedRun,
    default_window,
    draw_noise,
    noise_level,
    window_around,
)
from kg_edit.evaluation.tracing.layer_score import (
    EditScore,
    LayerScore,
    SweepProbes,
    decide,
    edit_score,
    layer_scores,
    sweep_probes,
)
from kg_edit.evaluation.tracing.trace import facts_of, prompt_of
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.config import LayerConfig, MethodConfig
from kg_edit.methods.run_settings import method_settings
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import cache_folder
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import divergence, next_token_log_p, score_each
from kg_edit.storage.atomic import write_json
from kg_edit.version import __version__

_SAMPLES = 5
_STEP = 15  # candidates next to the default are depth / _STEP layers away from it
log = logging.getLogger(__name__)
# edits to try at each layer, and steps for each, at most
EDITS = 6
STEPS = 10
Make = Callable[[MethodConfig], EditingMethod]
_PROTOCOL = 4  # raise it when the candidates or the scoring change


class Sweep(BaseModel):
    """The outcome of a sweep: the scores of the layers, the ``chosen`` layer, and the reason in words (``why``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chosen: int
    why: str
    default: int
    traced: int
    edits: tuple[str, ...]
    steps: int | None
    layers: tuple[LayerScore, ...]


def auto_layer(
    make: Make, model: LanguageModel, config: MethodConfig, edits: Sequence[Edit], *, progress: bool = True
) -> Sweep:
    """Run `choose_layer`, or load its earlier outcome for the same model, method, settings and edits."""
    decides = {
        "protocol": _PROTOCOL,
        "kg_edit": __version__,
        **method_settings(make(config), model),
        "model": {"fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
        "edits": [edit.model_dump(mode="json") for edit in pick_spread(edits, EDITS)],
    }
    file = cache_folder() / "layers" / f"{digest(decides)[:16]}.json"
    start = time.perf_counter()
    try:
        sweep = Sweep.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):  # absent, or damaged
        sweep = choose_layer(make, model, config, edits, progress=progress)
        write_json(file, sweep.model_dump(mode="json"))
    log.info("--layer auto: %s; %.0f s", sweep.why, time.perf_counter() - start)
    return sweep


def choose_layer(
    make: Make, model: LanguageModel, config: MethodConfig, edits: Sequence[Edit], *, progress: bool = True
) -> Sweep:
    """Try at most five layers on at most six edits, with at most ten steps each, and choose the best layer.

    The default layer stays unless another one is clearly better (see `decide`).

    Args:
        make: builds the method with given settings for ``model``.
        model: the model; it is not changed.
        config: the method's settings.
        edits: the edits to choose from.
        progress: show progress bars.
    """
    free = check_choosable(config)
    if not edits:
        raise ConfigError("--layer auto: there are no edits for trying layers; give --layer a number")
    chosen = pick_spread(edits, EDITS)
    default = free.layer_in(len(model.blocks))
    traced = traced_peak(model, chosen)
    layers = list_candidates(len(model.blocks), default=default, traced=traced)

    short = _with_few_steps(config)
    steps = getattr(short, "steps", None)
    if not isinstance(steps, int):  # a method that trains no steps
        steps = None
    words = "?" if steps is None else str(steps)
    log.info("--layer auto: %d layers x %d edits, %s steps each", len(layers), len(chosen), words)
    scores = _score_layers(make, model, short, chosen, layers, progress=progress)
    best, why = decide(scores, default=default)
    return Sweep(
        chosen=best,
        why=why,
        default=default,
        traced=traced,
        edits=tuple(edit.id for edit in chosen),
        steps=steps,
        layers=scores,
    )


def _score_layers(
    make: Make,
    model: LanguageModel,
    config: MethodConfig,
    edits: Sequence[Edit],
    layers: Sequence[int],
    *,
    progress: bool,
) -> tuple[LayerScore, ...]:
    """Make the edits at each layer, and score them."""
    # One pass measures the covariances of all candidates; each method then finds its own in the cache.
    covariance = config.workload(edits=1).covariance
    if covariance:
        find_covariances(model, layers, covariance, progress=progress)
    probes = sweep_probes(model, edits)
    results = dict[int, tuple[EditScore | Exception, ...]]()
    for layer in Bar(layers, title="layers", unit="layer", shown=progress):
        method = make(config.model_copy(update={"layer": layer}))
        results[layer] = edit_scores(model, probes, method)
    return layer_scores(results)


def _with_few_steps(config: MethodConfig) -> MethodConfig:
    """Return the settings with at most `STEPS` steps, and none after them."""
    fewer = dict[str, int]()
    steps = getattr(config, "steps", None)
    if isinstance(steps, int):
        fewer["steps"] = min(steps, STEPS)
    if "further_steps" in type(config).model_fields:
        fewer["further_steps"] = 0
    return config.model_copy(update=fewer)


def edit_scores(
    model: LanguageModel, probes: Sequence[SweepProbes], method: EditingMethod
) -> tuple[EditScore | Exception, ...]:
    """Return the score of each edit made alone by ``method``, or the error if it could not be made.

    The prompts are asked in chat form if all edits are made in chat form.
    """
    patches: dict[int, WeightPatch] = {}  # by the number of the edit
    errors: dict[int, Exception] = {}
    for index, patch in enumerate(method.edit_each([probe.edit for probe in probes])):
        if isinstance(patch, Exception):
            errors[index] = patch
        elif isinstance(patch, WeightPatch):
            patches[index] = patch
        else:
            problem = f"--layer auto can't score a patch of the {patch.changed_part}; give --layer a number"
            errors[index] = ConfigError(problem)

    reader = model.in_chat(chat=all(probe.edit.asks_in_chat for probe in probes))
    pairs = [probes[index].pairs for index in patches]
    scores = score_each(reader, pairs, patches=list(patches.values()))
    results: dict[int, EditScore | Exception] = {**errors}
    for index, scores_of_pairs in zip(patches, scores, strict=True):
        probe = probes[index]
        # exp(-nll) is the geometric mean of p over the target's tokens. The rewrite prompt comes first.
        efficacy, *general = [torch.tensor(-scores_of_pairs[pair].nll).exp().item() for pair in probe.pairs]
        unedited = next_token_log_p(reader, probe.near)
        with patches[index].applied(model):
            edited = next_token_log_p(reader, probe.near)
        specificity = float(torch.tensor(-divergence(unedited, edited)).exp())
        results[index] = edit_score(efficacy, fmean(general), specificity)
    return tuple(results[index] for index in range(len(probes)))


def check_choosable(config: MethodConfig) -> LayerConfig:
    """Check that a method writes into one layer and that it is not chosen yet; needs no model. Return the settings."""
    if not isinstance(config, LayerConfig):
        raise ConfigError("--layer auto: this method has no setting layer (LayerConfig); leave --layer out")
    if not config.writes_weight:
        raise ConfigError("--layer auto: it scores changes of weights, and this method changes none; give --layer N")
    if config.layer is not None:
        raise ConfigError(f"layer is set twice: to {config.layer} and to auto; remove one of them")
    return config


def pick_spread(edits: Sequence[Edit], count: int) -> tuple[Edit, ...]:
    """Return ``count`` edits evenly spread over the list, in its order; all edits if there are no more."""
    if len(edits) <= count:
        return tuple(edits)
    return tuple(edits[index * len(edits) // count] for index in range(count))


def list_candidates(layers: int, *, default: int, traced: int) -> tuple[int, ...]:
    """Return at most five layers, in order, without the last: a change there reaches no later token."""
    step = max(1, round(layers / _STEP))
    options = {default - step, default, default + step, traced, (default + traced) // 2}
    return tuple(sorted(layer for layer in options if 0 <= layer < max(1, layers - 1)))


def traced_peak(model: LanguageModel, edits: Sequence[Edit]) -> int:
    """Return the layer at which restoring MLPs at the subject's last token restores most of the prediction, on average.

    This is the tracing of `kg_edit.evaluation.tracing.trace` for that one token, with five samples of the noise.
    """
    prompts = [prompt_of(model, fact) for fact in facts_of(edits)]
    level = noise_level(model, prompts)
    window = default_window(model, "mlp")
    layers = len(model.blocks)
    total = torch.zeros(layers)
    with keep_untouched(model):
        for prompt in prompts:
            clean = CleanRun(model, prompt, kind="mlp")
            noise = draw_noise(model, prompt, level=level, samples=_SAMPLES, seed=0)
            run = CorruptedRun(clean, noise=noise, answer=int(clean.probabilities.argmax()))
            restored = []
            for layer in range(layers):
                around = window_around(layer, size=window, layers=layers)
                restored.append(run.restore(around, [[prompt.edited_at]]).mean())
            total += torch.stack(restored) - run.probability.mean()
    return int(total.argmax())
