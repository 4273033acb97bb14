"""Write the folder for ``lm_eval --include_path``: a YAML file for each task, and the module that all of them import.

A task's file holds `TaskSettings`: the benchmark and its file. The records are read when the harness runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from kg_edit.edits.edit import Name, Record, checked
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import ConfigError, EditError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.ripples import part_of
from kg_edit.storage.atomic import write_text

SETTINGS = "kg_edit"  # the key in a task's metadata
_MODULE = "kg_edit_task"
_IMPORT = '''"""What the tasks of this folder are; written by `kg-edit data tasks`."""

from kg_edit.evaluation.lm_eval_task import BenchmarkTask

__all__ = ["BenchmarkTask"]
'''


class TaskSettings(Record):
    """The records of a benchmark as a task: the options ``--dataset``, ``--data`` and so on of `kg-edit evaluate`."""

    dataset: Name = Field(description="name of the benchmark")
    data: Name = Field(description="its file, the name of a packaged file, or hf:NAME")
    split: str | None = Field(None, description="one split of the data set")
    keep_going: bool = Field(False, description="leave out rows that can't be read")

    @property
    def name(self) -> str:
        """The task's default name: kg_edit_counterfact_plus, kg_edit_ripples_test."""
        parts = ("kg_edit", self.dataset, self.split or "")
        return "_".join(filter(None, parts)).replace("-", "_")

    @classmethod
    def of_task(cls, task: Mapping[str, Any]) -> Self:
        """Return the settings in a task's file, whose content is ``task``.

        Raises:
            ConfigError: the file was changed, and lacks them or has a wrong one.
        """
        file, metadata = f"{task.get('task')}.yaml", task.get("metadata")
        fields = metadata.get(SETTINGS) if isinstance(metadata, Mapping) else None
        way = "write the file again with `kg-edit data tasks`"
        if not isinstance(fields, Mapping):
            raise ConfigError(f"{file}: expected the fields dataset and data in metadata, {SETTINGS}; {way}")
        try:
            return checked(cls, fields)
        except EditError as error:
            raise ConfigError(f"{file}: metadata, {SETTINGS}: {error}; {way}") from error

    def records(self) -> tuple[BenchmarkRecord, ...]:
        """Read the records now.

        Raises:
            UnknownNameError: there is no such benchmark.
            EditFileError: the file can't be read; or a row can't be read, and ``keep_going`` is false.
            ConfigError: no record is in the split, or the metrics depend on the unedited model (RippleEdits).
        """
        dataset, path = find_dataset(self.dataset), Path(self.data)
        records = dataset.read(path).records if self.keep_going else dataset(path)
        if any(probe.conditions for record in records for probe in record.probes):
            raise ConfigError(
                f"{self.dataset}: its tests have conditions that the unedited model must fulfil, and the harness only "
                "has the edited model; score it with `kg-edit evaluate`"
            )
        return part_of(records, self.split)


def write_task(folder: Path, settings: TaskSettings, *, name: str | None = None) -> Path:
    """Write a task's file, ``folder``/NAME.yaml, and the module that it imports; an existing file is replaced.

    Raises:
        ConfigError: the name can't be a task's name.
        OutputError: a file can't be written.
    """
    task = name or settings.name
    if not task.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f"{task!r} can't be a task's name; give letters, digits, '-' and '_'")
    fields = settings.model_dump(mode="json", exclude_defaults=True)
    lines = [f"task: {task}", f"class: !function {_MODULE}.BenchmarkTask", "metadata:", f"  {SETTINGS}:"]
    lines += [f"    {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    write_text(folder / f"{_MODULE}.py", _IMPORT)
    return write_text(folder / f"{task}.yaml", "\n".join([*lines, ""]))
