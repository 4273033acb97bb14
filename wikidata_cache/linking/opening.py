"""From a graph to a linker over it, offline or online."""

from wikidata_cache.linking.action_api import ActionApi
from wikidata_cache.linking.indexing import open_index
from wikidata_cache.linking.knowledge import GraphKnowledge
from wikidata_cache.linking.linker import Linker
from wikidata_cache.linking.online import OnlineKnowledge
from wikidata_cache.subgraphs.facts import Facts


def open_linker(facts: Facts, *, api: ActionApi | None = None) -> Linker:
    """A linker over a graph and its label index; with `api`, candidates come from there instead.

    What stands at the ends of a relation is always looked up in the graph. Raises LabelIndexError.
    """
    knowledge = OnlineKnowledge(api) if api else GraphKnowledge(facts, open_index(facts.source))
    return Linker(knowledge, facts, internal=facts.internal)
