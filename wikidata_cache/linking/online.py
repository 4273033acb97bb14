"""Link with Wikidata's Action API (https://www.wikidata.org/w/api.php), which the option --online chooses.

`OnlineKnowledge` answers the questions of linking from an `ActionApi`, and has the answers in memory only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wikidata_cache.endpoints.action_api import ActionApi, ApiEntity
from wikidata_cache.labels.label_index import EntityKind, Match
from wikidata_cache.languages import DEFAULT_LANGUAGES, Languages
from wikidata_cache.linking.candidates import judge_name
from wikidata_cache.linking.knowledge import EntityInfo, Knowledge

_PER_SEARCH = 15  # hits per search; one request fetches the entities that were found, with all their statements


class OnlineKnowledge(Knowledge):
    """`Knowledge` from an `ActionApi`. Each search and each entity is requested once; nothing is written to disk.

    Names are not prefetched, since a search takes only one. `nearest` returns nothing, since the search itself finds
    similar names. All methods that send requests raise EndpointError.
    """

    def __init__(self, api: ActionApi, *, languages: Languages = DEFAULT_LANGUAGES) -> None:
        self.name = api.name
        self._languages = languages
        self._api = api
        self._entities: dict[str, ApiEntity | None] = {}
        self._searches: dict[tuple[str, EntityKind, int], list[str]] = {}

    def named(self, text: str, *, limit: int, kind: EntityKind) -> Sequence[Match]:
        """Return the entities that the search finds, each with its best matching name.

        `ActionApi.search` finds names that begin with the text, in each family of languages, and then words of it
        anywhere. `limit` (at most `_PER_SEARCH`) limits each of these searches, so more entities may be returned.
        """
        limit = min(limit, _PER_SEARCH)
        search = (text, kind, limit)
        if search not in self._searches:
            self._searches[search] = self._api.search(text, limit=limit, kind=kind, languages=self._languages)
        matches = []
        for entity_id, entry in self._fetch(self._searches[search]).items():
            names = []
            for name, language, name_kind in entry.names:  # of a label, or of an alias
                names.append(Match(id=entity_id, text=name, language=language, kind=name_kind, weight=0))
            if names:
                matches.append(max(names, key=lambda match: judge_name(match, text).points))
        return matches

    def info(self, ids: Iterable[str]) -> Mapping[str, EntityInfo]:
        """Return the facts that Wikidata has about each of the ids."""
        ids = sorted(set(ids))
        fetched = self._fetch(ids)
        about = dict.fromkeys(ids, EntityInfo())
        for entity_id, entry in fetched.items():
            types = frozenset(value for relation, value in entry.truthy if relation == "P31")
            merged = None
            if entry.id != entity_id:
                merged = entry.id
            about[entity_id] = EntityInfo(
                label=entry.label,
                description=entry.description,
                types=types,
                statements=entry.truthy,
                merged_into=merged,
            )
        return about

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return {id: label} for the ids that have a label."""
        labels = {}
        for entity_id, entry in self._fetch(sorted(set(ids))).items():
            if entry.label:
                labels[entity_id] = entry.label
        return labels

    def _fetch(self, ids: Sequence[str]) -> dict[str, ApiEntity]:
        """Return the entities that exist, by the requested id; those not in memory are requested."""
        missing = [entity_id for entity_id in ids if entity_id not in self._entities]
        if missing:
            entities = self._api.entities(missing, languages=self._languages)
            for found in entities.values():
                self._entities[found.id] = found  # of a merged id, the item that replaces it
            for entity_id in missing:
                self._entities[entity_id] = entities.get(entity_id)
        fetched = {}
        for entity_id in ids:
            existing = self._entities[entity_id]
            if existing:
                fetched[entity_id] = existing
        return fetched
