"""A metric: what it needs of a record, its formula and source, and a function of the case and the model's evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from kg_edit.scoring.likelihood import Pair, TokenScores

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case


Better = Literal["higher", "lower", "neither"]
CATEGORIES = "Where probes have sub-categories, the mean over these of the mean over their probes (KnowEdit)."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of one record. Calling it gives its value, or None for a record without what it needs.

    Attributes:
        compute: the function.
        formula: what it computes, in one sentence or two.
        source: where it comes from, and where this differs.
        needs: the groups of probes (such as locality, ripple.RS) and the parts of an edit (target_true, paraphrases,
            neighborhood, questions) without which a record lacks it; empty where every record has it.
        values: the range of its values, with the unit where there is one.
        better: which values are the better ones.
    """

    compute: Callable[[Case, Evidence], float | None]
    formula: str
    source: str
    needs: tuple[str, ...]
    values: str = "0 to 1"
    better: Better = "higher"

    def __call__(self, case: Case, evidence: Evidence) -> float | None:
        """The metric's value for a case, from what the model did with its prompts."""
        return self.compute(case, evidence)


@dataclass(frozen=True, kw_only=True)
class RunMetric:
    """A metric of a whole model or run; the function that computes it is named by its module path."""

    where: str
    formula: str
    source: str
    values: str = "0 to 1"
    better: Better = "higher"


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None if none is."""
    found = [float(value) for value in values if value is not None]
    return fmean(found) if found else None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a model did with a case's prompts, and what the unedited model did, where this one is edited.

    Attributes:
        scores: of (prompt, candidate) pairs.
        texts: greedy continuations by prompt.
        predicted: the arg-max token ids at a candidate's places, by pair.
        samples: prompts with what was sampled after them, by prompt.
        before: the unedited model's evidence, of which ``texts`` and ``predicted`` are there; None if this is its own.
    """

    scores: Mapping[Pair, TokenScores] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    predicted: Mapping[Pair, tuple[int, ...]] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)
    before: Evidence | None = None

    def nll(self, prompt: str, candidate: str) -> float:
        """The candidate's mean negative log-likelihood a token, in nats."""
        return self.scores[Pair(prompt.rstrip(), candidate)].nll
