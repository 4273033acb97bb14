"""The metrics, each named with its protocol. A score is between 0 and 1, but for ``portability.nll`` (nats).

A metric is missing (None) for a record without what it needs: a target_true, paraphrases, a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from kg_edit.edits import Edit
from kg_edit.evaluate.case import Case, Evidence
from kg_edit.evaluate.matching import begins_with, mentions
from kg_edit.evaluate.questions import ANSWER, right_answers

Metric = Callable[[Case, Evidence], float | None]


def efficacy_prob(case: Case, evidence: Evidence) -> float | None:
    """1 if NLL(o*) < NLL(o) after the rewrite prompt (Meng et al. 2022, "efficacy success")."""
    return _share_preferring_new(case.edit, (case.edit.text,), evidence)


def paraphrase_prob(case: Case, evidence: Evidence) -> float | None:
    """The share of paraphrases with NLL(o*) < NLL(o) (Meng et al. 2022, "paraphrase success")."""
    return _share_preferring_new(case.edit, case.edit.paraphrases, evidence)


def neighborhood_prob(case: Case, evidence: Evidence) -> float | None:
    """The share of prompts about neighbours of s with NLL(o) < NLL(o*) (Meng et al. 2022, "neighborhood success")."""
    old, new = case.edit.target_true, case.edit.target_new
    if old is None:
        return None
    return _mean(evidence.nll(p, old) < evidence.nll(p, new) for p in case.edit.neighborhood)


def efficacy_greedy(case: Case, evidence: Evidence) -> float | None:
    """1 if the greedy continuation of the rewrite prompt begins with o*, word by word (Yang et al. 2025, "WILD")."""
    return float(begins_with(evidence.texts[case.edit.text], case.edit.target_new))


def portability_greedy(case: Case, evidence: Evidence) -> float | None:
    """The share of questions in few-shot form whose greedy continuation says the answer, or an alias, as whole words.

    Stricter than GLAME's fuzzy match (Zhang et al. 2024), which also reads the prompt and samples.
    """
    return _mean(
        any(mentions(evidence.texts[prompt], name) for name in right_answers(question))
        for prompt, question in zip(case.few_shot_prompts, case.edit.portability, strict=True)
    )


def portability_teacher_forced(case: Case, evidence: Evidence) -> float | None:
    """The share of the answer's tokens that are the arg-max after "Question: …\\nAnswer:" and the tokens before.

    EasyEdit's portability (Yao et al. 2023), in the question form. Kinder than any use of the model.
    """
    return _mean(evidence.scores[pair].accuracy for pair in case.answer_pairs)


def portability_nll(case: Case, evidence: Evidence) -> float | None:
    """-log p of the answer after "Question: …\\nAnswer:", mean over its tokens, in nats; less is better."""
    return _mean(evidence.scores[pair].nll for pair in case.answer_pairs)


def portability_choice(case: Case, evidence: Evidence) -> float | None:
    """1 if of ten answers a the right one alone has the highest log p(a | question) - log p(a | "Answer:"), a token.

    The second term takes away what makes an answer likely by itself (Holtzman et al. 2021, domain-conditional PMI).
    """
    if len(case.choices) < len(case.edit.portability) or not all(case.choices):
        return None
    gains = (
        [evidence.nll(ANSWER, answer) - evidence.nll(prompt, answer) for answer in answers]
        for prompt, answers in zip(case.prompts, case.choices, strict=True)
    )
    return _mean(gain[0] > max(gain[1:]) for gain in gains)


PORTABILITY: Mapping[str, Metric] = {
    "portability.greedy": portability_greedy,
    "portability.teacher_forced": portability_teacher_forced,
    "portability.nll": portability_nll,
    "portability.choice": portability_choice,
}
METRICS: Mapping[str, Metric] = {
    "efficacy.prob": efficacy_prob,
    "efficacy.greedy": efficacy_greedy,
    "paraphrase.prob": paraphrase_prob,
    "neighborhood.prob": neighborhood_prob,
    **PORTABILITY,
}


def _share_preferring_new(edit: Edit, prompts: Iterable[str], evidence: Evidence) -> float | None:
    old, new = edit.target_true, edit.target_new
    if old is None:
        return None
    return _mean(evidence.nll(prompt, new) < evidence.nll(prompt, old) for prompt in prompts)


def _mean(values: Iterable[float]) -> float | None:
    found = [float(value) for value in values]
    return fmean(found) if found else None
