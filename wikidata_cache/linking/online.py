"""Knowledge from Wikidata itself, through its Action API; only for those who ask for it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from wikidata_cache.ids import is_entity, is_item
from wikidata_cache.labels.label_index import EntityKind, Match, NameKind
from wikidata_cache.linking.action_api import ActionApi
from wikidata_cache.linking.knowledge import About
from wikidata_cache.linking.points import for_name
from wikidata_cache.sources.queries import LANGUAGES

Json = Any

_PER_SEARCH = 15  # the entities of both searches go in one request, with all their statements
_RANKS = ("preferred", "normal")  # the best one that is there is truthy; deprecated never is


class OnlineKnowledge:
    """Knowledge of an `ActionApi`. Searches and entities are asked for once; nothing is written to disk."""

    def __init__(self, api: ActionApi) -> None:
        self._api = api
        self._entities: dict[str, Json] = {}
        self._searches: dict[tuple[str, EntityKind, int], list[str]] = {}

    @property
    def name(self) -> str:
        """The API's URL."""
        return self._api.url

    @property
    def far(self) -> bool:
        """Every question is a request."""
        return True

    def ask_names(self, texts: Iterable[str]) -> None:
        """Nothing: a search takes one name."""

    def near_properties(self, text: str) -> Sequence[Match]:
        """None: the searches have found whatever is near."""
        return ()

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """What either search gives for the text, each with the name that agrees best; raises EndpointError."""
        asked = text, entity, min(limit, _PER_SEARCH)
        if asked not in self._searches:
            self._searches[asked] = self._api.search(text, limit=asked[2], kind=entity)
        ids = [one for one in self._searches[asked] if is_entity(one)]
        said = self._said(ids)
        return [best for one in ids if one in said and (best := _best(one, said[one], text))]

    def about(self, ids: Iterable[str]) -> Mapping[str, About]:
        """What Wikidata says of each of the ids; raises EndpointError."""
        wanted = sorted(set(ids))
        said = self._said(wanted)
        return {entity: _about(entity, said[entity]) if entity in said else About() for entity in wanted}

    def labels(self, ids: Iterable[str]) -> Mapping[str, str]:
        """The labels of those ids that have one; raises EndpointError."""
        said = self._said(sorted(set(ids)))
        return {entity: label for entity, found in said.items() if (label := _first(found.get("labels")))}

    def _said(self, ids: Sequence[str]) -> dict[str, Json]:
        if missing := [entity for entity in ids if entity not in self._entities]:
            found = self._api.entities(missing)
            self._entities |= {said["id"]: said for said in found.values()}
            self._entities |= {entity: found.get(entity) for entity in missing}
        return {entity: said for entity in ids if (said := self._entities[entity])}


def _best(entity: str, said: Json, text: str) -> Match | None:
    matches = [Match(entity, name, language, kind, 0) for name, language, kind in _names(said)]
    return max(matches, key=lambda match: for_name(match, text).points, default=None)


def _names(said: Json) -> Iterator[tuple[str, str, NameKind]]:
    for language in LANGUAGES:
        if label := (said.get("labels") or {}).get(language):
            yield label["value"], language, "label"
        for alias in (said.get("aliases") or {}).get(language, ()):
            yield alias["value"], language, "alias"


def _about(entity: str, said: Json) -> About:
    pairs = frozenset((relation, value) for relation, value in _truthy(said.get("claims") or {}))
    types = frozenset(value for relation, value in pairs if relation == "P31")
    merged = said["id"] if said["id"] != entity else None
    return About(_first(said.get("labels")), _first(said.get("descriptions")), types, pairs, merged)


def _truthy(claims: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """The item-valued statements of best rank."""
    for relation, statements in claims.items():
        ranks = {statement["rank"] for statement in statements}
        best = next((rank for rank in _RANKS if rank in ranks), None)
        for statement in statements:
            value = statement["mainsnak"].get("datavalue", {}).get("value")
            item = value.get("id", "") if isinstance(value, Mapping) else ""
            if statement["rank"] == best and is_item(item):
                yield relation, item


def _first(texts: Json) -> str | None:
    """The text in the first of our languages."""
    found: list[str] = [texts[language]["value"] for language in LANGUAGES if language in (texts or {})]
    return found[0] if found else None
