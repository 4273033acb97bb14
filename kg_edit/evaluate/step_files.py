"""The files with the patches of a sequence's steps, from which a run that was stopped goes on.

A dense change, as of fine-tuning, takes as much for one step as for all steps. When the files take several times as
much as the sum of their patches, a file with the sum takes their place.
"""

from __future__ import annotations

from pathlib import Path

from kg_edit.evaluate.records import RunFolder
from kg_edit.patches.base import Patch

_FEW = 256 * 2**20  # bytes; so many are left as they are
_TIMES = 3  # files that take so many times as much as their sum are replaced; 2 would write a sum at each step


class StepFiles:
    """The files of the steps of sequence ``number`` in a run's folder."""

    def __init__(self, folder: RunFolder, number: int) -> None:
        self.folder, self.number = folder, number
        found = folder.path.glob(f"patches/{number:05d}-*.safetensors")
        self._sizes = {file: file.stat().st_size for file in sorted(found)}

    def summed(self, known: int) -> tuple[int, Patch | None]:
        """The sum in the files, and of how many steps it is; (0, None) if there is none.

        A sum of more than the ``known`` first steps is removed: results of its steps were deleted, and can only be
        found again step by step.
        """
        sums = {int(file.stem.rpartition("-")[2]): file for file in self._sizes if self._is_sum(file)}
        for steps in [steps for steps in sums if steps > known]:
            self._remove(sums.pop(steps))
        newest = max(sums, default=0)
        return newest, Patch.load(sums[newest]) if newest else None

    def load(self, step: int) -> Patch | None:
        """The patch of a step; None if there is no file of it."""
        file = self.folder.step(self.number, step)
        return Patch.load(file) if file in self._sizes else None

    def save(self, step: int, patch: Patch) -> None:
        """Write the patch of a step.

        Raises:
            OutputError: the file can't be written.
        """
        self._write(self.folder.step(self.number, step), patch)

    def sum_up(self, steps: int, total: Patch) -> None:
        """Replace the files of the first ``steps`` steps by ``total``, their sum, if that takes a third or less.

        Call it when all that is to be known of these steps is written.

        Raises:
            OutputError: the file can't be written; the files of the steps are then kept.
        """
        if sum(self._sizes.values()) < max(_FEW, _TIMES * total.nbytes):
            return
        earlier = list(self._sizes)
        self._write(self.folder.sum_of(self.number, steps), total)
        for file in earlier:
            self._remove(file)

    def _is_sum(self, file: Path) -> bool:
        return file.stem.startswith(f"{self.number:05d}-sum-")

    def _remove(self, file: Path) -> None:
        file.unlink()
        del self._sizes[file]

    def _write(self, file: Path, patch: Patch) -> None:
        patch.save(file)
        self._sizes[file] = file.stat().st_size
