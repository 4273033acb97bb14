"""Stores on disk: opened as sources, and never trusted when something is missing."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import EDITS, content_hashes, read_shared, run_main, written
from wikidata_cache import WikidataCache, open_source
from wikidata_cache.doctor import examine
from wikidata_cache.errors import SourceStringError, StoreError
from wikidata_cache.stores import manifest as checksums
from wikidata_cache.stores.load import load
from wikidata_cache.stores.manifest import LABELS, is_store, read_manifest
from wikidata_cache.subgraphs.options import SubgraphOptions


@pytest.fixture
def copy(loaded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(loaded, tmp_path / "wd"))


def hashes(cache: WikidataCache) -> list[str]:
    return content_hashes(cache, options=SubgraphOptions(hops=3, per_node=10))


@pytest.mark.slow
def test_store_gives_the_subgraphs_of_its_file(cache: WikidataCache, loaded: Path) -> None:
    expected = hashes(cache)
    assert len(set(expected)) == len(EDITS)
    for spec in (loaded, f"{loaded}/", f"oxigraph:{loaded}", f"oxigraph:{loaded}/oxigraph"):
        assert hashes(WikidataCache(spec)) == expected, spec


def test_subgraph_provenance_names_the_store(loaded: Path) -> None:
    graph = WikidataCache(loaded).subgraph(EDITS[0])
    content_hash = read_manifest(loaded).content_hash
    assert graph.graph["source"] == {"kind": "store", "folder": "wd", "content_hash": content_hash}


def test_manifest_has_counts_and_hashes(loaded: Path) -> None:
    manifest = json.loads((loaded / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == "wikidata-cache store/1"
    assert manifest["counts"] == {
        "triples": 25_726,
        "statements": 19_793,
        "items": 5_694,
        "properties": 237,
        "named": 5_933,
        "labels": 5_933,
        "aliases": 0,
    }
    [source] = manifest["sources"]
    assert source["sha256"] == "0bc5a45c9a6f38082bb22ed8ebb3d788f3ff318e2d8d9c151a57ae079ae5f0e9"
    assert "CC0" in manifest["licence"]


def change(store: Path, **values: object) -> None:
    path = store / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def table(store: Path) -> Path:
    return max((store / "oxigraph").glob("*.sst"), key=lambda path: path.stat().st_size)


def scribble(path: Path, *, keep_time: bool = False) -> None:
    """47 bytes in the middle of a file are overwritten, and its size stays."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    start = len(content) // 2
    content[start : start + 47] = bytes(byte ^ 0xA5 for byte in content[start : start + 47])
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda store: change(store, format="wikidata-cache store/9"), r"store/9.*this release reads.*load it again"),
        (lambda store: change(store, files={"labels.sqlite": 7}), "manifest.json cannot be read"),
        (lambda store: (store / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda store: (store / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
        (lambda store: (store / "manifest.json").write_text("[" * 100_000), "manifest.json cannot be read.*too deeply"),
        (lambda store: (store / "labels.sqlite").unlink(), "is incomplete: labels.sqlite is missing"),
        (lambda store: table(store).unlink(), r"is incomplete: oxigraph/\d+.sst is missing"),
        (lambda store: table(store).write_bytes(table(store).read_bytes()[:-9]), r"has \d+ bytes instead of \d+"),
        (lambda store: (store / "oxigraph" / "CURRENT").unlink(), "is incomplete: oxigraph/CURRENT is missing"),
        (lambda store: scribble(table(store)), r"is damaged: the content of oxigraph/\d+.sst.*load it again.*--force"),
        (lambda store: scribble(store / LABELS), r"is damaged: the content of labels.sqlite"),
        (
            lambda store: change(store, probes=["<http://a> <http://b> <http://c> ."]),
            "1 of 1 test triples cannot be found.*local disk",
        ),
    ],
)
def test_damaged_store_is_refused(copy: Path, harm: object, problem: str) -> None:
    harm(copy)  # type: ignore[operator]
    for spec in (str(copy), f"oxigraph:{copy}", f"oxigraph:{copy}/oxigraph"):
        with pytest.raises(StoreError, match=problem) as caught:
            open_source(spec)
        assert caught.value.folder == copy


def test_every_file_of_a_store_is_checked(copy: Path) -> None:
    listed = set(read_manifest(copy).files)
    present = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert present - listed == {"manifest.json", "oxigraph/LOCK", "oxigraph/LOG"}
    for name in sorted(listed):
        content = (copy / name).read_bytes()
        if content:
            scribble(copy / name)
            with pytest.raises(StoreError, match=f"is damaged: the content of {name} "):
                open_source(copy)
            (copy / name).write_bytes(content)
    open_source(copy)


def test_files_with_another_time_are_hashed(
    loaded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read: list[str] = []
    hashed = checksums._hash_files
    monkeypatch.setattr(
        checksums, "_hash_files", lambda paths: read.extend(path.name for path in paths) or hashed(paths)
    )
    monkeypatch.setattr(checksums, "_SLOW_S", -1)
    with caplog.at_level(logging.INFO, logger="wikidata_cache"):
        open_source(loaded)
        assert read == []
        copied = shutil.copytree(loaded, tmp_path / "new", copy_function=shutil.copyfile)
        for _ in range(2):  # nothing is remembered
            assert open_source(copied).select("SELECT * { ?s ?p ?o } LIMIT 1")
            assert len(read) == len(read_manifest(loaded).files)
            read.clear()
    assert "files whose times have changed were read" in caplog.text


def test_doctor_reads_every_file(copy: Path) -> None:
    findings = {finding.what: finding for finding in examine(f"oxigraph:{copy}")}
    assert findings[f"store {copy}"].ok and "intact: all" in findings[f"store {copy}"].result
    scribble(table(copy), keep_time=True)  # as a failing disk does it
    [broken] = [finding for finding in examine(copy) if not finding.ok]
    assert broken.what == f"store {copy}"
    assert f"is damaged: the content of oxigraph/{table(copy).name} is not what was loaded" in broken.result


@pytest.mark.slow
def test_doctor_reads_a_plain_folder(copy: Path, tmp_path: Path) -> None:
    plain = copy.joinpath("oxigraph").rename(tmp_path / "plain")
    findings = {finding.what: finding for finding in examine(f"oxigraph:{plain}")}
    assert "all 25,726 triples can be read" in findings[f"store {plain}"].result
    scribble(next(p for p in sorted(plain.glob("*.sst")) if b"Philadelphia" in p.read_bytes()))
    [broken] = [finding for finding in examine(f"oxigraph:{plain}") if not finding.ok]
    assert broken.what == f"store {plain}" and "so the database or the disk is damaged" in broken.result


def test_labels_are_found_after_a_change_of_the_folder(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(loaded.parent)
    cache = WikidataCache(loaded.name)
    monkeypatch.chdir("/")
    assert cache.linker.link("Philadelphia").candidates[0].id == "Q1345"


@pytest.mark.parametrize("as_store", [True, False])
def test_damage_found_by_a_query_is_named(copy: Path, tmp_path: Path, as_store: bool) -> None:
    folder = copy if as_store else copy.joinpath("oxigraph").rename(tmp_path / "plain")
    engine = folder / "oxigraph" if as_store else folder
    texts = next(p for p in sorted(engine.glob("*.sst")) if b"Philadelphia" in p.read_bytes())
    cache = WikidataCache(f"oxigraph:{folder}")
    scribble(texts, keep_time=True)
    with pytest.raises(StoreError, match=rf"{folder}: its database cannot be read.*load it again") as caught:
        cache.query("SELECT * { ?s ?p ?o }")
    assert caught.value.folder == folder


@pytest.mark.parametrize("command", [["show", "Q1345", "-g"], ["find", "Philadelphia", "-g"]])
def test_damaged_store_exits_with_code_2(copy: Path, command: list[str]) -> None:
    scribble(table(copy))
    code, error = run_main(*command, copy)
    assert code == 2 and error.startswith(f"wikidata-cache: {copy}: is damaged") and error.count("\n") == 1


def test_folder_without_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"g\.nt: is a file; make one with `wikidata-cache load"):
        read_manifest(written(tmp_path / "g.nt", ""))
    with pytest.raises(StoreError, match=r"it has no manifest.json"):
        read_manifest(tmp_path)
    (tmp_path / "wd.loading").mkdir()
    with pytest.raises(StoreError, match="run the same command again to finish it"):
        read_manifest(tmp_path / "wd.loading")
    with pytest.raises(SourceStringError, match="is not an Oxigraph store"):
        open_source(f"oxigraph:{tmp_path}")
    assert not is_store(tmp_path)


@pytest.mark.slow
def test_shared_graph_loads_to_the_same_subgraphs(tmp_path: Path) -> None:
    sources = [read_shared(f"wikidata/{name}.nt.gz") for name in ("wikidata", "labels", "aliases", "descriptions")]
    manifest = load(sources, tmp_path / "wd").manifest
    # The numbers that come with the data.
    assert manifest.counts["statements"] == 1_071_994
    assert (manifest.counts["items"], manifest.counts["properties"]) == (403_191, 541)
    assert manifest.counts["labels"] == 194_563 + 11_118
    assert manifest.counts["aliases"] == 296_917 - 5  # five have no visible character
    assert manifest.counts["triples"] == sum(source["kept"] for source in manifest.sources)
    assert hashes(WikidataCache(tmp_path / "wd")) == hashes(WikidataCache(sources))
