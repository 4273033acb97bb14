"""The metrics of MQuAKE's multi-hop questions besides exact match: likelihoods, the old answer, hops, 2 to 4 hops
apart.

First come the functions that compute them, then the table `MULTIHOP_METRICS` with formula, source and needs. The
published multihop.any_of_3, multihop.edit_wise and multihop.instance_wise are in `kg_edit.evaluate.metrics.probes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kg_edit.datasets.record import Query
from kg_edit.evaluate.metrics.metric import Metric, mean
from kg_edit.evaluate.metrics.probes import first_score, share_passed
from kg_edit.scoring.questions import generated_from, scored_after
from kg_edit.text.matching import is_exactly

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.metrics.metric import Evidence

Compute = Callable[["Case", "Evidence"], float | None]

any_of_3 = share_passed("multihop", is_exactly)
instance_wise = share_passed("hops", is_exactly)


def answer_nll(case: Case, evidence: Evidence) -> float | None:
    """-log p of the new answer after each wording of the question, in nats per token; mean over wordings."""
    return mean(first_score(query, evidence).nll for query in _wordings(case))


def old_answer_nll(case: Case, evidence: Evidence) -> float | None:
    """-log p of the old answer after each wording of the question, in nats per token; mean over wordings."""
    return mean(evidence.nll(scored_after(query), old) for query in _wordings(case) for old in query.others)


def answer_prob(case: Case, evidence: Evidence) -> float | None:
    """The share of wordings after which the new answer is more probable than the old one."""
    found = ((query, old) for query in _wordings(case) for old in query.others)
    return mean(first_score(query, evidence).nll < evidence.nll(scored_after(query), old) for query, old in found)


def old_answer(case: Case, evidence: Evidence) -> float | None:
    """Whether the model answers any wording with the answer before the edits, or with an alias of it."""
    answered = [_answers(query, evidence, name) for query in _wordings(case) for name in query.old]
    return float(any(answered)) if answered else None


def hop_share(case: Case, evidence: Evidence) -> float | None:
    """The share of the facts of the new chain that are answered correctly; each fact has one question."""
    queries = [query for probe in case.group("hops") for query in probe.queries]
    return mean(any(_answers(query, evidence, name) for names in query.answers for name in names) for query in queries)


def hop_wise(case: Case, evidence: Evidence) -> float | None:
    """Whether the question and every fact of the new chain are answered correctly."""
    question, hops = any_of_3(case, evidence), instance_wise(case, evidence)
    return None if question is None or hops is None else float(question == hops == 1)


def of_hops(hops: int, compute: Compute) -> Compute:
    """Restrict a metric to the records whose new chain has ``hops`` facts; None for other records."""

    def chosen(case: Case, evidence: Evidence) -> float | None:
        facts = sum(len(probe.queries) for probe in case.group("hops"))
        return compute(case, evidence) if facts == hops else None

    return chosen


def _wordings(case: Case) -> Iterator[Query]:
    return (query for probe in case.group("multihop") for query in probe.queries)


def _answers(query: Query, evidence: Evidence, name: str) -> bool:
    return is_exactly(evidence.texts[generated_from(query)], name)


_OURS = "This project. Also shows changes that are too small for exact match."
_WHOLE: Mapping[str, Metric] = {
    "multihop.prob": Metric(
        compute=answer_prob,
        formula='Share of the wordings of the question with NLL(new answer) < NLL(old answer) after "Question: …\\n'
        'Answer:".',
        source="GLAME's program (Zhang et al. 2024), there after another form of the question.",
        needs=("multihop",),
    ),
    "multihop.nll": Metric(
        compute=answer_nll,
        formula='-log p(new answer | "Question: …\\nAnswer:"), mean over its tokens, then over the wordings.',
        source=_OURS,
        needs=("multihop",),
        values="0 to ∞ nats a token",
        better="lower",
    ),
    "multihop.old.nll": Metric(
        compute=old_answer_nll,
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
        compute=hop_share,
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
_SPLIT: Mapping[str, tuple[Compute, str]] = {
    "any_of_3": (any_of_3, "multihop.any_of_3"),
    "prob": (answer_prob, "multihop.prob"),
    "nll": (answer_nll, "multihop.nll"),
    "old.any_of_3": (old_answer, "multihop.old.any_of_3"),
    "hop_share": (hop_share, "multihop.hop_share"),
    "instance_wise": (instance_wise, "multihop.instance_wise"),
    "hop_wise": (hop_wise, "multihop.hop_wise"),
}
_OWN: Mapping[str, Mapping[str, Any]] = {
    "nll": {"values": "0 to ∞ nats a token", "better": "lower"},
    "old.any_of_3": {"better": "lower"},
}
MULTIHOP_METRICS: Mapping[str, Metric] = {
    **_WHOLE,
    **{
        f"multihop.{hops}_hops.{name}": Metric(
            compute=of_hops(hops, compute),
            formula=f"{whole} of the records whose new chain has {hops} facts.",
            source="MQuAKE (Zhong et al. 2023), whose tables separate 2, 3 and 4 hops.",
            needs=("multihop", "hops"),
            **_OWN.get(name, {}),
        )
        for hops in (2, 3, 4)
        for name, (compute, whole) in _SPLIT.items()
    },
}
