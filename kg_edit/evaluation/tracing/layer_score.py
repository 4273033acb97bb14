"""Score an edit at a layer, average the scores, choose a layer, and make the prompts that a sweep asks of each edit.

- `EditScore`, `LayerScore`: efficacy, generality and specificity in 0 to 1, and their harmonic mean.
- `decide`: the layer with the best mean; the default layer unless another one is clearly better (`CLEAR`).
- `sweep_probes`: the prompts that are asked for each edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from pydantic import BaseModel, ConfigDict

from kg_common.terminal import number_of
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.statistics import harmonic_mean
from kg_edit.models.first_token import line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import BARE, sample_contexts
from kg_edit.scoring.pairs import Pair

_CONTEXTS = 3
_CONTEXT_TOKENS = 8
_SEED = 7_919  # differs from the seeds of the contexts with which a method makes edits
# prompts for one edit, at most
_LOCALITY = 4
_PARAPHRASES = 4
CLEAR = 2.0  # standard errors; by chance, the best of five equal layers is already better by one
_ENOUGH = 3  # edits; with fewer, a standard error means nothing


class EditScore(BaseModel):
    """One edit at one layer, each part between 0 and 1; ``score`` is their harmonic mean.

    ``efficacy`` is p(new target) after the edit's prompt (per token, in the geometric mean). ``generality`` is the mean
    of the same over paraphrases and the prompt in other contexts. ``specificity`` is exp(-KL(unedited || edited)) of
    the next token, where the KL is the mean over prompts about other subjects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    efficacy: float
    generality: float
    specificity: float
    score: float


class LayerScore(BaseModel):
    """A layer's means over the edits, and the scores of the edits; an edit that fails there counts as 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    mean: EditScore  # also of the score, which is not the harmonic mean of the means
    edits: tuple[EditScore, ...]
    failed: int


def edit_score(efficacy: float, generality: float, specificity: float) -> EditScore:
    """Return the `EditScore` of the three parts, each in 0 to 1; the score is 0 if one of them is 0."""
    score = float(harmonic_mean(np.array([efficacy, generality, specificity])))
    return EditScore(efficacy=efficacy, generality=generality, specificity=specificity, score=score)


def layer_scores(by_layer: Mapping[int, Sequence[EditScore | Exception]]) -> tuple[LayerScore, ...]:
    """Return the scores of the layers, over the edits that could be made at some layer."""
    made = set[int]()  # the edits that could be made at some layer
    errors = list[Exception]()
    for row in by_layer.values():
        for index, score in enumerate(row):
            if isinstance(score, EditScore):
                made.add(index)
            else:
                errors.append(score)
    if not made:
        raise errors[0]
    zero = EditScore(efficacy=0.0, generality=0.0, specificity=0.0, score=0.0)  # of an edit that failed at a layer
    scores = list[LayerScore]()
    for layer, row in by_layer.items():
        results = [row[index] for index in sorted(made)]
        edits = tuple(score if isinstance(score, EditScore) else zero for score in results)
        failed = sum(isinstance(score, Exception) for score in results)
        scores.append(LayerScore(layer=layer, mean=_average(edits), edits=edits, failed=failed))
    return tuple(scores)


def _average(edits: Sequence[EditScore]) -> EditScore:
    return EditScore(
        efficacy=fmean(score.efficacy for score in edits),
        generality=fmean(score.generality for score in edits),
        specificity=fmean(score.specificity for score in edits),
        score=fmean(score.score for score in edits),
    )


def decide(scores: Sequence[LayerScore], *, default: int) -> tuple[int, str]:
    """Return the layer with the best mean score, and the reason.

    It is the default if none is better by `CLEAR` standard errors. With fewer than three edits, the noise is unknown,
    so it is the default as well.
    """
    best = max(scores, key=lambda score: (score.mean.score, score.layer == default))
    by_layer = {score.layer: score for score in scores}
    usual = by_layer.get(default)
    best_score = f"layer {best.layer} has the best score, {_word_score(best)}"
    if usual is None:
        return best.layer, f"{best_score}; the default {default} could not be tried"
    if best.layer == default:
        return default, f"the default layer {default} has the best score of {len(scores)}, {_word_score(best)}"
    # The edits are the same at both layers, so their differences are compared (a paired comparison).
    differences = [better.score - other.score for better, other in zip(best.edits, usual.edits, strict=True)]
    if len(differences) < _ENOUGH:
        gain = f"layer {best.layer} is better by {fmean(differences):+.3f}"
        few = f"{number_of(len(differences), 'edit')}, too few to tell this from noise"
        return default, f"the default layer {default} stays: {gain} in {few}"
    error = stdev(differences) / len(differences) ** 0.5  # the standard error of the mean difference
    gain = f"{fmean(differences):+.3f} ± {error:.3f} against the default {default}"
    if fmean(differences) <= CLEAR * error:
        return default, f"no layer beats the default {default} clearly: layer {best.layer} by {gain} (standard error)"
    return best.layer, f"{best_score}: {gain} (standard error), {_word_score(usual)}"


def _word_score(score: LayerScore) -> str:
    """Return a layer's mean score and its parts, in words."""
    mean = score.mean
    return (
        f"{mean.score:.3f} (efficacy {mean.efficacy:.2f}, generality {mean.generality:.2f}, "
        f"specificity {mean.specificity:.2f})"
    )


@dataclass(frozen=True, kw_only=True)
class SweepProbes:
    """The prompts of a sweep for one edit.

    ``rewrite``: the edit's own prompt, after a line break if its subject would be an attention sink. ``general``: the
    new target should follow these prompts; ``near``: the next token of these prompts should not change.
    """

    edit: Edit
    rewrite: str
    general: tuple[str, ...]
    near: tuple[str, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The new target after the edit's own prompt, then after the general prompts."""
        return tuple(Pair(prompt, self.edit.target_new) for prompt in (self.rewrite, *self.general))


def sweep_probes(model: LanguageModel, edits: Sequence[Edit]) -> tuple[SweepProbes, ...]:
    """Return the probes of each edit.

    General probes are its paraphrases, and its prompt after three texts sampled from the model (with another seed than
    those that a method uses). Near probes are its neighborhood prompts, and its own prompt about the other edits'
    subjects; for an edit with neither, the sampled texts alone.
    """
    contexts = sample_contexts(model, lengths=((_CONTEXT_TOKENS, _CONTEXTS),), seed=_SEED)[1:]
    probes = list[SweepProbes]()
    for edit in edits:
        # In plain text a prompt is asked after a line break, if its subject would be an attention sink.
        own = [edit.text]
        own += [prompt.rstrip() for prompt in edit.paraphrases[:_PARAPHRASES]]
        if not edit.asks_in_chat:
            own = [line_break_before(model, prompt, subject=edit.subject) + prompt for prompt in own]
        general = own[1:] + [context.replace(BARE, edit.text) for context in contexts]
        near = [prompt.rstrip() for prompt in edit.neighborhood[:_LOCALITY]]
        near += [edit.prompt.replace("{}", subject) for subject in _list_other_subjects(edit, edits)[:_LOCALITY]]
        if not near:
            near = [context.replace(BARE, "").rstrip() for context in contexts]
        probes.append(SweepProbes(edit=edit, rewrite=own[0], general=tuple(general), near=tuple(near)))
    return tuple(probes)


def _list_other_subjects(edit: Edit, edits: Sequence[Edit]) -> list[str]:
    """Return the subjects of other edits, each once, without that of ``edit``."""
    subjects = dict.fromkeys(other.subject for other in edits)
    return [subject for subject in subjects if subject.casefold() != edit.subject.casefold()]
