"""The table of benchmarks by name; each is read from its published file. A third party adds one by an entry point.

An entry point of the group ``kg_edit.datasets`` has the data set's name, and its value is a `Dataset`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from kg_edit.datasets import (
    counterfact,
    entity_inferences,
    knowedit,
    mquake,
    own_edits,
    popqa,
    ripple_edits,
    ripples,
    wikibio,
    zsre,
)
from kg_edit.datasets.reading import Dataset, FileContent, Problem
from kg_edit.datasets.record import BenchmarkRecord, Probe, Query, as_record
from kg_edit.errors import ConfigError, EditFileError, unknown_name

__all__ = [
    "DATASETS",
    "BenchmarkRecord",
    "Dataset",
    "FileContent",
    "Probe",
    "Problem",
    "Query",
    "as_record",
    "find_dataset",
    "guess_dataset",
    "known_datasets",
    "readable_records",
]

log = logging.getLogger(__name__)
ENTRY_POINTS = "kg_edit.datasets"
_GUESS_ROWS = 20

_ACCURACY = ("efficacy", "paraphrase", "locality")
_PORTABILITY = tuple(
    f"portability.{name}"
    for name in ("Reasoning", "Subject_Aliasing", "Logical_Generalization", "Inverse_Relation", "Subject_Replace")
)
_RIVAL = ("target_true", "paraphrases")
_MENG = (*_RIVAL, "neighborhood")
_ALL = (
    Dataset(
        name="counterfact",
        about="CounterFact (Meng et al. 2022), also in EasyEdit's flat form",
        measures=("generation", "locality"),
        parser=counterfact.parser,
        edits_have=_MENG,
    ),
    Dataset(
        name="counterfact-plus",
        about="CounterFact with a portability question a record (Yao et al. 2023)",
        measures=("generation",),
        parser=counterfact.plus_parser,
        edits_have=(*_MENG, "questions"),
        precedence=1,  # CounterFact can read each of its records too
    ),
    Dataset(
        name="mquake",
        about="MQuAKE (Zhong et al. 2023): CF, CF-3k, CF-3k-v2, T, hard; MQuAKE-Remastered",
        measures=("multihop", "edit", "hops"),
        parser=lambda: mquake.parse,
        edits_have=("target_true",),
    ),
    Dataset(
        name="zsre",
        about="zsRE, edited towards answers[0] as ROME and MEMIT do; EasyEdit's form names its target itself",
        measures=(*_ACCURACY, *_PORTABILITY[3:]),
        parser=lambda: zsre.parse,
        edits_have=(*_RIVAL, "questions"),
    ),
    Dataset(
        name="zsre-alt",
        about="zsRE, edited towards alt as EasyEdit does",
        measures=(*_ACCURACY, *_PORTABILITY[3:]),
        parser=lambda: zsre.parse_alt,
        edits_have=(*_RIVAL, "questions"),
    ),
    Dataset(
        name="ripple-edits",
        about="RippleEdits (Cohen et al. 2024): popular, random, recent",
        measures=("efficacy", *(f"ripple.{code}" for code in ripple_edits.CRITERIA.values())),
        parser=ripple_edits.parser,
        edits_have=("target_true",),
    ),
    Dataset(
        name="ripples",
        about="what follows from an edit, made for one model by `kg-edit data ripples`",
        measures=ripples.GROUPS,
        parser=lambda: ripples.parse,
        edits_have=_MENG,
        rows=ripples.rows,
    ),
    Dataset(
        name="knowedit",
        about="KnowEdit (Zhang et al. 2024): wiki_recent, wiki_counterfact, ZsRE, WikiBio, ConvSent, Sanitation",
        measures=(
            *_ACCURACY,
            *_PORTABILITY[:3],
            "locality.Relation_Specificity",
            "locality.Forgetfulness",
            "sentiment",
        ),
        parser=lambda: knowedit.parse,
        edits_have=_RIVAL,
        rows=knowedit.rows,
    ),
    Dataset(
        name="wikibio",
        about="WikiBio hallucinations (Manakul et al. 2023): GPT-3's sentences, edited to the true ones as in GRACE",
        measures=(wikibio.HALLUCINATION, wikibio.ACCURATE),
        parser=lambda: wikibio.parse,
        edits_have=("target_true",),
        rows=wikibio.rows,
    ),
    Dataset(
        name="popqa",
        about="PopQA (Mallen et al. 2023): its own answers are taught",
        measures=("recall",),
        parser=lambda: popqa.parse,
        rows=popqa.rows,
    ),
    Dataset(
        name="entity-inferences",
        about="Entity Inferences and ECBD (Onoe et al. 2022, 2023): a definition is taught",
        measures=("inference", "span", "specificity"),
        parser=lambda: entity_inferences.parse,
    ),
    Dataset(
        name="edits",
        about="your own edits, as `kg-edit edit` takes them, in JSON or JSON lines",
        measures=(),
        parser=own_edits.parser,
        edits_have=(*_MENG, "questions"),
        precedence=-1,  # a benchmark's rows may look like edits
    ),
)
DATASETS: Mapping[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def known_datasets() -> Mapping[str, Dataset]:
    """Return the table and the data sets that plug-ins add.

    Raises:
        ConfigError: a plug-in's value is no `Dataset` of the entry point's name, or its name is taken.
    """
    known = dict(DATASETS)
    for entry in entry_points(group=ENTRY_POINTS):
        found = entry.load()
        if entry.name in known or not isinstance(found, Dataset) or found.name != entry.name:
            raise ConfigError(
                f"entry point {entry.value!r} of group {ENTRY_POINTS}: expected a Dataset named {entry.name!r}, a name "
                f"that is not taken; found {found!r:.80}; uninstall or correct that plug-in"
            )
        known[entry.name] = found
    return known


def find_dataset(name: str) -> Dataset:
    """Return the benchmark with this name, from the table or a plug-in.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest name.
        ConfigError: a plug-in's value is no `Dataset`.
    """
    known = known_datasets()
    if name not in known:
        raise unknown_name("dataset", name, known)
    return known[name]


def readable_records(path: str | Path) -> tuple[BenchmarkRecord, ...]:
    """Return all records of a file of any benchmark; rows that can't be read are left out, with a warning.

    Raises:
        EditFileError: the file can't be read, or its records belong to no known benchmark.
    """
    found = guess_dataset(Path(path)).read(Path(path))
    if found.problems:
        log.warning("left out, as it can't be read: %s%s", found.problems[0], _more(len(found.problems) - 1))
    return found.records


def _more(rows: int) -> str:
    return f" ({rows} more such rows)" if rows else ""


def guess_dataset(path: Path) -> Dataset:
    """Return the benchmark that can read the most of a file's first rows; on a tie, the one of higher precedence.

    Raises:
        EditFileError: the file can't be read, or no row can be read as a record of any benchmark.
    """
    known = known_datasets()
    found = {name: len(dataset.read(path, limit=_GUESS_ROWS).records) for name, dataset in known.items()}
    best = max(found, key=lambda name: (found[name], known[name].precedence))
    if not found[best]:
        raise EditFileError(f"{path}: can't tell which benchmark its records belong to; give --dataset NAME")
    return known[best]
