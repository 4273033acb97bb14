"""The folder of a run: one JSON line for each phase of each record, appended as soon as it is known.

A run that was killed reads its lines and does the missing work. The same check is made before shards are merged. The
patches of a sequence's steps are files (`StepFiles`), from which a stopped run continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from kg_common.json_text import digest
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Probe, Query
from kg_edit.errors import OutputError
from kg_edit.evaluation.case import Case, is_asked_in_chat
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets.own_edits import OWN
from kg_edit.evaluation.general_tasks import DocumentScores
from kg_edit.evaluation.schedule import CurvePlan, Scoring
from kg_edit.evaluation.template_probes import with_probes
from kg_edit.models.first_token import readable_edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.walks import ShownWalk
from kg_edit.scoring.questions import Normalised, draw_choices
from kg_edit.storage.atomic import Line, append_lines, drop_cut_line, read_lines, replacing
from kg_edit.storage.frames import frame_of
from kg_edit.storage.run_differences import Settings
from kg_edit.storage.run_folder import read_settings

if TYPE_CHECKING:
    import pandas as pd

# phases of a record; in a sequence also after:K
BASE = "base"
EDIT = "edit"
EDITED = "edited"
Done = Mapping[tuple[str, str], str | None]  # (id, phase) -> error
Points = frozenset[tuple[int, int]]  # (sequence, edits) of general ability
_SMALL = 256 * 2**20  # bytes; files of fewer bytes in all are not replaced by their sum
_TIMES = 3  # files that take so many times as much as their sum are replaced; 2 would write a sum at each step


class Section(BaseModel):
    """A record's scores on one model, with the evidence for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, float | None]
    nll: dict[str, dict[str, float]]  # prompt -> candidate -> nats a token
    texts: dict[str, str]  # rewrite prompt, question or probe -> greedy continuation
    predicted: dict[str, dict[str, tuple[int, ...]]] = {}  # prompt -> candidate -> arg-max tokens at its positions
    samples: dict[str, str] = {}  # prompt -> itself and what was sampled after it
    next_tokens: dict[str, dict[int, float]] = {}  # prompt -> token -> log p, of the unedited model's likeliest tokens
    walks: dict[str, ShownWalk] = {}  # as `texts` -> the statements that graph-memory put before it


class Entry(BaseModel):
    """A line of ``records.jsonl``: one phase of one record.

    ``base`` has the unedited model's sections (base, and the ceilings) and the choices. ``edit`` has the cost of the
    edit, or its error. ``edited`` has the section of the model with all edits of the record's sequence, ``after:K``
    that with the first K edits. If the edited model could not be scored, such a phase has an ``error``, and shares
    that count as 0 (`kg_edit.evaluation.scorer.score_broken`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    phase: str = Field(pattern=r"^(base|edit|edited|after:[0-9]+)$")
    sha256: str  # of the record's JSON
    error: str | None = None
    seconds: float | None = None  # to compute the edit: the record's share of its batch
    memory: int | None = None  # largest memory while the batch was computed, in bytes
    batch: int | None = None  # number of records edited by one call, if memory forced smaller batches
    answer_seconds: tuple[float, float] | None = None  # of the unedited and of the edited model
    choices: tuple[tuple[str, ...], ...] = ()  # one tuple for each question, the right answer first
    sections: dict[str, Section] = {}


class Point(BaseModel):
    """A line of ``general.jsonl``: the general ability of the model with the first ``edits`` edits of a sequence.

    ``tasks``: the scores of each document, by metric (`kg_edit.evaluation.general_tasks`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    edits: int
    scores: dict[str, float | None]
    tasks: dict[str, DocumentScores] = {}
    error: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run: the paths of its files, with functions to read and append their lines."""

    path: Path

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas.DataFrame with one row per record, section and metric: id, section, metric, score, error.

        The section ``base`` is the unedited model, ``edited`` the one with all edits of the record's sequence.
        ``after:K`` is the model with the first K edits: it has the records of step K, and at a point of the curve the
        earlier ones too. ``error`` says why an edit failed.

        Raises:
            OutputError: the folder has no run, or it can't be read.
            ConfigError: pandas is not installed.
        """
        folder = RunFolder(Path(self.path))
        read_settings(folder.path)
        rows = []
        for record in join_phases(folder.entries()):
            for section, scores in record.scores.items():
                for metric, score in scores.items():
                    row = {"id": record.id, "section": section, "metric": metric, "score": score}
                    rows.append({**row, "error": record.error})
        return frame_of(rows)

    @property
    def records(self) -> Path:
        """File of JSON lines, one for each phase of each record (`Entry`)."""
        return self.path / "records.jsonl"

    @property
    def general(self) -> Path:
        """File of JSON lines with the general ability after each number of edits of a sequence (`Point`)."""
        return self.path / "general.jsonl"

    @property
    def verdicts(self) -> Path:
        """File of JSON lines, one for each answer that a judge has judged."""
        return self.path / "judge.jsonl"

    def entries(self) -> Iterator[Entry]:
        """Yield the recorded phases; an incomplete last line is ignored.

        Raises:
            OutputError: a line is no `Entry`.
        """
        return read_lines(self.records, Entry)

    def points(self) -> Iterator[Point]:
        """Yield the recorded points of general ability.

        Raises:
            OutputError: a line is no `Point`.
        """
        return read_lines(self.general, Point)

    def drop_cut_lines(self) -> None:
        """Drop an incomplete last line, left by a run that was killed while writing it."""
        for file in (self.records, self.general):
            drop_cut_line(file)

    def drop_failed(self) -> None:
        """Remove the lines with errors, and those that a failed edit has changed, so that a run computes them again.

        In a sequence these are all results of the first step with a failed edit and of later steps; scores of the
        unedited model are kept. Call it after `drop_cut_lines`.

        Raises:
            OutputError: a file can't be read or written.
        """
        kept = _find_kept(self)
        # The points go first: a kill after them leaves the lines of failed records, which a second call drops.
        _filter_lines(self.general, Point, kept.keeps_point)
        _filter_lines(self.records, Entry, kept.keeps_entry)

    def append(self, entries: Iterable[Entry]) -> None:
        """Append phases; when this returns, they are on disk.

        Raises:
            OutputError: they can't be written; the file is then unchanged.
        """
        append_lines(self.records, [entry.model_dump_json(exclude_defaults=True) for entry in entries])

    def append_point(self, point: Point) -> None:
        """Append a point of general ability; when this returns, it is on disk.

        Raises:
            OutputError: as `append`.
        """
        append_lines(self.general, [point.model_dump_json(exclude_defaults=True)])


@dataclass(frozen=True)
class _KeptEdits:
    """How many of the first edits of each sequence stay when failed records are computed again.

    ``places`` has the number of its sequence, and its index there, for each record. ``lengths`` and ``kept`` are by the
    number of a sequence: how many edits it has, and how many of them stay.
    """

    places: Mapping[str, tuple[int, int]]
    lengths: Mapping[int, int]
    kept: Mapping[int, int]

    def keeps_entry(self, entry: Entry) -> bool:
        """Return whether the line of a phase stays: it has no error, and needs no edit that is made again."""
        if entry.error is not None:
            return False
        number, index = self.places[entry.id]
        if entry.phase == BASE:
            needed_edits = 0
        elif entry.phase == EDIT:
            needed_edits = index + 1
        elif entry.phase == EDITED:
            needed_edits = self.lengths[number]
        else:
            needed_edits = int(entry.phase.removeprefix("after:"))
        return needed_edits <= self.kept[number]

    def keeps_point(self, point: Point) -> bool:
        """Return whether the line of a point stays."""
        return point.error is None and point.edits <= self.kept[point.sequence]


def _find_kept(folder: RunFolder) -> _KeptEdits:
    """Return the edits of a run that stay when its failed records are computed again."""
    settings = read_settings(folder.path)
    plan = EvalConfig.of(settings).plan
    done, _ = read_progress(folder)
    places = {}
    lengths = {}
    kept = {}
    for number, ids in split_into_sequences(settings).items():
        for index, name in enumerate(ids):
            places[name] = (number, index)
        lengths[number] = len(ids)
        kept[number] = _count_kept(ids, done, batch=plan.schedule.batch)
    return _KeptEdits(places, lengths, kept)


def _count_kept(ids: Sequence[str], done: Done, *, batch: int) -> int:
    """Return how many of a sequence's first edits stay: those of the steps before the first failed record."""
    phases = [BASE, EDIT]
    if len(ids) == 1:
        # The patch of a record alone is in no file. To be scored again, the record is edited again, at another cost.
        phases.append(EDITED)
    for index, name in enumerate(ids):
        if any(done.get((name, phase)) for phase in phases):
            return index // batch * batch  # where the step of the failed record begins
    return len(ids)


def _filter_lines(file: Path, kind: type[Line], keeps: Callable[[Line], bool]) -> None:
    """Replace a file of JSON lines by those of its lines that a function keeps."""
    if not file.exists():
        return
    with replacing(file) as scratch, file.open("rb") as lines, scratch.open("wb") as target:
        for line, entry in zip(lines, read_lines(file, kind), strict=True):
            if keeps(entry):
                target.write(line)


class RunRecord(BaseModel):
    """The joined results of a record's phases, without the evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    sha256: str
    error: str | None = None  # of its first phase with an error
    broken: tuple[str, ...] = ()  # phases in which the edited model could not be scored
    seconds: float | None = None
    memory: int | None = None
    answer_seconds: tuple[float, float] | None = None
    choices: tuple[tuple[str, ...], ...] = ()
    scores: dict[str, dict[str, float | None]] = {}  # section -> metric


def join_phases(entries: Iterable[Entry]) -> tuple[RunRecord, ...]:
    """Join ``entries`` to records, in the order of their first entries."""
    records: dict[str, dict[str, Any]] = {}
    for entry in entries:
        record = records.setdefault(entry.id, {"id": entry.id, "sha256": entry.sha256, "scores": {}})
        # Each phase adds its sections. The first error, cost and choices count.
        for name, section in entry.sections.items():
            record["scores"][name] = section.scores
        if entry.error is not None and entry.phase not in (BASE, EDIT):
            record["broken"] = (*record.get("broken", ()), entry.phase)
        for field in ("error", "seconds", "memory", "answer_seconds", "choices"):
            record[field] = record.get(field) or getattr(entry, field)
    return tuple(RunRecord(**record) for record in records.values())


class StepFiles:
    """The files with the patches of the steps of one sequence, from which a stopped run continues.

    A dense change, such as that of fine-tuning, takes as much for one step as for all steps. So when the files take
    several times as much as the sum of their patches, a file with the sum replaces them.

        patches/00003-00011.safetensors      step 11 of sequence 3; the first step is step 0
        patches/00003-sum-00010.safetensors  the sum of its first ten steps, 0 to 9
    """

    def __init__(self, folder: RunFolder, number: int) -> None:
        self._start = folder.path / "patches" / f"{number:05d}-"
        files = self._start.parent.glob(f"{self._start.name}*.safetensors")
        self._sizes = {file: file.stat().st_size for file in sorted(files)}

    def load_sum(self, recorded: int) -> tuple[int, Patch | None]:
        """Return the number of steps in the file with the sum, and the sum; (0, None) if there is none.

        A sum of more than the ``recorded`` first steps is removed: results of its steps were deleted, and can only be
        computed again step by step.
        """
        sums = dict[int, Path]()  # by the number of steps
        for file in list(self._sizes):
            if "-sum-" not in file.stem:
                continue
            steps = _read_number(file)
            if steps > recorded:
                self._remove(file)
            else:
                sums[steps] = file
        if not sums:
            return 0, None
        newest = max(sums)
        return newest, Patch.load(sums[newest])

    def load(self, step: int) -> Patch | None:
        """Return the patch of a step; None if there is no file of it."""
        file = Path(f"{self._start}{step:05d}.safetensors")
        if file not in self._sizes:
            return None
        return Patch.load(file)

    def save(self, step: int, patch: Patch | None) -> None:
        """Write the patch of a step; None, if none of its edits succeeded, removes that of an earlier try."""
        file = Path(f"{self._start}{step:05d}.safetensors")
        if patch:
            self._write(file, patch)
        elif file in self._sizes:
            self._remove(file)

    def sum_up(self, steps: int, total: Patch) -> None:
        """Replace the files of the first ``steps`` steps by ``total``, their sum, if that takes a third or less.

        Call it when all results of these steps are written.
        """
        # A resumed run has files of later steps too, which it has not loaded yet
        earlier = [file for file in self._sizes if "-sum-" in file.stem or _read_number(file) < steps]
        bytes_used = sum(self._sizes[file] for file in earlier)
        if bytes_used < max(_SMALL, _TIMES * total.nbytes):
            return
        self._write(Path(f"{self._start}sum-{steps:05d}.safetensors"), total)
        for file in earlier:
            self._remove(file)

    def _remove(self, file: Path) -> None:
        file.unlink()
        del self._sizes[file]

    def _write(self, file: Path, patch: Patch) -> None:
        patch.save(file)
        self._sizes[file] = file.stat().st_size


def _read_number(file: Path) -> int:
    """Return the number at the end of a file's name: of the step, or of the summed steps."""
    return int(file.stem.rpartition("-")[2])


@dataclass(frozen=True, kw_only=True)
class Item:
    """A benchmark's record, and the case made from it."""

    record: BenchmarkRecord
    case: Case

    @property
    def id(self) -> str:
        """The record's id, unique in its file."""
        return self.record.id

    @cached_property
    def sha256(self) -> str:
        """The hash of the record's JSON, by which two runs of a record are compared."""
        return digest(self.record.model_dump(mode="json"))


def make_items(
    records: Sequence[BenchmarkRecord],
    pool: Mapping[Normalised, str],
    config: EvalConfig,
    *,
    model: LanguageModel | None = None,
) -> list[Item]:
    """Make an item of each record; the answers to choose from are drawn from ``pool``.

    Own edits are asked in the form that ``model`` can read (`asked_of`); None: unchanged.
    """
    items = []
    for record in records:
        asked = with_probes(record, config.probes)
        if model is not None:
            asked = asked_of(model, asked, chat=config.chat)
        drawn = draw_choices(record, pool, seed=config.seed)
        case = Case.of(asked, choices=drawn, extras=config.extras, chat=config.chat)
        items.append(Item(record=record, case=case))
    return items


def asked_of(model: LanguageModel, record: BenchmarkRecord, *, chat: bool | None) -> BenchmarkRecord:
    """Return a record as it is asked: own edits as `kg-edit edit` asks them, benchmarks as they were published.

    `kg-edit edit` asks a prompt after a line break if it begins with a subject that the model would not read there
    (`readable_edit`). A record without such a prompt is returned as it is.

    Args:
        model: the model, which may not read a subject at the start of a text.
        record: the record; own edits have no published form.
        chat: as in `EvalConfig`; in chat form the template comes first, so each subject is read.
    """
    if record.form not in ("", OWN):
        return record
    edits = list[Edit]()
    prompts = dict[str, str]()  # those of the record -> as they are asked
    for edit in record.edits:
        asked = edit
        if not is_asked_in_chat(edit, chat=chat):
            asked = readable_edit(model, edit)
        edits.append(asked)
        prompts[edit.text] = asked.text
        for text, asked_text in zip(edit.paraphrases, asked.paraphrases, strict=True):
            prompts[text] = asked_text
    probes = list[Probe]()
    for probe in record.probes:
        queries = list[Query]()
        for query in probe.queries:
            queries.append(query.model_copy(update={"prompt": prompts.get(query.prompt, query.prompt)}))
        probes.append(probe.model_copy(update={"queries": tuple(queries)}))
    return record.model_copy(update={"edits": tuple(edits), "probes": tuple(probes)})


def read_progress(folder: RunFolder) -> tuple[Done, Points]:
    """Return the finished phases with their errors, and the finished points, of a run's folder."""
    sequences = split_into_sequences(read_settings(folder.path))
    ids: set[str] = set()
    for ids_of_sequence in sequences.values():
        ids.update(ids_of_sequence)
    done: dict[tuple[str, str], str | None] = {}
    points = set()
    for number, entry in enumerate(folder.entries(), 1):
        if entry.id not in ids:
            raise _make_line_error(folder.records, number, f"record {entry.id!r}")
        done[entry.id, entry.phase] = entry.error
    for number, point in enumerate(folder.points(), 1):
        if point.sequence not in sequences:
            raise _make_line_error(folder.general, number, f"sequence {point.sequence}")
        points.add((point.sequence, point.edits))
    return done, frozenset(points)


def _make_line_error(file: Path, number: int, what: str) -> OutputError:
    """Return the error of a line about a record or a sequence that the run does not have."""
    return OutputError(f"{file}, line {number}: this run has no {what}; delete the line, and start again")


def list_missing_phases(plan: CurvePlan, ids: Sequence[str], done: Done) -> Iterator[tuple[str, str]]:
    """Yield each (id, phase) of a sequence that is not ``done``.

    A record that the unedited model could not be scored on needs no other phase.
    """
    for name in plan.scored(ids):
        if (name, BASE) not in done:
            yield name, BASE
    usable = {name for name in ids if done.get((name, BASE)) is None}
    for name in ids:
        if name in usable and (name, EDIT) not in done:
            yield name, EDIT
    for scoring in plan.scorings(len(ids)):
        phase = name_phase(scoring)
        for index in scoring.indices:
            name = ids[index]
            if name in usable and (name, phase) not in done:
                yield name, phase


def list_missing_points(plan: CurvePlan, number: int, records: int, points: Points) -> Iterator[int]:
    """Yield the numbers of edits after which the general ability of sequence ``number`` is still missing."""
    expected = [0]
    expected += [scoring.edits for scoring in plan.scorings(records) if scoring.on_curve]
    for edits in expected:
        if (number, edits) not in points:
            yield edits


def split_into_sequences(settings: Settings) -> dict[int, tuple[str, ...]]:
    """Return the record ids of a run, or of its shard, by the number of their sequence; the last may be shorter."""
    config = EvalConfig.of(settings)
    ids = settings["ids"]
    size = config.plan.schedule.sequence
    sequences = [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]
    return dict(config.part.deal(list(enumerate(sequences))))


def name_phase(scoring: Scoring) -> str:
    """Return the name of a scoring's phase in the records: ``edited`` after all edits, else ``after:K``."""
    return EDITED if scoring.last else f"after:{scoring.edits}"
