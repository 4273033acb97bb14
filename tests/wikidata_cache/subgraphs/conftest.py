"""Fixtures of the subgraph tests: a small graph in the shapes of a full dump."""

import pytest

from tests.wikidata_cache.full_graph import ADA, HEAT, LAKERS, WD, full_graph
from wikidata_cache import WikidataCache

SAME = "<http://www.w3.org/2002/07/owl#sameAs>"


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> WikidataCache:
    """The full graph, with some more merged items."""
    path = tmp_path_factory.mktemp("full") / "full.nt"
    merged = (("Q77", ADA), ("Q78", LAKERS), ("Q79", "Q80"), ("Q90", HEAT), ("Q90", "P90"))
    more = "".join(f"<{WD}{old}> {SAME} <{WD}{new}> .\n" for old, new in merged)
    path.write_text(full_graph() + more, encoding="utf-8")
    return WikidataCache(path)
