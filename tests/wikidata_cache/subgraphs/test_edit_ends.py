"""Ids of edits that Wikidata has merged into other items."""

import pytest

from tests.wikidata_cache.full_graph import ADA, HEAT, LAKERS, MOVES
from tests.wikidata_cache.wikidata_helpers import Edit, triples
from wikidata_cache import WikidataCache
from wikidata_cache.errors import EntityNotInGraphError
from wikidata_cache.subgraphs.options import SubgraphOptions


def test_merged_ends_are_followed_and_guarded(full: WikidataCache) -> None:
    edit = Edit("Ada", "Heat", "Lakers", "plays for", "Q77", "P54", "Q90", "Q78")
    graph = full.subgraph(edit, SubgraphOptions(roots=("target_new", "subject", "target_true"), hops=4))
    assert graph.graph["redirects"] == {"Q77": ADA, "Q78": LAKERS, "Q90": HEAT}
    assert graph.graph["old_edge_stated"] is True
    assert (ADA, "P54", LAKERS) not in triples(graph)
    current = full.subgraph(MOVES, SubgraphOptions(roots=("target_new", "subject", "target_true"), hops=4))
    assert current.graph["redirects"] == {}
    assert graph.graph["content_hash"] == current.graph["content_hash"]


def test_merged_into_an_unknown_item_is_refused(full: WikidataCache) -> None:
    with pytest.raises(EntityNotInGraphError, match="Q80"):
        full.subgraph(Edit("s", "gone", target_new_id="Q79"))
