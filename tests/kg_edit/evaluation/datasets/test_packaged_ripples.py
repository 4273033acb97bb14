"""The packaged Ripples file has its size and no faults, and its graph states what it is to state."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.lint import lint
from kg_edit.evaluation.datasets.ripples import split_of, withheld_answers
from kg_edit.evaluation.settings import DataSource
from kg_edit.graphs.controls import Withheld
from kg_edit.graphs.facts import target_of
from kg_edit.storage.packaged import packaged_benchmark, packaged_graph
from wikidata_cache import WikidataCache
from wikidata_cache.subgraphs.options import SubgraphOptions

NAME = "ripples-smollm2-135m"


@pytest.fixture(scope="module")
def records() -> tuple[BenchmarkRecord, ...]:
    return find_dataset("ripples")(Path(NAME))


@pytest.mark.slow
def test_packaged_file_has_its_size(records: tuple[BenchmarkRecord, ...]) -> None:
    file = packaged_benchmark(NAME)
    assert file is not None
    assert file.stat().st_size < 400_000
    rows = json.loads(file.read_text(encoding="utf-8"))["records"]
    questions = [question for row in rows for question in row["questions"] if question["kind"] == "two-hop"]
    counts = Counter(question["hops"][-1] for question in questions if question.get("known", True))
    assert len(records) == 300
    assert len(questions) >= 700
    assert len([relation for relation, count in counts.items() if count >= 5]) >= 8
    assert len({row["edit"]["relation_id"] for row in rows}) >= 5
    assert Counter(map(split_of, records)) == {"dev": 100, "test": 200}


def test_splits_share_no_subject_and_no_target(records: tuple[BenchmarkRecord, ...]) -> None:
    for name in ("subject_id", "target_new_id"):
        dev, test = (
            {getattr(record.edits[0], name) for record in records if split_of(record) == part}
            for part in ("dev", "test")
        )
        assert dev
        assert not dev & test


def test_examples_do_not_contain_the_answer(records: tuple[BenchmarkRecord, ...]) -> None:
    for record in records:
        for probe in record.probes:
            (query,) = probe.queries
            shown = {example.answer for example in query.examples}
            assert not shown & {*query.answers[0], *query.old}, query.prompt
            assert query.prompt not in {example.question for example in query.examples}


def test_data_source_has_name_and_digest() -> None:
    source = DataSource.of("ripples", Path(NAME))
    assert source.file == f"{NAME}.json"
    assert source.sha256 is not None


@pytest.mark.slow
def test_packaged_file_has_no_faults() -> None:
    assert not lint(find_dataset("ripples").read(Path(NAME)))


@pytest.mark.slow
def test_packaged_graph_has_the_stated_answers_only(records: tuple[BenchmarkRecord, ...]) -> None:
    graph = packaged_graph(NAME)
    source = Withheld(WikidataCache(graph), names=withheld_answers(records))
    for record in records[::6]:
        (edit,) = record.edits
        subgraph = source.subgraph(edit, SubgraphOptions(hops=2, per_node=500))
        root = target_of(subgraph)
        objects = {subgraph.nodes[end]["label"] for _, end in subgraph.out_edges(root)}
        for probe in record.probes:
            names = set(probe.queries[0].answers[0])
            if probe.measures.endswith(".stated"):
                assert names & objects or names & hidden(record), (edit.target_new, probe.queries[0].prompt)
            elif probe.measures.endswith(".withheld"):
                assert not names & objects


def hidden(record: BenchmarkRecord) -> set[str]:
    """The names that are withheld from the record; what another question states may be among them."""
    return set(withheld_answers([record]).get(record.edits[0].id, frozenset()))
