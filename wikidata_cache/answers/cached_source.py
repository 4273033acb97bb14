"""Sources with a cache: `CachedSource` answers from a cache file, and asks an endpoint only for missing facts.

`CacheFiller` sends the requests, one at a time across all processes that share the file, and writes each answer to the
file before it returns the answer. A fact that is already cached keeps its value, so that this run and the next run
read the same value. `FallbackSource` reads a cache, and a local graph for what the cache lacks; it writes nothing.
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
from wikidata_cache.answers.modes import FetchHint, Mode, effective_mode, now, utc
from wikidata_cache.answers.store import AnswerStore, CacheLayers
from wikidata_cache.endpoints.chain import LazySource
from wikidata_cache.errors import CacheMissError
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Answer, Binding, Exchange, Fact, Json, Kind, Provenance, Source, Template
from wikidata_cache.sources.user_queries import canonical, forbid_service, query_key

_NOTHING = object()

Known = dict[tuple[str, str], Json]  # (kind, id) -> value

_LISTED = 20  # up to this many missing ids, the suggested fetch command lists each id
_STATEMENTS: tuple[Kind, ...] = ("out", "in", "claims")


@dataclass
class RequestCounts:
    """Counts of a `CachedSource`: ids `found` in the cache, ids `asked` of the endpoint, and answered `requests`."""

    found: int = 0
    asked: int = 0
    requests: int = 0


class CachedSource:
    """A `Source` that reads a cache file, then read-only packs, and asks an inner source for the facts they lack.

    `Mode` explains `mode`; without an inner source the mode is "offline". `graph` is the name under which answers are
    kept: two endpoints with the same graph name share their answers. `as_of` (ISO 8601) reads the cache as it was at
    that time. `urls` are the endpoints in the fetch command of a CacheMissError (default: those that answered before).
    Each answer is written to the cache before it is returned; errors are never written. Raises BadOptionError for a
    mode that is unknown or does not fit the other arguments.
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
        self.mode = effective_mode(mode, endpoint=inner is not None, as_of=as_of)
        self.graph = graph
        self.request_counts = RequestCounts()
        self._layers = CacheLayers(store, packs, graph=graph, as_of=None if as_of is None else utc(as_of))
        self._urls = tuple(urls)
        online = None if self.mode == "offline" else inner
        self._filler = (
            None
            if online is None
            else CacheFiller(online, self._layers, mode=self.mode, request_counts=self.request_counts)
        )

    @property
    def name(self) -> str:
        """The name of the inner source; offline, the graph's name and the cache file."""
        return f"{self.graph} ({self._layers.store.path})" if self._filler is None else self._filler.inner.name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return the graph's name, the URLs that answered about the ids, and the first and last time (UTC) of answers.

        The result is the same with and without network. In mode "online", it is the provenance of the inner source.
        Raises CacheFileError.
        """
        if self._filler is not None and self.mode == "online":
            return self._filler.inner.provenance(ids)
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
        """Yield the cached facts first, then one answer per request for the other ids.

        Raises CacheMissError where the cache is offline and lacks ids, CacheFileError, and the errors of the inner
        source.
        """
        known = self._layers.look_up(template.kind, ids) if self.mode in ("offline", "cache_first") else {}
        missing = [entity for entity in ids if entity not in known]
        if missing and self._filler is None:
            raise CacheMissError(template.kind, missing, self._layers.files, self._command(template.kind, missing))
        if known:
            self.request_counts.found += len(known)
            yield cached_answer(template, known)
        if missing and self._filler is not None:
            yield from self._filler.fetch(template, missing)

    def select(self, query: str) -> Sequence[Binding]:
        """Return the rows of a user's SELECT query; the cache keeps them like other answers.

        Raises ServiceForbiddenError and CacheMissError offline, CacheFileError, and the errors of the inner source.
        """
        if self._filler is None:
            forbid_service(query, "the cache is offline")
        key = query_key(query)
        rows = self._layers.look_up("query", [key]) if self.mode in ("offline", "cache_first") else {}
        if key in rows:
            return _as_rows(rows[key])
        if self._filler is None:
            raise CacheMissError("query", [canonical(query)[:200]], self._layers.files, self.fetch_hint.for_query())
        return self._filler.select(query, key)

    def close(self) -> None:
        """Close the cache file; the next use opens it again."""
        self._layers.store.close()

    def known(self, template: Template, ids: Iterable[str]) -> dict[str, Json]:
        """Return {id: value} for the ids that the cache holds, without a request. Raises CacheFileError."""
        found = self._layers.look_up(template.kind, ids)
        self.request_counts.found += len(found)
        return found

    def labelled(self, label: str) -> list[str]:
        """Return the ids whose label in the cache is exactly this text. Raises CacheFileError."""
        return self._layers.labelled(label)

    @cached_property
    def fetch_hint(self) -> FetchHint:
        """The commands that fetch missing facts, for error messages. Raises CacheFileError."""
        return FetchHint(self._layers.store.path, self.graph, self._urls or self._layers.urls())

    def _command(self, kind: str, ids: Sequence[str]) -> str:
        """Return the command that fetches these ids; for many ids, it names a file of edits instead."""
        return self.fetch_hint.command(*(["--kind", kind, *ids] if len(ids) <= _LISTED else ["EDITS.jsonl"]))


class CacheFiller:
    """Asks the source `inner` for missing facts, and writes each answer to the cache before returning it."""

    def __init__(self, inner: Source, layers: CacheLayers, *, mode: Mode, request_counts: RequestCounts) -> None:
        self.inner = inner
        self._layers = layers
        self._mode = mode
        self.request_counts = request_counts

    def fetch(self, template: Template, missing: list[str]) -> Iterator[Answer]:
        """Yield one answer per request. Before each request, read the cache again: another process may have filled it.

        Raises CacheFileError, and the errors of the inner source.
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
        """Return the rows of a user's query; raises CacheFileError, and the errors of the inner source."""
        self._get_ready()
        if self._mode == "online":
            return self.inner.select(query)
        with self._layers.store.request_lock():
            rows = self._layers.look_up("query", [key]) if self._mode != "refresh" else {}
            if key in rows:  # another process has cached them in the meantime
                return _as_rows(rows[key])
            found, exchange = timed_select(self.inner, query)
            self._layers.store.keep(self._layers.graph, "query", [("query", key, found)], exchange)
            self.request_counts.requests += 1
            return found

    def _next(self, template: Template, missing: list[str]) -> tuple[list[Answer], Collection[str]]:
        """Return (answers, ids they cover): facts that another process has cached, else the next block's answers."""
        block = missing[: template.size]
        if self._mode == "online":
            self.request_counts.asked += len(block)
            return list(self._counted(self.inner.ask(template, block))), block
        with self._layers.store.request_lock():
            known = self._layers.look_up(template.kind, missing) if self._mode == "cache_first" else {}
            if known:
                return [self._shared(template, known)], known
            answers = self._counted(self.inner.ask(template, block))
            self.request_counts.asked += len(block)
            return [self._keep(template, block, answer) for answer in answers], block

    def _get_ready(self) -> None:
        """Open a lazy source now, so that its errors (no contact, offline) come before a cache file is created."""
        if isinstance(self.inner, LazySource):
            self.inner.ready()

    def _counted(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for answer in answers:
            self.request_counts.requests += 1
            yield answer

    def _keep(self, template: Template, block: Sequence[str], answer: Answer) -> Answer:
        """Write an answer to the cache, and return it with the values that the cache will return from now on."""
        known = cached_values(answer.facts, self._layers)
        if self._mode == "refresh":
            facts: Sequence[Fact] = answer.facts
            new = changed_facts(facts, known, kind=template.kind, asked=set(block))
        else:
            facts, new = with_cached_values(answer.facts, known), missing_facts(answer.facts, known)
        exchange = answer.exchange or plain_exchange(self.inner, template.query(block), answer.facts)
        self._layers.store.keep(self._layers.graph, answer.template, new, exchange)
        return Answer(answer.template, facts, exchange)

    def _shared(self, template: Template, known: dict[str, Json]) -> Answer:
        self.request_counts.found += len(known)
        return cached_answer(template, known)


def cached_answer(template: Template, known: dict[str, Json]) -> Answer:
    """Return cached values ({id: value}) of the template's kind as an `Answer` without an exchange."""
    return Answer(template.name, [Fact(template.kind, entity, value) for entity, value in known.items()])


def cached_values(facts: Iterable[Fact], layers: CacheLayers) -> Known:
    """Return the cached value for the (kind, id) of each fact; those that the cache lacks are absent."""
    ids: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        ids[fact.kind].append(fact.id)
    found = {kind: layers.look_up(kind, entities) for kind, entities in ids.items()}
    return {(kind, entity): value for kind, values in found.items() for entity, value in values.items()}


def with_cached_values(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """Return the facts, with the cached value where there is one: this run and the next then read the same value."""
    return [Fact(kind, entity, known.get((kind, entity), value)) for kind, entity, value in facts]


def missing_facts(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """Return the facts that the cache lacks."""
    return [fact for fact in facts if (fact.kind, fact.id) not in known]


def changed_facts(facts: Iterable[Fact], known: Known, *, kind: str, asked: Collection[str]) -> list[Fact]:
    """Return the facts that were asked for, and those other facts of the answer that differ from the cached value."""
    return [
        fact
        for fact in facts
        if (fact.kind == kind and fact.id in asked) or known.get((fact.kind, fact.id), _NOTHING) != fact.value
    ]


def timed_select(source: Source, query: str) -> tuple[Sequence[Binding], Exchange]:
    """Run a user's query; return its rows and its `Exchange` with the time taken. Raises the errors of the source."""
    fetched_at, start = now(), time.monotonic()
    rows = [dict(row) for row in source.select(query)]
    elapsed = round(1000 * (time.monotonic() - start))
    return rows, plain_exchange(source, query, rows, fetched_at=fetched_at, elapsed_ms=elapsed)


def plain_exchange(
    source: Source, query: str, found: Sequence[Json], *, fetched_at: str | None = None, elapsed_ms: int = 0
) -> Exchange:
    """Return an `Exchange` for an answer whose source gives none; its sha256 is that of `found` as canonical JSON."""
    digest = hashlib.sha256(dumps(found).encode()).hexdigest()
    return Exchange(source.name, query, fetched_at or now(), elapsed_ms, len(found), digest, {})


def _as_rows(value: Json) -> list[Binding]:
    """Return the cached rows of a user's query as bindings."""
    return [dict(row) for row in value]


class FallbackSource:
    """A `Source` that reads an offline `cache`, and a local `graph` for what the cache lacks. It writes nothing."""

    def __init__(self, cache: CachedSource, graph: OxigraphSource) -> None:
        self.cache = cache
        self.graph = graph

    @property
    def name(self) -> str:
        """The names of the cache and of the graph, as in "wikidata (cache.sqlite) over extract.nt.gz"."""
        return f"{self.cache.name} over {self.graph.name}"

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return the provenance of the cache for these ids, and the provenance of the graph."""
        return {"kind": "cache over graph", "cache": self.cache.provenance(ids), "graph": self.graph.provenance()}

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield the cached facts, then the graph's facts about the other ids. Raises CacheFileError.

        For a label whose entities ("named") are not cached, the answer joins the entities with this label in the graph
        and in the cache.
        """
        known = self.cache.known(template, ids)
        if known:
            yield cached_answer(template, known)
        for answer in self.graph.ask(template, [entity for entity in ids if entity not in known]):
            # The cache may have different values for facts of other kinds, so they are left out.
            yield Answer(template.name, [self._joined(fact) for fact in answer.facts if fact.kind == template.kind])

    def select(self, query: str) -> Sequence[Binding]:
        """Return the cached rows, else the rows of the graph. Raises the errors of the graph."""
        try:
            return self.cache.select(query)
        except CacheMissError:
            return self.graph.select(query)

    def _joined(self, fact: Fact) -> Fact:
        if fact.kind != "named":
            return fact
        return fact._replace(value=sorted({*fact.value, *self.cache.labelled(fact.id)}))
