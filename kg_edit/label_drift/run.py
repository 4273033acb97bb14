"""Label drift (GRACE, Hartvigsen et al., NeurIPS 2023): edit a classifier when labels are assigned differently over
time.

The texts of a stream are processed one after the other. If the classifier, with the edits so far, gives a wrong label,
the text is edited; else nothing is done. Three shares of right labels are measured on the way:

- TRR: over older texts, with which the classifier was tested before any edit.
- ERR: over the texts edited so far.
- ARR: over the texts of the stream that the unedited classifier labels rightly.

A run keeps its results in a folder, text by text, and continues where it was stopped (`DriftFolder`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from kg_edit.errors import ConfigError, ModelError
from kg_edit.evaluate.metrics.metric import mean
from kg_edit.evaluate.settings import environment, method_settings, note_environment, tokenizer_digest
from kg_edit.evaluate.step import FAILURES, Method, failure, finite
from kg_edit.label_drift.classifier import ClassifierModel
from kg_edit.label_drift.texts import LabelDrift, LabelledText
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines
from kg_edit.storage.run_folder import Settings, claim, digest, folder_lock
from kg_edit.version import __version__

EDITORS = ("adalora", "defer", "ft-l", "ft-m", "grace", "lora", "memory")
"""Methods that train on the target alone, so that classes can replace the vocabulary."""


class DriftPoint(BaseModel):
    """A line of ``points.jsonl``: the shares after ``seen`` texts, of which ``edits`` were edited.

    ``failed`` texts could not be edited. ``seconds`` is the mean time per edit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seen: int
    edits: int
    failed: int
    TRR: float | None
    ERR: float | None
    ARR: float | None
    seconds: float


class SeenText(BaseModel):
    """A line of ``texts.jsonl``: what was done with a text of the stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    outcome: Literal["right", "edited", "failed"]
    seconds: float = 0.0  # to compute the edit
    error: str = ""


@dataclass(frozen=True)
class DriftFolder:
    """The files of a run: ``run.json``, a line for each text and each point, and the patch of each edit."""

    path: Path

    def edit(self, number: int) -> Path:
        """The file of the patch of the edit ``number``, counted from 1."""
        return self.path / "patches" / f"{number:05d}.safetensors"

    def texts(self) -> list[SeenText]:
        """The recorded texts; an incomplete last line is dropped.

        Raises:
            OutputError: a line is no `SeenText`.
        """
        drop_cut_line(self.path / "texts.jsonl")
        return list(read_lines(self.path / "texts.jsonl", SeenText))

    def points(self) -> dict[int, DriftPoint]:
        """The recorded points by the number of texts; an incomplete last line is dropped.

        Raises:
            OutputError: a line is no `DriftPoint`.
        """
        drop_cut_line(self.path / "points.jsonl")
        return {point.seen: point for point in read_lines(self.path / "points.jsonl", DriftPoint)}

    def append(self, line: SeenText | DriftPoint) -> None:
        """Append a text or a point; when this returns, it is on disk.

        Raises:
            OutputError: it can't be written; the file is then unchanged.
        """
        name = "texts.jsonl" if isinstance(line, SeenText) else "points.jsonl"
        append_lines(self.path / name, [line.model_dump_json()])


def shortened(model: LanguageModel, texts: Sequence[LabelledText], *, tokens: int) -> tuple[LabelledText, ...]:
    """The texts, each cut to its first ``tokens`` tokens."""
    return tuple(text.model_copy(update={"text": _cut(model, text.text, tokens).strip()}) for text in texts)


def _cut(model: LanguageModel, text: str, tokens: int) -> str:
    offsets = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= tokens else text[: offsets[tokens - 1][1]]


def check_editor(name: str, config: BaseModel) -> None:
    """Check that a method can edit a classifier.

    Raises:
        ConfigError: the method trains on more than the target, or needs a vocabulary.
    """
    aim = getattr(config, "aim", "target")
    if name not in EDITORS or aim == "text":
        raise ConfigError(f"{name} reads or trains more than the class of a text; take one of {', '.join(EDITORS)}")


def check_labels(drift: LabelDrift, known: Collection[str]) -> None:
    """Check that a classifier that has the labels ``known`` has all labels of the stream.

    Raises:
        ConfigError: a label is missing.
    """
    unknown = {text.label for text in drift.stream}.difference(known)
    if tested := sorted(unknown.intersection(text.label for text in drift.test)):
        raise ConfigError(
            f"the labels {', '.join(tested)} are only in older texts that test the classifier; add older texts"
        )
    if unknown:
        raise ConfigError(
            f"the labels {', '.join(sorted(unknown))} are in no older text; the classifier has none for them"
        )


def run_drift(
    model: ClassifierModel, method: Method, drift: LabelDrift, *, out: Path, every: int = 25
) -> Iterator[DriftPoint]:
    """Process the stream; yield a point before the first text, after every ``every`` edits, and at the end.

    ``out`` is the run's folder. A run that was stopped continues there: recorded texts are not processed again, and
    recorded points are yielded as they are.

    Raises:
        ConfigError: the classifier does not know a label of the stream, or the method can't edit a classifier.
        OutputError: the folder has another run, or can't be written.
    """
    check_editor(method.name, method.config)
    check_labels(drift, model.labels)
    claim(out, _settings(model, method, drift, every))
    with folder_lock(out):
        note_environment(out, environment(method, model))
        yield from _points(model, method, drift, DriftFolder(out), every)


def _settings(model: ClassifierModel, method: Method, drift: LabelDrift, every: int) -> Settings:
    """All settings that decide the points. The model's fingerprint is that of the classifier, with its head."""
    texts = digest([[text.model_dump(mode="json") for text in part] for part in drift])
    return {
        "job": "drift",
        **method_settings(method, model),
        "tokenizer_sha256": tokenizer_digest(model),
        "texts_sha256": texts,
        "every": every,
        "kg_edit": __version__,
    }


def _points(
    model: ClassifierModel, method: Method, drift: LabelDrift, folder: DriftFolder, every: int
) -> Iterator[DriftPoint]:
    run = _Run(model=model, method=method, drift=drift, folder=folder, accurate=_right(model, drift.stream))
    there, points = folder.texts(), folder.points()
    yield points.get(0) or run.point(0)
    for seen, text in enumerate(tqdm(drift.stream, desc=method.name, disable=None), 1):
        done = run.replay(text, there[seen - 1]) if seen <= len(there) else run.process(text)
        last = seen == len(drift.stream)
        if last or (done.outcome == "edited" and len(run.edited) % every == 0):
            yield points.get(seen) or run.point(seen)


@dataclass(kw_only=True)
class _Run:
    """The state of a stream: the patch so far, the edited texts, and the times of their edits."""

    model: ClassifierModel
    method: Method
    drift: LabelDrift
    folder: DriftFolder
    accurate: list[LabelledText]
    patch: Patch | None = None
    edited: tuple[LabelledText, ...] = ()
    failed: int = 0
    seconds: list[float] = field(default_factory=list)

    def process(self, text: LabelledText) -> SeenText:
        """Edit the text if its label is wrong; record what was done."""
        done = SeenText(id=text.id, outcome="right") if self._share([text]) == 1 else self._edit(text)
        self.folder.append(done)
        return done

    def replay(self, text: LabelledText, done: SeenText) -> SeenText:
        """Take what an earlier start did with the text."""
        if done.outcome == "edited":
            self._add(text, Patch.load(self.folder.edit(len(self.edited) + 1)), done.seconds)
        self.failed += done.outcome == "failed"
        return done

    def _edit(self, text: LabelledText) -> SeenText:
        start = time.perf_counter()
        try:
            update = finite(self.method.update([text.edit], before=self.patch))
        except FAILURES as error:
            self.failed += 1
            return SeenText(id=text.id, outcome="failed", error=failure(error))
        seconds = time.perf_counter() - start
        update.save(self.folder.edit(len(self.edited) + 1))  # before its line: a line without its patch has no use
        self._add(text, update, seconds)
        return SeenText(id=text.id, outcome="edited", seconds=seconds)

    def _add(self, text: LabelledText, update: Patch, seconds: float) -> None:
        self.patch = update if self.patch is None else self.patch + update
        self.edited = (*self.edited, text)
        self.seconds.append(seconds)

    def point(self, seen: int) -> DriftPoint:
        """The shares of the present classifier; they are recorded."""
        shares = [self._share(texts) for texts in (self.drift.test, self.edited, self.accurate)]
        rates = dict(zip(("TRR", "ERR", "ARR"), shares, strict=True))
        count = len(self.edited)
        found = DriftPoint(
            seen=seen, edits=count, failed=self.failed, seconds=sum(self.seconds) / max(1, count), **rates
        )
        self.folder.append(found)
        return found

    def _share(self, texts: Sequence[LabelledText]) -> float | None:
        """The share of texts that get their label; 0 if edits broke the classifier."""
        try:
            with self.patch.applied(self.model) if self.patch else nullcontext(self.model):
                labels = self.model.classes([text.prompt for text in texts])
        except ModelError:
            if self.patch is None:
                raise
            return 0.0 if texts else None
        return mean(label == text.label for label, text in zip(labels, texts, strict=True))


def _right(model: ClassifierModel, texts: Sequence[LabelledText]) -> list[LabelledText]:
    labels = model.classes([text.prompt for text in texts])
    return [text for text, label in zip(texts, labels, strict=True) if label == text.label]
