"""The page about metrics, written from the code: name, formula, source, range, data sets."""

from __future__ import annotations

from collections.abc import Iterable

from kg_edit.datasets import DATASETS, Dataset
from kg_edit.evaluate.metrics.catalogue import RECORD_METRICS, RUN_METRICS
from kg_edit.evaluate.metrics.edit import METRICS
from kg_edit.evaluate.metrics.metric import Metric, RunMetric
from kg_edit.evaluate.metrics.sampled_text import EXTRAS
from kg_edit.scoring.questions import CHOICES, SHOTS

_HEAD = f"""<!-- Written by `kg-edit metrics --markdown`; change the code, then write it anew. -->
# Metrics

A metric's name holds its protocol: `efficacy.prob` and `efficacy.greedy` are two answers to two questions, and a table
that calls both "efficacy" says nothing. The headline is **greedy** generation with natural stop: what a user of the
edited model reads. Teacher forcing (`.teacher_forced`) gives the model the right tokens before each token that it is
judged by, so it is kinder than any use of the model; it is here because published numbers use it.

- A metric is missing for a record that lacks what it needs; means are over the records that have it, and their number
  is in the summary (`provenance.counts`).
- NLL is the mean over the target's tokens of -log p(token | all before), in nats: a **geometric mean** of token
  probabilities, not the probability of the whole target. The target follows the prompt after one space, and prompt and
  target are encoded in one piece.
- Questions are asked as `Question: …`, a new line, `Answer:`; in the few-shot form {len(SHOTS)} answered questions that
  are in no benchmark stand before. Sentences stand as they are. A continuation ends at a line's end, the text's end or
  its limit.
- Names are compared word by word, in lower case, without accents, punctuation and articles: Rome is not in Romelu.
- `portability.choice` has {CHOICES} answers to choose from.
"""


def metrics_page() -> str:
    """The Markdown page."""
    probed = {name: metric for name, metric in RECORD_METRICS.items() if name not in METRICS and name not in EXTRAS}
    parts = [
        _HEAD,
        _section("Of every record", METRICS.items()),
        _section("Of the probes that a data set brings", probed.items()),
        _section("On request: sampled texts", EXTRAS.items()),
        _section("Of a model or a run", RUN_METRICS.items()),
        _datasets(),
    ]
    return "\n".join(parts)


def used_by(name: str) -> tuple[str, ...]:
    """The data sets whose records may have a metric of records."""
    wanted = {part for part in RECORD_METRICS[name].of.split(", ") if part}
    return tuple(dataset.name for dataset in DATASETS.values() if wanted <= _parts(dataset))


def _parts(dataset: Dataset) -> set[str]:
    """What the records of a data set may have; a question of an edit is a portability probe too."""
    groups = {part for group in dataset.measures for part in (group, group.partition(".")[0])}
    return {*groups, *dataset.edits_have, *(("portability",) if "questions" in dataset.edits_have else ())}


def _section(title: str, metrics: Iterable[tuple[str, Metric | RunMetric]]) -> str:
    return "\n".join([f"## {title}\n", *(_entry(name, metric) for name, metric in metrics)])


def _entry(name: str, metric: Metric | RunMetric) -> str:
    sets = ", ".join(used_by(name)) if isinstance(metric, Metric) else ""
    where = f"data sets: {sets}" if isinstance(metric, Metric) else f"`{metric.where}`"
    better = "" if metric.better == "neither" else f", {metric.better} is better"
    return f"### `{name}`\n\n{metric.formula}\n\nFrom: {metric.source}\n\nRange: {metric.values}{better}; {where}\n"


def _datasets() -> str:
    rows = [
        f"| `{dataset.name}` | {dataset.about} | {_joined(dataset.edits_have)} | {_joined(dataset.measures)} |"
        for dataset in DATASETS.values()
    ]
    header = ["| name | what | its edits may have | its probes |", "| --- | --- | --- | --- |"]
    return "\n".join(["## Data sets\n", *header, *rows, ""])


def _joined(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
