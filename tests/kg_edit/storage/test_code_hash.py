"""The hash of the code: of names and contents, and of the packages as they are."""

from __future__ import annotations

from pathlib import Path

from kg_edit.version import code_sha256, folder_sha256


def test_hash_changes_with_names_and_contents(tmp_path: Path) -> None:
    file = tmp_path / "inner" / "a.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    first = folder_sha256(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert folder_sha256(tmp_path) == first
    file.write_text("x = 2\n")
    changed = folder_sha256(tmp_path)
    file.rename(file.with_name("b.py"))
    assert len({first, changed, folder_sha256(tmp_path)}) == 3


def test_code_has_a_hash() -> None:
    assert len(code_sha256()) == 64
