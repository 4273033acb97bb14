"""A method's plan: which edits can be made, and what it costs to know it."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from kg_common import progress
from kg_edit.cli.method_plan import doing, plan_method
from kg_edit.covariance.corpora import open_corpus
from kg_edit.edits.edit import Edit
from kg_edit.errors import EditError


def edit(name: str) -> Edit:
    return Edit(id=name, subject="Rome", prompt="{} is in", target_new="Japan")


def until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not met() and time.monotonic() < end:
        time.sleep(0.01)


def text(name: str) -> Edit:
    return Edit(id=name, prompt="Where is Rome?", target_text="It is in Japan.")  # ROME takes no paragraph


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The corpora that are opened."""
    names: list[str] = []

    def counted(name: str, **options: Any) -> Any:
        names.append(name)
        return open_corpus(name, **options)

    monkeypatch.setattr("kg_edit.methods.value_method.open_corpus", counted)
    return names


def test_work_without_a_terminal_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As the loading of a large model, which says nothing itself."""
    caplog.set_level(logging.INFO)
    with doing("loading small"):
        pass
    assert not caplog.messages
    monkeypatch.setattr(progress, "_LINE_S", 0.01)
    with doing("loading large"):
        until(lambda: bool(caplog.messages))
    assert re.fullmatch("loading large: [0-9]+ s so far", caplog.messages[0])
    ended = len(caplog.messages)
    time.sleep(0.05)
    assert len(caplog.messages) <= ended + 1, "the thread ends with the work"


def test_corpus_is_opened_once_for_all_edits(opened: list[str]) -> None:
    edits = [edit(f"e{number}") for number in range(64)]
    assert plan_method("rome").select_usable(edits, keep_going=True) == tuple(edits)
    assert len(opened) == 1


def test_wrong_edits_are_found_by_halves(opened: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    edits = [text("wrong") if number == 40 else edit(f"e{number}") for number in range(64)]
    assert plan_method("rome").select_usable(edits, keep_going=True) == (*edits[:40], *edits[41:])
    assert capsys.readouterr().err.startswith("skipped: wrong: ")
    assert len(opened) < 10


def test_edits_that_are_all_wrong_are_an_error() -> None:
    with pytest.raises(EditError, match="such as the edit 'first'"):
        plan_method("rome").select_usable([text("first"), text("second")], keep_going=True)


@pytest.mark.parametrize(
    ("method", "in_bfloat16", "preset"),
    [("rome", True, "fast"), ("alphaedit", True, "fast"), ("rome", False, "default"), ("glame-plus", True, "default")],
)
def test_fast_is_taken_where_it_is_as_good(
    method: str, in_bfloat16: bool, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kg_edit.models.devices.computes_in_bfloat16", lambda: in_bfloat16)
    assert plan_method(method, preset=None).config.preset_name == preset
    assert plan_method(method).config.preset_name == "default"
