from wikidata_cache.ids import check_ids, is_item, is_property, local_id


def test_item_and_property_ids() -> None:
    assert is_item("Q42") and not is_item("P42") and not is_item("Q0") and not is_item("Q4 2")
    assert is_property("P31") and not is_property("Q31") and not is_property("P") and not is_property("P٣")
    assert local_id("http://www.wikidata.org/prop/direct/P31") == "P31"


def test_check_ids_sorts() -> None:
    assert check_ids(["Q2", "P1", "Q2"]) == ["P1", "Q2"]
