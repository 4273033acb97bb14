"""Which tasks the files and folders of `--general` name: files, groups with their members, faulty files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.errors import ConfigError
from kg_edit.evaluate.general_tasks import GeneralTasks, wanted_tasks
from tests.kg_edit.evaluate.test_general_tasks import cities, needs_lm_eval, own_data_cache, said

__all__ = ["own_data_cache"]


def folder(place: Path, **files: str) -> str:
    """A folder with these YAML files."""
    place.mkdir(exist_ok=True)
    for name, text in files.items():
        (place / f"{name}.yaml").write_text(text)
    return str(place)


@pytest.mark.parametrize(
    "group",
    [
        "group: both\ntask: [one, two]\n",
        "group: both\ntask:\n  - one\n  - task: two\n    num_fewshot: 1\n",
        "group: both\ntask:\n  - group: inner\n    task: [one]\n  - two\n",
    ],
    ids=["on one line", "with settings", "a group in a group"],
)
def test_the_members_of_a_group_are_not_named_again(group: str, tmp_path: Path) -> None:
    place = folder(tmp_path / "t", one="task: one\n", two="task: two\n", all=group, other="task: 'other'  # a note\n")
    assert wanted_tasks([place]).names == ["both", "other"]
    assert wanted_tasks([f"{place}/one.yaml", "hellaswag"]) == ([Path(place)], ["one", "hellaswag"], True)


def test_a_part_of_other_files_and_functions_are_read_as_text(tmp_path: Path) -> None:
    place = folder(tmp_path / "t", shared="test_split: test\n", one="task: one\ndoc_to_text: !function utils.text\n")
    assert wanted_tasks([place]).names == ["one"]


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    first, second = (folder(tmp_path / name, known="task: known\n") for name in ("a", "b"))
    with pytest.raises(ConfigError, match=r"a/known\.yaml and .*b/known\.yaml both have the task 'known'"):
        wanted_tasks([f"{first}/known.yaml", f"{second}/known.yaml"])
    assert wanted_tasks([first, f"{first}/known.yaml"]).names == ["known"], "one file, named twice"


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read the task .*bad\.yaml"):
        wanted_tasks([folder(tmp_path / "t", bad="task: [one\n")])


@needs_lm_eval
def test_a_folder_with_a_group_and_its_tasks_is_opened(tmp_path: Path) -> None:
    cities(tmp_path)
    (tmp_path / "group.yaml").write_text("group: places\ntask: [cities]\n")
    assert GeneralTasks.open([str(tmp_path)]).names == ("places",)
    assert list(GeneralTasks.open([str(tmp_path)]).sha256) == ["cities"]


@needs_lm_eval
def test_data_without_rows_are_suspected(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    file = said("lost", tmp_path / "none.jsonl", "{{a}}", " {{b}}", tmp_path)
    with pytest.raises(ConfigError, match="is a data file empty"):
        GeneralTasks.open([str(file)])
