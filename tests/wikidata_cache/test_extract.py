import gzip
import hashlib
from pathlib import Path

import pytest
from pyoxigraph import RdfFormat, parse

from tests.wikidata_cache.link_graph import write_graph
from tests.wikidata_cache.wikidata_helpers import facts
from wikidata_cache import WikidataCache, deny_lists, open_source, packaged_extract
from wikidata_cache.errors import BadOptionError
from wikidata_cache.extract import build_extract, packaged_labels, read_seeds
from wikidata_cache.ids import local_id

DATA = packaged_extract().parent


def test_packaged_extract_is_the_documented_one() -> None:
    data = packaged_extract().read_bytes()
    note = (DATA / "extract.md").read_text(encoding="utf-8")
    assert len(data) <= 300_000
    assert hashlib.sha256(data).hexdigest() in note and "CC0" in note


def test_packaged_extract_has_all_seeds_with_labelled_statements(cache: WikidataCache) -> None:
    seeds = read_seeds(DATA / "extract_seeds.tsv")
    assert {"Q1345", "Q36159", "Q31683", "Q65", "Q121783", "Q169138", "Q8652", "P19"} <= set(seeds)
    assert set(cache.labels(seeds)) == set(seeds)
    items = [seed for seed in seeds if seed.startswith("Q")]
    statements = cache.facts.out(items)
    assert set(statements) == set(items)
    pairs = [pair for stated in statements.values() for pair in stated]
    used = {entity for pair in pairs for entity in pair}
    assert set(cache.labels(used)) == used
    assert not {relation for relation, _ in pairs} & deny_lists.read_meta_properties()


def test_build_extract_gives_the_same_bytes_again(tmp_path: Path) -> None:
    source = open_source(packaged_extract())
    report = build_extract(source, ["Q1345", "P36"], tmp_path / "a.nt.gz", per_node=(5, 2))
    again = build_extract(open_source(packaged_extract()), ["P36", "Q1345"], tmp_path / "b.nt.gz", per_node=(5, 2))
    assert report == again
    assert (tmp_path / "a.nt.gz").read_bytes() == (tmp_path / "b.nt.gz").read_bytes()
    assert 5 <= report.statements <= 15
    small = open_source(tmp_path / "a.nt.gz")
    assert len(facts(small).out(["Q1345"])["Q1345"]) == 5
    assert facts(small).labels(["P36", "Q1345"]) == {"P36": "capital", "Q1345": "Philadelphia"}


def test_build_extract_follows_merged_seeds_and_names_the_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = write_graph(tmp_path, "Q1 | merged into | Q2\nQ2 | label | Two\nP1 | label | knows\nQ2 | P1 | Q2")
    report = build_extract(open_source(graph), ["Q1", "Q404", "P1", "P404"], tmp_path / "a.nt.gz")
    assert (report.statements, report.labels) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == [
        f"{graph.name} has no statement about an item, or no label of a property: P404, Q404; check the ids"
    ]
    assert facts(open_source(tmp_path / "a.nt.gz")).redirects(["Q1"]) == {"Q1": "Q2"}  # the old id stays usable


def test_build_extract_refuses_bad_seeds_and_files(tmp_path: Path) -> None:
    source = open_source(packaged_extract())
    (tmp_path / "folder.nt.gz").mkdir()
    for seed, name, message in (
        ("Q1345", "a.nt", r"\.nt\.gz"),
        ("Q1345", "none/b.nt.gz", r"b\.nt\.gz cannot be written: there is no folder"),
        ("P36", "folder.nt.gz", r"folder\.nt\.gz is a folder"),
        ("Philadelphia", "a.nt.gz", "not a Wikidata id"),
        ("Q999999999", "a.nt.gz", "extract.nt.gz has nothing about Q999999999"),
    ):
        with pytest.raises(BadOptionError, match=message):
            build_extract(source, [seed], tmp_path / name)
    (tmp_path / "seeds.tsv").write_text("id\tlabel\n")
    with pytest.raises(BadOptionError, match=r"seeds\.tsv has no ids"):
        read_seeds(tmp_path / "seeds.tsv")


def test_packaged_labels_are_the_documented_ones(cache: WikidataCache) -> None:
    data = packaged_labels().read_bytes()
    note = (DATA / "extract.md").read_text(encoding="utf-8")
    assert hashlib.sha256(data).hexdigest() in note
    triples = list(parse(gzip.decompress(data), RdfFormat.N_TRIPLES))
    labels = {(local_id(str(triple.subject.value)), triple.object.language) for triple in triples}
    assert len(labels) == len(triples), "one label of an entity in a language"
    entities = {entity for entity, _ in labels}
    assert set(cache.labels(entities)) == entities, "no entity that the extract lacks"
    assert f"{len(labels):,} labels of {len(entities)} entities" in note
    for language in ("de", "es", "zh", "zh-hant", "ja", "ko"):
        have = {entity for entity, code in labels if code == language}
        items = 5_694 - sum(entity.startswith("Q") for entity in have)
        relations = 239 - sum(entity.startswith("P") for entity in have)
        assert f"({language}) | {items:,} | {relations} |" in note
