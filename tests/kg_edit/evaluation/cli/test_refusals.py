"""Commands of evaluations, sweeps, traces and trainings that are refused: one message, and no file is made or changed.

Most are refused before any file is read; none loads a model.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kg_edit.command_line import Run, cache, kg_edit, place, refused, tiny_folder
from tests.kg_edit.evaluation.conftest import CITIES
from tests.kg_edit.evaluation.ripples.test_build import MINE
from tests.kg_edit.evaluation.ripples.toy import graph_file
from tests.kg_edit.evaluation.test_cli_runs import row

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

# Options that would have no effect, with the way out
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
    "sweep f.toml --example": "FILE.toml has no effect with --example",
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
    "methods rome --markdown": "METHOD has no effect with --markdown",
}

EVALUATE = "evaluate --data data.json --method rome --model none/such --out new"
RIPPLES = "data ripples --graph toy.nt --model none/such"
EDITS = "evaluate --dataset edits --data mine.jsonl --method rome --model none/such --out new"
SWEEP = "--data data.json --out new"
WRONG: dict[str, str] = {
    f"{EVALUATE} --schedule sequentail:3": "did you mean 'sequential'",
    f"{EVALUATE} --evaluate-every 3": "under the schedule single",
    f"{EVALUATE} --sample 3": "a sample of 3 records under the schedule single",
    f"{EVALUATE} --shard 4/4": "expected i/n",
    f"{EVALUATE} --schedule batch:2 --general none.txt": "can't read the text none.txt",
    f"{EVALUATE} --general quick:none": "--general quick:none: no such file as sst2.jsonl",
    f"{EVALUATE} --dataset counterfact --extra consistency.tfidf": "give --references attribute_snippets.json",
    "evaluate --data texts.jsonl --dataset edits --method rome --model none/such --out new": "rome does not make "
    "unstructured edits, such as the edit 'row-1'; methods that do: ",
    "edit texts.jsonl --method rome --model none/such --out new": "rome does not make unstructured edits",
    f"{EDITS} --split dev": "this data set has no splits; remove --split",
    f"{EDITS} --control wrong": "rome reads no graph; remove --control",
    "compare begun --out found.docx": "expected a file name that ends in .md or",
    "compare none": "has no run",
    "merge new none": "has no run",
    f"{RIPPLES} --out x.json --edits mine.jsonl --relations P17": "give only one of them",
    f"{RIPPLES} --out x.json --relations country": "expected property ids such as P17,P19; found 'country'",
    f"{RIPPLES} --edits mine.jsonl --out mine.jsonl": "--out mine.jsonl is the input file itself",
    f"{RIPPLES} --out .": "--out . is a folder; give the name of a file",
    "data ripples --out x.json": "give --graph",
    "data edits --out e.jsonl": "give --graph",
    f"sweep rag.toml {SWEEP} --graph graph.tsv": "--graph has no effect: no method of the grid",
    f"sweep metric.toml {SWEEP}": "key metrics: no record has what multihop.prob needs (multihop)",
    f"sweep rag.toml {SWEEP}": "no/model",
    "locate": "give either a file of edits or --known FILE",
    "locate edits.jsonl --known edits.jsonl": "give either a file of edits or --known FILE",
    "locate edits.jsonl --kind mpl": "'mpl' is not one of 'hidden', 'mlp'",
    "locate edits.jsonl --answer new": "'new' is not one of 'predicted', 'true'",
    "locate --known edits.jsonl": "edits.jsonl, line 1, field",
    "locate none.jsonl": "none.jsonl: no such file",
    "edit edits.jsonl --method rome --out new --layer best": "--layer best: expected a layer's number from 0 on",
    "edit edits.jsonl --method rome --out new --layer -1": "--layer -1: expected a layer's number from 0 on, or auto",
    "edit edits.jsonl --method rome --out new --layer auto --set layer=1": "layer is set twice: to 1 and to auto",
    "mend train --data mine.jsonl --out new --set stepz=3": "did you mean 'steps'",
    "mend train --data mine.jsonl --out new --set steps=3 --set steps=2": "steps is set twice",
}


@pytest.fixture
def files(place: Path) -> Path:
    """Records, edits of each kind, a graph, sweeps and a run that was begun."""
    (place / "data.json").write_text(json.dumps([row(number, city) for number, city in enumerate(CITIES[:4])]))
    (place / "mine.jsonl").write_text(MINE.model_dump_json(exclude_defaults=True) + "\n")
    (place / "texts.jsonl").write_text('{"prompt": "Where is Paris?", "target_text": "Paris is in France."}')
    grid = "method = 'rag'\nmodel = 'no/model'\n[grid]\npreset = ['default']\n"
    (place / "rag.toml").write_text(grid)
    (place / "metric.toml").write_text(f"metrics = ['portability.nll', 'multihop.prob']\n{grid}")
    (place / "begun").mkdir()
    (place / "begun" / "run.json").write_text("{}")
    graph_file(place)
    return place


@pytest.mark.parametrize("command", [*UNUSED, *WRONG])
def test_command_is_refused(command: str, kg_edit: Run, files: Path) -> None:
    refused(kg_edit, *command.split(), message={**UNUSED, **WRONG}[command], out=files)


def test_known_only_without_further_hops_is_refused(kg_edit: Run, files: Path, tiny_folder: Path) -> None:
    """The one mistake that is found with the model."""
    command = EDITS.replace("none/such", str(tiny_folder))
    message = "the records have no question with a further hop; remove it"
    refused(kg_edit, *command.split(), "--known-only", message=message, out=files / "new")
