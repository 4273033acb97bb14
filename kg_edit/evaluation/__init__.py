"""Evaluate editing methods: metrics whose names contain their protocol, resumable runs, reports.

The names in `__all__` are imported at first use, so that options can be checked and runs be found without torch.
"""

from typing import TYPE_CHECKING

from wikidata_cache.lazy import lazy_names

if TYPE_CHECKING:
    from kg_edit.evaluation.case import Case
    from kg_edit.evaluation.comparison import compare
    from kg_edit.evaluation.config import EvalConfig
    from kg_edit.evaluation.finish import merge
    from kg_edit.evaluation.metrics.edit import METRICS
    from kg_edit.evaluation.reports import render, rich_table
    from kg_edit.evaluation.run import evaluate
    from kg_edit.evaluation.schedule import Schedule, Shard
    from kg_edit.evaluation.scorer import score_cases
    from kg_edit.evaluation.statistics import Estimate
    from kg_edit.evaluation.step import Method
    from kg_edit.evaluation.summary import Summary

__all__ = [
    "METRICS",
    "Case",
    "Estimate",
    "EvalConfig",
    "Method",
    "Schedule",
    "Shard",
    "Summary",
    "compare",
    "evaluate",
    "merge",
    "render",
    "rich_table",
    "score_cases",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "kg_edit.evaluation.case": ["Case"],
        "kg_edit.evaluation.comparison": ["compare"],
        "kg_edit.evaluation.config": ["EvalConfig"],
        "kg_edit.evaluation.finish": ["merge"],
        "kg_edit.evaluation.metrics.edit": ["METRICS"],
        "kg_edit.evaluation.reports": ["render", "rich_table"],
        "kg_edit.evaluation.run": ["evaluate"],
        "kg_edit.evaluation.schedule": ["Schedule", "Shard"],
        "kg_edit.evaluation.scorer": ["score_cases"],
        "kg_edit.evaluation.statistics": ["Estimate"],
        "kg_edit.evaluation.step": ["Method"],
        "kg_edit.evaluation.summary": ["Summary"],
    },
)
