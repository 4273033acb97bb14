"""The metrics of every record, from an edit's own prompt, paraphrases, neighbours and portability questions.

First come the functions that compute them, then the tables `PORTABILITY`, `METRICS` and `CHAT_METRICS` with formula,
source and needs. A metric is missing (None) for a record without the parts that it needs. If a record makes several
edits at once, the metric is the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.metric import (
    CATEGORIES,
    Compute,
    Metric,
    accuracy,
    average_categories,
    mean,
    mentioned,
    nll,
)
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.judging import says_in_first_sentence
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import ANSWER, right_answers
from kg_edit.scoring.requests import (
    STATEMENT_TOKENS,
    Continued,
    Requests,
    continue_query,
    score_answer,
)
from kg_edit.text.matching import begins_with, mentions

ScoreEdit = Callable[[Edit, Evidence], float | None]
GetPrompts = Callable[[Edit], Iterable[str]]


# The prompts of an edit after which its old and its new target are compared.


def get_own_prompt(edit: Edit) -> Iterable[str]:
    """Return an edit's own prompt, as a list like its paraphrases."""
    return [edit.text]


def get_paraphrases(edit: Edit) -> Iterable[str]:
    """Return the paraphrases of an edit's prompt."""
    return edit.paraphrases


def get_neighborhood(edit: Edit) -> Iterable[str]:
    """Return the prompts about the neighbours of an edit's subject."""
    return edit.neighborhood


# How the metrics of an edit become metrics of a case, and the metrics of the edit itself.


def over_edits(score_edit: ScoreEdit) -> Compute:
    """Turn a metric of an edit into a metric of a case: the mean over the case's edits."""

    def compute(case: Case, evidence: Evidence) -> float | None:
        return mean(score_edit(edit, evidence) for edit in case.edits)

    return compute


def over_prompts(get_prompts: GetPrompts, compare: Callable[[float, float], float]) -> Compute:
    """Return a metric of a case: the mean over an edit's prompts of ``compare(NLL(o*), NLL(o))`` after each prompt.

    An edit without an old object has no such metric.
    """

    def score_edit(edit: Edit, evidence: Evidence) -> float | None:
        new = edit.target_new
        old = edit.target_true
        if old is None:
            return None
        values = list[float]()
        for prompt in get_prompts(edit):
            values.append(compare(evidence.nll(prompt, new), evidence.nll(prompt, old)))
        return mean(values)

    return over_edits(score_edit)


def prefers_new(new: float, old: float) -> bool:
    """Return whether NLL(o*) < NLL(o)."""
    return new < old


def prefers_old(new: float, old: float) -> bool:
    """Return whether NLL(o) < NLL(o*)."""
    return old < new


def lead_of_new(new: float, old: float) -> float:
    """Return exp(-NLL(o*)) - exp(-NLL(o))."""
    return math.exp(-new) - math.exp(-old)


def lead_of_old(new: float, old: float) -> float:
    """Return exp(-NLL(o)) - exp(-NLL(o*))."""
    return math.exp(-old) - math.exp(-new)


def begins_with_target(edit: Edit, evidence: Evidence) -> bool:
    """Return whether the greedy continuation of an edit's prompt begins with o*."""
    return begins_with(evidence.texts[edit.text], edit.target_new)


def says_target(edit: Edit, evidence: Evidence) -> bool | None:
    """Return whether the first sentence of the greedy answer to an edit's prompt contains o*.

    None for an unstructured edit, because no sentence contains a paragraph.
    """
    if edit.target_text:
        return None
    return says_in_first_sentence(evidence.texts[edit.text], edit.target_new)


# The metrics of the portability questions.


def portability_greedy(case: Case, evidence: Evidence) -> float | None:
    """Return the share of questions and portability probes whose greedy continuation contains an answer's name."""
    passed = []
    for prompt, question in zip(case.few_shot_prompts, case.questions, strict=True):
        text = evidence.texts[prompt]
        passed.append(any(mentions(text, name) for name in right_answers(question)))
    return average_categories(case, evidence, "portability", mentioned, without_category=passed)


def portability_teacher_forced(case: Case, evidence: Evidence) -> float | None:
    """Return the share of the answer's tokens that are the arg-max, given the right tokens before them."""
    shares = [evidence.scores[pair].accuracy for pair in case.answer_pairs]
    return average_categories(case, evidence, "portability", accuracy, without_category=shares)


def portability_nll(case: Case, evidence: Evidence) -> float | None:
    """Return -log p of the answer, mean over its tokens, in nats."""
    losses = [evidence.scores[pair].nll for pair in case.answer_pairs]
    return average_categories(case, evidence, "portability", nll, without_category=losses)


def portability_choice(case: Case, evidence: Evidence) -> float | None:
    """Return the share of questions that raise the log-likelihood of the right one of ten answers most."""
    if len(case.choices) < len(case.questions) or not all(case.choices):
        return None
    chosen = []
    for prompt, answers in zip(case.prompts, case.choices, strict=True):
        # log p(a | question) - log p(a | "Answer:"), with the right answer in front
        gains = [evidence.nll(ANSWER, answer) - evidence.nll(prompt, answer) for answer in answers]
        chosen.append(gains[0] > max(gains[1:]))
    return mean(chosen)


# What a model is asked for these metrics.


def continue_statements(case: Case) -> Requests:
    """Return the request for continuations of the edits' own prompts, with room for their targets."""
    texts = [Continued(prompt=edit.text, least=STATEMENT_TOKENS, answers=(edit.target_new,)) for edit in case.edits]
    return Requests(continued=tuple(texts))


def score_targets(get_prompts: GetPrompts) -> Callable[[Case], Requests]:
    """Return the request for the likelihood of the new and of the old target after some prompts of each edit."""

    def request(case: Case) -> Requests:
        pairs = []
        for edit in case.edits:
            for prompt in get_prompts(edit):
                scored = prompt.rstrip()  # as `Evidence.score` looks it up
                pairs.append(Pair(scored, edit.target_new))
                if edit.target_true:
                    pairs.append(Pair(scored, edit.target_true))
        return Requests(pairs=tuple(pairs))

    return request


def continue_questions(case: Case) -> Requests:
    """Return the request for answers to the portability questions, in few-shot form."""
    texts = []
    for prompt, question in zip(case.few_shot_prompts, case.questions, strict=True):
        texts.append(Continued(prompt=prompt, name=question.question, answers=right_answers(question)))
    return Requests(continued=tuple(texts))


def score_questions(case: Case) -> Requests:
    """Return the request for the likelihood of the answers to the portability questions."""
    return Requests(pairs=tuple(case.answer_pairs))


def score_choices(case: Case) -> Requests:
    """Return the request for the likelihood of ten answers after each question, and after "Answer:" alone."""
    pairs = []
    for question, answers in zip(case.prompts, case.choices, strict=False):
        for answer in answers:
            pairs += [Pair(question, answer), Pair(ANSWER, answer)]
    return Requests(pairs=tuple(pairs))


# The tables.

_MENG = "Meng et al. 2022 (ROME)"


def compare_targets(
    get_prompts: GetPrompts,
    compare: Callable[[float, float], float],
    *,
    formula: str,
    source: str,
    needs: tuple[str, ...],
    values: str = "0 to 1",
) -> Metric:
    """Return the metric `over_prompts`, with the request for the two likelihoods after each of the same prompts."""
    return Metric(
        compute=over_prompts(get_prompts, compare),
        formula=formula,
        source=source,
        needs=needs,
        asks_case=score_targets(get_prompts),
        values=values,
    )


PORTABILITY: Mapping[str, Metric] = {
    "portability.greedy": Metric(
        compute=portability_greedy,
        formula="Share of questions in few-shot form (sentences unchanged) whose greedy continuation, up to its "
        f"natural stop, contains the answer or an alias as whole words. {CATEGORIES}",
        source="This project. GLAME's own portability score is portability.glame_fuzzy.",
        needs=("portability",),
        asks=(continue_query,),
        asks_case=continue_questions,
    ),
    "portability.teacher_forced": Metric(
        compute=portability_teacher_forced,
        formula='Share of the answer\'s tokens that are the arg-max after "Question: …\\nAnswer:" (a sentence is '
        f"unchanged) and the answer's tokens before. {CATEGORIES}",
        source="EasyEdit (Yao et al. 2023), which asks without the question form.",
        needs=("portability",),
        asks=(score_answer,),
        asks_case=score_questions,
    ),
    "portability.nll": Metric(
        compute=portability_nll,
        formula='-log p(answer | "Question: …\\nAnswer:") (a sentence is unchanged), mean over the answer\'s tokens. '
        f"{CATEGORIES}",
        source="This project. It also shows changes that are too small to change a share.",
        needs=("portability",),
        asks=(score_answer,),
        asks_case=score_questions,
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "portability.choice": Metric(
        compute=portability_choice,
        formula="Share of questions for which only the right one of ten answers a has the highest log p(a | question) "
        '- log p(a | "Answer:"), each a mean over tokens; the nine others are drawn from the other answers of the data '
        "with the run's seed.",
        source="Domain-conditional PMI (Holtzman et al. 2021), here computed per token.",
        needs=("questions",),
        asks_case=score_choices,
    ),
}
METRICS: Mapping[str, Metric] = {
    "efficacy.prob": compare_targets(
        get_own_prompt,
        prefers_new,
        formula="1 if NLL(o*) < NLL(o) after the edit's prompt.",
        source=f'"Efficacy success" (ES): {_MENG}.',
        needs=("target_true",),
    ),
    "efficacy.greedy": Metric(
        compute=over_edits(begins_with_target),
        formula="1 if the greedy continuation of the edit's prompt begins with o*, word by word after normalisation.",
        source="Free generation with natural stop, after Yang et al. 2025 (WILD).",
        needs=(),
        asks_case=continue_statements,
    ),
    "paraphrase.prob": compare_targets(
        get_paraphrases,
        prefers_new,
        formula="Share of paraphrases with NLL(o*) < NLL(o).",
        source=f'"Paraphrase success" (PS): {_MENG}.',
        needs=("target_true", "paraphrases"),
    ),
    "neighborhood.prob": compare_targets(
        get_neighborhood,
        prefers_old,
        formula="Share of prompts about neighbours of s, for which o is true, with NLL(o) < NLL(o*).",
        source=f'"Neighborhood success" (NS): {_MENG}.',
        needs=("target_true", "neighborhood"),
    ),
    "efficacy.magnitude": compare_targets(
        get_own_prompt,
        lead_of_new,
        formula="exp(-NLL(o*)) - exp(-NLL(o)) after the edit's prompt, or the mean over paraphrases.",
        source=f'"Magnitude" (EM, PM, NM): {_MENG}.',
        needs=("target_true",),
        values="-1 to 1",
    ),
    "paraphrase.magnitude": compare_targets(
        get_paraphrases,
        lead_of_new,
        formula="exp(-NLL(o*)) - exp(-NLL(o)) after the edit's prompt, or the mean over paraphrases.",
        source=f'"Magnitude" (EM, PM, NM): {_MENG}.',
        needs=("target_true", "paraphrases"),
        values="-1 to 1",
    ),
    "neighborhood.magnitude": compare_targets(
        get_neighborhood,
        lead_of_old,
        formula="exp(-NLL(o)) - exp(-NLL(o*)), mean over the neighbours' prompts.",
        source=f'"Magnitude" (EM, PM, NM): {_MENG}.',
        needs=("target_true", "neighborhood"),
        values="-1 to 1",
    ),
    **PORTABILITY,
}
CHAT_METRICS: Mapping[str, Metric] = {
    "efficacy.first_sentence": Metric(
        compute=over_edits(says_target),
        formula="In chat form only: 1 if the first sentence of the greedy answer to the edit's prompt contains o*, as "
        "whole words; it need not begin with o*, as efficacy.greedy requires.",
        source="This project.",
        needs=(),
        asks_case=continue_statements,
    ),
}
