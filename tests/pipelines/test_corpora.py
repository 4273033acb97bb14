"""`corpora.py` compares, on the same records, edits that were written with C from several texts."""

from __future__ import annotations

import pytest

from tests.pipelines.scripts import FOLDER, module


def test_numbers_are_means_and_paired_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
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
