"""What a metric is: a name that holds its protocol, a formula, a source, and a small function of case and evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a case knows its metrics
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.evidence import Evidence

Better = Literal["higher", "lower", "neither"]
CATEGORIES = "Where probes have sub-categories, the mean over these of the mean over their probes (KnowEdit)."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of one record. Calling it gives its value, or None for a record without what it needs.

    Attributes:
        compute: the function.
        formula: what it computes, in one sentence or two.
        source: where it comes from, and where this differs.
        of: the group of probes, or the parts of an edit, that it needs; every record has it where there are none.
        values: the range of its values, with the unit where there is one.
        better: which values are the better ones.
    """

    compute: Callable[[Case, Evidence], float | None]
    formula: str
    source: str
    of: str
    values: str = "0 to 1"
    better: Better = "higher"

    def __call__(self, case: Case, evidence: Evidence) -> float | None:
        """The metric's value for a case."""
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
