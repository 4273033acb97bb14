"""What is written has the mode that the umask leaves, also where a library made the file for its owner only."""

import os
from pathlib import Path

import pytest
import torch

from kg_edit.storage.atomic import let_others_read, write_safetensors


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o022, 0o002])
def test_modes_of_files_and_folders_respect_the_umask(tmp_path: Path, umask: int) -> None:
    (folder := tmp_path / "model").mkdir(mode=0o700)  # as `mkdtemp` makes it
    (folder / "shard").touch(mode=0o600)
    before = os.umask(umask)
    try:
        file = write_safetensors(folder / "a.safetensors", {"a": torch.ones(2)}, {})
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask
        let_others_read(folder)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"model": 0o777 & ~umask, "shard": 0o666 & ~umask, "a.safetensors": 0o666 & ~umask}
