"""Which layer to edit: a short sweep on a few of the user's own edits.

Where a fact is stored, as causal tracing shows it, does not say which layer is best to edit (Hase et al. 2023, "Does
localization inform editing?"). So tracing only names a layer to try; what a layer does to the edits decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from kg_edit.covariance.store import CovarianceConfig, find_covariances
from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.locate.candidates import candidates, traced_peak
from kg_edit.locate.layer_score import EditScore, LayerScore, decide, edit_score, layer_scores
from kg_edit.locate.sweep_probes import SweepProbes, divergence, next_token, sweep_probes
from kg_edit.methods.base import EditingMethod, MethodConfig
from kg_edit.methods.common_settings import default_layer
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score_each

log = logging.getLogger(__name__)

EDITS, STEPS = 6, 10  # edits that are tried at each layer, and steps of each, at most

Make = Callable[[MethodConfig], EditingMethod]


class Sweep(BaseModel):
    """What was tried, what was chosen, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chosen: int
    why: str
    default: int
    traced: int
    edits: tuple[str, ...]
    steps: int | None
    layers: tuple[LayerScore, ...]


def choose_layer(
    make: Make, model: LanguageModel, config: MethodConfig, edits: Sequence[Edit], *, progress: bool = True
) -> Sweep:
    """Try at most five layers on at most six of ``edits``, ten steps each, and choose the one with the best score.

    The default layer stays unless another one is better by more than the standard error of the edits' differences.
    ``make`` builds the method with given settings for ``model``, which is left as it is.

    Raises:
        ConfigError: the method has no setting ``layer``, it is set already, or there is no edit to try.
        KgEditError: no edit could be made at any layer.
    """
    check_choosable(config)
    if not edits:
        raise ConfigError("--layer auto: there is no edit to try layers on; give --layer a number")
    chosen = spread(edits, EDITS)
    default = int(getattr(make(config), "layer", default_layer(len(model.blocks))))
    traced = traced_peak(model, chosen)
    layers = candidates(len(model.blocks), default=default, traced=traced)
    short = _shortened(config)
    log.info(
        "--layer auto: %d layers x %d edits, %s steps each", len(layers), len(chosen), getattr(short, "steps", "?")
    )
    _measure_covariances(model, layers, config, progress=progress)
    tried = _Tried(model, sweep_probes(model, chosen))
    found: dict[int, tuple[EditScore | Exception, ...]] = {}
    for layer in tqdm(layers, desc="layers", unit="layer", disable=None if progress else True):
        found[layer] = tried.scores(make(short.model_copy(update={"layer": layer})))
    scores = layer_scores(found)
    best, why = decide(scores, default=default)
    return Sweep(
        chosen=best,
        why=why,
        default=default,
        traced=traced,
        edits=tuple(edit.id for edit in chosen),
        steps=getattr(short, "steps", None),
        layers=scores,
    )


def spread(edits: Sequence[Edit], count: int) -> tuple[Edit, ...]:
    """``count`` edits from all over the list, in its order; all, if there are no more."""
    if len(edits) <= count:
        return tuple(edits)
    return tuple(edits[place * len(edits) // count] for place in range(count))


@dataclass(frozen=True)
class _Tried:
    """The edits' probes, and how the unedited model answers."""

    model: LanguageModel
    probes: tuple[SweepProbes, ...]

    def scores(self, method: EditingMethod) -> tuple[EditScore | Exception, ...]:
        """Each edit alone, made by ``method``."""
        patches = method.edit_each([probe.edit for probe in self.probes])
        made = [place for place, patch in enumerate(patches) if isinstance(patch, WeightPatch)]
        good = [patch for patch in patches if isinstance(patch, WeightPatch)]
        likely = score_each(self.model, [self.probes[place].pairs for place in made], patches=good)
        results: dict[int, EditScore] = {}
        for place, patch, scored in zip(made, good, likely, strict=True):
            first, *others = (torch.tensor(-scored[pair].nll).exp().item() for pair in self.probes[place].pairs)
            results[place] = edit_score(first, fmean(others), self._specificity(self.probes[place], patch))
        return tuple(results.get(place) or _failure(patch) for place, patch in enumerate(patches))

    def _specificity(self, probe: SweepProbes, patch: Patch) -> float:
        before = next_token(self.model, probe.near)
        with patch.applied(self.model):
            after = next_token(self.model, probe.near)
        return float(torch.tensor(-divergence(before, after)).exp())


def _failure(patch: Patch | Exception) -> Exception:
    if isinstance(patch, Exception):
        return patch
    return ConfigError(f"a patch of the {patch.kind} can't be scored by the sweep; give --layer a number")


def check_choosable(config: MethodConfig) -> None:
    """Refuse settings that leave no layer to choose; needs no model.

    Raises:
        ConfigError: the method has no setting ``layer``, or it is set already.
    """
    if "layer" not in type(config).model_fields:
        raise ConfigError("--layer auto: this method has no setting layer; leave --layer out")
    if (layer := getattr(config, "layer", None)) is not None:
        raise ConfigError(f"layer is set twice: to {layer}, and to auto; keep one")


def _shortened(config: MethodConfig) -> MethodConfig:
    steps = getattr(config, "steps", None)
    return config.model_copy(update={"steps": min(steps, STEPS)}) if isinstance(steps, int) else config


def _measure_covariances(model: LanguageModel, layers: Sequence[int], config: MethodConfig, *, progress: bool) -> None:
    """All that the candidates need in one pass; each method finds its own in the cache."""
    wanted = getattr(config, "covariance", None)
    if isinstance(wanted, CovarianceConfig):
        find_covariances(model, layers, wanted, progress=progress)
