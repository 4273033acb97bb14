"""Sources with a cache: `CachedSource` answers from a cache file, and asks an endpoint only for missing facts.

Requests are sent one at a time across all processes that share the file, and each answer is written to the file before
it is returned. A fact that is already cached is not replaced, so that this run and the next run read the same value.
`FallbackSource` reads a cache, and a local graph for what the cache lacks; it writes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kg_common.progress import Bar
from wikidata_cache.answers.database import dumps
from wikidata_cache.answers.modes import FetchHint, Mode, effective_mode, utc
from wikidata_cache.answers.store import AnswerStore, Origin
from wikidata_cache.endpoints.endpoint import now
from wikidata_cache.endpoints.rate_limit import find_host, find_usual_rate
from wikidata_cache.errors import CacheMissError
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.queries import parse_named_in, parse_words_of
from wikidata_cache.sources.source import Answer, Binding, Exchange, Fact, Json, Kind, Provenance, Source, Template
from wikidata_cache.sources.user_queries import canonicalize, forbid_service, query_key
from wikidata_cache.sources.wordings import AskedFacts, describe_question, write_keys

_LISTED = 20  # up to this many missing ids, the suggested fetch command lists each id, else a file of edits
_STATEMENTS: tuple[Kind, ...] = ("out", "in", "claims", "values")

logger = logging.getLogger(__name__)


@dataclass
class RequestCounts:
    """Counts of a `CachedSource`: ids read `from_cache`, ids `requested` from the endpoint, and answered `requests`."""

    from_cache: int = 0
    requested: int = 0
    requests: int = 0


class CachedSource:
    """A `Source` that reads a cache file, then read-only packs, and asks an inner source for the facts they lack.

    Each answer is written to the cache before it is returned; errors are never written.

    Args:
        inner: the source to ask, or a function that opens it at the first question; None for an offline cache.
        store: the cache file.
        mode: what to read, ask and write (`Mode`); without an inner source the mode is "offline".
        graph: the name of the graph in the cache. Two endpoints with the same graph name share their answers.
        packs: cache files of other people, which are read after `store`.
        as_of: read the cache as it was at this time (ISO 8601).
        urls: the endpoints that are asked. They are the source's `name`, and are in the fetch command of a
            CacheMissError; without them, that command has the endpoints that have answered before.
    """

    def __init__(
        self,
        inner: Source | Callable[[], Source] | None,
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
        self._to_open = inner
        self._store = store
        self._files = (store, *packs)  # for each id, the first one that knows it is used
        self._as_of: str | None = None
        if as_of is not None:
            self._as_of = utc(as_of)
        self._urls = tuple(urls)
        self._has_warned = False  # whether `_warn_of_other_urls` has warned

    @property
    def name(self) -> str:
        """The URLs that were given, else the name of the inner source; offline, the graph's name and the cache file."""
        if self.mode == "offline":
            return f"{self.graph} ({self._store.path})"
        return ", ".join(self._urls) or self._inner.name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return the graph's name, the URLs that answered about the ids, and the first and last time (UTC) of answers.

        The result is the same with and without network. In mode "online", it is the provenance of the inner source.
        """
        if self.mode == "online":
            return self._inner.provenance(ids)
        ids = list(ids)
        urls: set[str] = set()
        times: list[str] = []
        for kind in _STATEMENTS:
            for url, fetched_at in self._find_origins(kind, ids).values():
                urls.add(url)
                times.append(fetched_at)
        first_and_last = []
        if times:
            first_and_last = [min(times), max(times)]
        return {"kind": "cache", "graph": self.graph, "urls": sorted(urls), "fetched_at": first_and_last}

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield the cached facts first, then one answer per request for the other ids."""
        cached = {}
        if self.mode in ("offline", "cache_first"):
            cached = self._look_up(template.kind, ids)
        missing = [entity for entity in ids if entity not in cached]
        if missing and self.mode == "offline":
            raise self._miss(describe_question(template.kind, missing))
        if cached:
            self.request_counts.from_cache += len(cached)
            self._warn_of_other_urls(template.kind, cached)
            yield cached_answer(template, cached)
        if missing:
            yield from self._fetch(template, missing)

    def _fetch(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield the answers of the inner source, one per request, or of another process that was faster."""
        missing = list(ids)
        inner = self._inner  # opened here, so that its errors (no contact, offline) come before a cache file is made
        many = len(missing) > template.size
        with Bar(title=template.kind, unit="id", total=len(missing), shown=many, leave=False) as bar:
            while missing:
                # If another process has fetched a part of the block, the answers cover only that part, and the rest
                # comes first in the next block. With blocks of two ids, [Q1, Q2, Q3] begins with the block [Q1, Q2]; if
                # only Q1 is covered, the next block is [Q2, Q3].
                block = missing[: template.size]
                answers, covered = self._answer_block(inner, template, block)
                rest = [entity for entity in block if entity not in covered]
                missing = rest + missing[template.size :]
                bar.update(len(covered))
                yield from answers

    def _answer_block(
        self, inner: Source, template: Template, block: Sequence[str]
    ) -> tuple[Sequence[Answer], Collection[str]]:
        """Answer a block of ids, or the part of it that another process has fetched in the meantime.

        Args:
            inner: the source to ask.
            template: the question.
            block: at most `template.size` ids.

        Returns:
            The answers, and the ids of the block that they cover, at least one.
        """
        if self.mode == "online":
            self.request_counts.requested += len(block)
            answers = list(inner.ask(template, block))
            self.request_counts.requests += len(answers)
            return answers, block
        with self._store.request_lock():
            # While this process waited for the lock, another one may have fetched the same facts.
            cached = {}
            if self.mode == "cache_first":
                cached = self._look_up(template.kind, block)
            if cached:
                self.request_counts.from_cache += len(cached)
                return [cached_answer(template, cached)], cached
            self.request_counts.requested += len(block)
            answers = []
            for answer in inner.ask(template, block):  # each is written at once: a kill or a later failure loses none
                self.request_counts.requests += 1
                answers.append(self._save(inner, template, block, answer))
            return answers, block

    def _save(self, inner: Source, template: Template, block: Sequence[str], answer: Answer) -> Answer:
        """Save an answer in the cache, and return it with the values that the cache will return from now on.

        mode       the fact is                               is saved  value returned
        refresh    requested, new, or other than cached      yes       the answer's
        refresh    not requested, and cached with its value  no        the answer's, which is the same
        others     cached                                    no        the cached one
        others     new                                       yes       the answer's
        """
        cached = self._look_up_facts(answer.facts)
        to_return: list[Fact] = []
        to_save: list[Fact] = []
        for fact in answer.facts:
            key = (fact.kind, fact.id)
            if self.mode == "refresh":
                is_requested = fact.kind == template.kind and fact.id in block
                if is_requested or key not in cached or cached[key] != fact.value:
                    to_save.append(fact)
                to_return.append(fact)
            elif key in cached:  # the cache keeps its value
                to_return.append(fact._replace(value=cached[key]))
            else:
                to_save.append(fact)
                to_return.append(fact)
        exchange = answer.exchange or plain_exchange(inner, template.query(block), answer.facts)
        self._store.save(self.graph, answer.template, to_save, exchange)
        return Answer(answer.template, to_return, exchange)

    def _miss(self, question: AskedFacts) -> CacheMissError:
        """Return the error for facts that the offline cache lacks, with the command that fetches them."""
        arguments = ["--kind", question.kind, *question.ids]
        if len(question.ids) > _LISTED:
            arguments = ["EDITS.jsonl"]
        if question.families:
            arguments += ["--language", ",".join(question.families)]
        command = self.fetch_hint.command(*arguments)
        return CacheMissError(
            question.kind,
            question.ids,
            self._paths,
            command,
            as_of=self._as_of,
            languages=question.families,
        )

    def select(self, query: str) -> Sequence[Binding]:
        """Return the rows of a user's SELECT query; they are cached like other answers."""
        if self.mode == "offline":
            forbid_service(query, "the cache is offline")
        key = query_key(query)
        cached = self._cached_rows(key)
        if cached is not None:
            return cached
        if self.mode == "offline":
            hint = self.fetch_hint.for_query()
            raise CacheMissError("query", [canonicalize(query)[:200]], self._paths, hint, as_of=self._as_of)
        inner = self._inner
        if self.mode == "online":
            self.request_counts.requests += 1
            return inner.select(query)
        with self._store.request_lock():
            cached = self._cached_rows(key)  # another process may have cached them in the meantime
            if cached is not None:
                return cached
            return self._select_and_cache(inner, query, key)

    def _cached_rows(self, key: str) -> Sequence[Binding] | None:
        """Return the cached rows of a query; None if there are none, or if the mode does not read the cache."""
        if self.mode not in ("offline", "cache_first"):
            return None
        rows = self._look_up("query", [key])
        if key not in rows:
            return None
        return list(rows[key])

    def _select_and_cache(self, inner: Source, query: str, key: str) -> Sequence[Binding]:
        """Ask the inner source, write its rows to the cache, and return them."""
        fetched_at = now()
        start = time.monotonic()
        rows = [dict(row) for row in inner.select(query)]
        elapsed = round(1000 * (time.monotonic() - start))
        exchange = plain_exchange(inner, query, rows, fetched_at=fetched_at, elapsed_ms=elapsed)
        self._store.save(self.graph, "query", [("query", key, rows)], exchange)
        self.request_counts.requests += 1
        return rows

    def cached_values(self, template: Template, ids: Iterable[str]) -> dict[str, Json]:
        """Return {id: value} for the ids that are in the cache, without a request."""
        cached = self._look_up(template.kind, ids)
        self.request_counts.from_cache += len(cached)
        return cached

    def find_labelled(self, labels: Collection[str]) -> dict[str, set[str]]:
        """Return {label: ids whose label in the cache is exactly this text}; a label that no id has is left out."""
        candidates: set[str] = set()
        for store in self._files:
            candidates |= store.find_labelled(self.graph, labels, as_of=self._as_of)
        # A candidate has the label in some version; the version in effect decides.
        ids_by_label = defaultdict[str, set[str]](set)
        for entity, label in self._look_up("label", candidates).items():
            if label:
                ids_by_label[label[0]].add(entity)
        return {label: ids_by_label[label] for label in ids_by_label.keys() & labels}

    def find_labelled_in(self, keys: Iterable[str]) -> dict[str, set[str]]:
        """Return {key: ids with this label in the cache} for labels in a language such as "zh 北京"."""
        found: dict[str, set[str]] = {}
        for key in keys:
            family, label = parse_named_in(key)
            candidates: set[str] = set()
            for store in self._files:
                candidates |= store.find_with_text(self.graph, label, as_of=self._as_of)
            # Any version, and any part of a label, makes a candidate; now the whole label of the newest version counts.
            answers = self._look_up("label_in", write_keys("label", candidates, [family]))
            found[key] = set()
            for id_and_language, pairs in answers.items():  # such as "Q956 zh", and [["zh-hans", "北京"], ...]
                texts = [text for _, text in pairs]
                if label in texts:
                    entity, _ = parse_words_of(id_and_language)
                    found[key].add(entity)
        return found

    @cached_property
    def fetch_hint(self) -> FetchHint:
        """The commands that fetch missing facts, for error messages."""
        urls = self._urls or sorted(self._cached_urls())
        return FetchHint(self._store.path, self.graph, urls)

    def _cached_urls(self) -> set[str]:
        """Return the URLs of all endpoints with answers in the cache files."""
        urls: set[str] = set()
        for store in self._files:
            urls.update(store.list_urls(self.graph))
        return urls

    @cached_property
    def _other_urls(self) -> set[str]:
        """The endpoints with answers in the cache that are not among the given URLs.

        Empty without given URLs, and if all endpoints are public services of Wikidata: these have the same graph.
        """
        if not self._urls:
            return set()
        cached = self._cached_urls()
        if all(find_usual_rate(find_host(url)) for url in (*cached, *self._urls)):
            return set()
        return cached.difference(self._urls)

    def _warn_of_other_urls(self, kind: str, ids: Iterable[str]) -> None:
        """Warn once of cached answers of `_other_urls`, because these endpoints may have another graph."""
        if self._has_warned or not self._other_urls:
            return
        used = {url for url, _ in self._find_origins(kind, ids).values()}
        others = used & self._other_urls
        if others:
            self._has_warned = True
            logger.warning(
                "%s: facts of %s in the cache are used for %s; if that is another graph, give another cache (--cache, "
                "KG_CACHE) or a name (--graph-name)",
                self._store.path,
                ", ".join(sorted(others)),
                ", ".join(self._urls),
            )

    @property
    def _paths(self) -> list[Path]:
        return [store.path for store in self._files]

    @cached_property
    def _inner(self) -> Source:
        """The source to ask, opened at the first question; every mode but "offline" has one."""
        assert self._to_open is not None  # noqa: S101  # else the mode is "offline"
        if callable(self._to_open):
            return self._to_open()
        return self._to_open

    def _look_up_facts(self, facts: Iterable[Fact]) -> dict[tuple[str, str], Json]:
        """Return the values that the cache has for these facts, by (kind, id)."""
        ids: dict[str, list[str]] = defaultdict(list)
        for fact in facts:
            ids[fact.kind].append(fact.id)
        values = {}
        for kind, of_kind in ids.items():
            for entity, value in self._look_up(kind, of_kind).items():
                values[kind, entity] = value
        return values

    def _look_up(self, kind: str, ids: Iterable[str]) -> dict[str, Json]:
        """Return {id: value} of the ids that a file knows."""
        missing = list(ids)
        values: dict[str, Json] = {}
        for store in self._files:  # each id is read from the first file that knows it
            if missing:
                values |= store.look_up(self.graph, kind, missing, as_of=self._as_of)
                missing = [entity for entity in missing if entity not in values]
        return values

    def _find_origins(self, kind: str, ids: Iterable[str]) -> dict[str, Origin]:
        """Return {id: (URL, time)} of the answers from which `_look_up` has its values."""
        missing = list(ids)
        origins: dict[str, Origin] = {}
        for store in self._files:
            if missing:
                origins |= store.find_origins(self.graph, kind, missing, as_of=self._as_of)
                missing = [entity for entity in missing if entity not in origins]
        return origins


def cached_answer(template: Template, values: dict[str, Json]) -> Answer:
    """Return cached values ({id: value}) of the template's kind as an `Answer` without an exchange."""
    return Answer(template.name, [Fact(template.kind, entity, value) for entity, value in values.items()])


def plain_exchange(
    source: Source, query: str, content: Sequence[Json], *, fetched_at: str | None = None, elapsed_ms: int = 0
) -> Exchange:
    """Return an `Exchange` for an answer whose source gives none; its sha256 is that of `content` as canonical JSON."""
    digest = hashlib.sha256(dumps(content).encode()).hexdigest()
    return Exchange(source.name, query, fetched_at or now(), elapsed_ms, len(content), digest, {})


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
        """Yield the cached facts, then the graph's facts about the other ids.

        The kinds "named" and "named_in" ask which entities have a label. The cache may not have that answer and still
        have some of these entities with their labels, so the answer joins them with those of the graph.
        """
        cached = self.cache.cached_values(template, ids)
        if cached:
            yield cached_answer(template, cached)
        missing = [entity for entity in ids if entity not in cached]
        labelled: dict[str, set[str]] = {}  # by label: the entities that have it in the cache
        if template.kind == "named":
            labelled = self.cache.find_labelled(missing)
        elif template.kind == "named_in":
            labelled = self.cache.find_labelled_in(missing)
        for answer in self.graph.ask(template, missing):
            facts = []
            for fact in answer.facts:
                if fact.kind != template.kind:
                    continue  # the cache may have another value
                if fact.id in labelled:
                    in_both = sorted(labelled[fact.id].union(fact.value))
                    facts.append(fact._replace(value=in_both))
                else:
                    facts.append(fact)
            yield Answer(template.name, facts)

    def select(self, query: str) -> Sequence[Binding]:
        """Return the cached rows, else the rows of the graph."""
        try:
            return self.cache.select(query)
        except CacheMissError:
            return self.graph.select(query)
