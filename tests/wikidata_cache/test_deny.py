from wikidata_cache import deny
from wikidata_cache.ids import is_item, is_property


def test_the_lists() -> None:
    assert "P910" in deny.meta_properties() and "Q4167836" in deny.internal_classes()
    assert all(map(is_property, deny.meta_properties()))
    assert all(map(is_item, deny.internal_classes()))
    assert not {"P17", "P19", "P31", "P279"} & deny.meta_properties()
