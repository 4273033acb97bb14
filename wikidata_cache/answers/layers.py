"""The user's cache file over read-only packs: the first layer that knows an id speaks for it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from wikidata_cache.answers.store import AnswerStore, Origin
from wikidata_cache.sources.facts import Json


class Layers:
    """What the cache files together say of one graph, at the time `as_of` (UTC) or now."""

    def __init__(
        self, store: AnswerStore, packs: Sequence[AnswerStore] = (), *, graph: str, as_of: str | None = None
    ) -> None:
        self.store = store
        self.graph = graph
        self._as_of = as_of
        self._all = (store, *packs)

    @property
    def files(self) -> list[Path]:
        """The cache files in the order in which they are read."""
        return [store.path for store in self._all]

    def look_up(self, kind: str, ids: Iterable[str]) -> dict[str, Json]:
        """The values of those ids that are known. Raises CacheFileError."""
        missing, found = list(ids), dict[str, Json]()
        for store in self._all:
            found |= store.look_up(self.graph, kind, missing, as_of=self._as_of) if missing else {}
            missing = [entity for entity in missing if entity not in found]
        return found

    def labelled(self, label: str) -> list[str]:
        """The ids that have exactly this label. Raises CacheFileError."""
        ever = {entity for store in self._all for entity in store.labelled(self.graph, label, as_of=self._as_of)}
        return sorted(entity for entity, now in self.look_up("label", ever).items() if now and now[0] == label)

    def urls(self) -> list[str]:
        """The URLs that have answered for the graph. Raises CacheFileError."""
        return sorted({url for store in self._all for url in store.urls(self.graph)})

    def origins(self, kind: str, ids: Iterable[str]) -> list[Origin]:
        """URL and time (UTC) behind what `look_up` gives. Raises CacheFileError."""
        missing, found = list(ids), dict[str, Origin]()
        for store in self._all:
            found |= store.origins(self.graph, kind, missing, as_of=self._as_of) if missing else {}
            missing = [entity for entity in missing if entity not in found]
        return list(found.values())
