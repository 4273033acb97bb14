import hashlib
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import facts
from wikidata_cache import WikidataCache, deny_lists, open_source, packaged_extract
from wikidata_cache.errors import BadOptionError
from wikidata_cache.extract import build_extract, read_seeds

DATA = packaged_extract().parent


def test_the_package_says_what_it_ships() -> None:
    data = packaged_extract().read_bytes()
    note = (DATA / "extract.md").read_text(encoding="utf-8")
    assert len(data) <= 300_000
    assert hashlib.sha256(data).hexdigest() in note
    assert "CC0" in note


def test_every_seed_has_a_label_and_every_item_says_something(cache: WikidataCache) -> None:
    seeds = read_seeds(DATA / "extract_seeds.tsv")
    assert set(cache.labels(seeds)) == set(seeds)
    items = [seed for seed in seeds if seed.startswith("Q")]
    assert set(cache.facts.out(items)) == set(items)
    assert {"Q1345", "Q36159", "Q31683", "Q65", "Q121783", "Q169138", "Q8652", "P19"} <= set(seeds)


def test_everything_in_it_is_labelled_and_of_the_world(cache: WikidataCache) -> None:
    statements = cache.facts.out(read_seeds(DATA / "extract_seeds.tsv"))
    pairs = [pair for found in statements.values() for pair in found]
    used = {entity for pair in pairs for entity in pair}
    assert set(cache.labels(used)) == used
    assert not {relation for relation, _ in pairs} & deny_lists.meta_properties()


def test_an_extract_of_an_extract(tmp_path: Path) -> None:
    source = open_source(packaged_extract())
    seeds = ["Q1345", "P36"]
    report = build_extract(source, seeds, tmp_path / "a.nt.gz", per_node=(5, 2))
    again = build_extract(open_source(packaged_extract()), seeds[::-1], tmp_path / "b.nt.gz", per_node=(5, 2))
    assert report == again
    assert (tmp_path / "a.nt.gz").read_bytes() == (tmp_path / "b.nt.gz").read_bytes()
    assert 5 <= report.statements <= 15
    small = open_source(tmp_path / "a.nt.gz")
    assert len(facts(small).out(["Q1345"])["Q1345"]) == 5
    assert facts(small).labels(["P36", "Q1345"]) == {"P36": "capital", "Q1345": "Philadelphia"}


def test_bad_input(tmp_path: Path) -> None:
    source = open_source(packaged_extract())
    with pytest.raises(BadOptionError, match=r"\.nt\.gz"):
        build_extract(source, ["Q1345"], tmp_path / "a.nt")
    with pytest.raises(BadOptionError, match=r"b\.nt\.gz cannot be written: there is no folder"):
        build_extract(source, ["Q1345"], tmp_path / "none" / "b.nt.gz")
    (tmp_path / "folder.nt.gz").mkdir()
    with pytest.raises(BadOptionError, match=r"folder\.nt\.gz is a folder"):
        build_extract(source, ["P36"], tmp_path / "folder.nt.gz")
    with pytest.raises(BadOptionError, match="not a Wikidata id"):
        build_extract(source, ["Philadelphia"], tmp_path / "a.nt.gz")
