"""`corpus.py` writes the packaged text in pieces, and a killed run writes the same text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.pipelines.scripts import module


@pytest.mark.slow
def test_pieces_are_those_of_one_run(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = module("corpus")
    monkeypatch.setattr(script, "PIECES", 2)
    monkeypatch.setattr(script, "LENGTH", 12)
    whole, parts = (tmp_path / name / "corpus.jsonl.gz" for name in ("whole", "parts"))
    for file in (whole, parts):
        file.parent.mkdir()
    script.main(["--model", str(tiny_folder), "--out", str(whole)])
    script.main(["--model", str(tiny_folder), "--out", str(parts), "--pieces", "1"])
    assert not parts.exists()
    script.main(["--model", str(tiny_folder), "--out", str(parts)])
    assert whole.read_bytes() == parts.read_bytes()
    texts = [json.loads(line) for line in gzip.decompress(whole.read_bytes()).decode().strip().split("\n")]
    assert len(texts) == 2 * script.ROWS and texts[: script.ROWS] != texts[script.ROWS :]
    assert texts[0].startswith(script.STARTS[0]) and texts[2].startswith(script.STARTS[1])
