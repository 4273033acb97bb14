"""Options that would have no effect are refused before any file is read, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.evaluation.cli.evaluation import EvaluateOptions
from kg_edit.evaluation.config import EvalConfig
from tests.kg_edit.command_line import GOOD, Run, cache, kg_edit, place, refused, rows

__all__ = ["cache", "kg_edit", "place"]  # fixtures

UNUSED: dict[str, str] = {
    "patch check l --merged m --model n": "--model has no effect with --merged, which is the model to check; leave it "
    "out, or leave out --merged",
    "patch check l --server http://s --model m --device cpu": "--model, --device have no effect with --server",
    "patch check l --served m --timeout 3": "--served, --timeout have no effect without --server; leave them out, or "
    "also give --server URL",
    "patch add l p --dtype float32": "--dtype has no effect without --model",
    "patch remove l e --graph extract": "--graph has no effect without --model",
    "patch merge l --out o --gguf m.gguf": "--gguf has no effect with --to folder; leave it out, or give --to gguf",
    "patch merge l --out o --gguf-type F32": "--gguf-type has no effect with --to folder",  # its default value
    "patch merge l --out o --to gguf --shard 1GB": "--shard has no effect with --to gguf",
    "patch merge l --out o --private": "--private has no effect without --push; leave it out, or also give --push",
    "patch export l o --to peft --private": "--private has no effect without --push",
    "patch export l o --to patch --scores --base b": "--base, --scores have no effect with --to patch, which has no "
    "model card; leave them out, or give --to peft or --to gguf",
    "data check f --json --all": "--all has no effect with --json, which prints all faults",
    "data ripples --out o --edits e --n 3": "--n has no effect with --edits",
    "data ripples --out o --templates t": "--templates has no effect without --edits",
    "evaluate --data d --out o --references r": "--references has no effect without consistency.tfidf",
    "covariance --folder f list": "--folder has no effect before list; leave it out, or give options of list after it",
    "covariance --layers 1 --corpus t.txt --seed 2": "--seed has no effect with --corpus t.txt",
    "sweep f.toml --example": "FILE has no effect with --example",
    "edit edits.jsonl --method memit --graph graph.tsv --out o": "--graph has no effect: memit reads no graph, and "
    "no row has an id in the place of a name; leave it out, or give another --method, such as glame",
    "edit edits.jsonl --method ft --corpus self --out o": "--corpus has no effect: ft reads no covariance",
    "patch edit l edits.jsonl --method rome --graph graph.tsv": "--graph has no effect: rome reads no graph",
    "evaluate --data edits.jsonl --dataset edits --method memit --graph graph.tsv --out o": "--graph has no effect",
    "evaluate --data edits.jsonl --dataset edits --skip 1 --probes negation,elsewhere --out o": "--probes "
    "negation,elsewhere has no effect, because no record has neighborhood or target_true; leave it out, or use another",
    "evaluate --data edits.jsonl --dataset edits --skip 1 --extra portability.glame_fuzzy --out o": "--extra "
    "portability.glame_fuzzy has no effect, because no record has portability; leave it out, or use another",
    "generate Hi --chat --start always": "--start has no effect with --chat; leave it out",
    "methods rome --markdown": "NAME has no effect with --markdown",
}


@pytest.mark.parametrize("command", UNUSED)
def test_option_without_effect_is_refused(command: str, kg_edit: Run, place: Path) -> None:
    refused(kg_edit, *command.split(), message=UNUSED[command], out=place)


def test_probes_without_effect_are_named_if_others_have_one(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    edits, probes = place / "edits.jsonl", ("negation", "reversed", "elsewhere")
    EvaluateOptions(data=edits, dataset="edits", config=EvalConfig(probes=probes)).read()
    assert not caplog.messages
    EvaluateOptions(data=edits, dataset="edits", skip=1, config=EvalConfig(probes=probes)).read()
    assert caplog.messages == [
        "--probes negation,elsewhere has no effect, because no record has neighborhood or target_true"
    ]
    # with an old target, as MQuAKE's
    edits.write_bytes(rows({**GOOD, "target_true": "Oslo"}))
    EvaluateOptions(
        data=edits, dataset="edits", config=EvalConfig(probes=("negation", "distracting", "elsewhere"))
    ).read()
    assert caplog.messages[1:] == ["--probes distracting,elsewhere has no effect, because no record has neighborhood"]
