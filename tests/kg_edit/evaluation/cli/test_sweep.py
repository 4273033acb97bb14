"""Sweeps: the file, the cells, the runs, the table and the picture."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kg_edit.errors import ModelError, OutputError
from kg_edit.evaluation.cli.sweep_grid import Cell, SweepSettings, cells_of, example, read_sweep
from kg_edit.evaluation.cli.sweep_run import Outcome, draw_sweep, run_sweep, sweep_table
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets.ripples import FORMAT
from kg_edit.evaluation.statistics import Estimate
from kg_edit.evaluation.summary import Summary
from kg_edit.methods import find_method
from kg_edit.methods.graph_reader import GraphSettings
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, cache, kg_edit, place, refused, tiny_folder
from tests.kg_edit.evaluation.conftest import CITIES, record
from tests.kg_edit.evaluation.test_cli_runs import row
from tests.kg_edit.methods.quick import COVARIANCE
from tests.kg_edit.tiny import tiny

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

FILES = sorted((Path(__file__).resolve().parents[4] / "sweeps").glob("*.toml"))
AXES = {"glame_m": "per_node", "glame_n": "hops", "glame_policy": "graph.policy"}
FAST = {"steps": 2, "further_steps": 0, "context_lengths": [[4, 1]], **COVARIANCE}
METRICS = ("efficacy.prob", "portability.nll")


def settings(**fields: Any) -> SweepSettings:
    return SweepSettings.model_validate({"method": "rome", "grid": {"layer": [1, 2]}, **fields})


def test_example_has_every_key_with_its_default() -> None:
    values = tomllib.loads(example())
    assert values.keys() == SweepSettings.model_fields.keys()
    assert values["data"].keys() == SweepSettings.model_fields["data"].get_default().model_dump().keys()
    for name, info in SweepSettings.model_fields.items():
        if name not in ("graph", "settings", "grid", "data"):
            default = info.get_default()
            assert values[name] == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_papers_own_sweeps_can_be_read(file: Path) -> None:
    cells = cells_of(read_sweep(file))
    assert {cell.method.name for cell in cells} >= {"glame", "glame-random"}
    assert AXES[file.stem] in cells[0].values
    assert {file.stem for file in FILES} == set(AXES)


def test_one_sweep_compares_the_policies() -> None:
    (file,) = (file for file in FILES if file.stem == "glame_policy")
    cells = cells_of(read_sweep(file))
    tried = {(cell.method.name, cell.values["graph.policy"], cell.config.model_dump()["per_node"]) for cell in cells}
    assert len(tried) == len(cells)
    assert {policy for _, policy, _ in tried} == {"uniform", "relation-stratified", "inverse-hub"}
    for cell in cells:
        assert isinstance(cell.config, GraphSettings) and cell.config.graph.policy == cell.values["graph.policy"]


def test_cell_for_every_combination() -> None:
    sweep = settings(
        grid={"method": ["rome", "glame"], "layer": [1, 2], "covariance": {"tokens": [100, 200]}},
        settings={"steps": 3, "covariance": {"seed": 5}},
    )
    cells = cells_of(sweep)
    assert len(cells) == 8
    assert [list(cell.values.values()) for cell in cells[:3]] == [["rome", 1, 100], ["rome", 1, 200], ["rome", 2, 100]]
    last = cells[-1]
    assert last.method is find_method("glame")
    dumped = last.config.model_dump()
    assert (dumped["layer"], dumped["steps"]) == (2, 3)
    assert (dumped["covariance"]["tokens"], dumped["covariance"]["seed"]) == (200, 5)
    assert len({cell.folder for cell in cells}) == 8 and cells[0].folder == "method=rome layer=1 covariance.tokens=100"


def test_folders_differ_where_their_readable_part_does_not() -> None:
    values = [["a b"], ["a-b"], ["x" * 200], ["x" * 199 + "y"]]
    config = find_method("rome").config_class()
    folders = [Cell(values={"v": value}, method=find_method("rome"), config=config).folder for value in values]
    assert len(set(folders)) == 4 and max(map(len, folders)) < 140


@pytest.fixture
def records() -> list[Any]:
    return [record(number, answer) for number, answer in enumerate(CITIES[:2])]


@pytest.mark.slow
def test_each_cell_is_a_run_that_is_not_done_twice(
    tmp_path: Path, records: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    model, sweep = tiny("llama"), settings(settings=FAST)
    out = tmp_path / "out"

    def run(parsed: SweepSettings) -> tuple[Outcome, ...]:
        return run_sweep(cells_of(parsed), model, records, out=out)

    outcomes = run(sweep)
    assert [outcome.summary.provenance["config"]["layer"] for outcome in outcomes] == [1, 2]
    assert {path.name for path in out.iterdir()} == {"run.json", "layer=1", "layer=2"}
    lines = {path: path.read_bytes() for path in out.rglob("records.jsonl")}
    assert len(lines) == 2

    grown = run(settings(settings=FAST, grid={"layer": [1, 2, 3]}))
    assert [outcome.summary for outcome in grown[:2]] == [outcome.summary for outcome in outcomes]
    assert all(path.read_bytes() == content for path, content in lines.items())

    with pytest.raises(ModelError, match="layer 9"):
        run(settings(settings=FAST, grid={"layer": [0, 9]}))
    assert not (out / "layer=0").exists()  # nothing is run before all can be
    with pytest.raises(OutputError, match="another run"):
        run_sweep(cells_of(sweep), model, records[:1], out=out)
    with pytest.raises(OutputError, match="another run"):
        run(settings(settings={**FAST, "steps": 3}))

    # One cell has other settings, such as those of an older version: only that one is replaced
    stored = json.loads((out / "layer=1" / "run.json").read_text())
    stored["config"]["steps"] = 7
    (out / "layer=1" / "run.json").write_text(json.dumps(stored))
    finished = (out / "layer=2" / "records.jsonl").stat().st_mtime_ns
    again = run_sweep(cells_of(sweep), model, records, out=out, overwrite=True)
    assert [outcome.summary.edited for outcome in again] == [outcome.summary.edited for outcome in outcomes]
    assert json.loads((out / "layer=1" / "run.json").read_text())["config"]["steps"] == FAST["steps"]
    assert (out / "layer=2" / "records.jsonl").stat().st_mtime_ns == finished


def test_sweep_of_more_records_extends_its_cells(tmp_path: Path, records: list[Any]) -> None:
    model, cells = tiny("llama"), cells_of(settings(method="rag", grid={"preset": ["default"]}))

    def run(count: int, schedule: str = "single") -> tuple[Outcome, ...]:
        config = EvalConfig(schedule=schedule)
        return run_sweep(cells, model, records[:count], out=tmp_path / "out", pool=records, config=config)

    run(1)
    first = (tmp_path / "out" / "preset=default" / "records.jsonl").read_bytes()
    (grown,) = run(2)
    assert grown.summary.n == 2
    assert (tmp_path / "out" / "preset=default" / "records.jsonl").read_bytes().startswith(first)
    assert run(2) == (grown,)
    with pytest.raises(OutputError, match=r"another run .*other records: another limit, or other data"):
        run(1)


def outcome(values: dict[str, Any], mean: float | None) -> Outcome:
    """A cell that scored ``mean`` on every metric."""
    low, high = (None, None) if mean is None else (mean - 0.1, mean + 0.1)
    estimate = Estimate(mean=mean, ci95_low=low, ci95_high=high)
    base = Estimate(mean=0.2, ci95_low=0.1, ci95_high=0.3)
    summary = Summary(
        n=7,
        base=dict.fromkeys(METRICS, base),
        edited=dict.fromkeys(METRICS, estimate),
        seconds_per_edit=1.25,
        provenance={
            "method": "rome",
            "preset": "fast",
            "model": {"name": "toy"},
            "data": {"dataset": "zsre"},
            "schedule": "single",
            "failed": 1,
        },
    )
    return Outcome(
        cell=Cell(values=values, method=find_method("rome"), config=find_method("rome").config_class()),
        summary=summary,
    )


def test_sweep_table_has_a_row_for_each_cell() -> None:
    table = sweep_table([outcome({"layer": 1, "steps": 5}, 0.5), outcome({"layer": 2, "steps": 5}, None)], METRICS)
    assert table.splitlines() == [
        "| layer | steps | efficacy.prob | portability.nll | s an edit | failed |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| unedited |  | 0.200 [0.100, 0.300] | 0.200 [0.100, 0.300] |  |  |",
        "| 1 | 5 | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] | 1.2 | 1 |",
        "| 2 | 5 | \N{EN DASH} | \N{EN DASH} | 1.2 | 1 |",
        "",
        "rome (preset fast) on toy, 7 records of zsre, schedule single",
    ]


GRIDS: dict[str, list[dict[str, Any]]] = {
    "one cell": [{"layer": 1}],
    "lines": [{"layer": layer} for layer in (1, 4, 6)],
    "names": [{"method": name} for name in ("rome", "glame")],
    "a line a name": [{"method": name, "layer": layer} for name in ("rome", "glame") for layer in (1, 4)],
    "heat map": [{"layer": layer, "steps": steps} for layer in (1, 4) for steps in (5, 10, 20)],
    "lists": [{"layers": layers, "steps": steps, "fixed": 1} for layers in ([1], [1, 2]) for steps in (5, 10)],
    "three axes": [{"a": a, "b": b, "c": c} for a in (1, 2) for b in ("x", "y") for c in (True, False)],
}


@pytest.mark.parametrize("name", keep_first(GRIDS))
@pytest.mark.slow
def test_every_grid_can_be_drawn(name: str, tmp_path: Path) -> None:
    cells = [outcome(values, None if number == 1 else number / 9) for number, values in enumerate(GRIDS[name])]
    file = draw_sweep(cells, METRICS, tmp_path / "picture.svg")
    text = file.read_text()
    assert "portability.nll (lower is better)" in text
    assert ("unedited" in text) is (name in ("one cell", "lines", "names", "a line a name", "lists"))
    if name == "heat map":
        assert all(f"{number / 9:.3g}" in text for number in (2, 3, 4, 5)) and "steps" in text
    if name == "three axes":
        assert text.count("c True") == text.count("c False") == len(METRICS)
    again = draw_sweep(cells, METRICS, tmp_path / "again.svg")
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_line_goes_along_its_axis_whatever_the_order_of_the_values(tmp_path: Path) -> None:
    drawn = [
        draw_sweep([outcome({"layer": layer}, layer / 9) for layer in layers], METRICS, tmp_path / name).read_bytes()
        for name, layers in (("sorted.svg", (1, 4, 6)), ("grown.svg", (1, 6, 4)))
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_graph_method_reads_what_it_reads_in_an_evaluation(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    """Without the withheld answers, and in a cell with `exclude_answers` without those of the probes."""
    question = {"kind": "two-hop", "start": "France", "hops": ["P36", "P17"], "answers": ["Italy"], "stated": False}
    fact = {"subject": "France", "prompt": "In {}, the capital is", "relation_id": "P36", "target_new": "Rome"}
    entry = {"id": "1", "edit": {**fact, "target_new_id": "Q4"}, "questions": [question]}
    nouns = {"P36": "capital", "P17": "country"}
    (place / "data.json").write_text(json.dumps({"format": FORMAT, "nouns": nouns, "records": [entry]}))
    (place / "sweep.toml").write_text(
        "method = 'glame'\ndata.dataset = 'ripples'\ngraph = ['graph.tsv']\n"
        "[settings]\nsteps = 1\ncontext_lengths = [[5, 2]]\ncovariance.corpus = 'self'\ncovariance.tokens = 500\n"
        "[grid]\nlayer = [1]\n"
    )
    data = ("--data", "data.json", "--model", tiny_folder)
    swept = kg_edit("sweep", "sweep.toml", *data, "--out", "out")
    assert swept.code == 0, swept.err
    short = ("--corpus", "self", "--set", "steps=1", "--set", "covariance.tokens=500", "--layer", "1")
    more = ("--dataset", "ripples", *short)
    run = kg_edit("evaluate", *data, *more, "--graph", "graph.tsv", "--set", "context_lengths=[[5, 2]]", "--out", "run")
    assert run.code == 0, run.err
    cell, evaluated = (json.loads((place / folder / "run.json").read_text()) for folder in ("out/layer=1", "run"))
    assert cell["graph"] == evaluated["graph"] and "withheld_sha256" in json.dumps(cell["graph"])


def test_file_of_another_benchmark_is_named_as_the_sweep_file_names_it(
    kg_edit: Run, place: Path, tiny_folder: Path
) -> None:
    (place / "sweep.toml").write_text("method = 'rag'\n[grid]\npreset = ['default']\n")
    command = ("sweep", "sweep.toml", "--data", "edits.jsonl", "--model", tiny_folder)
    words = 'edits.jsonl looks like edits: give dataset = "edits" in the table [data] of the sweep file. Its faults as'
    refused(kg_edit, *command, message=words, out=place / "out")


@pytest.mark.slow
def test_faults_beyond_the_limit_are_not_refused(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    rows = [row(1, CITIES[0]), {"case_id": 2}]
    (place / "data.json").write_text(json.dumps(rows))
    (place / "sweep.toml").write_text("method = 'rag'\n[grid]\npreset = ['default']\n")
    command = ("sweep", "sweep.toml", "--data", "data.json", "--model", tiny_folder, "--out", "out")
    result = kg_edit(*command, "--limit", "1")
    assert result.code == 0, result.err
    assert Summary.load(place / "out" / "preset=default" / "summary.json").n == 1
    result = kg_edit(*command, "--limit", "2")
    assert (result.code, "data.json, record 2" in result.err) == (2, True)


@pytest.mark.slow
def test_sweep_command(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    printed = kg_edit("sweep", "--example")
    assert printed.code == 0 and printed.out == example()
    (place / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:3])]))
    (place / "sweep.toml").write_text(
        "method = 'rome'\n[settings]\nsteps = 2\ncontext_lengths = [[5, 2]]\ncovariance.corpus = 'self'\n"
        "covariance.tokens = 500\n"
        "[grid]\nlayer = [1, 2]\n"
    )
    command = ("sweep", "sweep.toml", "--model", tiny_folder, "--out", "out")
    listed = kg_edit("sweep", "sweep.toml", "--cells")
    unused = kg_edit(*command, "--cells")
    assert unused.code == 2 and "--out" in unused.err and "with --cells" in unused.err
    assert listed.out.split("\n")[:2] == ["layer=1", "layer=2"] and not (place / "out").exists()
    missing = kg_edit(*command)
    assert missing.code == 2 and "--data" in missing.err
    completed = kg_edit(*command, "--data", "data.json", "--limit", "2")
    assert completed.code == 0, completed.err
    table = (place / "out" / "table.md").read_text()
    assert table in completed.out and "2 records" in table and table.count("\n| ") == 4
    assert (place / "out" / "picture.svg").is_file()
    other = (*command, "--data", "data.json", "--limit", "1")
    refused = kg_edit(*other)
    assert refused.code == 2 and "--overwrite replaces it" in refused.err
    assert kg_edit(*other, "--overwrite").code == 0 and "1 record of" in (place / "out" / "table.md").read_text()
    assert kg_edit("sweep").code == 2
