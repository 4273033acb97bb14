"""What `load` keeps of each kind of source."""

import bz2
import gzip
import json
import os
import resource
from pathlib import Path

import pytest
from pyoxigraph import DefaultGraph, RdfFormat
from typer.testing import CliRunner

from tests.wikidata_cache.wikidata_helpers import facts, written
from wikidata_cache import open_source
from wikidata_cache.cli import app
from wikidata_cache.errors import StoreError
from wikidata_cache.labels.label_index import LabelIndex
from wikidata_cache.sources import templates
from wikidata_cache.stores.inputs import LoadOptions
from wikidata_cache.stores.load import load
from wikidata_cache.stores.manifest import open_database, read_manifest
from wikidata_cache.stores.ntriples import wanted_lines_translator
from wikidata_cache.stores.translators import json_entities

WD = "http://www.wikidata.org/entity/"
P = "http://www.wikidata.org/prop/"
LABEL = "<http://www.w3.org/2000/01/rdf-schema#label>"
ALIAS = "<http://www.w3.org/2004/02/skos/core#altLabel>"
ABOUT = "<http://schema.org/description>"
SAME = "<http://www.w3.org/2002/07/owl#sameAs>"
TIME = "<http://www.w3.org/2001/XMLSchema#dateTime>"
RANK = "<http://wikiba.se/ontology#rank>"
NODE = f"<{WD}statement/Q1-AB>"
OLD = f"<{WD}statement/Q1-CD>"
TEXT = f"<{WD}statement/Q1-EF>"

WANTED = f"""\
<{WD}Q1> <{P}direct/P31> <{WD}Q2> .
<{WD}Q1> {LABEL} "One"@en .
<{WD}Q1> {LABEL} "Onë \\"1\\" \\\\ 东 😀"@mul .
<{WD}Q1> {ALIAS} "Uno"@en-gb .
<{WD}Q1> {ABOUT} "a number"@en .
<{WD}P31> {LABEL} "instance of"@en .
<{WD}Q9> {SAME} <{WD}Q1> .
<{WD}Q1> <{P}P31> {NODE} .
{NODE} <{P}statement/P31> <{WD}Q2> .
{NODE} {RANK} <http://wikiba.se/ontology#NormalRank> .
{NODE} <{P}qualifier/P580> "2003-01-01T00:00:00Z"^^{TIME} .
<{WD}Q1> <{P}P31> {OLD} .
{OLD} <{P}statement/P31> <{WD}Q3> .
{OLD} {RANK} <http://wikiba.se/ontology#DeprecatedRank> .
"""
UNWANTED = f"""\
<https://www.wikidata.org/wiki/Special:EntityData/Q1> <http://schema.org/version> "12"^^<http://a/integer> .
<{WD}Q1> <http://www.w3.org/1999/02/22-rdf-syntax-ns#type> <http://wikiba.se/ontology#Item> .
<{WD}Q1> {LABEL} "Eins"@de .
<{WD}Q1> {LABEL} "Ein \\"Name\\"@en"@de .
<{WD}Q1> <http://www.w3.org/2004/02/skos/core#prefLabel> "One"@en .
<{WD}Q1> <{P}direct/P569> "1903-00-00T00:00:00Z"^^{TIME} .
<{WD}Q1> <{P}direct/P570> _:b0 .
<{WD}Q1> <{P}direct/P571> <http://www.wikidata.org/.well-known/genid/00ff> .
<{WD}Q1> <{P}direct/P1659> <{WD}P31> .
<{WD}Q1> <{P}direct-normalized/P227> <https://d-nb.info/gnd/1> .
<{WD}Q1> <{P}direct/P856> <http://bad.example/a b|c{{}}> .
_:b1 <http://www.w3.org/2002/07/owl#onProperty> <{P}direct/P31> .
{NODE} <{P}qualifier/P1545> "3" .
{NODE} <{P}statement/P569> "1903-01-01T00:00:00Z"^^{TIME} .
<https://en.wikipedia.org/wiki/One> <http://schema.org/about> <{WD}Q1> .
<{WD}L1> {LABEL} "lexeme"@en .
"""


def stored(store: Path) -> set[str]:
    triples = open_database(store, read_manifest(store)).dump(format=RdfFormat.N_TRIPLES, from_graph=DefaultGraph())
    return set((triples or b"").decode().splitlines())


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return written(tmp_path / "dump.nt", WANTED + UNWANTED)


def test_load_filters_a_dump(dump: Path, tmp_path: Path) -> None:
    report = load([dump], tmp_path / "wd")
    assert stored(tmp_path / "wd") == set(WANTED.splitlines())
    counts = {"triples": 14, "statements": 1, "items": 2, "properties": 1, "named": 2, "labels": 3, "aliases": 1}
    assert report.manifest.counts == counts
    [source] = report.manifest.sources
    assert (source["lines"], source["kept"], source["kind"]) == (30, 14, "N-Triples")


def test_loaded_claims_and_redirects(dump: Path, tmp_path: Path) -> None:
    load([dump], tmp_path / "wd")
    source = open_source(tmp_path / "wd")
    [answer] = source.ask(templates.CLAIMS, ["Q1"])
    [claims] = [fact.value for fact in answer.facts if fact.kind == "claims"]
    assert claims == [["P31", "Q2", "normal", "2003-01-01T00:00:00Z", ""]]
    [redirect] = next(iter(source.ask(templates.REDIRECTS, ["Q9"]))).facts
    assert redirect.value == "Q1"
    assert facts(source).labels(["Q1"]) == {"Q1": "One"}


def test_keep_all_loads_every_triple(dump: Path, tmp_path: Path) -> None:
    load([dump], tmp_path / "wd", options=LoadOptions(keep_all=True))
    lines = stored(tmp_path / "wd")
    assert len(lines) == 30
    assert set(WANTED.splitlines()) < lines
    assert not any("_:" in line for line in lines)
    assert sum("/.well-known/genid/" in line for line in lines) == 3
    assert any("<http://bad.example/a b|c{}>" in line for line in lines)


def test_blank_nodes_of_two_files_differ(tmp_path: Path) -> None:
    names = ("a.nt", os.fsdecode(b"\xe9.nt"), "old/a.nt")  # the second name is not UTF-8
    files = [written(tmp_path / name, "_:x <http://p> <http://o> .\n") for name in names]
    for number, pair in enumerate([files[:2], files[::2]]):
        load(pair, tmp_path / f"wd{number}", options=LoadOptions(keep_all=True))
        assert len(stored(tmp_path / f"wd{number}")) == 2


def test_content_hash_of_a_line_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wikidata_cache.stores.engine._BLOCK", 1_000)
    line = f'<{WD}Q1> {LABEL} "{"long " * 20_000}"@en .\n'
    files = [written(tmp_path / name, line) for name in ("a.nt", "b.nt")]
    once = load(files[:1], tmp_path / "one").manifest
    twice = load(files, tmp_path / "two").manifest
    assert twice.content_hash == once.content_hash


@pytest.mark.parametrize("space", ["  ", "\t", ""])
def test_keep_all_allows_any_space_after_a_blank_node(tmp_path: Path, space: str) -> None:
    source = written(tmp_path / "a.nt", f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> .\n_:x{space}<http://p> <http://o> .\n")
    load([source], tmp_path / "wd", options=LoadOptions(keep_all=True))
    assert len(stored(tmp_path / "wd")) == 2


def test_keep_all_leaves_texts_as_they_are(tmp_path: Path) -> None:
    lines = [f'<{WD}Q1> {LABEL} "a <br> _:x <i> -> _:y ."@en .', f"_:x <{P}direct/P31> _:y ."]
    source = written(tmp_path / "a.nt", "\n".join(lines))
    load([source], tmp_path / "wd", options=LoadOptions(keep_all=True))
    [edge] = stored(tmp_path / "wd") - {lines[0]}
    assert edge.count("/.well-known/genid/") == 2


@pytest.mark.parametrize(
    ("spelling", "change"),
    [
        ("escapes", lambda text: text.replace("ë", "\\u00EB").replace("东", "\\u4E1C").replace("😀", "\\U0001F600")),
        ("capitals", lambda text: text.replace("@en-gb", "@en-GB").replace("@mul", "@MUL")),
        pytest.param("tabs", lambda text: text.replace("> ", ">\t"), marks=pytest.mark.slow),
        ("no spaces", lambda text: text.replace("> <", "><").replace('> "', '>"').replace(" .\n", ".\n")),
        pytest.param("no spaces before texts", lambda text: text.replace('> "', '>"'), marks=pytest.mark.slow),
        pytest.param(
            "no spaces before predicates", lambda text: text.replace("> <http", "><http"), marks=pytest.mark.slow
        ),
        pytest.param("spaces before the end", lambda text: text.replace(" .\n", "  .\n"), marks=pytest.mark.slow),
        pytest.param("tabs before the end", lambda text: text.replace(" .\n", "\t .\n"), marks=pytest.mark.slow),
        pytest.param("carriage returns", lambda text: text.replace("\n", "\r\n"), marks=pytest.mark.slow),
        ("comments", lambda text: "# a dump\n\n" + text.replace(" .\n", ". # a comment\n")),
        pytest.param("no last line end", lambda text: text.rstrip("\n"), marks=pytest.mark.slow),
        pytest.param("twice", lambda text: text + text, marks=pytest.mark.slow),
        pytest.param("backwards", lambda text: "\n".join(text.splitlines()[::-1]) + "\n", marks=pytest.mark.slow),
    ],
)
def test_content_hash_does_not_depend_on_spelling(tmp_path: Path, spelling: str, change: object) -> None:
    plain = load([written(tmp_path / "plain.nt", WANTED)], tmp_path / "wd").manifest
    other = load([written(tmp_path / "other.nt", change(WANTED))], tmp_path / "wd2").manifest  # type: ignore[operator]
    assert other.content_hash == plain.content_hash, spelling
    assert other.counts == plain.counts
    assert stored(tmp_path / "wd2") == set(WANTED.splitlines())
    kept = load([tmp_path / "other.nt"], tmp_path / "wd3", options=LoadOptions(keep_all=True)).manifest
    assert (kept.content_hash, kept.counts) == (plain.content_hash, plain.counts), spelling


def test_stated_type_of_a_text_changes_no_hash(tmp_path: Path) -> None:
    plain = '<http://x/a> <http://x/b> "c" .\n'
    stated = plain.replace('"c"', '"c"^^<http://www.w3.org/2001/XMLSchema#string>')
    kept = LoadOptions(keep_all=True)
    hashes = [
        load([written(tmp_path / f"{number}.nt", text)], tmp_path / f"wd{number}", options=kept).manifest.content_hash
        for number, text in enumerate((plain, stated))
    ]
    assert hashes[0] == hashes[1]


def test_repeated_triples_count_once(tmp_path: Path) -> None:
    first, second = (written(tmp_path / f"{name}.nt", WANTED) for name in "ab")
    once = load([first], tmp_path / "one").manifest
    twice = load([first, second], tmp_path / "two").manifest
    assert twice.content_hash == once.content_hash
    assert (twice.counts["triples"], twice.counts["statements"]) == (14, 1)


@pytest.mark.parametrize("squeeze", [gzip.compress, bz2.compress])
def test_compression_is_detected_by_content(tmp_path: Path, squeeze: object) -> None:
    plain = load([written(tmp_path / "g.nt", WANTED)], tmp_path / "wd").manifest
    (tmp_path / "unnamed").write_bytes(squeeze(WANTED.encode()))  # type: ignore[operator]
    assert load([tmp_path / "unnamed"], tmp_path / "wd2").manifest.content_hash == plain.content_hash


TSV = 'Q1\tP31\tQ2\nQ1\tlabel\tOne "1" \\ half\nQ2\tlabel\tTwo\nP31\tlabel\tinstance of\n'
KGTK = """\
id\tnode1\tlabel\tnode2
E1\tQ1\tP31\tQ2
E2\tQ1\tlabel\t'One "1" \\\\ half'@en
E3\tQ2\tlabel\t'Two'@en
E4\tP31\tlabel\t'instance of'@en
E5\tQ1\tlabel\t'Eins'@de
E6\tQ1\tP569\t^1903-01-01T00:00:00Z/11
E7\tE1\tP580\t^2003-01-01T00:00:00Z/11
"""


def test_kgtk_columns_may_have_any_order(tmp_path: Path) -> None:
    load([written(tmp_path / "a.tsv", "node2\tlabel\tnode1\nQ2\tP31\tQ1\n")], tmp_path / "wd")
    assert stored(tmp_path / "wd") == {f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> ."}


def test_tables_and_codex_folders_give_the_same_graph(tmp_path: Path) -> None:
    codex = tmp_path / "codex" / "data"
    for name, rows in {"train": "Q1\tP31\tQ2\n", "valid": "Q1\tP31\tQ2\n", "test_negatives": "Q1\tP31\tQ7\n"}.items():
        written(codex / "triples" / "codex-m" / f"{name}.txt", rows)
    entities = {
        "Q1": {"label": 'One "1" \\ half', "description": None, "wiki": None},
        "Q2": {"label": "Two", "wiki": "x"},
    }
    written(codex / "entities" / "en" / "entities.json", json.dumps(entities, indent=1))
    written(codex / "entities" / "de" / "entities.json", json.dumps({"Q1": {"label": "Eins"}}))
    written(codex / "relations" / "en" / "relations.json", json.dumps({"P31": {"label": "instance of"}}))
    hashes = {
        load([source], tmp_path / f"wd{number}").manifest.content_hash
        for number, source in enumerate(
            [written(tmp_path / "a.tsv", TSV), written(tmp_path / "b.tsv", KGTK), tmp_path / "codex", codex]
        )
    }
    assert len(hashes) == 1
    commented = written(tmp_path / "c.tsv", f"# c\n\n{KGTK}")
    report = load([commented], tmp_path / "wd4")
    assert {report.manifest.content_hash} == hashes, "the header of KGTK comes after comments"
    assert open_source(tmp_path / "a.tsv").select("SELECT * { ?s ?p ?o }").__len__() == 4
    assert facts(open_source(tmp_path / "wd2")).labels(["Q1"]) == {"Q1": 'One "1" \\ half'}


@pytest.mark.parametrize("start", ["# a graph\n", "# a graph\n\nsubject\trelation\tobject\n"])
def test_rows_may_come_after_comments_and_a_header(tmp_path: Path, start: str) -> None:
    load([written(tmp_path / "a.tsv", f"{start}Q1\tP31\tQ2\n")], tmp_path / "wd")
    assert stored(tmp_path / "wd") == {f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> ."}


def test_json_dump_may_come_after_comments(tmp_path: Path) -> None:
    entity = {"type": "item", "id": "Q1", "claims": {"P31": [claim(item(2))]}}
    load([written(tmp_path / "a.json", f"# a dump\n[\n{json.dumps(entity)}\n]\n")], tmp_path / "wd")
    assert stored(tmp_path / "wd") == {f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> ."}


def test_labels_of_codex_may_come_after_comments(tmp_path: Path) -> None:
    source = written(tmp_path / "en" / "entities.json", '# labels\n\n{"Q1": {"label": "One"}}\n')
    assert load([source], tmp_path / "wd").manifest.counts["labels"] == 1


def test_flat_codex_folder_is_loaded(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        written(tmp_path / "flat" / f"{name}.txt", f"Q1\tP31\tQ{len(name)}\n")
    assert load([tmp_path / "flat"], tmp_path / "wd").manifest.counts["statements"] == 2


def claim(value: object, rank: str = "normal", kind: str = "wikibase-entityid") -> dict[str, object]:
    snak = {"snaktype": "value", "datavalue": {"type": kind, "value": value}} if value else {"snaktype": "somevalue"}
    return {"mainsnak": snak, "type": "statement", "rank": rank}


def item(number: int) -> dict[str, object]:
    return {"entity-type": "item", "numeric-id": number, "id": f"Q{number}"}


def test_json_dump_gives_truthy_statements(tmp_path: Path) -> None:
    english = {"language": "en", "value": 'The "One"\nof them'}
    universe = {
        "type": "item",
        "id": "Q1",
        "labels": {"en": english, "de": {"language": "de", "value": "Eins"}},
        "descriptions": {"mul": {"language": "mul", "value": "a number"}},
        "aliases": {"en": [{"language": "en", "value": "Uno"}, {"language": "en", "value": "I"}]},
        "claims": {
            "P31": [claim(item(2)), claim(item(3), "deprecated"), claim(item(2))],
            "P36": [claim(item(4)), claim(item(5), "preferred")],
            "P37": [claim(item(6), "deprecated")],
            "P40": [claim(None), claim({"entity-type": "item", "numeric-id": 7})],
            "P1": [claim("text", kind="string"), claim({"entity-type": "property", "id": "P9", "numeric-id": 9})],
        },
    }
    bare = {"type": "item", "id": "Q2", "labels": [], "descriptions": [], "aliases": [], "claims": []}
    relation = {"type": "property", "id": "P31", "labels": {"en": {"language": "en", "value": "instance of"}}}
    lexeme = {"type": "lexeme", "id": "L1", "lemmas": {}}
    lines = ",\n".join(json.dumps(entity) for entity in (universe, bare, relation, lexeme))
    (tmp_path / "latest-all.json.gz").write_bytes(gzip.compress(f"[\n{lines}\n]\n".encode()))
    load([tmp_path / "latest-all.json.gz"], tmp_path / "wd")
    assert stored(tmp_path / "wd") == {
        f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> .",
        f"<{WD}Q1> <{P}direct/P36> <{WD}Q5> .",
        f"<{WD}Q1> <{P}direct/P40> <{WD}Q7> .",
        f'<{WD}Q1> {LABEL} "The \\"One\\"\\nof them"@en .',
        f'<{WD}Q1> {ABOUT} "a number"@mul .',
        f'<{WD}Q1> {ALIAS} "Uno"@en .',
        f'<{WD}Q1> {ALIAS} "I"@en .',
        f'<{WD}P31> {LABEL} "instance of"@en .',
    }


def test_load_fills_the_label_index(dump: Path, tmp_path: Path) -> None:
    load([dump], tmp_path / "wd")
    with LabelIndex(tmp_path / "wd" / "labels.sqlite") as index:
        assert [(m.id, m.text, m.language, m.kind, m.weight) for m in index.find_exact("uno")] == [
            ("Q1", "Uno", "en-gb", "alias", 1)
        ]
        assert [match.text for match in index.find_exact('one "1" \\ 东 😀')] == ['Onë "1" \\ 东 😀']
        assert [(m.id, m.weight) for m in index.find_exact("Instance of")] == [("P31", 1)]


def test_label_index_has_names_of_wikidata_only(tmp_path: Path) -> None:
    lines = [f'<http://dbpedia.org/resource/Q7> {LABEL} "Audi Q7"@en .', f'<{WD}Q1> {LABEL} "One"@en .']
    load([written(tmp_path / "a.nt", "\n".join(lines))], tmp_path / "wd", options=LoadOptions(keep_all=True))
    with LabelIndex(tmp_path / "wd" / "labels.sqlite") as index:
        assert index.find_exact("Audi Q7") == [] and index.counts == (1, 1, 0)


def test_load_adds_labels_file_of_the_same_folder(tmp_path: Path) -> None:
    graph = written(tmp_path / "graph.tsv", "Q1\tP31\tQ2\n")
    written(tmp_path / "labels.tsv", "Q1\tlabel\tOne\n")
    manifest = load([graph], tmp_path / "wd").manifest
    assert [source["name"] for source in manifest.sources] == ["graph.tsv", "labels.tsv"]
    assert facts(open_source(tmp_path / "wd")).labels(["Q1"]) == {"Q1": "One"}


@pytest.mark.parametrize(
    "text", [f'{NODE} <{P}qualifier/P580> "2003-01-01T00:00:00Z"^^{TIME} .', f'<{WD}Q1> {ABOUT} "x"@en .']
)
def test_times_and_descriptions_are_no_labels(tmp_path: Path, text: str) -> None:
    written(tmp_path / "claims.nt", f"<{WD}Q1> <{P}direct/P31> <{WD}Q2> .\n{text}\n")
    written(tmp_path / "labels.tsv", "Q1\tlabel\tOne\n")
    load([tmp_path / "claims.nt"], tmp_path / "wd")
    assert facts(open_source(tmp_path / "wd")).labels(["Q1"]) == {"Q1": "One"}


def test_folder_loads_graph_files_only(tmp_path: Path) -> None:
    written(tmp_path / "in" / "a.nt", WANTED)
    written(tmp_path / "in" / "b.tsv", "Q5\tP31\tQ6\n")
    for name in ("b.tsv.bak", "c.nt.gz.part", "edits.jsonl", "README.md"):  # backups, unfinished downloads, other files
        written(tmp_path / "in" / name, "Q1\tP31\tQ3\n")
    manifest = load([tmp_path / "in"], tmp_path / "wd").manifest
    assert [source["name"] for source in manifest.sources] == ["a.nt", "b.tsv"]
    assert manifest.counts["statements"] == 2


def test_load_command_reports_counts(dump: Path, tmp_path: Path) -> None:
    runner, command = CliRunner(), ["load", str(dump), "--store", str(tmp_path / "wd")]
    loaded = runner.invoke(app, command)
    assert loaded.exit_code == 0, loaded.output
    assert "14 triples, 1 statements about 2 items with 1 properties, 2 entities with a name" in loaded.output
    assert read_manifest(tmp_path / "wd").content_hash in loaded.output
    again = runner.invoke(app, command)
    assert isinstance(again.exception, StoreError)
    assert runner.invoke(app, [*command, "--force", "--keep-all"]).exit_code == 0
    assert read_manifest(tmp_path / "wd").keep_all


@pytest.mark.parametrize("refuses", ["an infinite limit", "every limit"])
def test_load_works_where_the_limit_of_open_files_is_refused(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    tried: list[int] = []

    def set_limit(_: int, limits: tuple[int, int]) -> None:
        tried.append(limits[0])
        if refuses == "every limit" or limits[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")  # as on macOS

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    load([dump], tmp_path / "wd")
    assert tried == [10_240]


def test_link_to_a_store_stays_a_link(dump: Path, tmp_path: Path) -> None:
    load([dump], tmp_path / "real")
    (tmp_path / "wd").symlink_to(tmp_path / "real")
    written(tmp_path / "new.tsv", "Q8\tP31\tQ9\n")
    load([tmp_path / "new.tsv"], tmp_path / "wd", force=True)
    assert (tmp_path / "wd").is_symlink()
    assert read_manifest(tmp_path / "real").counts["triples"] == 1


def test_no_language_keeps_no_text() -> None:
    bad: list[tuple[int, str]] = []

    def note(line: int, problem: str) -> None:
        bad.append((line, problem))

    dump = b'{"id": "Q1", "labels": {"en": {"language": "en", "value": "one"}}}\n'
    rdf = b'<http://www.wikidata.org/entity/Q1> <http://www.w3.org/2000/01/rdf-schema#label> "one"@en .\n'
    for languages, kept in ((("en",), 1), (None, 1), ((), 0)):
        assert len(json_entities(note, values=False, languages=languages)(dump, 1)) == kept
        assert len(wanted_lines_translator(note, values=False, languages=languages)(rdf, 1)) == kept
    assert not bad


def test_bad_line_of_a_json_dump_is_left_out_as_a_whole() -> None:
    bad: list[int] = []

    def note(line: int, problem: str) -> None:
        bad.append(line)

    labels = '"labels": {"en": {"language": "en", "value": "one"}}'
    lines = f'{{"id": "Q1", {labels}}}\n{{"id": "Q2", {labels}, "claims": {{"P31": [{{}}]}}}}\n'.encode()
    kept = json_entities(note, values=False, languages=None)(lines, 1)
    assert bad == [2]
    assert [b"entity/Q1>" in line for line in kept] == [True]
