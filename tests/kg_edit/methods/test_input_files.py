"""A file that a setting names counts by what is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.covariance.store import CovarianceConfig
from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError
from kg_edit.methods.memit.method import MemitConfig
from kg_edit.reports.edit_run import run_edits
from kg_edit.storage.setting_fields import input_files
from kg_edit.zoo.in_context.popularity import PopularityConfig, PopularityRetrieval
from kg_edit.zoo.mend.method import MendConfig
from tests.kg_edit.tiny import tiny


def test_files_folders_and_nested_settings(tmp_path: Path) -> None:
    text, folder = tmp_path / "corpus.txt", tmp_path / "editor"
    text.write_text("one", encoding="utf-8")
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "network").write_text("n", encoding="utf-8")
    memit = MemitConfig(covariance=CovarianceConfig(corpus=str(text)))
    mend = MendConfig(network=str(folder))
    first, second = input_files(memit), input_files(mend)
    assert [*first, *second] == ["covariance.corpus", "network"]
    text.write_text("two", encoding="utf-8")
    (folder / "inner" / "network").rename(folder / "network")
    assert input_files(memit) != first and input_files(mend) != second


def test_what_is_no_file_here_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()  # the word of another setting
    assert input_files(MemitConfig()) == {} and input_files(MendConfig()) == {}


def test_a_run_does_not_go_on_with_another_file(tmp_path: Path) -> None:
    file, model = tmp_path / "popularity.json", tiny("llama")
    edit = Edit(id="1", subject="France", prompt="In {}, the capital is", target_new="Rome")

    def run(popularity: float) -> None:
        file.write_text(json.dumps({"France": popularity}), encoding="utf-8")
        method = PopularityRetrieval(model, PopularityConfig(popularity=str(file)))
        run_edits(method, model, [edit], tmp_path / "out", progress=False)

    run(5.0)
    run(5.0)
    with pytest.raises(OutputError, match=r"popularity.*now"):
        run(5000.0)
