"""Evaluate editing methods: metrics whose names contain their protocol, resumable runs, reports.

The names in `__all__` are imported at first use, so that options can be checked and runs be found without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

_HOMES = {
    "METRICS": "metrics.edit",
    "Case": "case",
    "Estimate": "statistics",
    "EvalConfig": "config",
    "Method": "step",
    "Schedule": "schedule",
    "Shard": "schedule",
    "Summary": "summary",
    "compare": "comparison",
    "evaluate": "run",
    "merge": "finish",
    "render": "reports",
    "rich_table": "reports",
    "score_cases": "scorer",
}

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


def __getattr__(name: str) -> object:
    """Import a name of `__all__` at its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kg_edit.evaluate' has no attribute {name!r}; it has: {', '.join(__all__)}")
    found: object = getattr(import_module(f"kg_edit.evaluate.{_HOMES[name]}"), name)
    return found
