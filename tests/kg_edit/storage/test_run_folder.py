"""Whose an output folder is."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from kg_common.json_text import digest
from kg_edit.errors import AnotherRunError, OutputError
from kg_edit.storage.atomic import write_text
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_differences import describe_difference
from kg_edit.storage.run_folder import check_folder, claim, read_settings, replace_run

SETTINGS = {"job": "edit", "config": {"steps": 3, "sizes": (1, 2)}, "model": {"name": "m", "fingerprint": "f"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a run and a result of it."""
    claim(tmp_path / "out", SETTINGS)
    (tmp_path / "out" / "patch.safetensors").write_text("an hour's work")
    return tmp_path / "out"


def test_claim_resumes_the_same_settings(run: Path) -> None:
    claim(run, SETTINGS)
    assert read_settings(run) == {**SETTINGS, "config": {"steps": 3, "sizes": [1, 2]}}


def test_claim_compares_models_by_fingerprint(run: Path) -> None:
    claim(run, {**SETTINGS, "model": {"name": "./m", "fingerprint": "f"}})


def test_claim_replaces_a_run_without_results(run: Path) -> None:
    (run / "patch.safetensors").rename(run / "environments.jsonl")  # of a process that ended before its first result
    claim(run, {"job": "other"})
    assert read_settings(run) == {"job": "other"} and [file.name for file in run.iterdir()] == ["run.json"]


def test_claim_ignores_hidden_files(tmp_path: Path) -> None:
    (tmp_path / ".run.json-x1").write_text("{")
    claim(tmp_path, SETTINGS)


def test_check_folder_writes_nothing(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, None),
        ({"a": {"b": 1}, "c": 2}, {"a": {}}, "a.b: 1 in the first, none in the second"),
        ({"probes": ["negation"]}, {}, 'probes: ["negation"] in the first, none in the second'),
        ({"ids": [9] * 99}, {"ids": []}, "ids: 99 entries in the first, [] in the second"),
        ({"a": "x" * 99}, {"a": "y"}, f'a: "{"x" * 56}... in the first, "y" in the second'),
        ({"model": {"name": "m", "fingerprint": "f"}}, {"model": {"name": "n", "fingerprint": "f"}}, None),
        (
            {"model": {"name": "m", "fingerprint": "f"}},
            {"model": {"name": "m", "fingerprint": "g"}},
            "model: other content in the second",
        ),
        ({"tokenizer_sha256": "f"}, {"tokenizer_sha256": None}, "tokenizer: none in the second"),
        ({"sha256": "f"}, {"sha256": "g"}, "content: other content in the second"),
        ({"preset": "default"}, {}, None),  # the settings decide, not the name of the preset
        (
            {"config": {"steps": 1}, "method": "rome"},
            {"config": {"steps": 2}, "method": "memit"},
            'method: "rome" in the first, "memit" in the second',  # from which the other settings follow
        ),
    ],
)
def test_difference_names_the_first_field_that_decides(there: dict, here: dict, words: str | None) -> None:
    assert describe_difference(there, here) == words


def test_digest_ignores_the_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "replaced"])
def test_folder_lock_refuses_a_deleted_folder(run: Path, again: bool) -> None:
    with pytest.raises(OutputError, match=r"was deleted or replaced during the run.*start again"), folder_lock(run):
        shutil.rmtree(run)
        if again:
            write_text(run / "patch.safetensors", "written into a new folder")


def test_folder_lock_allows_writing_and_raises_the_error_inside(run: Path) -> None:
    with folder_lock(run):
        write_text(run / "patch.safetensors", "new")
    assert (run / "patch.safetensors").read_text() == "new"
    with pytest.raises(KeyError), folder_lock(run):
        shutil.rmtree(run)
        raise KeyError


def test_another_run_is_replaced_and_the_same_one_resumed(run: Path) -> None:
    def work(steps: int, *, overwrite: bool) -> None:
        replace_run(
            run, lambda: claim(run, {**SETTINGS, "config": {"steps": steps, "sizes": (1, 2)}}), overwrite=overwrite
        )

    work(3, overwrite=True)
    assert (run / "patch.safetensors").is_file()
    with pytest.raises(AnotherRunError) as caught:
        work(4, overwrite=False)
    assert str(caught.value).endswith("); --overwrite replaces it, or give another --out")
    work(4, overwrite=True)
    assert [file.name for file in run.parent.iterdir()] == ["out"]
    assert read_settings(run)["config"]["steps"] == 4 and not (run / "patch.safetensors").exists()


def test_run_behind_a_link_is_replaced_where_it_is(run: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(run)
    replace_run(link, lambda: claim(link, {**SETTINGS, "config": {"steps": 4, "sizes": (1, 2)}}), overwrite=True)
    assert link.is_symlink() and read_settings(run)["config"]["steps"] == 4


def test_sweep_is_replaced_with_the_runs_of_its_cells(tmp_path: Path) -> None:
    def sweep(model: str, *, overwrite: bool) -> None:
        replace_run(out, lambda: claim(out, {"job": "sweep", "model": model}), overwrite=overwrite)

    out = tmp_path / "sweep"
    sweep("a", overwrite=False)
    claim(out / "layer=1", SETTINGS)
    write_text(out / "table.md", "|")
    write_text(out / "layer=1" / "records.jsonl", "{}")
    with folder_lock(out / "layer=1"), pytest.raises(OutputError, match="another process works on"):
        sweep("b", overwrite=True)
    write_text(out / "layer=1" / "thesis.tex", "mine")
    with pytest.raises(OutputError, match="also has files of yours"):
        sweep("b", overwrite=True)
    (out / "layer=1" / "thesis.tex").unlink()
    sweep("b", overwrite=True)
    assert read_settings(out)["model"] == "b" and not (out / "layer=1").exists()


@pytest.mark.parametrize("whose", ["a file of the user", "a repository of the user", "a process", "no run"])
def test_folder_that_is_not_a_run_alone_is_never_deleted(whose: str, run: Path) -> None:
    if whose == "a file of the user":
        (run / "thesis.tex").write_text("mine")
    if whose == "a repository of the user":
        (run / ".git").mkdir()
    if whose == "no run":
        (run / "run.json").write_text("[]")
    before = sorted(run.iterdir())
    message = {
        "a file of the user": "also has files of yours",
        "a repository of the user": "also has files of yours",
        "a process": "another process",
        "no run": "has no run",
    }

    def other() -> None:
        raise AnotherRunError("another run", "delete it")

    with folder_lock(run) if whose == "a process" else nullcontext(), pytest.raises(OutputError, match=message[whose]):
        replace_run(run, other, overwrite=True)
    assert sorted(file for file in run.iterdir() if file.name != ".lock") == before
