import pytest
from pyoxigraph import Literal, NamedNode, Quad, Store
from wikidata_helpers import facts

from wikidata_cache.ids import ENTITY, RDFS_LABEL
from wikidata_cache.sources import queries
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import batches
from wikidata_cache.sources.templates import TEMPLATES


def test_ids_are_sorted_so_equal_questions_are_equal_texts() -> None:
    assert queries.out_query(["Q2", "Q1"]) == queries.out_query(["Q1", "Q2"])


def test_batches_cover_everything_once() -> None:
    ids = [f"Q{i}" for i in range(1, 402)]
    blocks = list(batches(ids, size=200))
    assert [len(block) for block in blocks] == [200, 200, 1]
    assert [entity for block in blocks for entity in block] == ids


@pytest.mark.parametrize("label", ['say "hi"', "back\\slash", "two\nlines", "tab\t", "😀 عربى", "'}{#?x", "a$b"])
def test_any_label_can_be_found(label: str) -> None:
    store = Store()
    store.add(Quad(NamedNode(ENTITY + "Q1"), NamedNode(RDFS_LABEL), Literal(label, language="en")))
    assert facts(OxigraphSource(store, name="one", provenance={})).named([label]) == {label: ("Q1",)}


def test_nothing_that_only_some_engines_understand() -> None:
    texts = [template.query(["Q1", "Q2"]) for template in TEMPLATES.values()]
    for text in texts:
        assert not any(word in text for word in ("SERVICE", "hint:", "RAND", "OFFSET", "bd:"))
