"""Find a benchmark by its name, or by what a file looks like; each is read from its published file.

The benchmarks are entries of the registry (`kg_edit.evaluation.entries`), as those of other packages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from kg_common.rows import SUFFIXES
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import EditFile, LabelSource
from kg_edit.edits.inputs import Edits, Row, as_edits
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, as_record
from kg_edit.errors import ConfigError, EditError, EditFileError, Fault, first_faults, unknown_name
from kg_edit.evaluation.datasets.own_edits import OWN, OwnEdits, record_of
from kg_edit.evaluation.datasets.reading import Dataset, FileContent, Problem, read_document
from kg_edit.languages import ENGLISH
from kg_edit.registry import dataset_entries, load

__all__ = [
    "BenchmarkRecord",
    "Dataset",
    "FileContent",
    "Probe",
    "Problem",
    "Query",
    "as_record",
    "as_records",
    "find_dataset",
    "guess_dataset",
    "known_datasets",
    "read_dataset",
    "readable_records",
]

log = logging.getLogger(__name__)
_GUESS_ROWS = 20


def known_datasets() -> dict[str, Dataset]:
    """Return all data sets by name, those of plug-ins included.

    Raises:
        ConfigError: a plug-in's target can't be imported, or is no `Dataset` of its entry's name.
    """
    datasets = dict[str, Dataset]()
    for name, entry in dataset_entries().items():
        dataset = load(entry.target)
        if not isinstance(dataset, Dataset) or dataset.name != name:
            raise ConfigError(f"{entry.target}: expected a Dataset named {name!r}, found {dataset!r:.80}")
        datasets[name] = dataset
    return datasets


def find_dataset(name: str) -> Dataset:
    """Return the benchmark with this name, from the table or a plug-in.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest name.
        ConfigError: a plug-in's value is no `Dataset`.
    """
    datasets = known_datasets()
    if name not in datasets:
        raise unknown_name("dataset", name, datasets)
    return datasets[name]


def readable_records(path: str | Path) -> tuple[BenchmarkRecord, ...]:
    """Return all records of a file of any benchmark; rows that can't be read are left out, with a warning.

    Raises:
        EditFileError: the file can't be read, or its records belong to no known benchmark.
    """
    content = guess_dataset(path).read(path)
    if content.problems:
        others = len({problem.row for problem in content.problems}) - 1
        more = f" (and {others} more)" if others else ""
        log.warning("left out, as it can't be read: %s%s", content.problems[0], more)
    return content.records


Records: TypeAlias = "Edits | BenchmarkRecord | Iterable[Edit | BenchmarkRecord | Row]"
"""Records of a benchmark, or edits in any form that `as_edits` takes."""


def as_records(records: Records) -> tuple[BenchmarkRecord, ...]:
    """Return the records that a caller gives; an edit becomes one as in a file of own edits, and a file is read.

    Raises:
        EditError: a row has a wrong field, there is no record, or something else is given.
        EditFileError: the file can't be read.
    """
    if isinstance(records, str | Path):
        return guess_dataset(records)(records)
    if isinstance(records, BenchmarkRecord):
        return (records,)
    if isinstance(records, Edit | EditFile | Mapping) or not isinstance(records, Iterable):
        return tuple(map(record_of, as_edits(records)))
    converted = list[Any](records)
    if not converted:
        raise EditError([Fault("", "found no records; expected records, edits, or the path of a file of them")])
    # Edits and rows are read all at once, so that a fault names the number of its row.
    places = [place for place, record in enumerate(converted) if not isinstance(record, BenchmarkRecord)]
    if places:
        edits = as_edits([converted[place] for place in places])
        for place, edit in zip(places, edits, strict=True):
            converted[place] = record_of(edit)
    return tuple(converted)


def read_dataset(
    name: str,
    path: str | Path,
    *,
    labels: LabelSource | None = None,
    keep_going: bool = False,
    used: slice = slice(None),
    way: str = "--dataset {}",
    hint: str = "",
    language: str = ENGLISH,
) -> FileContent:
    """Read a file as a benchmark that the user names.

    Args:
        name: the benchmark.
        path: the file, a packaged benchmark's name, or ``hf:NAME``.
        labels: the source of the labels of ids in own edits.
        keep_going: report rows with faults instead of failing.
        used: the rows that are used; faults of others are only reported.
        way: as for `faulty_file`.
        hint: how to go on without the rows with faults, for the message.
        language: that of own edits that name none.

    Raises:
        UnknownNameError: there is no such benchmark.
        ConfigError: a language is given, and the benchmark has its own.
        EditFileError: the file can't be read, or a row that is used has faults; if none of its first rows is a record
            of this benchmark, the message begins with the one that they look like.
    """
    dataset = find_dataset(name)
    if language != ENGLISH:
        if not isinstance(dataset, OwnEdits):
            raise ConfigError(
                f"--language is for own edits (--dataset edits), and {name} has its language; leave it out"
            )
        dataset = replace(dataset, language=language)
    content = dataset.read(path, labels=labels)
    problems = []  # those of rows that are used
    for problem in content.problems:
        is_before_end = used.stop is None or problem.row <= used.stop
        if problem.row > (used.start or 0) and is_before_end:
            problems.append(problem)
    can_go_on = keep_going and content.records
    if problems and not can_go_on:
        raise faulty_file(name, path, problems, way=way, hint=hint)
    if dataset.other:
        _warn_of_unasked(content.records, path, other=dataset.other)
    return content


def _warn_of_unasked(records: Sequence[BenchmarkRecord], path: str | Path, *, other: str) -> None:
    """Warn if the benchmark ``other``, which reads the same file with another target, asks more of its questions."""
    all_records = find_dataset(other).read(path).records
    count = sum(map(_asks_portability, records))
    full_count = sum(map(_asks_portability, all_records))
    if count < full_count:
        log.warning(
            "%s: portability and inverse questions of only %d of %d records are asked; the others are about the "
            "target of --dataset %s, which asks them",
            path,
            count,
            full_count,
            other,
        )


def faulty_file(
    name: str, path: str | Path, problems: Sequence[Problem], *, way: str = "--dataset {}", hint: str = ""
) -> EditFileError:
    """Return the error about a file's rows that can't be read, to be raised.

    Args:
        name: the benchmark.
        path: the file.
        problems: the faults.
        way: how to name another benchmark, if none of the first rows is a record of this one.
        hint: how to go on without the rows, if some of the first rows are.
    """
    faults = first_faults(problems, records=len({problem.row for problem in problems}))
    other = better_dataset(name, path)
    if other:
        return EditFileError(f"{path} looks like {other}: {way.format(other)}. Its faults as {name}:\n{faults}")
    counts, _ = _count_readable(path)
    if hint and _reads_some(name, counts):
        return EditFileError(f"{faults}\n{hint}")
    return EditFileError(faults)


def better_dataset(name: str, path: str | Path) -> str | None:
    """Return the benchmark that a file looks like, if the benchmark ``name`` reads none of its first rows."""
    counts, _ = _count_readable(path)
    if _reads_some(name, counts):
        return None
    return _best_reader(counts)


def _reads_some(name: str, counts: Mapping[str, int]) -> bool:
    """Return whether a benchmark can read some first rows of a file, as far as known: ``counts`` may lack plug-ins."""
    return counts.get(name, 1) > 0


def _asks_portability(record: BenchmarkRecord) -> bool:
    return bool(record.group("portability")) or any(edit.portability for edit in record.edits)


def guess_dataset(path: str | Path) -> Dataset:
    """Return the benchmark that can read the most of a file's first rows; on a tie, the one of higher precedence.

    Raises:
        EditFileError: the file can't be read, or no row can be read as a record of any benchmark.
    """
    counts, errors = _count_readable(path)
    best = _best_reader(counts)
    if best is None:
        # Lines that are not JSON stop every benchmark, but only make faulty rows of own edits.
        if errors and Path(path).suffix.lower() == ".jsonl":
            raise errors[0]
        raise EditFileError(
            f"{path}: can't recognise the benchmark of its records; give --dataset NAME (for your own edits: edits), "
            "which names their faults"
        )
    return known_datasets()[best]


def _count_readable(path: str | Path) -> tuple[dict[str, int], list[EditFileError]]:
    """Return how many first rows of a file each benchmark can read, and the errors of those that can't read it."""
    counts: dict[str, int] = {}
    errors: dict[str, EditFileError] = {}
    reader = cache(read_document)  # once for all benchmarks
    for name, dataset in known_datasets().items():
        try:
            counts[name] = len(dataset.read(path, limit=_GUESS_ROWS, reader=reader).records)
        except EditFileError as error:  # the file has not this data set's format: a table, or JSON lines in .json
            counts[name] = 0
            errors[name] = error
    if len(errors) < len(counts):
        return counts, list(errors.values())
    # A file of any benchmark has the suffix of own edits, whose error names no other benchmark.
    if Path(path).is_file() and Path(path).suffix.lower() in SUFFIXES:
        raise errors[OWN]
    raise next(iter(errors.values()))


def _best_reader(counts: Mapping[str, int]) -> str | None:
    """Return the benchmark that can read the most rows, on a tie the one of higher precedence; None if none can."""
    datasets = known_datasets()
    best = max(counts, key=lambda name: (counts[name], datasets[name].precedence))
    return best if counts[best] else None
