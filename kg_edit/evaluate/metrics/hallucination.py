"""The metrics of WikiBio hallucinations: perplexities of sentences, as in the table of GRACE (Hartvigsen et al. 2023).

A sentence's perplexity is exp of the mean of -log p(token | all before) over its tokens, after the passage before it.
The mean over sentences is a mean of perplexities, as in the published program. First come the functions, then the
table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kg_edit.datasets.record import Query
from kg_edit.evaluate.metrics.metric import Metric, mean
from kg_edit.evaluate.metrics.probes import first_score
from kg_edit.scoring.questions import scored_after

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.metrics.metric import Evidence

_LARGEST = 700.0  # nats; exp of more overflows a float


def true_perplexity(case: Case, evidence: Evidence) -> float | None:
    """The perplexity of the true sentence."""
    return mean(_exp(first_score(query, evidence).nll) for query in _asked(case, "hallucination"))


def own_perplexity(case: Case, evidence: Evidence) -> float | None:
    """The perplexity of the hallucinated sentence."""
    return mean(_exp(evidence.nll(*of)) for of in _hallucinated(case))


def prefers_true(case: Case, evidence: Evidence) -> float | None:
    """Whether the true sentence is more probable per token than the hallucinated one."""
    asked = (query for query in _asked(case, "hallucination") for _ in query.others)
    pairs = zip(asked, _hallucinated(case), strict=True)
    return mean(first_score(query, evidence).nll < evidence.nll(*of) for query, of in pairs)


def accurate_perplexity(case: Case, evidence: Evidence) -> float | None:
    """The mean perplexity of the record's accurate sentences."""
    return mean(_exp(first_score(query, evidence).nll) for query in _asked(case, "accurate"))


def _asked(case: Case, group: str) -> Iterator[Query]:
    return (query for probe in case.group(group) for query in probe.queries)


def _hallucinated(case: Case) -> Iterator[tuple[str, str]]:
    """Yield (prompt, sentence) for each hallucinated sentence."""
    return ((scored_after(query), other) for query in _asked(case, "hallucination") for other in query.others)


def _exp(nll: float) -> float:
    return math.exp(min(nll, _LARGEST))


_GRACE = "GRACE (Hartvigsen et al. 2023), its table on hallucination"
HALLUCINATION_METRICS: Mapping[str, Metric] = {
    "hallucination.true.perplexity": Metric(
        compute=true_perplexity,
        formula="exp of the mean over its tokens of -log p(true sentence | the passage before it).",
        source=f"{_GRACE}: ERR, of the sentences that are edited in.",
        needs=("hallucination",),
        values="1 to ∞",
        better="lower",
    ),
    "hallucination.own.perplexity": Metric(
        compute=own_perplexity,
        formula="As hallucination.true.perplexity, for the hallucinated sentence, which an edit should make unlikely.",
        source="This project, after SelfCheckGPT's sentences (Manakul et al. 2023).",
        needs=("hallucination",),
        values="1 to ∞",
        better="higher",
    ),
    "hallucination.prob": Metric(
        compute=prefers_true,
        formula="1 if NLL(true sentence) < NLL(hallucinated sentence), both means over their tokens.",
        source="This project, as efficacy.prob.",
        needs=("hallucination",),
    ),
    "accurate.perplexity": Metric(
        compute=accurate_perplexity,
        formula="Mean over the record's accurate sentences of their perplexity, which is exp of the mean over "
        "tokens of -log p(sentence | the passage before it). A run's value is the mean over records.",
        source=f"{_GRACE}: ARR, of the sentences that were accurate before; that is a mean over all sentences.",
        needs=("accurate",),
        values="1 to ∞",
        better="lower",
    ),
}
