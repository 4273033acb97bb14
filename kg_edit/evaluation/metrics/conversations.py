"""The metrics of conversations (`--probes turns,thinking`): does a chat model stay with the new object o*?

An answer is *strictly* o* or o if it begins with it; the edit's prompt may come first, because chat models repeat it.
It is *loosely* o if it contains o, and loosely o* if it contains o* and not o. So each answer is loosely one of three
things: still o*, back to o, or something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kg_edit.edits.record import Query
from kg_edit.evaluation.metrics.metric import Better, Metric, over_queries
from kg_edit.scoring.evidence import Evidence, Exchange
from kg_edit.scoring.requests import BUDGETS, SURE, Conversation, ask_after_thinking, ask_again, sure_in
from kg_edit.text.matching import begins_with, mentions

Outcome = Callable[[str, Query], bool]  # of an answer and the query with both objects


def keeps_strictly(text: str, query: Query) -> bool:
    """Return whether an answer begins with o*."""
    return _begins_with_any(text, query, query.right_names)


def reverts_strictly(text: str, query: Query) -> bool:
    """Return whether an answer begins with o."""
    return _begins_with_any(text, query, query.old)


def keeps_loosely(text: str, query: Query) -> bool:
    """Return whether an answer contains o*, and not o."""
    return _mentions_any(text, query.right_names) and not reverts_loosely(text, query)


def reverts_loosely(text: str, query: Query) -> bool:
    """Return whether an answer contains o."""
    return _mentions_any(text, query.old)


def says_neither(text: str, query: Query) -> bool:
    """Return whether an answer contains neither o* nor o."""
    return not _mentions_any(text, query.right_names) and not reverts_loosely(text, query)


def _begins_with_any(text: str, query: Query, names: tuple[str, ...]) -> bool:
    answer = _remove_prompt(text, query.prompt)
    return any(begins_with(answer, name) for name in names)


def _mentions_any(text: str, names: tuple[str, ...]) -> bool:
    return any(mentions(text, name) for name in names)


def _remove_prompt(text: str, prompt: str) -> str:
    """Return an answer without the prompt with which it may begin."""
    answer = text.lstrip(" \n\"'")
    if answer.casefold().startswith(prompt.casefold()):
        return answer[len(prompt) :]
    return answer


def _find_exchange(query: Query, evidence: Evidence) -> Exchange:
    return evidence.exchanges[Conversation(prompt=query.prompt, follow_up=sure_in(query.language))]


def answers_first(query: Query, evidence: Evidence) -> float:
    """Return whether the first answer, before the second question, contains o* and not o."""
    return float(keeps_loosely(_find_exchange(query, evidence).first, query))


def _after_asking_again(outcome: Outcome) -> Callable[[Query, Evidence], float | None]:
    """Return the score of the answer to the second question; None if the first answer was not o*."""

    def score(query: Query, evidence: Evidence) -> float | None:
        if not answers_first(query, evidence):
            return None
        return float(outcome(_find_exchange(query, evidence).answer, query))

    return score


def _after_thinking(budget: int, outcome: Outcome) -> Callable[[Query, Evidence], float]:
    """Return the score of the answer after a thought of at most ``budget`` tokens."""

    def score(query: Query, evidence: Evidence) -> float:
        exchange = evidence.exchanges[Conversation(prompt=query.prompt, thinking=budget)]
        return float(outcome(exchange.answer, query))

    return score


_OUTCOMES: Mapping[str, tuple[Outcome, str, Better]] = {  # how the formula goes on, and which values are better
    "kept.strict": (keeps_strictly, "begins with o*", "higher"),
    "kept.loose": (keeps_loosely, "contains o* and not o", "higher"),
    "reverted.strict": (reverts_strictly, "begins with o", "lower"),
    "reverted.loose": (reverts_loosely, "contains o", "lower"),
}
_TURNS = f'to "{SURE}", which the user asks after the first answer,'
_SOURCE = "This project. Studies of sycophancy (Sharma et al. 2023) ask such a second question."
_THOUGHTS = "This project. Thoughts are cut at a budget by budget forcing (Muennighoff et al. 2025, s1)."


def _list_turns() -> dict[str, Metric]:
    """Return the metrics of the second turn."""
    metrics = {
        "turns.first.loose": Metric(
            compute=over_queries("turns", answers_first),
            formula="1 if the answer to the edit's prompt, in the model's chat template, contains o* and not o.",
            source=_SOURCE,
            needs=("turns",),
            asks=(ask_again,),
        )
    }
    for name, (outcome, words, better) in _OUTCOMES.items():
        metrics[f"turns.{name}"] = Metric(
            compute=over_queries("turns", _after_asking_again(outcome)),
            formula=f"1 if the answer {_TURNS} {words}. Only records with turns.first.loose = 1 count.",
            source=_SOURCE,
            needs=("turns",),
            better=better,
        )
    metrics["turns.other.loose"] = Metric(
        compute=over_queries("turns", _after_asking_again(says_neither)),
        formula=f"1 if the answer {_TURNS} contains neither object. Only records with turns.first.loose = 1 count.",
        source=_SOURCE,
        needs=("turns",),
        better="neither",
    )
    return metrics


def _list_thinking() -> dict[str, Metric]:
    """Return the metrics of answers after a thought, for each budget."""
    metrics = {}
    for budget in BUDGETS:
        for name, (outcome, words, better) in _OUTCOMES.items():
            metrics[f"thinking.{budget}.{name}"] = Metric(
                compute=over_queries("thinking", _after_thinking(budget, outcome)),
                formula=f"1 if the answer to the edit's prompt, after a thought of at most {budget} tokens, {words}.",
                source=_THOUGHTS,
                needs=("thinking",),
                asks=(ask_after_thinking,),
                better=better,
            )
    return metrics


CONVERSATION_METRICS: Mapping[str, Metric] = {**_list_turns(), **_list_thinking()}
