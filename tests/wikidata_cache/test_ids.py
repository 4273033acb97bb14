import pytest

from wikidata_cache.errors import BadOptionError
from wikidata_cache.ids import check_ids, is_item, is_property, local_id


def test_items_and_properties() -> None:
    assert is_item("Q42") and not is_item("P42") and not is_item("Q0") and not is_item("Q4 2")
    assert is_property("P31") and not is_property("Q31") and not is_property("P") and not is_property("P٣")
    assert local_id("http://www.wikidata.org/prop/direct/P31") == "P31"


def test_ids_are_sorted_and_distinct() -> None:
    assert check_ids(["Q2", "P1", "Q2"]) == ["P1", "Q2"]


@pytest.mark.parametrize("bad", ["Philadelphia", "q42", "Q42> } DROP ALL #", "", "Q1\n"])
def test_what_is_no_id_is_refused(bad: str) -> None:
    with pytest.raises(BadOptionError, match=r"not a Wikidata id.*find"):
        check_ids([bad])
