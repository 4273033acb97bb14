"""A source that remembers: answers from the cache, and from an endpoint what the cache lacks.

From an answer to what the cache keeps of it.

Asking an endpoint for what the cache lacks: one request at a time over all processes, each answer kept at once.

A cache over a local graph: the cache is read first, and the graph says what the cache lacks. Nothing is written.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tqdm import tqdm

from wikidata_cache.answers.database import dumps
from wikidata_cache.answers.modes import FetchHint, Mode, now, settle_mode, utc
from wikidata_cache.answers.store import AnswerStore, Layers
from wikidata_cache.endpoints.chain import LaterSource
from wikidata_cache.errors import CacheMissError
from wikidata_cache.sources.facts import Answer, Binding, Exchange, Fact, Json, Kind
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Provenance, Source, Template
from wikidata_cache.sources.user_queries import canonical, forbid_service, query_key

_NOTHING = object()

Known = dict[tuple[str, str], Json]  # (kind, id) -> value


def known_of(facts: Iterable[Fact], layers: Layers) -> Known:
    """What the cache already holds of the ids that some facts are about."""
    ids: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        ids[fact.kind].append(fact.id)
    found = {kind: layers.look_up(kind, entities) for kind, entities in ids.items()}
    return {(kind, entity): value for kind, values in found.items() for entity, value in values.items()}


def checked_answers(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """The facts, with the cache's own value where it has one: one run and the next must read the same."""
    return [Fact(kind, entity, known.get((kind, entity), value)) for kind, entity, value in facts]


def unknown(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """The facts that the cache lacks."""
    return [fact for fact in facts if (fact.kind, fact.id) not in known]


def renewed(facts: Iterable[Fact], known: Known, *, kind: str, asked: Collection[str]) -> list[Fact]:
    """The facts that were asked for, and those met on the way that have changed."""
    return [
        fact
        for fact in facts
        if (fact.kind == kind and fact.id in asked) or known.get((fact.kind, fact.id), _NOTHING) != fact.value
    ]


def timed_select(source: Source, query: str) -> tuple[Sequence[Binding], Exchange]:
    """The rows of a user's query, and an account of the exchange. Raises what the source raises."""
    fetched_at, start = now(), time.monotonic()
    rows = [dict(row) for row in source.select(query)]
    elapsed = round(1000 * (time.monotonic() - start))
    return rows, plain_exchange(source, query, rows, fetched_at=fetched_at, elapsed_ms=elapsed)


def plain_exchange(
    source: Source, query: str, found: Sequence[Json], *, fetched_at: str | None = None, elapsed_ms: int = 0
) -> Exchange:
    """The account of an answer whose source gives none."""
    digest = hashlib.sha256(dumps(found).encode()).hexdigest()
    return Exchange(source.name, query, fetched_at or now(), elapsed_ms, len(found), digest, {})


@dataclass
class RequestCounts:
    """What a `CachedSource` has done: ids found in the cache, ids asked for, and answers to requests."""

    found: int = 0
    asked: int = 0
    requests: int = 0


class CacheFiller:
    """Asks `inner` on behalf of a `CachedSource`, and writes what it says before anybody sees it."""

    def __init__(self, inner: Source, layers: Layers, *, mode: Mode, tally: RequestCounts) -> None:
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

    def select(self, query: str, key: str) -> Sequence[Binding]:
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
            facts, new = checked_answers(answer.facts, known), unknown(answer.facts, known)
        exchange = answer.exchange or plain_exchange(self.inner, template.query(block), answer.facts)
        self._layers.store.keep(self._layers.graph, answer.template, new, exchange)
        return Answer(answer.template, facts, exchange)

    def _shared(self, template: Template, known: dict[str, Json]) -> Answer:
        self._tally.found += len(known)
        return from_cache(template, known)


def from_cache(template: Template, known: dict[str, Json]) -> Answer:
    """What the cache knows, as an answer."""
    return Answer(template.name, [Fact(template.kind, entity, value) for entity, value in known.items()])


def rows_of(value: Json) -> list[Binding]:
    """A user's rows as the cache holds them."""
    return [dict(row) for row in value]


_LISTED = 20  # missing ids that the command to fetch them names one by one
_STATEMENTS: tuple[Kind, ...] = ("out", "in", "claims")


class CachedSource:
    """A `Source` over a cache file, read-only packs below it, and an inner source for what they lack.

    `mode` is explained at `Mode`; without an inner source it is "offline". `graph` is the name under which
    answers are kept: two endpoints with one name answer for each other. `as_of` (ISO 8601) replays what the
    cache held at that time. `urls` are the endpoints that a miss names, else those that have answered before.
    An answer is written before anybody sees it, and errors never are. Raises
    BadOptionError for a mode that does not fit.
    """

    def __init__(
        self,
        inner: Source | None,
        store: AnswerStore,
        *,
        mode: Mode | None = None,
        graph: str = "wikidata",
        packs: Sequence[AnswerStore] = (),
        as_of: str | None = None,
        urls: Sequence[str] = (),
    ) -> None:
        self.mode = settle_mode(mode, endpoint=inner is not None, as_of=as_of)
        self.graph = graph
        self.tally = RequestCounts()
        self._layers = Layers(store, packs, graph=graph, as_of=utc(as_of) if as_of else None)
        self._urls = tuple(urls)
        online = None if self.mode == "offline" else inner
        self._asker = None if online is None else CacheFiller(online, self._layers, mode=self.mode, tally=self.tally)

    @property
    def name(self) -> str:
        """The inner source's name; offline the graph's and the cache file's."""
        return f"{self.graph} ({self._layers.store.path})" if self._asker is None else self._asker.inner.name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The graph's name, the URLs that spoke of the ids, and the first and last time (UTC) they were asked.

        The same online and offline. Raises CacheFileError.
        """
        if self._asker is not None and self.mode == "online":
            return self._asker.inner.provenance(ids)
        wanted = list(ids)
        origins = [origin for kind in _STATEMENTS for origin in self._layers.origins(kind, wanted)]
        times = [fetched_at for _, fetched_at in origins]
        urls = sorted({url for url, _ in origins})
        return {
            "kind": "cache",
            "graph": self.graph,
            "urls": urls,
            "fetched_at": [min(times), max(times)] if times else [],
        }

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """What the cache knows first, then an answer for each request.

        Raises CacheMissError offline, CacheFileError, and whatever the inner source raises.
        """
        known = self._layers.look_up(template.kind, ids) if self.mode in ("offline", "cache_first") else {}
        missing = [entity for entity in ids if entity not in known]
        if missing and self._asker is None:
            raise CacheMissError(template.kind, missing, self._layers.files, self._command(template.kind, missing))
        if known:
            self.tally.found += len(known)
            yield from_cache(template, known)
        if missing and self._asker is not None:
            yield from self._asker.fetch(template, missing)

    def select(self, query: str) -> Sequence[Binding]:
        """The rows of a user's SELECT query, kept like other answers.

        Raises ServiceForbiddenError and CacheMissError offline, CacheFileError, and what the inner source raises.
        """
        if self._asker is None:
            forbid_service(query, "the cache is offline")
        key = query_key(query)
        rows = self._layers.look_up("query", [key]) if self.mode in ("offline", "cache_first") else {}
        if key in rows:
            return rows_of(rows[key])
        if self._asker is None:
            raise CacheMissError("query", [canonical(query)[:200]], self._layers.files, self.fetch_hint.for_query())
        return self._asker.select(query, key)

    def close(self) -> None:
        """Let go of the cache file; the next use opens it again."""
        self._layers.store.close()

    def known(self, template: Template, ids: Iterable[str]) -> dict[str, Json]:
        """What the cache knows of these ids, and nothing else. Raises CacheFileError."""
        found = self._layers.look_up(template.kind, ids)
        self.tally.found += len(found)
        return found

    def labelled(self, label: str) -> list[str]:
        """The ids whose label in the cache is exactly this one. Raises CacheFileError."""
        return self._layers.labelled(label)

    @cached_property
    def fetch_hint(self) -> FetchHint:
        """Commands that fetch what is missing. Raises CacheFileError."""
        return FetchHint(self._layers.store.path, self.graph, self._urls or self._layers.urls())

    def _command(self, kind: str, ids: Sequence[str]) -> str:
        """What to type to get these ids."""
        return self.fetch_hint.command(*(["--kind", kind, *ids] if len(ids) <= _LISTED else ["EDITS.jsonl"]))


class CacheOverGraph:
    """A `Source` of an offline `cache` and a `graph` on this machine."""

    def __init__(self, cache: CachedSource, graph: OxigraphSource) -> None:
        self.cache = cache
        self.graph = graph

    @property
    def name(self) -> str:
        """The names of both."""
        return f"{self.cache.name} over {self.graph.name}"

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Where both have their statements from; the cache's part is about the ids."""
        return {"kind": "cache over graph", "cache": self.cache.provenance(ids), "graph": self.graph.provenance()}

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """What the cache knows, then what the graph says of the rest. Raises CacheFileError.

        A label that was never looked up names what either of them calls so.
        """
        known = self.cache.known(template, ids)
        if known:
            yield from_cache(template, known)
        for answer in self.graph.ask(template, [entity for entity in ids if entity not in known]):
            # What the graph says by the way, of other ids, may be better known to the cache.
            yield Answer(template.name, [self._joined(fact) for fact in answer.facts if fact.kind == template.kind])

    def select(self, query: str) -> Sequence[Binding]:
        """The rows that the cache has kept, else those of the graph. Raises what the graph raises."""
        try:
            return self.cache.select(query)
        except CacheMissError:
            return self.graph.select(query)

    def _joined(self, fact: Fact) -> Fact:
        if fact.kind != "named":
            return fact
        return fact._replace(value=sorted({*fact.value, *self.cache.labelled(fact.id)}))
