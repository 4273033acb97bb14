"""Write the summary of a run in the format of Every Eval Ever (evalevalai.com), to be compared with results of others.

The format has one file for each model. Here these are the unedited model, the model right after each edit (if edits
accumulate), and the model after all edits: ``unedited.json``, ``just_edited.json`` and ``edited.json``. Each has the
mean of every metric with its interval and its number of records, what the metric is, and what was run: model, method,
settings, data and versions. The single answers are not in these files; they stay in the run's ``records.jsonl``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kg_edit.errors import OutputError
from kg_edit.evaluation.metrics.catalogue import find_metric
from kg_edit.evaluation.statistics import Estimate
from kg_edit.evaluation.summary import JUST_EDITED, SUMMARY, Estimates, Summary
from kg_edit.models.loading import NAMED_MODELS
from kg_edit.storage.atomic import write_json
from kg_edit.version import __version__

SCHEMA = "0.3.0"  # of eval.schema.json
FORMAT = "every-eval-ever"
_FILES = {"base": "unedited.json", JUST_EDITED: "just_edited.json", "edited": "edited.json"}
_RANGE = re.compile(r"(?P<low>-?[0-9.]+) to (?P<high>[0-9.]+|∞)")
_LEVEL = 0.95  # of the intervals of `Estimate`


def export_results(run: str | Path, out: str | Path, *, organization: str, url: str | None = None) -> tuple[Path, ...]:
    """Write the files of a finished run into a folder, and return their paths.

    Args:
        run: the run's folder.
        out: the folder for the files.
        organization: who provides the results.
        url: the organization's web page.

    Raises:
        OutputError: the run is not finished, or a file is there already.
    """
    summary = Summary.load(run)
    measured_at = int((Path(run) / SUMMARY).stat().st_mtime)
    files = []
    for section, name in _FILES.items():
        if section in summary.sections:
            files.append((section, Path(out) / name))
    for _, file in files:
        if file.exists():
            raise OutputError(f"{file} already exists; give another --out")
    for section, file in files:
        log = evaluation_log(summary, section, measured_at=measured_at, organization=organization, url=url)
        write_json(file, log)
    return tuple(file for _, file in files)


def evaluation_log(
    summary: Summary, section: str, *, measured_at: int, organization: str, url: str | None = None
) -> dict[str, Any]:
    """Return one section of a summary, such as ``edited``, as a log of the schema ``eval.schema.json``.

    Args:
        summary: the summary of a run.
        section: the name of the section.
        measured_at: when the run ended, in seconds since 1970.
        organization: who provides the results.
        url: the organization's web page.
    """
    run = summary.provenance
    model_id = _make_model_id(run)
    now = str(int(time.time()))
    provider = {"source_organization_name": organization}
    if url:
        provider["source_organization_url"] = url
    dataset = _describe_dataset(run)
    source = _describe_source(run, section)
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{dataset['dataset_name']}/{model_id.replace('/', '_')}-{source}/{now}",
        "evaluation_timestamp": str(measured_at),
        "retrieved_timestamp": now,
        "source_metadata": {
            "source_name": "kg-edit evaluate",
            "source_type": "evaluation_run",
            **provider,
            "evaluator_relationship": "third_party",
        },
        "eval_library": {"name": "kg-edit", "version": str(run.get("kg_edit", __version__))},
        "model_info": _describe_model(run, section, model_id),
        "evaluation_results": list(_list_results(summary, section, dataset)),
    }


def _describe_source(run: dict[str, Any], section: str) -> str:
    """Return in a word which model of the run a section is about."""
    if section == "base":
        return "unedited"
    return f"{section}-by-{run.get('method')}"


def _make_model_id(run: dict[str, Any]) -> str:
    """Return the hub id of the run's model if it is known, else its name."""
    name = str(run.get("model", {}).get("name"))
    named = NAMED_MODELS.get(name)
    return named.hub if named and named.hub else name


def _describe_model(run: dict[str, Any], section: str, model_id: str) -> dict[str, Any]:
    """Return what the log says of its model: the base, and for an edited one how it was edited."""
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "open_weights",
        "fingerprint": str(run.get("model", {}).get("fingerprint")),
        "edited": str(section != "base").lower(),
    }
    name = str(run.get("model", {}).get("name"))
    if section != "base":
        name = f"{name}, {section.replace('_', ' ')} by {run.get('method')}"
        for field in ("method", "config", "schedule", "graph", "seed"):
            if run.get(field) is not None:
                details[field] = _write_text_of(run[field])
    engine = {"name": "transformers", "version": version("transformers")}
    return {"name": name, "id": model_id, "inference_engine": engine, "additional_details": details}


def _describe_dataset(run: dict[str, Any]) -> dict[str, Any]:
    """Return the source of the records: the data set, and the hash of its file."""
    data = run.get("data") or {}
    details = {}
    for field in ("file", "sha256"):
        if data.get(field):
            details[field] = str(data[field])
    if run.get("ids"):
        details["records"] = str(len(run["ids"]))
    return {"dataset_name": str(data.get("dataset") or "own"), "source_type": "other", "additional_details": details}


def _list_results(summary: Summary, section: str, dataset: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the results of a section, one for each metric that some record has."""
    estimates: Estimates = summary.sections[section]
    counts = summary.provenance.get("counts", {}).get(section, {})
    for name, estimate in estimates.items():
        if estimate.mean is None:
            continue
        yield {
            "evaluation_result_id": f"{section}/{name}",
            "evaluation_name": name,
            "source_data": dataset,
            "metric_config": _describe_metric(name),
            "score_details": _score(estimate, counts.get(name)),
            "generation_config": {"generation_args": {"temperature": 0}},
        }


def _describe_metric(name: str) -> dict[str, Any]:
    """Return what a metric is: its formula, its range, and which values are better."""
    metric = find_metric(name)
    described: dict[str, Any] = {"metric_id": f"kg-edit.{name}", "metric_name": name, "score_type": "continuous"}
    described["lower_is_better"] = metric is not None and metric.better == "lower"
    if metric is None:
        return described
    described["evaluation_description"] = f"{metric.formula} {metric.source}"
    bounds = _RANGE.match(metric.values)
    if bounds:
        described["min_score"] = float(bounds["low"])
        if bounds["high"] == "∞":
            described["max_score"] = "Infinity"
        else:
            described["max_score"] = float(bounds["high"])
    return described


def _score(estimate: Estimate, count: int | None) -> dict[str, Any]:
    """Return a mean with its interval, and the number of records behind it."""
    uncertainty: dict[str, Any] = {}
    if estimate.ci95_low is not None and estimate.ci95_high is not None:
        uncertainty["confidence_interval"] = {
            "lower": estimate.ci95_low,
            "upper": estimate.ci95_high,
            "confidence_level": _LEVEL,
            "method": "bootstrap",
        }
    if count is not None:
        uncertainty["num_samples"] = count
    score: dict[str, Any] = {"score": estimate.mean}
    if uncertainty:
        score["uncertainty"] = uncertainty
    return score


def _write_text_of(value: Any) -> str:
    """Return a setting as text, because the schema takes only texts there."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
