"""A source that remembers: answers from the cache, and from an endpoint what the cache lacks."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from wikidata_cache.answers.asking import Asker, Tally, from_cache, rows_of
from wikidata_cache.answers.cure import Cure
from wikidata_cache.answers.layers import Layers
from wikidata_cache.answers.modes import Mode, settle_mode, utc
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.errors import CacheMissError
from wikidata_cache.sources.facts import Answer, Json, Kind, Row
from wikidata_cache.sources.source import Provenance, Source
from wikidata_cache.sources.templates import Template
from wikidata_cache.sources.user_queries import canonical, forbid_service, query_key

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
        self.tally = Tally()
        self._layers = Layers(store, packs, graph=graph, as_of=utc(as_of) if as_of else None)
        self._urls = tuple(urls)
        online = None if self.mode == "offline" else inner
        self._asker = None if online is None else Asker(online, self._layers, mode=self.mode, tally=self.tally)

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

    def select(self, query: str) -> Sequence[Row]:
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
            raise CacheMissError("query", [canonical(query)[:200]], self._layers.files, self.cure.for_query())
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
    def cure(self) -> Cure:
        """Commands that fetch what is missing. Raises CacheFileError."""
        return Cure(self._layers.store.path, self.graph, self._urls or self._layers.urls())

    def _command(self, kind: str, ids: Sequence[str]) -> str:
        """What to type to get these ids."""
        return self.cure.command(*(["--kind", kind, *ids] if len(ids) <= _LISTED else ["EDITS.jsonl"]))
