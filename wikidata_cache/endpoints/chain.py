"""Combine several endpoints into one source: the first one that is free is asked.

If it fails, the next endpoint gets the remaining ids. An endpoint with another part of the graph, such as the query
service of Wikidata's scholarly articles, gets the ids of which the others have nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from wikidata_cache.endpoints.endpoint import PATIENCE, TRANSIENT, EndpointSource
from wikidata_cache.endpoints.rate_limit import find_host
from wikidata_cache.errors import EndpointError
from wikidata_cache.sources.source import Answer, Binding, Fact, Kind, Provenance, Template

logger = logging.getLogger(__name__)

# Seconds to wait for an endpoint, by round. The first round is short, since another endpoint may be free. In the second
# round, all of them have failed, so the chain is as patient as a single endpoint.
_PATIENCE_BY_ROUND = (5.0, PATIENCE)
OTHER_PARTS = ("query-scholarly.wikidata.org",)  # hosts with the statements that Wikidata's main query service lacks


class EndpointChain:
    """A `Source` over endpoints of the same graph, or of the parts of one, the preferred endpoint first.

    Each question goes to the first endpoint that can answer it, and can be asked without a long wait. If an endpoint
    fails, the remaining ids go to the next one. If none answers, the chain waits for one, at most `PATIENCE` seconds.

    That holds for the endpoints with the main part of the graph. An endpoint with another part (`OTHER_PARTS`) is asked
    after them, about the ids of which they have nothing. If it fails, its error is raised at once, since no other
    endpoint has its part. `select` does not ask it.
    """

    def __init__(self, endpoints: Sequence[EndpointSource]) -> None:
        other = [endpoint for endpoint in endpoints if find_host(endpoint.name) in OTHER_PARTS]
        main = [endpoint for endpoint in endpoints if endpoint not in other]
        self._endpoints = main  # each has the main part of the graph
        self._parts = other  # each has another part
        if not main:  # an endpoint of another part alone is a graph like any other
            self._endpoints = other
            self._parts = []
        self._refusals: dict[str, EndpointError] = {}  # by URL; such an endpoint counts as failed from the start

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
        remaining: list[str] = []  # the ids of which the main part of the graph has nothing
        for answer in self._ask_first_free(template, ids):
            found, nothing = _split_nothing(answer, template.kind)
            remaining += [fact.id for fact in nothing]
            yield found
        yield from self._ask_other_parts(template, remaining)

    def _ask_other_parts(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield answers about ids of which the main part has nothing.

        Each other part is asked about the ids of which the earlier ones have nothing. Only the answers of the last part
        have facts that say "nothing".
        """
        for part in self._parts:
            is_last = part is self._parts[-1]
            remaining: list[str] = []
            for answer in part.ask(template, ids):
                found, nothing = _split_nothing(answer, template.kind)
                if is_last:
                    found = replace(found, facts=[*found.facts, *nothing])
                remaining += [fact.id for fact in nothing]
                yield found
            ids = remaining

    def _ask_first_free(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield answers that together cover the ids, of endpoints with the same part of the graph."""
        remaining = list(ids)
        able = self._find_able(template)
        failures = dict(self._refusals)  # the last failure of each endpoint, by URL
        for patience in _PATIENCE_BY_ROUND:
            for endpoint in _list_turns(able, failures):
                endpoint.patience = patience
                try:
                    for answer in endpoint.ask(template, remaining):
                        answered = {fact.id for fact in answer.facts if fact.kind == template.kind}
                        remaining = [entity for entity in remaining if entity not in answered]
                        yield answer
                    return
                except EndpointError as error:
                    self._raise_or_log(endpoint, error)
                    failures[endpoint.name] = error
        raise _join_failures(self.name, [failures[endpoint.name] for endpoint in able])

    def select(self, query: str) -> Sequence[Binding]:
        """Return the rows of a SELECT query, from the main part of the graph."""
        able = self._find_able(None)
        failures = dict(self._refusals)  # the last failure of each endpoint, by URL
        for patience in _PATIENCE_BY_ROUND:
            for endpoint in _list_turns(able, failures):
                endpoint.patience = patience
                try:
                    return endpoint.select(query)
                except EndpointError as error:
                    self._raise_or_log(endpoint, error)
                    failures[endpoint.name] = error
        raise _join_failures(self.name, [failures[endpoint.name] for endpoint in able])

    def _find_able(self, template: Template | None) -> list[EndpointSource]:
        """Return the endpoints that can answer a question; if there is none, all, for their error."""
        able = [endpoint for endpoint in self._endpoints if endpoint.can_answer(template)]
        return able or self._endpoints

    def _raise_or_log(self, endpoint: EndpointSource, error: EndpointError) -> None:
        """Raise the failure of an endpoint if it is our mistake; else log it, and remember an endpoint that refuses."""
        if error.trouble == "rejected":  # the URL or the query is wrong, so no other endpoint is asked
            raise error
        if error.trouble == "refused":  # the chain never asks this endpoint again
            self._refusals[endpoint.name] = error
        logger.warning("%s: %s (%s). Asking the next endpoint, if any.", error.url, error.problem, error.trouble)


def _list_turns(endpoints: Sequence[EndpointSource], failures: Mapping[str, EndpointError]) -> Sequence[EndpointSource]:
    """Return the endpoints to ask in a round: all that have not failed; if all have, those that may recover.

    In the first round, only endpoints that refuse for good have failed. In the second one, all have.

    Args:
        endpoints: the endpoints that can answer the question.
        failures: the failures before this round, by URL.
    """
    unasked = [endpoint for endpoint in endpoints if endpoint.name not in failures]
    if unasked:
        return unasked
    recovering = [endpoint for endpoint in endpoints if failures[endpoint.name].trouble in TRANSIENT]
    return sorted(recovering, key=lambda endpoint: failures[endpoint.name].retry_after or 0.0)  # the soonest first


def _split_nothing(answer: Answer, kind: Kind) -> tuple[Answer, list[Fact]]:
    """Return an answer without its facts that say "nothing", and a list of those of this kind, which was asked for.

    Asked for the kind "out" of Q1, an endpoint may answer ("out", Q1, []) and ("label", Q7, None). Neither stays in the
    answer, and only the first one is in the list. A fact of another kind is dropped, since nobody asked for it, and the
    other parts, which are not asked about Q7, may have its label.
    """
    found = [fact for fact in answer.facts if not _is_nothing(fact)]
    nothing = [fact for fact in answer.facts if fact.kind == kind and _is_nothing(fact)]
    return replace(answer, facts=found), nothing


def _is_nothing(fact: Fact) -> bool:
    """Return whether a fact is that there is nothing; None in the place of statements means too many."""
    if fact.kind == "in" and fact.value is None:
        return False
    if fact.kind == "ends":
        count = fact.value[0]  # of the entities at this end; the value for none is [0, []]
        return bool(count == 0)
    return not fact.value


def _join_failures(name: str, errors: Sequence[EndpointError]) -> EndpointError:
    """Return one error for the failures of all endpoints; its `retry_after` is the shortest wait."""
    last = errors[-1]
    if len(errors) == 1:
        return last
    waits = [error.retry_after for error in errors if error.retry_after is not None]
    described = [f"{error.url}: {error.problem} ({error.trouble})" for error in errors]
    problem = f"all {len(errors)} endpoints failed: {'; '.join(described)}"
    return EndpointError(name, last.trouble, problem, last.suggestion, retry_after=min(waits, default=None))
