from pathlib import Path

import pytest

from kg_common.ids import is_item, is_property
from tests.wikidata_cache.wikidata_helpers import triples
from wikidata_cache import WikidataCache, deny_lists
from wikidata_cache.extract import read_seeds

PACKAGED = Path(deny_lists.__file__).parent / "data"


def test_packaged_lists_have_ids_of_their_kind() -> None:
    assert "P910" in deny_lists.read_meta_properties() and "Q4167836" in deny_lists.read_internal_classes()
    assert all(map(is_property, deny_lists.read_meta_properties()))
    assert all(map(is_item, deny_lists.read_internal_classes()))
    assert not {"P17", "P19", "P31", "P279"} & deny_lists.read_meta_properties()


def test_own_list_replaces_the_packaged_one(toy_file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.tsv"
    mine.write_text("\ufeffid\tlabel\r\nP1\tborders\r\n\r\nP910\ttopic's main category\r\n", encoding="utf-8")
    for own_list in (mine, str(mine), ["P1", "P910"]):
        graph = WikidataCache(toy_file, meta_properties=own_list).neighbourhood("Q2")
        assert triples(graph) == {("Q2", "P2", "Q4"), ("Q2", "P2", "Q1")}
        assert graph.graph["dropped"]["meta_property"] == 4
    graph = WikidataCache(toy_file, meta_properties=["P2"], internal_classes=()).neighbourhood("Q2")
    assert triples(graph) == {("Q2", "P1", "Q3"), ("Q2", "P1", "Q8"), ("Q2", "P910", "Q7")}
    assert deny_lists.read_internal_classes(PACKAGED / "internal_classes.tsv") == deny_lists.read_internal_classes()


@pytest.mark.parametrize("text", ["P1\nP910\n", "id\nP1\nP910\n", "\ufeffP1\tborders\u2028\r\nP910\r\n"])
def test_list_with_or_without_a_header_has_all_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.tsv").write_text(text, encoding="utf-8", newline="")
    assert deny_lists.read_meta_properties(tmp_path / "mine.tsv") == {"P1", "P910"}
    assert read_seeds(tmp_path / "mine.tsv") == ["P1", "P910"]
