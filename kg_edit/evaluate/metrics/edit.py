"""The metrics of every record: what an edit brings with it, its prompts, neighbours and portability questions.

A metric is missing (None) for a record without what it needs: a target_true, paraphrases, a question. Where a record
makes several edits at once, a metric is the mean over them.
"""

from __future__ import annotations

from collections.abc import Mapping

from kg_edit.evaluate.edit_scores import (
    efficacy_greedy,
    efficacy_magnitude,
    efficacy_prob,
    neighborhood_magnitude,
    neighborhood_prob,
    over_edits,
    paraphrase_magnitude,
    paraphrase_prob,
    portability_choice,
    portability_greedy,
    portability_nll,
    portability_teacher_forced,
)
from kg_edit.evaluate.metrics.metric import CATEGORIES, Metric

_MENG = "Meng et al. 2022 (ROME), whose program takes the same means over tokens"
PORTABILITY: Mapping[str, Metric] = {
    "portability.greedy": Metric(
        compute=portability_greedy,
        formula="Share of questions in few-shot form (sentences as they stand) whose greedy continuation, up to its "
        f"natural stop, says the answer or an alias as whole words. {CATEGORIES}",
        source="This project. Stricter than GLAME's fuzzy match (portability.glame_fuzzy), which also reads the prompt "
        "and samples; kinder to long answers than exact match.",
        of="portability",
    ),
    "portability.teacher_forced": Metric(
        compute=portability_teacher_forced,
        formula='Share of the answer\'s tokens that are the arg-max after "Question: …\\nAnswer:" (a sentence stands '
        f"alone) and the answer's tokens before. {CATEGORIES}",
        source="EasyEdit (Yao et al. 2023), there without the question form. Kinder than any use of the model: each "
        "token is judged with the right ones before it given.",
        of="portability",
    ),
    "portability.nll": Metric(
        compute=portability_nll,
        formula='-log p(answer | "Question: …\\nAnswer:") (a sentence stands alone), mean over the answer\'s tokens. '
        f"{CATEGORIES}",
        source="This project: moves where the shares above still stand still.",
        of="portability",
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "portability.choice": Metric(
        compute=portability_choice,
        formula='1 if of ten answers a the right one alone has the highest log p(a | question) - log p(a | "Answer:"), '
        "each a mean over tokens; the nine others are answers of other records, drawn with the run's seed.",
        source="Domain-conditional PMI (Holtzman et al. 2021), here a token.",
        of="questions",
    ),
}
METRICS: Mapping[str, Metric] = {
    "efficacy.prob": Metric(
        compute=over_edits(efficacy_prob),
        formula="1 if NLL(o*) < NLL(o) after the edit's prompt; NLL is the mean over the target's tokens.",
        source=f'"Efficacy success" (ES): {_MENG}.',
        of="target_true",
    ),
    "efficacy.greedy": Metric(
        compute=over_edits(efficacy_greedy),
        formula="1 if the greedy continuation of the edit's prompt begins with o*, word by word after normalisation.",
        source="Free generation with natural stop, after Yang et al. 2025 (WILD).",
        of="",
    ),
    "paraphrase.prob": Metric(
        compute=over_edits(paraphrase_prob),
        formula="Share of paraphrases with NLL(o*) < NLL(o).",
        source=f'"Paraphrase success" (PS): {_MENG}.',
        of="target_true, paraphrases",
    ),
    "neighborhood.prob": Metric(
        compute=over_edits(neighborhood_prob),
        formula="Share of prompts about neighbours of s, for which o is true, with NLL(o) < NLL(o*).",
        source=f'"Neighborhood success" (NS): {_MENG}.',
        of="target_true, neighborhood",
    ),
    "efficacy.magnitude": Metric(
        compute=over_edits(efficacy_magnitude),
        formula="exp(-NLL(o*)) - exp(-NLL(o)) after the edit's prompt: geometric means of token probabilities, not "
        "probabilities of the whole targets.",
        source=f'"Efficacy magnitude" (EM): {_MENG}.',
        of="target_true",
        values="-1 to 1",
    ),
    "paraphrase.magnitude": Metric(
        compute=over_edits(paraphrase_magnitude),
        formula="exp(-NLL(o*)) - exp(-NLL(o)), mean over paraphrases.",
        source=f'"Paraphrase magnitude" (PM): {_MENG}.',
        of="target_true, paraphrases",
        values="-1 to 1",
    ),
    "neighborhood.magnitude": Metric(
        compute=over_edits(neighborhood_magnitude),
        formula="exp(-NLL(o)) - exp(-NLL(o*)), mean over the neighbours' prompts.",
        source=f'"Neighborhood magnitude" (NM): {_MENG}.',
        of="target_true, neighborhood",
        values="-1 to 1",
    ),
    **PORTABILITY,
}
