"""Score editing methods: metrics named with their protocol, runs that can be resumed, reports."""

from kg_edit.evaluate.case import Case
from kg_edit.evaluate.comparison import compare
from kg_edit.evaluate.finish import merge
from kg_edit.evaluate.metrics.edit import METRICS
from kg_edit.evaluate.reports import render, rich_table
from kg_edit.evaluate.run import evaluate
from kg_edit.evaluate.schedule import Schedule, Shard
from kg_edit.evaluate.scorer import score_cases
from kg_edit.evaluate.settings import Method
from kg_edit.evaluate.statistics import Estimate
from kg_edit.evaluate.summary import Summary

__all__ = [
    "METRICS",
    "Case",
    "Estimate",
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
