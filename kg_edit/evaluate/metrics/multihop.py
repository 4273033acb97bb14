"""The metrics of MQuAKE's multi-hop questions besides exact match: likelihoods, the old answer, hops, 2 to 4 hops
apart.

First come the functions that compute them, then the table `MULTIHOP_METRICS` with formula, source and needs. The
published multihop.any_of_3, multihop.edit_wise and multihop.instance_wise are in `kg_edit.evaluate.metrics.probes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kg_edit.datasets.record import Query
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.metrics.metric import Evidence, Metric
from kg_edit.evaluate.metrics.probes import (
    PROBE_METRICS,
    Compute,
    answered,
    nll,
    over_queries,
    over_rivals,
    prefers_answer,
    rival_nll,
)
from kg_edit.scoring.questions import generated_from
from kg_edit.text.matching import is_exactly


def exact(query: Query, evidence: Evidence) -> float:
    """Return whether the greedy continuation equals the answer or an alias, after normalisation."""
    return float(answered(query, evidence, is_exactly))


def old_answer(case: Case, evidence: Evidence) -> float | None:
    """Return whether the model answers any wording with the answer before the edits, or with an alias of it."""
    queries = [query for probe in case.group("multihop") for query in probe.queries]
    found = [is_exactly(evidence.texts[generated_from(query)], name) for query in queries for name in query.old]
    return float(any(found)) if found else None


def hop_wise(case: Case, evidence: Evidence) -> float | None:
    """Return whether the question and every fact of the new chain are answered correctly."""
    names = ("multihop.any_of_3", "multihop.instance_wise")
    question, hops = (PROBE_METRICS[name](case, evidence) for name in names)
    return None if question is None or hops is None else float(question == hops == 1)


def of_hops(hops: int, compute: Compute) -> Compute:
    """Restrict a metric to the records whose new chain has ``hops`` facts; None for other records."""

    def chosen(case: Case, evidence: Evidence) -> float | None:
        facts = sum(len(probe.queries) for probe in case.group("hops"))
        return compute(case, evidence) if facts == hops else None

    return chosen


_OURS = "This project. Also shows changes that are too small for exact match."
_WHOLE: Mapping[str, Metric] = {
    "multihop.prob": Metric(
        compute=over_rivals("multihop", prefers_answer),
        formula='Share of the wordings of the question with NLL(new answer) < NLL(old answer) after "Question: …\\n'
        'Answer:".',
        source="GLAME's program (Zhang et al. 2024), there after another form of the question.",
        needs=("multihop",),
    ),
    "multihop.nll": Metric(
        compute=over_queries("multihop", nll),
        formula='-log p(new answer | "Question: …\\nAnswer:"), mean over its tokens, then over the wordings.',
        source=_OURS,
        needs=("multihop",),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "multihop.old.nll": Metric(
        compute=over_rivals("multihop", rival_nll),
        formula="As multihop.nll, for the old answer, which an edit should make unlikely.",
        source=_OURS,
        needs=("multihop",),
        values="0 to ∞ nats a token",
        better="higher",
    ),
    "multihop.old.any_of_3": Metric(
        compute=old_answer,
        formula="1 if at least one of the three wordings is answered with the old answer or an alias of it, as in "
        "multihop.any_of_3. A name that the new answer has too counts as new.",
        source="This project.",
        needs=("multihop",),
        better="lower",
    ),
    "multihop.hop_share": Metric(
        compute=over_queries("hops", exact),
        formula="Share of the facts of the new chain that are answered correctly, one question each, as in "
        "multihop.any_of_3.",
        source="This project: multihop.instance_wise only counts a record if all of them are.",
        needs=("hops",),
    ),
    "multihop.hop_wise": Metric(
        compute=hop_wise,
        formula="1 if multihop.any_of_3 and multihop.instance_wise are both 1: the answer and each step to it are "
        "right.",
        source="Hop-wise accuracy (Gu et al. 2024, PokeMQA), there for the steps that a model writes out.",
        needs=("multihop", "hops"),
    ),
}
_ALL = {**PROBE_METRICS, **_WHOLE}
# Of these there are three more metrics each, over the records whose new chain has 2, 3 or 4 facts.
_SPLIT = ("any_of_3", "prob", "nll", "old.any_of_3", "hop_share", "instance_wise", "hop_wise")
MULTIHOP_METRICS: Mapping[str, Metric] = {
    **_WHOLE,
    **{
        f"multihop.{hops}_hops.{name}": replace(
            _ALL[f"multihop.{name}"],
            compute=of_hops(hops, _ALL[f"multihop.{name}"].compute),
            formula=f"multihop.{name} of the records whose new chain has {hops} facts.",
            source="MQuAKE (Zhong et al. 2023), whose tables separate 2, 3 and 4 hops.",
            needs=("multihop", "hops"),
        )
        for hops in (2, 3, 4)
        for name in _SPLIT
    },
}
