"""Label drift (GRACE, Hartvigsen et al., NeurIPS 2023): edit a classifier when labels are assigned differently over
time.

The texts of a stream are processed one after the other. If the classifier, with the edits so far, gives a wrong label,
the text is edited; else nothing is done. Three shares of right labels are measured on the way:

- TRR: over older texts, with which the classifier was tested before any edit.
- ERR: over the texts edited so far.
- ARR: over the texts of the stream that the unedited classifier labels rightly.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from kg_edit.datasets.label_drift import LabelDrift, LabelledText
from kg_edit.errors import ConfigError
from kg_edit.evaluate.metrics.metric import mean
from kg_edit.evaluate.settings import Method
from kg_edit.evaluate.step import FAILURES, finite, said
from kg_edit.models.classifier import ClassifierModel
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch

EDITORS = ("adalora", "defer", "ft-l", "ft-m", "grace", "lora", "memory")
"""Methods that train on the target alone, so that classes can replace the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class DriftPoint:
    """The shares after ``seen`` texts of the stream: ``edits`` were edited, ``failed`` could not be edited."""

    seen: int
    edits: int
    failed: int
    TRR: float | None
    ERR: float | None
    ARR: float | None
    seconds: float  # per edit, on average

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {name: getattr(self, name) for name in ("seen", "edits", "failed", "TRR", "ERR", "ARR", "seconds")}


def shortened(model: LanguageModel, texts: Sequence[LabelledText], *, tokens: int) -> tuple[LabelledText, ...]:
    """The texts, each cut to its first ``tokens`` tokens."""
    return tuple(text.model_copy(update={"text": _cut(model, text.text, tokens)}) for text in texts)


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


def run_drift(model: ClassifierModel, method: Method, drift: LabelDrift, *, every: int = 25) -> Iterator[DriftPoint]:
    """Process the stream; yield a point before the first text, after every ``every`` edits, and at the end.

    Raises:
        ConfigError: the classifier does not know a label of the stream, or the method can't edit a classifier.
    """
    check_editor(method.name, method.config)
    unknown = sorted({text.label for text in drift.stream} - set(model.labels))
    if unknown:
        raise ConfigError(f"the labels {', '.join(unknown)} are in no older text; the classifier has none for them")
    run = _Run(model=model, method=method, drift=drift, accurate=_right(model, drift.stream))
    yield run.point(0)
    for seen, text in enumerate(drift.stream, 1):
        if run.meet(text) and len(run.edited) % every == 0 and seen < len(drift.stream):
            yield run.point(seen)
    yield run.point(len(drift.stream))


@dataclass(kw_only=True)
class _Run:
    """The state of a stream: the patch so far, and the edited texts."""

    model: ClassifierModel
    method: Method
    drift: LabelDrift
    accurate: list[LabelledText]
    patch: Patch | None = None
    edited: tuple[LabelledText, ...] = ()
    failed: int = 0
    seconds: float = 0.0
    error: str = ""

    def meet(self, text: LabelledText) -> bool:
        """Edit the text if its label is wrong; return whether it was edited."""
        if self._share([text]) == 1:
            return False
        start = time.perf_counter()
        try:
            update = finite(self.method.update([text.edit], before=self.patch))
        except FAILURES as error:
            self.failed, self.error = self.failed + 1, said(error)
            return False
        self.seconds += time.perf_counter() - start
        self.patch = update if self.patch is None else self.patch + update
        self.edited = (*self.edited, text)
        return True

    def point(self, seen: int) -> DriftPoint:
        """The shares of the present classifier."""
        shares = [self._share(texts) for texts in (self.drift.test, self.edited, self.accurate)]
        count = len(self.edited)
        rates = dict(zip(("TRR", "ERR", "ARR"), shares, strict=True))
        return DriftPoint(seen=seen, edits=count, failed=self.failed, seconds=self.seconds / max(1, count), **rates)

    def _share(self, texts: Sequence[LabelledText]) -> float | None:
        with self.patch.applied(self.model) if self.patch else nullcontext(self.model):
            labels = self.model.classes([text.prompt for text in texts])
        return mean(label == text.label for label, text in zip(labels, texts, strict=True))


def _right(model: ClassifierModel, texts: Sequence[LabelledText]) -> list[LabelledText]:
    labels = model.classes([text.prompt for text in texts])
    return [text for text, label in zip(texts, labels, strict=True) if label == text.label]
