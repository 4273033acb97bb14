"""Label drift (GRACE, Hartvigsen et al., NeurIPS 2023): edit a classifier whose labels change their use over time.

The texts of a stream are processed one after the other. If the classifier, with the edits so far, gives a wrong label,
the text is edited; else nothing is done. Three shares of right labels are measured:

- TRR: over older texts, with which the classifier was tested before any edit.
- ERR: over the texts edited so far.
- ARR: over the texts of the stream that the unedited classifier labels correctly.

A run writes its results into a folder, text by text, and resumes where it was stopped (`DriftFolder`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_edit.errors import ConfigError, ModelError, OutputError, PatchError
from kg_edit.evaluation.label_drift.classifier import ClassifierModel
from kg_edit.evaluation.label_drift.texts import LabelDrift, LabelledText
from kg_edit.evaluation.metrics.metric import mean
from kg_edit.evaluation.settings import environment, note_environment, tokenizer_digest
from kg_edit.evaluation.step import FAILURES, Method, add_patches, describe_failure
from kg_edit.methods.run_settings import method_settings
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines, write_safetensors
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_folder import claim
from kg_edit.version import __version__

TEXTS = "texts.jsonl"
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
    """The files of a run: ``run.json``, the head, a line for each text and each point, and the patch of each edit."""

    path: Path

    @property
    def head(self) -> Path:
        """The file of the classifier's head (`stored_classifier`)."""
        return self.path / "head.safetensors"

    def edit(self, number: int) -> Path:
        """Return the file of the patch of the edit ``number``, counted from 1."""
        return self.path / "patches" / f"{number:05d}.safetensors"

    def texts(self) -> list[SeenText]:
        """Return the recorded texts; an incomplete last line is dropped."""
        drop_cut_line(self.path / TEXTS)
        return list(read_lines(self.path / TEXTS, SeenText))

    def points(self) -> dict[int, DriftPoint]:
        """Return the recorded points by the number of texts; an incomplete last line is dropped."""
        drop_cut_line(self.path / "points.jsonl")
        return {point.seen: point for point in read_lines(self.path / "points.jsonl", DriftPoint)}

    def append(self, line: SeenText | DriftPoint) -> None:
        """Append a text or a point; when this returns, it is on disk."""
        name = TEXTS if isinstance(line, SeenText) else "points.jsonl"
        append_lines(self.path / name, [line.model_dump_json()])


def shorten(model: LanguageModel, texts: LabelDrift, *, tokens: int) -> LabelDrift:
    """Return the texts, each cut to its first ``tokens`` tokens."""
    return LabelDrift(
        train=_shorten_each(model, texts.train, tokens=tokens),
        test=_shorten_each(model, texts.test, tokens=tokens),
        stream=_shorten_each(model, texts.stream, tokens=tokens),
    )


def _shorten_each(model: LanguageModel, texts: Sequence[LabelledText], *, tokens: int) -> tuple[LabelledText, ...]:
    cut_texts = []
    for text in texts:
        ends = model.tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        cut = text.text
        if len(ends) > tokens:
            _, last_end = ends[tokens - 1]
            cut = cut[:last_end]
        cut_texts.append(text.model_copy(update={"text": cut.strip()}))
    return tuple(cut_texts)


def check_editor(name: str, config: BaseModel) -> None:
    """Check that a method can edit a classifier."""
    aim = getattr(config, "aim", "target")
    if name not in EDITORS or aim == "text":
        raise ConfigError(f"{name} reads or trains more than the class of a text; take one of {', '.join(EDITORS)}")


def check_labels(drift: LabelDrift, labels: Collection[str]) -> None:
    """Check that a classifier with these ``labels`` has all labels of the stream."""
    unknown = {text.label for text in drift.stream}.difference(labels)
    tested = sorted(unknown.intersection(text.label for text in drift.test))
    if tested:
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
    """Claim the folder and return the points: before the first text, after every ``every`` edits, and at the end.

    The stream is processed as the points are read.

    Args:
        model: the classifier.
        method: the editor, for this ``model``.
        drift: the texts.
        out: the folder of the run. A run that was stopped resumes there: recorded texts are not processed again, and
            recorded points are yielded as they are.
        every: edits between two points.
    """
    check_editor(method.name, method.config)
    check_labels(drift, model.labels)
    settings = {
        "job": "drift",
        **method_settings(method, model),  # with the fingerprint of the classifier, including its head
        "tokenizer_sha256": tokenizer_digest(model),
        "texts_sha256": digest([_dump_texts(part) for part in drift]),
        "every": every,
        "kg_edit": __version__,
    }
    claim(out, settings)
    return _process_stream(model, method, drift, out=out, every=every)


def _dump_texts(texts: Sequence[LabelledText]) -> list[dict[str, Any]]:
    return [text.model_dump(mode="json") for text in texts]


def _process_stream(
    model: ClassifierModel, method: Method, drift: LabelDrift, *, out: Path, every: int
) -> Iterator[DriftPoint]:
    """Process the stream text by text, and yield the points."""
    with folder_lock(out):
        note_environment(out, environment(method, model))
        folder = DriftFolder(out)
        earlier = folder.texts()
        _check_order(folder, earlier, drift.stream)
        _save_head(folder, model)
        state = _State(model)
        is_right = state.right(drift.stream, title="unedited classifier")
        accurate = [text for text, right in zip(drift.stream, is_right, strict=True) if right]
        recorded = folder.points()

        yield recorded.get(0) or _measure(state, 0, folder, test=drift.test, accurate=accurate)
        bar = Bar(drift.stream, title=method.name, unit="text")
        for seen, text in enumerate(bar, 1):
            edits_before = len(state.edited)
            if seen <= len(earlier):
                bar.initial += 1  # it takes no time of this run
                _repeat(state, text, earlier[seen - 1], folder, line=seen)
            else:
                _process(state, text, method, folder)
            is_due = len(state.edited) > edits_before and len(state.edited) % every == 0
            if is_due or seen == len(drift.stream):
                yield recorded.get(seen) or _measure(state, seen, folder, test=drift.test, accurate=accurate)


def _process(state: _State, text: LabelledText, method: Method, folder: DriftFolder) -> None:
    """Edit a text if its label is wrong, and record what was done."""
    result, update = _edit(state, text, method)
    if update:
        update.save(folder.edit(len(state.edited) + 1))  # before its line: a line without its patch has no use
    folder.append(result)
    state.add(text, result, update)


def _repeat(state: _State, text: LabelledText, result: SeenText, folder: DriftFolder, *, line: int) -> None:
    """Do again with a text what an earlier start has recorded."""
    update = None
    if result.outcome == "edited":
        update = _load_update(folder, len(state.edited) + 1, line=line)
    state.add(text, result, update)


def _check_order(folder: DriftFolder, earlier: Sequence[SeenText], stream: Sequence[LabelledText]) -> None:
    """Check that the recorded lines are in the stream's order: after a deleted one, all are of other texts."""
    for line, (result, text) in enumerate(zip(earlier, stream, strict=False), 1):
        if result.id != text.id:
            raise OutputError(
                f"{folder.path / TEXTS}, line {line}: found the text {result.id!r}, expected {text.id!r}; "
                "delete this line and all after it, and start again"
            )


def _save_head(folder: DriftFolder, model: ClassifierModel) -> None:
    """Write the classifier's head, unless an earlier start has."""
    if folder.head.is_file():
        return
    head = model.model.get_output_embeddings().state_dict()
    write_safetensors(folder.head, {name: tensor.cpu() for name, tensor in head.items()}, {})


def _load_update(folder: DriftFolder, number: int, *, line: int) -> Patch:
    """Return the patch of the edit ``number``, which ``line`` of the texts records."""
    try:
        return Patch.load(folder.edit(number))
    except PatchError as error:
        raise OutputError(
            f"{folder.path / TEXTS}, line {line}: the patch of this edit can't be read ({error}); delete this line "
            "and all after it, and start again"
        ) from error


def _measure(
    state: _State,
    seen: int,
    folder: DriftFolder,
    *,
    test: Sequence[LabelledText],
    accurate: Sequence[LabelledText],
) -> DriftPoint:
    """Measure the shares of right labels of the classifier as it is now, after ``seen`` texts, and record them."""
    point = DriftPoint(
        seen=seen,
        edits=len(state.edited),
        failed=state.failed,
        TRR=mean(state.right(test)),
        ERR=mean(state.right(state.edited)),
        ARR=mean(state.right(accurate)),
        seconds=sum(state.seconds) / max(1, len(state.seconds)),
    )
    folder.append(point)
    return point


@dataclass
class _State:
    """The classifier as it is now: the patch so far, the edited texts, and the times of their edits."""

    model: ClassifierModel
    patch: Patch | None = None
    edited: list[LabelledText] = field(default_factory=list)
    failed: int = 0
    seconds: list[float] = field(default_factory=list)

    def right(self, texts: Sequence[LabelledText], *, title: str = "") -> list[bool]:
        """Return whether each text gets its label; no text does if edits broke the classifier.

        ``title`` as for `ClassifierModel.scores`.
        """
        try:
            if self.patch:
                application = self.patch.applied(self.model)
            else:
                application = nullcontext(self.model)
            with application:
                labels = self.model.classes([text.prompt for text in texts], title=title)
        except ModelError:
            if self.patch is None:
                raise
            return [False] * len(texts)
        return [label == text.label for label, text in zip(labels, texts, strict=True)]

    def add(self, text: LabelledText, result: SeenText, update: Patch | None) -> None:
        """Add what was done with a text."""
        self.failed += result.outcome == "failed"
        if update:
            self.patch = add_patches(self.patch, update)
            self.edited.append(text)
            self.seconds.append(result.seconds)


def _edit(state: _State, text: LabelledText, method: Method) -> tuple[SeenText, Patch | None]:
    """Edit the text if its label is wrong; return what was done, and the patch."""
    if all(state.right([text])):
        return SeenText(id=text.id, outcome="right"), None
    start = time.perf_counter()
    try:
        update = method.edit([text.edit], before=state.patch)
        update.check_finite()
    except FAILURES as error:
        return SeenText(id=text.id, outcome="failed", error=describe_failure(error)), None
    return SeenText(id=text.id, outcome="edited", seconds=time.perf_counter() - start), update
