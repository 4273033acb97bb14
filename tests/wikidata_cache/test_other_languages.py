"""Labels in other languages: the same subgraphs with other words, from every source, and only what is missing is asked.

The graph is the packaged extract with its labels in five languages.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyoxigraph import Store

from tests.wikidata_cache.oxigraph_server import oxigraph_server
from tests.wikidata_cache.wikidata_helpers import (
    EDITS,
    Edit,
    Server,
    run_cli,
    run_main,
    save_facts,
    write_edits,
)
from wikidata_cache import WikidataCache, content_hash, packaged_extract
from wikidata_cache.errors import CacheMissError, StoreError, UnknownLabelError
from wikidata_cache.extract import packaged_labels
from wikidata_cache.languages import DEFAULT_LANGUAGES, language_chain
from wikidata_cache.sources.graph_files import load_file
from wikidata_cache.sources.source import Fact
from wikidata_cache.stores.inputs import LoadOptions
from wikidata_cache.stores.load import load
from wikidata_cache.stores.manifest import read_manifest
from wikidata_cache.subgraphs.options import Leakage, SubgraphOptions
from wikidata_cache.subgraphs.translate import translate

FILES = [packaged_extract(), packaged_labels()]
OPTIONS = SubgraphOptions(hops=3, per_node=5)
LONDON = {
    "de": "London",
    "es": "Londres",
    "zh": "伦敦",
    "zh-tw": "倫敦",
    "ja": "ロンドン",
    "ko": "런던",
    "fr": "London",
}


@pytest.fixture(scope="module")
def every_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the extract with all languages."""
    folder = tmp_path_factory.mktemp("store") / "wd"
    load(FILES, folder, options=LoadOptions(languages=None))
    return folder


@pytest.fixture
def speaking(server: Server) -> Iterator[Server]:
    """The endpoint over the extract, with labels in all languages."""
    before = server.store
    server.store = Store()
    for file in FILES:
        load_file(server.store, file)
    yield server
    server.store = before


def in_language(codes: str, source: object = None, **options: object) -> WikidataCache:
    return WikidataCache(source or packaged_extract(), languages=language_chain(codes), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("code", "name"), LONDON.items())
def test_label_is_in_the_first_language_that_has_one(code: str, name: str) -> None:
    cache = in_language(code)
    assert cache.labels(["Q84", "Q1632204"]) == {"Q84": name, "Q1632204": "Spike Hughes"}  # a person: in English alone
    assert cache.find(name) == ("Q84",)
    assert cache.find("London") == ("Q84",), "English names stay"


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.subject)
@pytest.mark.parametrize("codes", ["zh", "ko,ja", "de"])
def test_subgraph_is_the_same_in_every_language(edit: Edit, codes: str) -> None:
    english = WikidataCache(packaged_extract()).subgraph(edit, OPTIONS)
    other = in_language(codes).subgraph(edit, OPTIONS)
    assert list(other) == list(english) and list(other.edges(keys=True)) == list(english.edges(keys=True))
    assert other.graph["content_hash"] == english.graph["content_hash"] == content_hash(other)
    assert other.graph["dropped"] == english.graph["dropped"]
    changed = [node for node in other if other.nodes[node]["label"] != english.nodes[node]["label"]]
    assert changed, "some labels are others"
    for node in changed:
        assert other.nodes[node]["default_label"] == english.nodes[node]["label"]


def test_replaced_object_is_translated_though_it_is_not_a_node() -> None:
    graph = in_language("zh").subgraph(EDITS[0], OPTIONS)
    old = graph.graph["old_edge"]
    assert old["object"] == "Q84" and old["object"] not in graph
    assert old["object_label"] == LONDON["zh"]


def test_translating_a_subgraph_again_keeps_its_content_hash() -> None:
    graph = in_language("ko").subgraph(EDITS[0], OPTIONS)
    translate([graph], in_language("ja").facts)
    assert content_hash(graph) == graph.graph["content_hash"]


def test_subgraph_of_a_server_and_its_cache_is_the_same(speaking: Server, cache_path: str) -> None:
    local = in_language("ko,zh").subgraph(EDITS[0], OPTIONS)
    remote = in_language("ko,zh", speaking.url, cache=cache_path).subgraph(EDITS[0], OPTIONS)
    offline = WikidataCache(cache=cache_path, languages=language_chain("ko,zh")).subgraph(EDITS[0], OPTIONS)
    for graph in (remote, offline):
        assert dict(graph.nodes(data=True)) == dict(local.nodes(data=True))
        assert graph.graph["content_hash"] == local.graph["content_hash"]


@pytest.mark.slow
def test_server_of_oxigraph_answers_in_every_language(every_language: Path, cache_path: str) -> None:
    local = in_language("ja").subgraph(EDITS[0], OPTIONS)
    with oxigraph_server(every_language) as url:
        cache = in_language("ja", url, cache=cache_path)
        assert dict(cache.subgraph(EDITS[0], OPTIONS).nodes(data=True)) == dict(local.nodes(data=True))
        assert cache.find("ロンドン") == ("Q84",)
        assert cache.linker.link("ロンドン").candidates[0].id == "Q84"


def test_own_file_of_the_same_name_is_not_taken_for_the_packaged_extract(tmp_path: Path) -> None:
    own = tmp_path / packaged_extract().name
    with gzip.open(own, "wb") as file:
        file.write(
            b'<http://www.wikidata.org/entity/Q84> <http://www.w3.org/2000/01/rdf-schema#label> "my town"@en .\n'
        )
    cache = WikidataCache(own)
    assert "packaged" not in cache.about and "packaged" in WikidataCache(packaged_extract()).about
    assert "packaged" in in_language("zh").about
    assert cache.in_language("zh").labels(["Q84"]) == {"Q84": "my town"}


def test_cache_speaks_another_language(every_language: Path, loaded: Path, speaking: Server, cache_path: str) -> None:
    for source in (packaged_extract(), every_language):
        english = WikidataCache(source, meta_properties=["P17"])
        korean = english.in_language("ko,ja")
        assert korean.labels(["Q84"]) == {"Q84": "런던"}
        assert korean.in_language("en").labels(["Q84"]) == english.labels(["Q84"]) == {"Q84": "London"}
        options = SubgraphOptions(hops=1)
        graphs = [cache.neighbourhood("Q84", options).graph for cache in (english, korean)]
        assert graphs[0]["content_hash"] == graphs[1]["content_hash"] and graphs[1]["dropped"]["meta_property"]
    remote = WikidataCache(speaking.url, cache=cache_path)
    assert remote.in_language("zh").labels(["Q84"]) == {"Q84": "伦敦"}
    with pytest.raises(StoreError, match="no labels in ko"):
        WikidataCache(loaded).in_language("ko")


def test_cache_asks_only_for_the_missing_language(speaking: Server, cache_path: str) -> None:
    WikidataCache(speaking.url, cache=cache_path).subgraph(EDITS[0])
    english = len(speaking.requests)
    in_language("zh", speaking.url, cache=cache_path).subgraph(EDITS[0])
    chinese = speaking.requests[english:]
    assert chinese and all('"zh-hans"' in query and '"en"' not in query for _, _, query in chinese)

    in_language("zh-tw,ko", speaking.url, cache=cache_path).subgraph(EDITS[0])  # another order of Chinese variants
    korean = speaking.requests[english + len(chinese) :]
    assert korean and all('"ko"' in query and '"zh' not in query for _, _, query in korean)

    sent = len(speaking.requests)
    WikidataCache(speaking.url, cache=cache_path).subgraph(EDITS[0])
    in_language("ko,zh", speaking.url, cache=cache_path).subgraph(EDITS[0])
    assert len(speaking.requests) == sent


def test_offline_miss_names_the_languages_and_the_command(speaking: Server, cache_path: str) -> None:
    WikidataCache(speaking.url, cache=cache_path).labels(["Q84", "P19"])
    offline = WikidataCache(cache=cache_path, languages=language_chain("zh,ko"))
    with pytest.raises(CacheMissError) as caught:
        offline.labels(["Q84", "P19"])
    assert "in the language ko, zh for P19, Q84" in str(caught.value)
    assert "\n" not in str(caught.value)

    command = caught.value.command.split()[1:]
    run_cli(*command)
    assert offline.labels(["Q84"]) == {"Q84": "伦敦"}


def test_link_shows_english_where_an_offline_cache_has_no_other(cache_path: str) -> None:
    save_facts(cache_path, Fact("label", "Q84", ["London", "en"]), Fact("named", "London", ["Q84"]))
    save_facts(cache_path, Fact("named_in", "ko London", []))
    cache = WikidataCache(cache=cache_path, languages=language_chain("ko"))
    assert cache.linker.link("London").candidates[0].info.label == "London"


def test_cache_over_the_extract_finds_the_names_of_both(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    save_facts(path, Fact("label_in", "Q1 ko", [["ko", "런던"]]), Fact("label_in", "Q2 ko", [["ko", "런던 타워"]]))
    assert run_cli("find", "런던", "--language", "ko", "--cache", path).split() == ["Q1", "Q84"]
    assert run_cli("labels", "Q1", "Q84", "--language", "ko", "--cache", path) == "Q1\t런던\nQ84\t런던\n"


def test_edit_without_ids_is_matched_by_names_in_the_language() -> None:
    edit = Edit(subject="런던", target_new="파리", target_true="영국", relation_id="P17")
    options = SubgraphOptions(hops=3, per_node=50, direction="both", leakage=Leakage(answers=("독일",)))
    graph = in_language("ko").subgraph(edit, options)
    assert graph.graph["target_new_resolved"] == "Q90"
    nodes = {data["label"] for _, data in graph.nodes(data=True)}
    assert "독일" not in nodes and "Germany" not in nodes
    old = [(s, o) for s, o, key in graph.edges(keys=True) if key == "P17" and {s, o} == {"Q84", "Q145"}]
    assert not old, "the fact that the edit replaces"
    with pytest.raises(UnknownLabelError, match="in zh or English"):
        in_language("zh").subgraph(edit, options)


class TestStore:
    def test_has_the_named_languages_and_says_which(self, tmp_path: Path) -> None:
        load(FILES, tmp_path / "ko", options=LoadOptions(languages=language_chain("ko")))
        assert read_manifest(tmp_path / "ko").languages == ["ko", "ko-kp", *DEFAULT_LANGUAGES]
        cache = in_language("ko", tmp_path / "ko")
        assert cache.labels(["Q84"]) == {"Q84": "런던"}
        assert cache.linker.link("로스앤젤레스").candidates[0].id == "Q65"
        with pytest.raises(StoreError, match=r"no labels in ja, zh, but in en, ko.*--language ja,zh"):
            in_language("zh,ja", tmp_path / "ko")

    def test_has_all_languages(self, every_language: Path) -> None:
        assert read_manifest(every_language).languages == ["de", "en", "es", "ja", "ko", "zh", "zh-hant"]
        for code, name in LONDON.items():
            assert in_language(code, every_language).labels(["Q84"]) == {"Q84": name}

    def test_answers_in_english_as_one_that_has_english_alone(self, every_language: Path, loaded: Path) -> None:
        everywhere = WikidataCache(every_language)
        alone = WikidataCache(loaded)
        for text in ("London", "ロンドン", "Londres", "Los Angeles"):
            found = [linked.linker.link(text).to_json() | {"source": ""} for linked in (everywhere, alone)]
            assert found[0] == found[1]
        graphs = [cache.subgraph(EDITS[0]) for cache in (everywhere, alone)]
        assert graphs[0].graph["content_hash"] == graphs[1].graph["content_hash"]
        assert dict(graphs[0].nodes(data=True)) == dict(graphs[1].nodes(data=True))


class TestCommands:
    def test_without_the_option_the_answers_are_english(self) -> None:
        assert run_cli("labels", "Q84") == "Q84\tLondon\n"
        assert "London" in run_cli("show", "Q84")

    def test_show_link_find_and_labels(self) -> None:
        assert run_cli("show", "Q8684", "--language", "ko").startswith("서울 (Q8684)")
        assert run_cli("labels", "Q84", "Q1632204", "--language", "ja") == "Q84\tロンドン\nQ1632204\tSpike Hughes\n"
        assert run_cli("find", "ﾛﾝﾄﾞﾝ", "--language", "ja").split() == ["Q84"]  # of half width
        linked = json.loads(run_cli("link", "로스앤젤레스", "--language", "ko", "--json"))
        assert (linked["status"], linked["candidates"][0]["id"]) == ("exact", "Q65")

    def test_ids_without_a_label_are_named(self) -> None:
        said = run_cli("labels", "Q84", "Q99999999", "--language", "ko,zh")
        assert said == "Q84\t런던\nQ99999999\t\nwithout a label in ko,zh and in English: Q99999999\n"

    def test_extract_writes_the_languages(self, tmp_path: Path) -> None:
        seeds = tmp_path / "seeds.tsv"
        seeds.write_text("Q84\n")
        run_cli("extract", seeds, tmp_path / "en.nt.gz", "--per-node", "3")
        run_cli("extract", seeds, tmp_path / "zh.nt.gz", "--per-node", "3", "--language", "zh")
        english = WikidataCache(tmp_path / "en.nt.gz")
        chinese = in_language("zh-tw", tmp_path / "zh.nt.gz")
        assert chinese.labels(["Q84"]) == {"Q84": "倫敦"}
        hashes = [cache.neighbourhood("Q84").graph["content_hash"] for cache in (english, chinese)]
        assert hashes[0] == hashes[1]

    @pytest.mark.slow
    def test_load_of_the_extract_takes_its_labels(self, tmp_path: Path) -> None:
        run_cli("load", "extract", "--store", tmp_path / "wd", "--language", "all")
        assert run_cli("labels", "Q84", "-g", tmp_path / "wd", "--language", "es") == "Q84\tLondres\n"

    def test_fetch_writes_subgraphs_in_the_language(self, tmp_path: Path) -> None:
        edits = write_edits(tmp_path / "edits.jsonl", *EDITS)
        digests = []
        for name, options in {"en": (), "de": ("--language", "de")}.items():
            out = tmp_path / f"{name}.jsonl"
            digests.append(run_cli("fetch", edits, "-g", "extract", "--out", out, *options).splitlines()[-1])
        assert digests[0] == digests[1]
        graph = json.loads((tmp_path / "de.jsonl").read_text(encoding="utf-8").splitlines()[0])
        labels = {node["id"]: node["label"] for node in graph["nodes"]}
        assert labels["Q30"] == "Vereinigte Staaten"

    def test_diff_has_edits_in_the_language(self, tmp_path: Path) -> None:
        path = tmp_path / "cache.sqlite"
        save_facts(path, Fact("out", "Q84", [["P17", "Q145"]]))
        save_facts(path, Fact("out", "Q84", [["P17", "Q183"]]), at="2026-03-20T12:00:00+00:00")
        for entity, label in {"Q84": "London", "P17": "country", "Q145": "United Kingdom", "Q183": "Germany"}.items():
            save_facts(path, Fact("label", entity, [label, "en"]))
        save_facts(path, Fact("label_in", "Q183 zh", [["zh", "德国"]]), Fact("label_in", "Q84 zh", [["zh", "伦敦"]]))
        out = tmp_path / "changed.jsonl"
        run_cli("diff", "--since", "2026-02-01", "--cache", path, "--out", out, "--language", "zh")
        row = json.loads(out.read_text(encoding="utf-8"))
        assert (row["subject"], row["object"], row["new_object"]) == ("伦敦", "United Kingdom", "德国")

    def test_label_of_no_language_is_one_line(self) -> None:
        code, said = run_main("find", "Nirgendwo", "--language", "de,ko")
        assert code == 1 and "in de, ko or English" in said and said.count("\n") == 1


def test_rows_of_a_file_in_another_language_agree_with_their_ids(tmp_path: Path) -> None:
    """A row may name its entities in English or in the language; another name is a contradiction."""
    edit = {"subject": "런던", "subject_id": "Q84", "target_new": "Paris", "target_new_id": "Q90", "relation_id": "P17"}
    out = ["--out", tmp_path / "a.jsonl", "--graph", "extract", "--language", "ko"]
    assert "labels that differ" not in run_cli("fetch", write_edits(tmp_path / "a.jsonl.edits.jsonl", edit), *out)
    edit["subject"] = "파리"
    assert "labels that differ" in run_cli("fetch", write_edits(tmp_path / "b.edits.jsonl", edit), *out)


def test_page_of_a_graph_is_in_the_language(tmp_path: Path) -> None:
    in_language("ko").neighbourhood("Q84").to_html(tmp_path / "a.html")
    assert "런던" in (tmp_path / "a.html").read_text(encoding="utf-8")
