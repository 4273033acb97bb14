"""Evaluate editing methods: metrics whose names contain their protocol, resumable runs, reports.

The names in `__all__` are imported at first use, so that options can be checked and runs be found without torch.
"""

from typing import TYPE_CHECKING

from wikidata_cache.lazy import lazy_names

if TYPE_CHECKING:
    from kg_edit.evaluate.case import Case
    from kg_edit.evaluate.comparison import compare
    from kg_edit.evaluate.config import EvalConfig
    from kg_edit.evaluate.finish import merge
    from kg_edit.evaluate.metrics.edit import METRICS
    from kg_edit.evaluate.reports import render, rich_table
    from kg_edit.evaluate.run import evaluate
    from kg_edit.evaluate.schedule import Schedule, Shard
    from kg_edit.evaluate.scorer import score_cases
    from kg_edit.evaluate.statistics import Estimate
    from kg_edit.evaluate.step import Method
    from kg_edit.evaluate.summary import Summary

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
        "kg_edit.evaluate.case": ["Case"],
        "kg_edit.evaluate.comparison": ["compare"],
        "kg_edit.evaluate.config": ["EvalConfig"],
        "kg_edit.evaluate.finish": ["merge"],
        "kg_edit.evaluate.metrics.edit": ["METRICS"],
        "kg_edit.evaluate.reports": ["render", "rich_table"],
        "kg_edit.evaluate.run": ["evaluate"],
        "kg_edit.evaluate.schedule": ["Schedule", "Shard"],
        "kg_edit.evaluate.scorer": ["score_cases"],
        "kg_edit.evaluate.statistics": ["Estimate"],
        "kg_edit.evaluate.step": ["Method"],
        "kg_edit.evaluate.summary": ["Summary"],
    },
)
