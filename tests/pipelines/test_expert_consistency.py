"""`expert_consistency.py` prints a line for each setting of MEMoE."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pipelines.scripts import FOLDER, Script


def test_a_line_for_each_setting(
    script: Script, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    assert script("expert_consistency", "data.json", "--model", tiny_folder) == 0
    lines = [line for line in caplog.messages if "anchors:" in line]
    assert [line.split(" anchors")[0] for line in lines] == [
        f"{experts} experts, {kind}" for experts in (4, 8) for kind in ("with", "without")
    ]
    shares = [
        float(found) for line in lines for found in re.findall(r"(?:before|paraphrases|neighborhood) ([\d.]+)", line)
    ]
    assert len(shares) == 12 and all(0 <= share <= 1 for share in shares)
