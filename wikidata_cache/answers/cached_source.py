"""Sources that remember: `CachedSource` answers from a cache file, and asks an endpoint only for what the file lacks.

`CacheFiller` asks one request at a time over all processes that share the file, and keeps each answer before anybody
sees it; a fact that is already cached keeps its value, so that this run and the next read the same. `FallbackSource`
reads a cache over a local graph and writes nothing.
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

_LISTED = 20  # missing ids that the command to fetch them names one by one
_STATEMENTS: tuple[Kind, ...] = ("out", "in", "claims")


@dataclass
class RequestCounts:
    """Counts of a `CachedSource`: ids `found` in the cache, ids `asked` of the endpoint, answered `requests`."""

    found: int = 0
    asked: int = 0
    requests: int = 0


class CachedSource:
    """A `Source` over a cache file, read-only packs below it, and an inner source for what they lack.

    `mode` is cache_file_errors at `Mode`; without an inner source it is "offline". `graph` is the name under which
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
        self.mode = effective_mode(mode, endpoint=inner is not None, as_of=as_of)
        self.graph = graph
        self.request_counts = RequestCounts()
        self._layers = CacheLayers(store, packs, graph=graph, as_of=utc(as_of) if as_of else None)
        self._urls = tuple(urls)
        online = None if self.mode == "offline" else inner
        self._filler = (
            None
            if online is None
            else CacheFiller(online, self._layers, mode=self.mode, request_counts=self.request_counts)
        )

    @property
    def name(self) -> str:
        """The name of the inner source; offline the graph's name and the cache file."""
        return f"{self.graph} ({self._layers.store.path})" if self._filler is None else self._filler.inner.name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The graph's name, the URLs that answered about the ids, and the first and last time (UTC) of these answers.

        The same online and offline; in mode "online" that of the inner source. Raises CacheFileError.
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
        """Cached facts first, then one answer a request for the others.

        Raises CacheMissError offline, CacheFileError, and whatever the inner source raises.
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
        """The rows of a user's SELECT query, kept like other answers.

        Raises ServiceForbiddenError and CacheMissError offline, CacheFileError, and what the inner source raises.
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
        """{id: value} of these ids from the cache alone, without asking. Raises CacheFileError."""
        found = self._layers.look_up(template.kind, ids)
        self.request_counts.found += len(found)
        return found

    def labelled(self, label: str) -> list[str]:
        """The ids whose label in the cache is exactly this one. Raises CacheFileError."""
        return self._layers.labelled(label)

    @cached_property
    def fetch_hint(self) -> FetchHint:
        """Commands that fetch what is missing. Raises CacheFileError."""
        return FetchHint(self._layers.store.path, self.graph, self._urls or self._layers.urls())

    def _command(self, kind: str, ids: Sequence[str]) -> str:
        """The command that fetches these ids."""
        return self.fetch_hint.command(*(["--kind", kind, *ids] if len(ids) <= _LISTED else ["EDITS.jsonl"]))


class CacheFiller:
    """Asks `inner` for what the cache lacks, and writes each answer to the cache before returning it."""

    def __init__(self, inner: Source, layers: CacheLayers, *, mode: Mode, request_counts: RequestCounts) -> None:
        self.inner = inner
        self._layers = layers
        self._mode = mode
        self.request_counts = request_counts

    def fetch(self, template: Template, missing: list[str]) -> Iterator[Answer]:
        """One answer a request; before each, the cache is read again for what other processes have written.

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
        with self._layers.store.request_lock():
            rows = self._layers.look_up("query", [key]) if self._mode != "refresh" else {}
            if key in rows:  # another process was faster
                return _as_rows(rows[key])
            found, exchange = timed_select(self.inner, query)
            self._layers.store.keep(self._layers.graph, "query", [("query", key, found)], exchange)
            self.request_counts.requests += 1
            return found

    def _next(self, template: Template, missing: list[str]) -> tuple[list[Answer], Collection[str]]:
        """What other processes have cached meanwhile, else the answers to the next block; and the ids they cover."""
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
        """Open a lazy source, so that its errors (no contact, offline) come before a cache file is created."""
        if isinstance(self.inner, LazySource):
            self.inner.ready()

    def _counted(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for answer in answers:
            self.request_counts.requests += 1
            yield answer

    def _keep(self, template: Template, block: Sequence[str], answer: Answer) -> Answer:
        """Write an answer to the cache, and return it with the values that the cache gives from now on."""
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
    """Cached values ({id: value}) of a template's kind as an answer without exchange."""
    return Answer(template.name, [Fact(template.kind, entity, value) for entity, value in known.items()])


def cached_values(facts: Iterable[Fact], layers: CacheLayers) -> Known:
    """The cached values of these facts' ids, by (kind, id); ids that the cache lacks are absent."""
    ids: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        ids[fact.kind].append(fact.id)
    found = {kind: layers.look_up(kind, entities) for kind, entities in ids.items()}
    return {(kind, entity): value for kind, values in found.items() for entity, value in values.items()}


def with_cached_values(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """The facts with the cached value where there is one, so that this run and the next read the same."""
    return [Fact(kind, entity, known.get((kind, entity), value)) for kind, entity, value in facts]


def missing_facts(facts: Iterable[Fact], known: Known) -> list[Fact]:
    """The facts that the cache lacks."""
    return [fact for fact in facts if (fact.kind, fact.id) not in known]


def changed_facts(facts: Iterable[Fact], known: Known, *, kind: str, asked: Collection[str]) -> list[Fact]:
    """The facts that were asked for, and of the others in the answer those whose value differs from the cached one."""
    return [
        fact
        for fact in facts
        if (fact.kind == kind and fact.id in asked) or known.get((fact.kind, fact.id), _NOTHING) != fact.value
    ]


def timed_select(source: Source, query: str) -> tuple[Sequence[Binding], Exchange]:
    """The rows of a user's query, and its `Exchange` with the time taken. Raises what the source raises."""
    fetched_at, start = now(), time.monotonic()
    rows = [dict(row) for row in source.select(query)]
    elapsed = round(1000 * (time.monotonic() - start))
    return rows, plain_exchange(source, query, rows, fetched_at=fetched_at, elapsed_ms=elapsed)


def plain_exchange(
    source: Source, query: str, found: Sequence[Json], *, fetched_at: str | None = None, elapsed_ms: int = 0
) -> Exchange:
    """An `Exchange` for an answer whose source gives none; `found` is hashed as canonical JSON."""
    digest = hashlib.sha256(dumps(found).encode()).hexdigest()
    return Exchange(source.name, query, fetched_at or now(), elapsed_ms, len(found), digest, {})


def _as_rows(value: Json) -> list[Binding]:
    """The cached rows of a user's query as bindings."""
    return [dict(row) for row in value]


class FallbackSource:
    """A `Source` that reads an offline `cache`, and a local `graph` for what the cache lacks. Nothing is written."""

    def __init__(self, cache: CachedSource, graph: OxigraphSource) -> None:
        self.cache = cache
        self.graph = graph

    @property
    def name(self) -> str:
        """The names of the cache and of the graph, as in "wikidata (cache.sqlite) over extract.nt.gz"."""
        return f"{self.cache.name} over {self.graph.name}"

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """The provenance of the cache for these ids, and of the graph."""
        return {"kind": "cache over graph", "cache": self.cache.provenance(ids), "graph": self.graph.provenance()}

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Cached facts, then the graph's facts of the other ids. Raises CacheFileError.

        For a label that was never looked up ("named"), the entities of both with this label.
        """
        known = self.cache.known(template, ids)
        if known:
            yield cached_answer(template, known)
        for answer in self.graph.ask(template, [entity for entity in ids if entity not in known]):
            # Facts of other kinds are left out: the cache may have other values for them.
            yield Answer(template.name, [self._joined(fact) for fact in answer.facts if fact.kind == template.kind])

    def select(self, query: str) -> Sequence[Binding]:
        """The cached rows, else the rows of the graph. Raises what the graph raises."""
        try:
            return self.cache.select(query)
        except CacheMissError:
            return self.graph.select(query)

    def _joined(self, fact: Fact) -> Fact:
        if fact.kind != "named":
            return fact
        return fact._replace(value=sorted({*fact.value, *self.cache.labelled(fact.id)}))
