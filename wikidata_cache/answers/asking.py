"""Asking an endpoint for what the cache lacks: one request at a time over all processes, each answer kept at once."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from wikidata_cache.answers.layers import Layers
from wikidata_cache.answers.modes import Mode
from wikidata_cache.answers.recording import known_of, plain_exchange, renewed, settled, timed_select, unknown
from wikidata_cache.endpoints.later import LaterSource
from wikidata_cache.sources.facts import Answer, Fact, Json, Row
from wikidata_cache.sources.source import Source
from wikidata_cache.sources.templates import Template


@dataclass
class Tally:
    """What a `CachedSource` has done: ids found in the cache, ids asked for, and answers to requests."""

    found: int = 0
    asked: int = 0
    requests: int = 0


class Asker:
    """Asks `inner` on behalf of a `CachedSource`, and writes what it says before anybody sees it."""

    def __init__(self, inner: Source, layers: Layers, *, mode: Mode, tally: Tally) -> None:
        self.inner = inner
        self._layers = layers
        self._mode = mode
        self._tally = tally

    def fetch(self, template: Template, missing: list[str]) -> Iterator[Answer]:
        """An answer for each request; before each, a look at what other processes have written by now.

        Raises CacheFileError, and whatever the inner source raises.
        """
        self._get_ready()
        quiet = True if len(missing) <= template.size else None
        with tqdm(total=len(missing), desc=template.kind, unit="id", leave=False, disable=quiet) as bar:
            while missing:
                answers, done = self._next(template, missing)
                missing = [entity for entity in missing if entity not in done]
                bar.update(len(done))
                yield from answers

    def select(self, query: str, key: str) -> Sequence[Row]:
        """The rows of a user's query; raises CacheFileError, and whatever the inner source raises."""
        self._get_ready()
        if self._mode == "online":
            return self.inner.select(query)
        with self._layers.store.asking():
            rows = self._layers.look_up("query", [key]) if self._mode != "refresh" else {}
            if key in rows:  # another process was faster
                return rows_of(rows[key])
            found, exchange = timed_select(self.inner, query)
            self._layers.store.keep(self._layers.graph, "query", [("query", key, found)], exchange)
            self._tally.requests += 1
            return found

    def _next(self, template: Template, missing: list[str]) -> tuple[list[Answer], Collection[str]]:
        """What others have fetched meanwhile, else the answers to the next block; and which ids that settles."""
        block = missing[: template.size]
        if self._mode == "online":
            self._tally.asked += len(block)
            return list(self._counted(self.inner.ask(template, block))), block
        with self._layers.store.asking():
            known = self._layers.look_up(template.kind, missing) if self._mode == "cache_first" else {}
            if known:
                return [self._shared(template, known)], known
            answers = self._counted(self.inner.ask(template, block))
            self._tally.asked += len(block)
            return [self._keep(template, block, answer) for answer in answers], block

    def _get_ready(self) -> None:
        """Let a source that may not be asked say so before a cache file is made for its answers."""
        if isinstance(self.inner, LaterSource):
            self.inner.ready()

    def _counted(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for answer in answers:
            self._tally.requests += 1
            yield answer

    def _keep(self, template: Template, block: Sequence[str], answer: Answer) -> Answer:
        """Write an answer, and give it as the cache would from now on."""
        known = known_of(answer.facts, self._layers)
        if self._mode == "refresh":
            facts: Sequence[Fact] = answer.facts
            new = renewed(facts, known, kind=template.kind, asked=set(block))
        else:
            facts, new = settled(answer.facts, known), unknown(answer.facts, known)
        exchange = answer.exchange or plain_exchange(self.inner, template.query(block), answer.facts)
        self._layers.store.keep(self._layers.graph, answer.template, new, exchange)
        return Answer(answer.template, facts, exchange)

    def _shared(self, template: Template, known: dict[str, Json]) -> Answer:
        self._tally.found += len(known)
        return from_cache(template, known)


def from_cache(template: Template, known: dict[str, Json]) -> Answer:
    """What the cache knows, as an answer."""
    return Answer(template.name, [Fact(template.kind, entity, value) for entity, value in known.items()])


def rows_of(value: Json) -> list[Row]:
    """A user's rows as the cache holds them."""
    return [dict(row) for row in value]
