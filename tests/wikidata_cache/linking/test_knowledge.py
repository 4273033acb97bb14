"""Linking over whatever a graph is: files, a store made by `load`, a cache of answers; and the command."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.everyday import keep_first
from tests.wikidata_cache.api_server import ApiServer
from tests.wikidata_cache.fault_server import hasty, in_turn, status
from tests.wikidata_cache.link_graph import homonyms, only, write_graph
from tests.wikidata_cache.wikidata_helpers import Server, read_shared
from wikidata_cache import WikidataCache, cli
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import CacheMissError, LabelIndexError
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.stores.manifest import LABELS

runner = CliRunner()


def link(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(cli.app, ["link", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    folder = tmp_path / "wd"
    result = runner.invoke(cli.app, ["load", str(write_graph(tmp_path)), "--store", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize("relation", keep_first(["P19", None]))
@pytest.mark.parametrize("text", ["Paris", "french", "City of Light", "Q1000", "the South", "東京"])
def test_store_links_as_its_files_do(loaded: Path, tmp_path: Path, text: str, relation: str | None) -> None:
    from_store, from_files = WikidataCache(loaded).linker, homonyms(tmp_path).linker
    assert from_store.link(text, relation=relation).candidates == from_files.link(text, relation=relation).candidates


def test_names_in_other_languages_are_found_neither_in_a_file_nor_in_a_store(tmp_path: Path) -> None:
    label, alias = "http://www.w3.org/2000/01/rdf-schema#label", "http://www.w3.org/2004/02/skos/core#altLabel"
    names = [(label, '"Germany"@en'), (label, '"Deutschland"@de'), (alias, '"BRD"@de'), (alias, '"FRG"@EN-GB')]
    graph = tmp_path / "g.nt"
    graph.write_text("".join(f"<http://www.wikidata.org/entity/Q183> <{iri}> {name} .\n" for iri, name in names))
    assert runner.invoke(cli.app, ["load", str(graph), "--store", str(tmp_path / "wd")]).exit_code == 0
    for source in (graph, tmp_path / "wd"):
        linker = WikidataCache(source).linker
        found = {name: bool(linker.link(name).candidates) for name in ("Germany", "Deutschland", "BRD", "FRG")}
        assert found == {"Germany": True, "Deutschland": False, "BRD": False, "FRG": True}


def test_store_is_linked_through_its_own_index(loaded: Path) -> None:
    source = WikidataCache(loaded).source
    assert isinstance(source, OxigraphSource)
    assert source.label_file == loaded / LABELS
    index = loaded / LABELS
    before = index.stat()
    index.write_bytes(bytes(before.st_size))  # of the size and time in the manifest, and empty
    os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LabelIndexError, match="is not a label index"):
        _ = WikidataCache(loaded).linker


def test_cache_links_offline_what_it_holds(server: Server, cache_path: str) -> None:
    online = WikidataCache(server.url, cache=cache_path)
    assert only(online.linker.link("Los Angeles")).id == "Q65"
    before = len(server.requests)
    offline = WikidataCache(cache=cache_path, mode="offline")
    linked = offline.linker.link("Los Angeles")
    assert linked.candidates == online.linker.link("Los Angeles").candidates
    assert only(linked).id == "Q65"
    with pytest.raises(CacheMissError, match="Nowhere"):
        offline.linker.link("Nowhere")
    assert len(server.requests) == before


def test_facts_that_a_cache_lacks_count_as_unknown(server: Server, cache_path: str) -> None:
    WikidataCache(server.url, cache=cache_path).find("Los Angeles")
    linked = WikidataCache(cache=cache_path, mode="offline").linker.link("Los Angeles", relation="P551")
    assert only(linked).id == "Q65"
    assert "its statements are not in the cache" in str(only(linked).reasons)
    assert linked.notes[0].startswith("the relation was not compared: Not in the cache: the facts of the kind 'ends'")


def test_ends_of_a_relation_are_asked_again_after_a_failure(server: Server) -> None:
    linker = WikidataCache(EndpointSource(server.url, limiter=hasty())).linker
    assert linker.link("Los Angeles").notes == ()  # now all is known but the ends
    unavailable = [status(503, b"Service Unavailable")] * 4
    for faults in (unavailable, [None, *unavailable]):  # of the types there, and of the candidates
        server.fault = in_turn(faults)
        [note] = linker.link("Los Angeles", relation="P551").notes
        assert "the relation was not compared: http://" in note and "503" in note
    linked = linker.link("Los Angeles", relation="P551")
    assert linked.notes == () and "of the values of P551" in str(only(linked).reasons)


def test_link_command_exit_codes(tmp_path: Path) -> None:
    graph = str(write_graph(tmp_path))
    assert link("France", "-g", graph)[0] == 0
    assert link("Frnace", "-g", graph) == (
        1,
        "'Frnace' is not in this graph (homonyms.nt). The nearest names: 'France' (Q142).\n",
    )
    code, output = link("French", "-g", graph)
    assert code == 3
    assert "choose one" in output
    assert "Q150" in output
    assert "Q121842" in output
    assert link("Q90", "--label", "Rome", "-g", graph)[0] == 3


def test_link_command_takes_the_relation_by_its_name(tmp_path: Path) -> None:
    graph = str(write_graph(tmp_path))
    by_id, by_name = (link("Paris", "--relation", r, "-g", graph, "--json") for r in ("P19", "born in"))
    assert by_id == by_name
    assert json.loads(by_id[1])["candidates"][0]["id"] == "Q830149"
    code, output = link("Anna", "--relation", "P19", "--role", "subject", "-g", graph)
    assert code == 3
    assert "has" not in output.split("Anna")[0]
    assert link("born in", "--kind", "property", "-g", graph)[0] == 0


def test_link_command_links_a_file(tmp_path: Path) -> None:
    edits, out = tmp_path / "edits.jsonl", tmp_path / "linked.jsonl"
    edits.write_text('{"subject": "Anna", "relation": "born in", "object": "Paris", "target_new": "Rome"}\n')
    graph = str(write_graph(tmp_path))
    code, output = link(str(edits), "--out", str(out), "-g", graph)
    assert code == 0 and output.endswith(f"{out}: 1 of 1 edits settled\n")
    assert "row 1, subject_id, 'Anna': Q11 (Anna: human), 38.3 points; not Q12 (Anna: human), 18.3\n" in output
    assert json.loads(out.read_text())["subject_id"] == "Q11"
    edits.write_text('{"subject": "Anna", "target_new": "Rome"}\n')
    code, output = link(str(edits), "--out", str(out), "-g", graph)
    assert code == 3
    assert "row 1, subject_id, 'Anna': Q11 (Anna: human); Q12 (Anna: human)" in output


def test_link_command_tells_what_is_absent_from_what_is_to_be_chosen(tmp_path: Path) -> None:
    """A name that the graph lacks is nothing to choose; a row whose new object has its id needs nothing more."""
    edits, out, graph = tmp_path / "edits.jsonl", tmp_path / "linked.jsonl", str(write_graph(tmp_path))
    rows = [
        '{"subject": "Nobody", "target_new": "Nothing"}\n',
        '{"subject": "Nobody", "target_new": "Rome", "target_new_id": "Q300"}\n',
        '{"subject": "Nobody", "target_new": "Oslo", "target_new_id": "Q585"}\n',
    ]
    edits.write_text("".join(rows))
    code, output = link(str(edits), "--out", str(out), "-g", graph)
    assert code == 1 and output.endswith("2 of 3 edits settled\n")
    assert "row 1, target_new_id, 'Nothing': not in this graph (homonyms.nt)" in output
    assert "row 3, target_new_id, 'Oslo': not in this graph" in output
    edits.write_text("".join(rows[1:]))
    assert link(str(edits), "--out", str(out), "-g", graph)[0] == 0
    edits.write_text(rows[0] + '{"subject": "Anna", "target_new": "Rome"}\n')
    assert link(str(edits), "--out", str(out), "-g", graph)[0] == 3, "a person has to choose between two Annas"
    code, output = link("Nobody", "-g", graph)
    assert (code, output) == (1, "'Nobody' is not in this graph (homonyms.nt).\n")


def test_link_command_uses_the_api_only_with_online(tmp_path: Path) -> None:
    graph = str(write_graph(tmp_path))
    with ApiServer() as api:
        code, output = link("Lovelace, Ada", "--online", "--api", api.url, "-g", graph)
        assert "Q7259" in output
        assert code == 3  # found by its words only
        new = str(tmp_path / "new.sqlite")  # of the commands to come
        assert "Q7259" in link("Lovelace, Ada", "--online", "--api", api.url, "--cache", new)[1]
        before = len(api.requests)
        assert link("Lovelace, Ada", "--api", api.url, "-g", graph)[0] == 1
        assert len(api.requests) == before
        result = runner.invoke(cli.app, ["link", "x", "--online", "--offline"])
        assert "disagree" in str(result.exception)


@pytest.mark.slow
def test_link_of_counterfact_targets_over_all_shared_data() -> None:
    """With the relation nearly all are settled, and rightly; without it many are left to a person."""
    cache = WikidataCache(read_shared("wikidata/wikidata.nt.gz").parent)
    records = json.loads(read_shared("counterfact_plus/dev.json").read_text(encoding="utf-8"))
    targets = {
        (rewrite["relation_id"], rewrite[name]["str"], rewrite[name]["id"])
        for rewrite in (record["requested_rewrite"] for record in records[:200])
        for name in ("target_new", "target_true")
    }
    for relation, least in ((True, 0.85), (False, 0.4)):
        linked = [(cache.linker.link(t, relation=r if relation else None), gold) for r, t, gold in sorted(targets)]
        assert all(gold in [candidate.id for candidate in result.candidates] for result, gold in linked)
        settled = [(result.candidates[0].id, gold) for result, gold in linked if result.status == "exact"]
        assert sum(chosen == gold for chosen, gold in settled) / len(settled) >= 0.98
        assert len(settled) / len(linked) >= least
