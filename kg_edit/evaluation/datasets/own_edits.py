"""A user's own edits as a data set: the files that `kg-edit edit` reads, read in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kg_edit.edits.edit import Edit, LocalityPrompt
from kg_edit.edits.files import LabelSource, read_rows, unit_of
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, form_of
from kg_edit.edits.rows import to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.evaluation.datasets.building import build_record, make_probes
from kg_edit.evaluation.datasets.knowedit import CATEGORIES
from kg_edit.evaluation.datasets.reading import Dataset, FileContent, Problem, RawRecord, read_document
from kg_edit.languages import ENGLISH
from kg_edit.storage.packaged import HUB

OWN = "edits"
TEXTS = ("unstructured", "unstructured-paraphrase")


def record_of(edit: Edit) -> BenchmarkRecord:
    """Return the record of an edit, with probes for what can be scored without the old object.

    These are the new target after the prompt and after each paraphrase, and the locality prompts. One without an answer
    is in a group of its own, and so are neighborhood prompts if the old object, which is their answer, is missing.
    The texts generated after the prompts of an unstructured edit are compared with its paragraph.
    """
    target = ((edit.target_new,),)
    probes = list(make_probes("efficacy", edit.text, target, form="sentence"))
    for prompt in edit.paraphrases:
        probes += make_probes("paraphrase", prompt, target, form="sentence")
    if edit.target_text:
        probes += make_probes(TEXTS[0], edit.text, target, form="sentence")
        for prompt in edit.paraphrases:
            probes += make_probes(TEXTS[1], prompt, target, form="sentence")
    probes += [_make_locality_probe(locality) for locality in edit.locality]
    if not edit.target_true:
        probes += [_make_locality_probe(LocalityPrompt(prompt=prompt)) for prompt in edit.neighborhood]
    return build_record(edit.id, [edit], probes, form=OWN)


def _make_locality_probe(locality: LocalityPrompt) -> Probe:
    """Return the probe of a prompt whose answer must not change; it may have an answer, and a category."""
    if locality.category:
        form = form_of(locality.prompt)
    else:
        form = "sentence"
    if not locality.names:
        return Probe(measures="locality-text", queries=(Query(prompt=locality.prompt, form=form),))
    group = "locality"
    if locality.category:
        group = f"locality.{locality.category}"
    query = Query(prompt=locality.prompt, answers=(locality.names,), form=form)
    return Probe(measures=group, queries=(query,))


def parse(row: RawRecord, name: str, *, templates: RelationTemplates) -> BenchmarkRecord:
    """Parse an edit or a triplet as a record.

    Args:
        row: the fields.
        name: the id of an edit without one.
        templates: for rows without a prompt.
    """
    return record_of(to_edit(row, row_id=name, labels={}, templates=templates))


@dataclass(frozen=True, kw_only=True)
class OwnEdits(Dataset):
    """The data set of own edits, in JSON lines, JSON, CSV or TSV.

    Attributes:
        language: that of rows without the field ``language``.
    """

    language: str = ENGLISH

    def read(
        self,
        path: str | Path,
        *,
        limit: int | None = None,
        labels: LabelSource | None = None,
        reader: Callable[..., object] = read_document,
    ) -> FileContent:
        """Read a file as `kg-edit edit` does; rows of a hub's data set are parsed one by one."""
        path = Path(path)
        if str(path).startswith(HUB):
            return super().read(path, limit=limit, reader=reader)
        file = read_rows(path, labels=labels, allow_conflicts=True, limit=limit, language=self.language)
        unit = unit_of(path)
        problems = []
        for problem in file.problems:
            ordinal = problem.ordinal
            problems.append(Problem(path, ordinal, f"row-{ordinal}", problem.fault, f"{unit} {problem.number}"))
        return FileContent(tuple(map(record_of, file.edits)), tuple(problems))


OWN_EDITS = OwnEdits(
    name=OWN,
    about="your own edits, as `kg-edit edit` takes them: JSON lines, JSON, CSV or TSV",
    measures=("efficacy", "paraphrase", *TEXTS, "locality", "locality-text", *CATEGORIES),  # or others that a row names
    parser=lambda: partial(parse, templates=RelationTemplates.load()),
    edits_have=("target_true", "paraphrases", "neighborhood", "questions"),
    precedence=-1,  # a benchmark's rows may look like edits
)
