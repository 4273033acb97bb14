"""Scores of the unedited model, taken from another run, so that methods can be compared at half the price."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kg_edit.errors import OutputError
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.records import RunFolder, RunRecord, Section
from kg_edit.evaluate.settings import UNEDITED
from kg_edit.run_folder import Settings, difference, digest, read_settings


class Baseline:
    """Unedited sections by record. A record counts as the same if its edit and its choices are."""

    def __init__(self, records: Mapping[str, RunRecord] | None = None) -> None:
        self._records = dict(records or {})

    @classmethod
    def read(cls, folder: Path, settings: Settings) -> Baseline:
        """The records of the run in ``folder``, which need not be finished.

        Raises:
            OutputError: it holds no run, or one with another model or other metrics than ``settings``.
        """
        there, here = ({name: run.get(name) for name in UNEDITED} for run in (read_settings(folder), settings))
        found = difference(there, here)
        if found:
            raise OutputError(f"{folder} can't be the baseline ({found}); give another one, or none")
        return cls({record.id: record for record in RunFolder(folder).read()})

    def sections(self, case: Case) -> dict[str, Section]:
        """What is known about ``case``: its base section and perhaps its ceilings; nothing if it was not scored."""
        record = self._records.get(case.edit.id)
        if not record or (record.edit_sha256, record.choices) != (edit_digest(case), case.choices):
            return {}
        return {name: section for name, section in record.sections.items() if name != "edited"}


def edit_digest(case: Case) -> str:
    """The SHA-256 of the case's edit."""
    return digest(case.edit.model_dump(mode="json"))
