"""From a graph to a linker over it, offline or online."""

from collections.abc import Sequence

from wikidata_cache.answers.over_graph import CacheOverGraph
from wikidata_cache.linking.action_api import ActionApi
from wikidata_cache.linking.indexing import open_index
from wikidata_cache.linking.knowledge import GraphKnowledge
from wikidata_cache.linking.label_index import EntityKind, Match
from wikidata_cache.linking.link import Linker
from wikidata_cache.linking.online import OnlineKnowledge
from wikidata_cache.subgraphs.facts import Facts


def open_linker(facts: Facts, *, api: ActionApi | None = None) -> Linker:
    """A linker over a graph and its label index; with `api`, candidates come from there instead.

    What stands at the ends of a relation is always looked up in the graph. Raises LabelIndexError.
    """
    knowledge = OnlineKnowledge(api) if api else _of_graph(facts)
    return Linker(knowledge, facts, internal=facts.internal)


class _CachedToo(GraphKnowledge):
    """Knowledge from a cache over a graph: names from the graph's index, and labels as the cache has them."""

    def named(self, text: str, *, limit: int, entity: EntityKind) -> Sequence[Match]:
        """What is labelled exactly so in either, then what the graph's index finds."""
        exact = {match.id: match for match in self._labelled(text, entity)}
        for match in super().named(text, limit=limit, entity=entity):
            if match.id not in exact or match.text == text:  # then the index knows more of the name
                exact[match.id] = match
        return list(exact.values())[:limit]


def _of_graph(facts: Facts) -> GraphKnowledge:
    if isinstance(facts.source, CacheOverGraph):
        return _CachedToo(facts, open_index(facts.source.graph))
    return GraphKnowledge(facts, open_index(facts.source))
