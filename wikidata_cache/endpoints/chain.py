"""Combine several endpoints into one source: the first one that is free is asked.

If it fails, the next endpoint gets the remaining ids. An endpoint with another part of the graph, such as the query
service of Wikidata's scholarly articles, gets the ids of which the others have nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from wikidata_cache.endpoints.endpoint import PATIENCE, EndpointSource
from wikidata_cache.endpoints.rate_limit import host_of
from wikidata_cache.errors import EndpointError
from wikidata_cache.sources.source import Answer, Binding, Fact, Provenance, Template

logger = logging.getLogger(__name__)

# Seconds to wait for an endpoint: in the first round, another one may be free.
_ROUNDS = (5.0, PATIENCE)
_FOR_GOOD = ("refused",)  # after this failure, the chain never asks the endpoint again
_WAITING = ("throttled", "outage", "unavailable")  # after these failures, asking again later may help
OTHER_PARTS = ("query-scholarly.wikidata.org",)  # hosts with the statements that Wikidata's main query service lacks
_OURS = ("rejected",)  # URL or query is wrong: the error is raised, and no other endpoint is asked


class EndpointChain:
    """A `Source` over endpoints of the same graph, or of the parts of one, the preferred endpoint first.

    Each question goes to the first endpoint that can answer it, and can be asked without a long wait. If an endpoint
    fails, the remaining ids go to the next one. If none answers, the chain waits for one, at most `PATIENCE` seconds.
    """

    def __init__(self, endpoints: Sequence[EndpointSource]) -> None:
        other = [endpoint for endpoint in endpoints if host_of(endpoint.name) in OTHER_PARTS]
        main = [endpoint for endpoint in endpoints if endpoint not in other]
        self._endpoints = main
        self._parts = other
        if not main:  # an endpoint of another part alone is a graph like any other
            self._endpoints = other
            self._parts = []
        self._refusals: dict[str, EndpointError] = {}

    @property
    def name(self) -> str:
        """The endpoints' URLs, separated by commas."""
        return ", ".join(endpoint.name for endpoint in (*self._endpoints, *self._parts))

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return the URLs, and the current time (UTC), since the answers of endpoints change."""
        return self._endpoints[0].provenance(ids) | {"url": self.name}

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield answers that together cover the ids."""
        if not self._parts:
            yield from self._ask_first_free(template, ids)
            return
        # The first part of the graph is asked about all ids, each other part about those of which the earlier ones have
        # nothing.
        asks = [self._ask_first_free, *(part.ask for part in self._parts)]
        remaining = list(ids)
        for number, ask in enumerate(asks, start=1):
            is_last = number == len(asks)
            requested = remaining
            remaining = []
            for answer in ask(template, requested):
                # Answers are also about other ids, such as the label of a value. We cannot know that such an id has
                # nothing: the other parts are not asked about it.
                facts = [fact for fact in answer.facts if not _is_nothing(fact)]
                nothing = [fact for fact in answer.facts if fact.kind == template.kind and _is_nothing(fact)]
                if is_last:
                    facts += nothing
                else:
                    remaining += [fact.id for fact in nothing]
                yield replace(answer, facts=facts)

    def _ask_first_free(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield answers that together cover the ids, of endpoints with the same part of the graph."""
        remaining = list(ids)
        able = self._find_able(template)
        failures = dict(self._refusals)
        # In the first round, each endpoint is asked with little patience; in the second one, those that may recover are
        # asked again, with more.
        for patience in _ROUNDS:
            for endpoint in _list_turns(able, failures):
                endpoint.patience = patience
                try:
                    for answer in endpoint.ask(template, remaining):
                        answered = {fact.id for fact in answer.facts if fact.kind == template.kind}
                        remaining = [entity for entity in remaining if entity not in answered]
                        yield answer
                    return
                except EndpointError as error:
                    self._raise_or_log(error)
                    failures[error.url] = error
        raise _join_failures(self.name, [failures[endpoint.name] for endpoint in able])

    def select(self, query: str) -> Sequence[Binding]:
        """Return the rows of a SELECT query."""
        able = self._find_able(None)
        failures = dict(self._refusals)
        # In the first round, each endpoint is asked with little patience; in the second one, those that may recover are
        # asked again, with more.
        for patience in _ROUNDS:
            for endpoint in _list_turns(able, failures):
                endpoint.patience = patience
                try:
                    return endpoint.select(query)
                except EndpointError as error:
                    self._raise_or_log(error)
                    failures[error.url] = error
        raise _join_failures(self.name, [failures[endpoint.name] for endpoint in able])

    def _find_able(self, template: Template | None) -> list[EndpointSource]:
        """Return the endpoints that can answer a question; if there is none, all, for their error."""
        able = [endpoint for endpoint in self._endpoints if endpoint.can_answer(template)]
        return able or self._endpoints

    def _raise_or_log(self, error: EndpointError) -> None:
        """Raise the failure of an endpoint if it is our mistake; else log it, and remember an endpoint that refuses."""
        if error.trouble in _OURS:
            raise error
        if error.trouble in _FOR_GOOD:
            self._refusals[error.url] = error
        logger.warning("%s: %s (%s). Asking the next endpoint, if any.", error.url, error.problem, error.trouble)


def _list_turns(endpoints: Sequence[EndpointSource], failures: Mapping[str, EndpointError]) -> Sequence[EndpointSource]:
    """Return the endpoints to ask in a round: all that have not failed; if all have, those that may recover.

    Args:
        endpoints: the endpoints that can answer the question.
        failures: the failures before this round, by URL.
    """
    unasked = [endpoint for endpoint in endpoints if endpoint.name not in failures]
    if unasked:
        return unasked
    recovering = [endpoint for endpoint in endpoints if failures[endpoint.name].trouble in _WAITING]
    return sorted(recovering, key=lambda endpoint: failures[endpoint.name].retry_after or 0.0)  # the soonest first


def _is_nothing(fact: Fact) -> bool:
    """Return whether a fact is that there is nothing; None in the place of statements means too many."""
    if fact.kind == "in" and fact.value is None:
        return False
    if fact.kind == "ends":
        count = fact.value[0]  # of the entities at this end; the value for none is [0, []]
        return bool(count == 0)
    return not fact.value


def _join_failures(name: str, errors: Sequence[EndpointError]) -> EndpointError:
    last = errors[-1]
    if len(errors) == 1:
        return last
    waits = [error.retry_after for error in errors if error.retry_after is not None]
    described = [f"{error.url}: {error.problem} ({error.trouble})" for error in errors]
    problem = f"all {len(errors)} endpoints failed: {'; '.join(described)}"
    return EndpointError(name, last.trouble, problem, last.suggestion, retry_after=min(waits, default=None))
