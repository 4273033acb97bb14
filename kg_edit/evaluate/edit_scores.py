"""How the metrics of every record are computed; what they are called and where they come from is in `metrics`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kg_edit.edits.edit import Edit
from kg_edit.evaluate.metrics.metric import mean
from kg_edit.evaluate.probe_scores import by_category, first_score, mentioned
from kg_edit.scoring.questions import ANSWER, right_answers
from kg_edit.text.matching import begins_with, mentions

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.evidence import Evidence

OfEdit = Callable[[Edit, "Evidence"], float | None]


def over_edits(of_edit: OfEdit) -> Callable[[Case, Evidence], float | None]:
    """The mean over a case's edits."""
    return lambda case, evidence: mean(of_edit(edit, evidence) for edit in case.edits)


def efficacy_prob(edit: Edit, evidence: Evidence) -> float | None:
    """Whether the new target is the likelier one after the edit's prompt."""
    return _share_preferring_new(edit, (edit.text,), evidence)


def paraphrase_prob(edit: Edit, evidence: Evidence) -> float | None:
    """The share of paraphrases after which the new target is the likelier one."""
    return _share_preferring_new(edit, edit.paraphrases, evidence)


def neighborhood_prob(edit: Edit, evidence: Evidence) -> float | None:
    """The share of neighbours' prompts after which the old target is the likelier one."""
    old, new = edit.target_true, edit.target_new
    if old is None:
        return None
    return mean(evidence.nll(prompt, old) < evidence.nll(prompt, new) for prompt in edit.neighborhood)


def efficacy_magnitude(edit: Edit, evidence: Evidence) -> float | None:
    """How much likelier the new target is after the edit's prompt."""
    return _lead_of_new(edit, (edit.text,), evidence)


def paraphrase_magnitude(edit: Edit, evidence: Evidence) -> float | None:
    """How much likelier the new target is after paraphrases, on average."""
    return _lead_of_new(edit, edit.paraphrases, evidence)


def neighborhood_magnitude(edit: Edit, evidence: Evidence) -> float | None:
    """How much likelier the old target is after neighbours' prompts, on average."""
    lead = _lead_of_new(edit, edit.neighborhood, evidence)
    return None if lead is None else -lead


def efficacy_greedy(edit: Edit, evidence: Evidence) -> float | None:
    """Whether the greedy continuation of the edit's prompt begins with the new target."""
    return float(begins_with(evidence.texts[edit.text], edit.target_new))


def portability_greedy(case: Case, evidence: Evidence) -> float | None:
    """The share of questions, and of portability probes, whose greedy continuation says the answer or an alias."""
    asked = (
        any(mentions(evidence.texts[prompt], name) for name in right_answers(question))
        for prompt, question in zip(case.few_shot_prompts, case.questions, strict=True)
    )
    return by_category(case, evidence, "portability", mentioned, besides=asked)


def portability_teacher_forced(case: Case, evidence: Evidence) -> float | None:
    """The share of the answer's tokens that are the arg-max, given those before."""
    asked = (evidence.scores[pair].accuracy for pair in case.answer_pairs)
    return by_category(case, evidence, "portability", lambda *of: first_score(*of).accuracy, besides=asked)


def portability_nll(case: Case, evidence: Evidence) -> float | None:
    """-log p of the answer, mean over its tokens, in nats."""
    asked = (evidence.scores[pair].nll for pair in case.answer_pairs)
    return by_category(case, evidence, "portability", lambda *of: first_score(*of).nll, besides=asked)


def portability_choice(case: Case, evidence: Evidence) -> float | None:
    """Whether the right one of ten answers gains most by the question."""
    if len(case.choices) < len(case.questions) or not all(case.choices):
        return None
    gains = (
        [evidence.nll(ANSWER, answer) - evidence.nll(prompt, answer) for answer in answers]
        for prompt, answers in zip(case.prompts, case.choices, strict=True)
    )
    return mean(gain[0] > max(gain[1:]) for gain in gains)


def _share_preferring_new(edit: Edit, prompts: Iterable[str], evidence: Evidence) -> float | None:
    old, new = edit.target_true, edit.target_new
    if old is None:
        return None
    return mean(evidence.nll(prompt, new) < evidence.nll(prompt, old) for prompt in prompts)


def _lead_of_new(edit: Edit, prompts: Iterable[str], evidence: Evidence) -> float | None:
    old, new = edit.target_true, edit.target_new
    if old is None:
        return None
    return mean(math.exp(-evidence.nll(prompt, new)) - math.exp(-evidence.nll(prompt, old)) for prompt in prompts)
