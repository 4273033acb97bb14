"""What CONTRIBUTING.md says about adding things works: its code is installed as a package, and run as it stands.

The toy editor goes through every check of the matrix of methods, the toy data set and metric through the scorer.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.datasets import DATASETS, find_dataset, guess_dataset
from kg_edit.errors import ConfigError, EditFileError
from kg_edit.evaluate import Case, score_cases
from kg_edit.evaluate.metrics import catalogue, probes
from kg_edit.methods import find_method, method_names
from tests.kg_edit.methods import quick, test_matrix
from tests.kg_edit.tiny import tiny
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs import sampling

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
TOY, TOYS = "fixed-steps", "kg_edit_toys"
ROWS = [{"id": "1", "country": "France", "capital": "Rome"}, {"id": "2", "country": "Italy", "capital": "Paris"}]
# What a check of the matrix takes besides the method's name; a new parameter needs a value here.
GIVEN = {
    "family": "llama",
    "gone": "1",
    "dtype": torch.bfloat16,
    "mishap": next(iter(test_matrix.MISHAPS)),
    "empty": next(iter(test_matrix.EMPTY)),
}
CHECKS = {
    name: check
    for name, check in vars(test_matrix).items()
    if name.startswith("test_") and "name" in inspect.signature(check).parameters
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def block(file: str) -> str:
    """The code that the page shows for a file, which its first line names."""
    (code,) = [found for found in blocks("python") if found.startswith(f"# {file}\n")]
    return code


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's package, as pip would install it, and the page's row of quick settings."""
    folder = tmp_path_factory.mktemp("toys")
    (folder / TOYS).mkdir()
    (folder / TOYS / "__init__.py").touch()
    for name in ("fixed_steps.py", "capitals.py"):
        (folder / TOYS / name).write_text(block(f"{TOYS}/{name}"), encoding="utf-8")
    (settings,) = blocks("toml")
    install(folder, tomllib.loads(settings)["project"]["entry-points"])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("KG_EDIT_CACHE", str(folder / "cache"))
        row = eval(f"{{{block('tests/kg_edit/methods/quick.py')}}}", vars(quick))  # noqa: S307 - our own text
        patch.setitem(quick.QUICK, TOY, row[TOY])
        yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == TOYS]:
        del sys.modules[name]


def install(folder: Path, groups: dict[str, dict[str, str]]) -> None:
    info = folder / f"{TOYS}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {TOYS}\nVersion: 1\n")
    lines: list[str] = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_the_editor_is_found_and_says_what_it_is(toys: Path) -> None:
    assert TOY in method_names()
    assert find_method(TOY).__module__ == f"{TOYS}.fixed_steps"


@pytest.mark.parametrize("check", CHECKS)
def test_the_matrix_holds_for_the_editor(
    check: str, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**GIVEN, "name": TOY, "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    wanted: Callable[..., None] = CHECKS[check]
    wanted(**{parameter: values[parameter] for parameter in inspect.signature(wanted).parameters})


@pytest.fixture
def capitals(toys: Path, tmp_path: Path) -> Path:
    file = tmp_path / "capitals.json"
    file.write_text(json.dumps(ROWS))
    return file


def test_the_data_set_is_read_recognised_and_its_faults_are_named(capitals: Path) -> None:
    found = find_dataset("capitals")
    records = found(capitals)
    assert [record.edits[0].text for record in records] == ["The capital of France is", "The capital of Italy is"]
    assert {probe.measures for record in records for probe in record.probes} == set(found.measures)
    assert guess_dataset(capitals) is found
    capitals.write_text(json.dumps({**ROWS[0], "capitol": "x"}))
    with pytest.raises(EditFileError, match="record 1, field capitol: unknown field, did you mean 'capital'"):
        found(capitals)


@pytest.mark.slow
def test_the_scorer_scores_its_records_edited_by_the_editor(capitals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = eval(f"{{{block('kg_edit/evaluate/metrics/probes.py')}}}", vars(probes))  # noqa: S307 - our own text
    monkeypatch.setitem(catalogue._OF_PROBES, "recall.exact", metric["recall.exact"])
    model, records = tiny("llama"), find_dataset("capitals")(capitals)
    cases = [Case.of(record) for record in records]
    patches = test_matrix.method(TOY, model).edit_each([record.edits[0] for record in records])
    unedited = score_cases(model, cases)
    edited = score_cases(model, cases, before=unedited, patches=patches)  # type: ignore[arg-type]
    for case, before, after in zip(cases, unedited, edited, strict=True):
        assert {"recall.greedy", "recall.substring", "recall.exact"} < set(after.scores)
        assert after.scores["recall.exact"] in (0.0, 1.0)
        new = case.edit.target_new
        assert after.nll[case.edit.text][new] < before.nll[case.edit.text][new], "the edit makes its target likelier"


def test_a_plug_in_that_takes_a_name_or_is_no_data_set_is_refused(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, {"kg_edit.datasets": {"zsre": f"{TOYS}.capitals:CAPITALS"}})
    with pytest.raises(ConfigError, match="expected a Dataset named 'zsre', a name that is not taken"):
        find_dataset("counterfact")


def test_the_sampling_policy_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, Any] = dict(vars(sampling))
    exec(block("wikidata_cache/subgraphs/sampling.py"), space)  # noqa: S102 - our own text
    monkeypatch.setitem(sampling.ORDERS, "small-number", space["_small_number"])  # type: ignore[arg-type,index]
    statements = [Statement("Q1", f"P{number}", f"Q{number + 1}") for number in (31, 7, 106, 19)]
    kept = sampling.sample(statements, 3, node="Q1", seed=0, policy="small-number", degrees={})  # type: ignore[arg-type]
    assert [statement.property for statement in kept] == ["P7", "P19", "P31"]


def test_every_file_that_the_page_names_exists() -> None:
    root = Path(__file__).resolve().parents[1]
    named = re.findall(r"`((?:kg_edit|wikidata_cache|tests|pipelines|docs|bench)/[\w/]+(?:\.py|\.md|/))`", PAGE)
    assert named
    assert [name for name in named if not (root / name).exists()] == []
    assert DATASETS.keys().isdisjoint({"capitals"})
