"""A run that is compared with others: what must be the same in all, and which records they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kg_edit.errors import OutputError
from kg_edit.evaluate.finish import plan_of, sequences_of
from kg_edit.evaluate.missing import found_in, missing_phases
from kg_edit.evaluate.records import BASE, EDITED, RunFolder, RunRecord, joined
from kg_edit.storage.run_folder import Settings, difference, read_settings

# What has to be the same, and what to do where it is not.
_SAME = {
    "job": "compare runs of `kg-edit evaluate`",
    "schedule": "evaluate both under one schedule",
    "protocols": "evaluate both with one version of kg-edit",
    "question_form_sha256": "evaluate both with one version of kg-edit",
    "model": "evaluate both on one model, in one dtype",
    "tokenizer_sha256": "evaluate both with one tokenizer",
}
_SHARED = "--common compares the records that all have"

Scores = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run, its name in the comparison, its records by id, and which of them it has not scored yet."""

    folder: Path
    name: str
    settings: Settings
    records: Mapping[str, RunRecord]
    unfinished: frozenset[str]

    @classmethod
    def read(cls, folder: Path, name: str) -> ComparedRun:
        """The run in ``folder``.

        Raises:
            OutputError: there is none, or it can't be read.
        """
        settings, files = read_settings(folder), RunFolder(folder)
        if settings.get("job") != "evaluate":
            raise OutputError(f"{folder} holds no evaluation; {_SAME['job']}")
        plan, (done, _) = plan_of(settings), found_in(files)
        parts = sequences_of(settings).values()
        missing = frozenset(record for ids in parts for record, _ in missing_phases(plan, ids, done))
        records = {record.id: record for record in joined(files.entries())}
        return cls(folder=folder, name=name, settings=settings, records=records, unfinished=missing)

    def base(self, name: str) -> Scores:
        """A record's scores on the unedited model."""
        return self.records[name].scores.get(BASE, {})

    def edited(self, name: str) -> Scores:
        """A record's scores on the edited model."""
        return self.records[name].scores.get(EDITED, {})

    def ids(self) -> list[str]:
        """The records that are scored, in the data set's order."""
        return [name for name in self.settings["ids"] if name in self.records and name not in self.unfinished]


def check_comparable(runs: Sequence[ComparedRun], *, common: bool) -> None:
    """Refuse runs that differ in what has to be the same.

    Raises:
        OutputError: two of them do; says in what, and the way out.
    """
    first = runs[0]
    same = {**_SAME, **({} if common else {"data": f"evaluate both on one file; {_SHARED}"})}
    for run in runs:
        for field, way_out in same.items():
            there, here = (_comparable(one.settings.get(field), field) for one in (first, run))
            found = difference({field: there}, {field: here})
            if found:
                raise OutputError(f"{first.folder} and {run.folder} can't be compared ({found}); {way_out}")
        if run.unfinished and not common:
            raise OutputError(
                f"{run.folder} is not finished: {len(run.unfinished)} of {len(run.settings['ids'])} records are not "
                f"done, the first of them {min(run.unfinished)!r}; start it again, or {_SHARED}"
            )


def shared_records(runs: Sequence[ComparedRun], *, common: bool) -> tuple[list[str], tuple[str, ...]]:
    """The ids of the records to compare, in the first run's order, and what a reader should know of the runs.

    Raises:
        OutputError: the runs' records differ, and not only the ``common`` ones are asked for; or they share none.
    """
    first, *others = runs
    for run in others:
        lacking = [name for name in first.ids() if not _same_record(first, run, name)]
        more = [name for name in run.ids() if not _same_record(run, first, name)]
        if (lacking or more) and not common:
            example = (lacking or more)[0]
            raise OutputError(
                f"{first.folder} and {run.folder} have other records: {len(lacking)} of the first are not in the "
                f"second, {len(more)} of the second not in the first, such as {example!r}; evaluate both on the same "
                f"records, or {_SHARED}"
            )
    ids = [name for name in first.ids() if all(_same_record(first, run, name) for run in others)]
    if not ids:
        raise OutputError("the runs share no record, so there is nothing to compare; evaluate the same data set")
    return ids, _notes(runs, ids)


def _same_record(one: ComparedRun, other: ComparedRun, name: str) -> bool:
    return (
        name in other.records
        and name not in other.unfinished
        and one.records[name].sha256 == other.records[name].sha256
    )


def _comparable(value: object, field: str) -> object:
    """A setting's value without what is no difference: a model's path."""
    if field == "model" and isinstance(value, dict):
        return {name: part for name, part in value.items() if name != "name"}
    return value


def _notes(runs: Sequence[ComparedRun], ids: Sequence[str]) -> tuple[str, ...]:
    notes = [f"{run.name}: {run.settings['method']}, {failed} failed" for run in runs if (failed := _failed(run, ids))]
    sets = [len(run.ids()) for run in runs]
    if max(sets) > len(ids):
        notes.append(f"the {len(ids)} records that all have, of {', '.join(map(str, sets))}")
    versions = dict.fromkeys(str(run.settings.get("kg_edit")) for run in runs)
    if len(versions) > 1:
        notes.append(f"made with kg-edit {' and '.join(versions)}")
    if any(run.records[name].choices != runs[0].records[name].choices for run in runs for name in ids):
        notes.append("the runs drew other answers to choose from (--seed), which portability.choice depends on")
    return tuple(notes)


def _failed(run: ComparedRun, ids: Sequence[str]) -> int:
    return sum(run.records[name].error is not None for name in ids)
