"""What CONTRIBUTING.md and docs/contributing say works: their code is put where they say, and every check is run.

The toy editor is a folder of `kg_edit.zoo`, and goes through every test that each method has to pass; the toy data
set and metric go through the scorer.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from hatchling.build import build_wheel

from kg_edit import zoo
from kg_edit.errors import EditFileError
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets import find_dataset, guess_dataset
from kg_edit.evaluation.metrics import catalogue, probes
from kg_edit.evaluation.scorer import score_cases
from kg_edit.methods import find_method, method_names
from kg_edit.methods.overview import methods_page
from kg_edit.patches.base import Patch
from kg_edit.zoo import entries
from tests import test_method_pages
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.methods import quick, test_idle_settings, test_limits, test_matrix
from tests.kg_edit.planning import test_estimate
from tests.kg_edit.tiny import tiny
from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs import sampling

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "contributing").glob("*.md")))
PAGE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
TOY, TOYS = "fixed-steps", "kg_edit_toys"
ROWS = [{"id": "1", "country": "France", "capital": "Rome"}, {"id": "2", "country": "Italy", "capital": "Paris"}]
# What a check takes besides the method's name; a new parameter needs a value here.
GIVEN = {
    "family": "llama",
    "gone": "1",
    "dtype": torch.bfloat16,
    "mishap": next(iter(test_matrix.MISHAPS)),
    "empty": next(iter(test_matrix.EMPTY)),
    "beyond": 6,
}


def checks_of(module: ModuleType, parameter: str = "name") -> dict[str, Callable[..., None]]:
    """The tests of a module that take a method's name."""
    return {
        name: check
        for name, check in vars(module).items()
        if name.startswith("test_") and parameter in inspect.signature(check).parameters
    }


CHECKS = {
    **checks_of(test_matrix),
    **{name: check for name, check in checks_of(test_idle_settings).items() if "preset" in name},
    **{name: check for name, check in checks_of(test_limits).items() if "positions" in name},
    **checks_of(test_method_pages),
    **checks_of(test_estimate, "method"),
    "test_every_method_says_what_it_is": test_estimate.test_every_method_says_what_it_is,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def block(file: str) -> str:
    """The code that the page shows for a file, which its first line names."""
    (code,) = [text for text in blocks("python") if text.startswith(f"# {file}\n")]
    return code


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's editor as a folder of `kg_edit.zoo`, its entry, its row and its docs; and the page's package, built
    from its `pyproject.toml` and installed as pip would."""
    root = tmp_path_factory.mktemp("toys")
    home = root / "kg_edit" / "zoo" / "fixed_steps"
    for folder in (home, root / TOYS):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (home / "method.py").write_text(block("kg_edit/zoo/fixed_steps/method.py"), encoding="utf-8")
    for name in ("capitals.py", "entries.py", "nudge.py"):
        (root / TOYS / name).write_text(block(f"{TOYS}/{name}"), encoding="utf-8")
    (settings,) = blocks("toml")
    (root / "pyproject.toml").write_text(settings, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        wheel = build_wheel(str(root))
    with ZipFile(root / wheel) as packed:
        assert {f"{TOYS}/__init__.py", f"{TOYS}/capitals.py", f"{TOYS}/nudge.py"} <= set(packed.namelist())
        packed.extractall(root, [name for name in packed.namelist() if ".dist-info/" in name])
    (section,) = blocks("markdown")
    (root / "docs").mkdir()
    (root / "docs" / "editors.md").write_text(section, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setattr(zoo, "__path__", [*zoo.__path__, str(home.parent)])
        (entry,) = eval(f"({block('kg_edit/zoo/entries.py')})", vars(entries))  # noqa: S307 - our own text
        patch.setattr(entries, "METHODS", (*entries.METHODS, entry))
        patch.setattr(test_method_pages, "DOCS", root / "docs")
        patch.setenv("KG_EDIT_CACHE", str(root / "cache"))
        row = eval(f"{{{block('tests/kg_edit/methods/quick.py')}}}", vars(quick))  # noqa: S307 - our own text
        patch.setitem(quick.QUICK, TOY, row[TOY])
        yield root
    for name in [name for name in sys.modules if name.startswith((TOYS, "kg_edit.zoo.fixed_steps"))]:
        del sys.modules[name]


def test_the_editors_are_found_by_their_entries(toys: Path) -> None:
    assert {TOY, "nudge"} < set(method_names())
    assert find_method(TOY).__module__ == "kg_edit.zoo.fixed_steps.method"
    assert find_method("nudge").__module__ == "kg_edit_toys.nudge"


def test_the_editor_from_scratch_makes_checks_and_removes_edits(toys: Path, tiny_folder: Path, kg_edit: Run) -> None:
    """Its patches have no provenance of their own: the base class adds what a ledger needs."""
    method, model = ("--method", "nudge", "--set", "strength=2"), ("--model", tiny_folder)
    rows = [{"id": name, "subject": name, "prompt": "In {}, the capital is", "target_true": "Paris"} for name in "AB"]
    Path("own.jsonl").write_text("".join(json.dumps({**row, "target_new": "Rome"}) + "\n" for row in rows))
    assert kg_edit("edit", "own.jsonl", *method, *model, "--out", "out").code == 0
    assert kg_edit("patch", "add", "ledger", "out").code == 0
    checked = kg_edit("patch", "check", "ledger", *model)
    assert checked.code == 0 and "2 of 2 edits succeed" in checked.out
    assert kg_edit("patch", "remove", "ledger", "A", *model).code == 0
    (kept,) = Patch.load("ledger").edits
    assert (kept["edit"]["id"], kept["method"]) == ("B", "nudge")


def test_the_page_of_methods_has_the_editor(toys: Path) -> None:
    assert f"| `{TOY}` |" in methods_page()


@pytest.mark.parametrize("check", keep_first(CHECKS, keep=4))
def test_every_check_of_a_method_passes_for_the_editor(
    check: str, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    values = {**GIVEN, "name": TOY, "method": TOY, "tmp_path": tmp_path, "monkeypatch": monkeypatch}
    function = CHECKS[check]
    needed = inspect.signature(function).parameters
    function(**{parameter: values.get(parameter) or request.getfixturevalue(parameter) for parameter in needed})


@pytest.fixture
def capitals(toys: Path, tmp_path: Path) -> Path:
    file = tmp_path / "capitals.json"
    file.write_text(json.dumps(ROWS))
    return file


def test_the_data_set_is_read_recognised_and_its_faults_are_named(capitals: Path) -> None:
    dataset = find_dataset("capitals")
    records = dataset(capitals)
    assert [record.edits[0].text for record in records] == ["The capital of France is", "The capital of Italy is"]
    assert {probe.measures for record in records for probe in record.probes} == set(dataset.measures)
    assert guess_dataset(capitals) is dataset
    capitals.write_text(json.dumps({**ROWS[0], "capitol": "x"}))
    with pytest.raises(EditFileError, match="record 1, field capitol: unknown field, did you mean 'capital'"):
        dataset(capitals)


@pytest.mark.slow
def test_the_scorer_scores_its_records_edited_by_the_editor(capitals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = eval(f"{{{block('kg_edit/evaluation/metrics/probes.py')}}}", vars(probes))  # noqa: S307 - our own text
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


def test_the_sampling_policy_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, Any] = dict(vars(sampling))
    code = compile(block("wikidata_cache/subgraphs/sampling.py"), "sampling.py", "exec", dont_inherit=True)
    exec(code, space)  # noqa: S102 - our own text
    monkeypatch.setitem(sampling.ORDERS, "small-number", space["_make_rank_by_number"])  # type: ignore[arg-type,index]
    statements = [Statement("Q1", f"P{number}", f"Q{number + 1}") for number in (31, 7, 106, 19)]
    kept = sampling.sample(statements, 3, node="Q1", seed=0, policy="small-number", degrees={})  # type: ignore[arg-type]
    assert [statement.property for statement in kept] == ["P7", "P19", "P31"]


def test_every_file_that_the_page_names_exists() -> None:
    root = Path(__file__).resolve().parents[1]
    named = re.findall(r"`((?:kg_edit|wikidata_cache|tests|pipelines|studies|docs|bench)/[\w/]+(?:\.py|\.md|/))`", PAGE)
    assert named
    assert [name for name in named if not (root / name).exists()] == []
