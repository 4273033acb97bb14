"""The metrics of a Ripples file: portability and locality of an edit by kind; two-hop questions in four cells.

A question counts as answered if the model's text begins with the answer or an alias. First come the functions that
compute the metrics, then the table `RIPPLES_METRICS`.
"""

from __future__ import annotations

from collections.abc import Mapping

from kg_edit.edits.record import Query
from kg_edit.evaluation.metrics.metric import Metric, answered, nll, over_queries
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.questions import ANSWER, generation_prompt, parse_stepped_answer, scoring_prompt, steps_prompt
from kg_edit.scoring.requests import continue_query, continue_with_steps, score_answer, score_gains
from kg_edit.text.matching import begins_with


def answers_right(query: Query, evidence: Evidence) -> float:
    """Return whether the greedy answer begins with the right answer."""
    return float(answered(query, evidence, begins_with))


def answers_after_steps(query: Query, evidence: Evidence) -> float:
    """Return whether the answer after the written steps begins with the right answer."""
    text = parse_stepped_answer(evidence.texts[steps_prompt(query)])
    return float(any(begins_with(text, name) for name in query.right_names))


def answers_as_before(query: Query, evidence: Evidence) -> float | None:
    """Return whether the greedy answer begins with the answer before the edit; None if the query has no old answer."""
    if not query.old:
        return None
    text = evidence.texts[generation_prompt(query)]
    return float(any(begins_with(text, name) for name in query.old))


def gains_most(query: Query, evidence: Evidence) -> float | None:
    """Return whether the question raises the log-likelihood of the right object most, among up to ten objects.

    None if the query has no other objects.
    """
    if not query.others:
        return None
    prompt = scoring_prompt(query)
    objects = [query.answers[0][0], *query.others]
    gains = [evidence.nll(ANSWER, name) - evidence.nll(prompt, name) for name in objects]
    return float(gains[0] > max(gains[1:]))


_KINDS = {
    "ripples-edit.question": "the edit itself",
    "ripples-more.three-hop": "three hops; the first is the edit, and the model knows the other two",
    "ripples-more.alias": "the edit, with another name of s that the model knows",
    "ripples-more.description": 'the edit, with a description of s ("the capital of Italy") that the model knows',
    "ripples-more.inverse": "the inverse relation, asked about o*",
    "ripples-stay.other-relation": "other facts about s, which should not change",
    "ripples-stay.old-object": "a fact about o itself, which should not change",
    "ripples-stay.new-object": "a fact about o* itself, which should not change",
    "ripples-stay.same-object": "the edited relation of other subjects with the object o, which should not change",
}
_CELLS = {
    "ripples-known": "two hops; the model knows the second one",
    "ripples-known.stated": "two hops; the model knows the second one, and the method's graph contains the answer",
    "ripples-known.withheld": "two hops; the model knows the second one, and the graph does not contain the answer",
    "ripples-unknown": "two hops; the model does not know the second one",
    "ripples-unknown.stated": "two hops; the model does not know the second one, but the graph contains the answer",
    "ripples-unknown.withheld": "two hops; neither the model nor the graph knows the second one",
}
_SOURCE = "This project, after RippleEdits (Cohen et al. 2024)."


def _greedy(group: str, what: str) -> Metric:
    return Metric(
        compute=over_queries(group, answers_right),
        formula=f"Share of questions, in few-shot form, whose greedy answer begins with the right answer or an "
        f"alias. Questions: {what}.",
        source=_SOURCE,
        needs=(group,),
        asks=(continue_query,),
    )


def _list_cell_metrics(group: str, what: str) -> dict[str, Metric]:
    """Return the five metrics of a cell of two-hop questions."""
    return {
        f"{group}.greedy": _greedy(group, what),
        f"{group}.steps": Metric(
            compute=over_queries(group, answers_after_steps),
            formula=f"As {group}.greedy, but the examples write out their steps and end in 'So: …'. Questions: {what}.",
            source=_SOURCE,
            needs=(group,),
            asks=(continue_with_steps,),
        ),
        f"{group}.choice": Metric(
            compute=over_queries(group, gains_most),
            formula="Share of questions for which only the right one of up to ten objects a of the same relation (with "
            f'an old answer) has the highest log p(a | question) - log p(a | "Answer:"), each a mean over tokens. '
            f"Questions: {what}.",
            source="Domain-conditional PMI (Holtzman et al. 2021), here computed per token.",
            needs=(group,),
            asks=(score_gains,),
        ),
        f"{group}.nll": Metric(
            compute=over_queries(group, nll),
            formula=f'-log p(answer | "Question: …\\nAnswer:"), mean over the answer\'s tokens. Questions: {what}.',
            source=_SOURCE,
            needs=(group,),
            asks=(score_answer,),
            values="0 to ∞ nats a token",
            better="lower",
        ),
        f"{group}.greedy_old": Metric(
            compute=over_queries(group, answers_as_before),
            formula="Share of questions whose greedy answer begins with an answer from before the edit. "
            f"Questions: {what}.",
            source=_SOURCE,
            needs=(group,),
            asks=(continue_query,),
            better="lower",
        ),
    }


def _list_metrics() -> dict[str, Metric]:
    """Return all metrics of a Ripples file by name."""
    metrics = dict[str, Metric]()
    for group, what in _KINDS.items():
        metrics[f"{group}.greedy"] = _greedy(group, what)
    for group, what in _CELLS.items():
        metrics |= _list_cell_metrics(group, what)
    return metrics


RIPPLES_METRICS: Mapping[str, Metric] = _list_metrics()
