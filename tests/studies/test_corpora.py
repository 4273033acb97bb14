"""`corpora.py` compares, on the same records, edits that were written with C from several texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import AnotherRunError
from tests.kg_edit.tiny import tiny
from tests.pipelines.scripts import STUDIES, Script, module


def test_numbers_are_means_and_paired_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    script = module("corpora")
    keys = script.SHOWN.values()
    rows = [
        {"new": dict.fromkeys(keys, 1.0) | {"angle": 0.0}, "old": dict.fromkeys(keys, value) | {"angle": angle}}
        for value, angle in ((1.0, 10.0), (0.0, 20.0), (1.0, 90.0))
    ]
    rows[0]["new"]["portability.nll"] = None  # a record without questions counts in neither mean of the difference
    about = {"table": "corpora", "data": "d", "n": "3", "method": "m", "model": "m", "commit": ""}
    means = {(number.settings, number.metric): number.mean for number in script.numbers(rows, ["new", "old"], about)}
    assert (means["new", "efficacy"], means["old", "efficacy"]) == ("1.000", "0.667")
    assert (means["new - old", "efficacy"], means["new - old", "portability, nll"]) == ("+0.333", "+0.500")
    assert means["new - old", "angle"] == "20.0"


def test_a_run_has_the_records_that_are_asked_for(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a run of other records in the same folder, which was killed within a line."""
    monkeypatch.syspath_prepend(STUDIES)
    corpora, asked = module("corpora"), list[list[str]]()
    published = list[tuple[str, float]]()

    def rows_of(_: object, names: Sequence[str], edits: Sequence[Edit]) -> Iterator[dict[str, object]]:
        asked.append([edit.id for edit in edits])
        scores = dict.fromkeys(corpora.SHOWN.values(), 1.0) | {"angle": 0.0}
        yield from ({"id": edit.id, **{name: scores | {"nll": float(edit.id)} for name in names}} for edit in edits)

    monkeypatch.setattr(corpora, "rows_of", rows_of)
    monkeypatch.setattr(corpora.LanguageModel, "load", lambda _: tiny("llama"))
    monkeypatch.setattr(corpora.Results, "save", lambda _: None)
    monkeypatch.setattr(corpora, "render", lambda results: published.extend(shown(results)))

    def shown(results: object) -> Iterator[tuple[str, float]]:
        numbers = results.tables["corpora"]  # type: ignore[attr-defined]
        yield from ((row.n, float(row.mean)) for row in numbers if (row.row, row.metric) == ("T, self", "nll"))

    command = ("data.json", "--name", "T", "--out", "out", "--corpora")
    corpora.main([*command, "self", "--skip", "0", "--limit", "1"])
    with Path("out", "T", "records.jsonl").open("a") as file:
        file.write('{"id": "cut')
    corpora.main([*command, "self", "--skip", "1"])
    corpora.main([*command, "self", "--skip", "0"])
    ids = [row["case_id"] for row in json.loads(Path("data.json").read_text())]
    assert asked == [[str(ids[0])], [str(ids[1])], []]
    assert published == [("1", ids[0]), ("1", ids[1]), ("2", sum(ids) / 2)]
    with pytest.raises(AnotherRunError, match="corpora"):
        corpora.main([*command, "self,packaged", "--skip", "0"])
