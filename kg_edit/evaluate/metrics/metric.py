"""The classes `Metric` (needs, formula, source and function) and `Evidence` (what a model answered to a case)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from kg_edit.evaluate.case import Case
from kg_edit.scoring.likelihood import Pair, TokenScores

Better = Literal["higher", "lower", "neither"]
CATEGORIES = "If probes have sub-categories, the mean over the sub-categories of the mean over their probes (KnowEdit)."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of one record. Calling it gives its value, or None for a record without the parts that it needs.

    Attributes:
        compute: the function that computes the value.
        formula: the definition of the value, in one or two sentences.
        source: its publication, and how this implementation differs.
        needs: the groups of probes (such as locality, ripple.RS) and the parts of an edit (target_true, paraphrases,
            neighborhood, questions) that a record must have; empty if every record has the metric.
        values: the range of its values, with the unit if there is one.
        better: which values are better.
    """

    compute: Callable[[Case, Evidence], float | None]
    formula: str
    source: str
    needs: tuple[str, ...]
    values: str = "0 to 1"
    better: Better = "higher"

    def __call__(self, case: Case, evidence: Evidence) -> float | None:
        """Compute the metric's value for a case from the model's evidence."""
        return self.compute(case, evidence)


@dataclass(frozen=True, kw_only=True)
class RunMetric:
    """A metric of a whole model or run; ``where`` is the path of the function or class that computes it."""

    where: str
    formula: str
    source: str
    values: str = "0 to 1"
    better: Better = "higher"


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if all are None."""
    found = [float(value) for value in values if value is not None]
    return fmean(found) if found else None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The results of a model for a case's prompts, and those of the unedited model if this one is edited.

    Attributes:
        scores: the scores of (prompt, candidate) pairs.
        texts: greedy continuations by prompt.
        predicted: the arg-max token ids at a candidate's places, by pair.
        samples: each prompt with the text sampled after it, by prompt.
        before: the unedited model's evidence, with ``texts`` and ``predicted`` only; None if this is the unedited
            model's.
    """

    scores: Mapping[Pair, TokenScores] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    predicted: Mapping[Pair, tuple[int, ...]] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)
    before: Evidence | None = None

    def nll(self, prompt: str, candidate: str) -> float:
        """Return the candidate's mean negative log-likelihood per token, in nats."""
        return self.score(prompt, candidate).nll

    def score(self, prompt: str, candidate: str) -> TokenScores:
        """Return the candidate's teacher-forced scores after a prompt."""
        return self.scores[Pair(prompt.rstrip(), candidate)]
