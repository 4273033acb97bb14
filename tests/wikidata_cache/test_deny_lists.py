from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import triples
from wikidata_cache import WikidataCache, deny_lists
from wikidata_cache.errors import BadOptionError, DenyListError
from wikidata_cache.extract import read_seeds
from wikidata_cache.ids import is_item, is_property

PACKAGED = Path(deny_lists.__file__).parent / "data"


def test_packaged_deny_lists() -> None:
    assert "P910" in deny_lists.meta_properties() and "Q4167836" in deny_lists.internal_classes()
    assert all(map(is_property, deny_lists.meta_properties()))
    assert all(map(is_item, deny_lists.internal_classes()))
    assert not {"P17", "P19", "P31", "P279"} & deny_lists.meta_properties()


def test_deny_list_of_the_user(toy_file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.tsv"
    mine.write_text("\ufeffid\tlabel\r\nP1\tborders\r\n\r\nP910\ttopic's main category\r\n", encoding="utf-8")
    for given in (mine, str(mine), ["P1", "P910"]):
        graph = WikidataCache(toy_file, meta_properties=given).neighbourhood("Q2")
        assert triples(graph) == {("Q2", "P2", "Q4"), ("Q2", "P2", "Q1")}
        assert graph.graph["dropped"]["meta_property"] == 4


@pytest.mark.parametrize("text", ["P1\nP910\n", "id\nP1\nP910\n", "\ufeffP1\tborders\u2028\r\nP910\r\n"])
def test_deny_list_header_is_optional(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.tsv").write_text(text, encoding="utf-8", newline="")
    assert deny_lists.meta_properties(tmp_path / "mine.tsv") == {"P1", "P910"}
    assert read_seeds(tmp_path / "mine.tsv") == ["P1", "P910"]


def test_seeds_without_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "seeds.tsv").write_text("id\tlabel\n")
    with pytest.raises(BadOptionError, match=r"seeds\.tsv has no ids"):
        read_seeds(tmp_path / "seeds.tsv")


def test_deny_list_edited_copy(tmp_path: Path) -> None:
    copy = tmp_path / "meta_properties.tsv"
    copy.write_text((PACKAGED / "meta_properties.tsv").read_text() + "P18\timage\n")
    assert deny_lists.meta_properties(copy) == deny_lists.meta_properties() | {"P18"}
    assert deny_lists.internal_classes(PACKAGED / "internal_classes.tsv") == deny_lists.internal_classes()
    assert deny_lists.internal_classes(()) == frozenset()


def test_invalid_deny_lists_are_refused(toy_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DenyListError, match=r"nowhere\.tsv cannot be read"):
        WikidataCache(toy_file, meta_properties=tmp_path / "nowhere.tsv")
    with pytest.raises(DenyListError, match="found 'Q11266439'; expected ids such as P910"):
        WikidataCache(toy_file, meta_properties=PACKAGED / "internal_classes.tsv")
    with pytest.raises(DenyListError, match="found 'P910'; expected ids such as Q4167836"):
        WikidataCache(toy_file, internal_classes=["P910"])
    binary = tmp_path / "b.tsv"
    binary.write_bytes(b"id\n\xff\xfe")
    with pytest.raises(DenyListError, match="UTF-8"):
        deny_lists.meta_properties(binary)
