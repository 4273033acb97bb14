"""The numbers that methods, metrics and subgraphs compute stay the same: ten edits, compared with recorded numbers.

The edits are the three of the demo and seven rows of the packaged Ripples file; each kind of computation is recorded
in a JSON file in tests/data/numbers. If a number is meant to change, run ``python -m tests.test_numbers``, which
records all anew (a few minutes), look at the difference, and say in the commit why it changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from kg_edit import Edit, LanguageModel, Patch, find_method, read_edits
from kg_edit.cli.app import main
from tests.kg_edit.tiny import tiny
from wikidata_cache import SubgraphOptions, WikidataCache, packaged_extract

HERE = Path(__file__).resolve().parent / "data" / "numbers"
TOLERANCE = 2e-4  # other instruction sets, which add up in another order, change less; a changed constant changes more
LOOSE = {
    "glame-plus": 5e-3,
    "glame-plus:late-block": 5e-3,
    "lora": 1e-2,
    "rome gpt2": 2e-3,
}  # whose steps amplify the order of the sums

# Default settings or those of a preset (METHOD:PRESET), apart from these that make a tiny model quick
COVARIANCE = {"covariance": {"corpus": str(HERE / "corpus.txt"), "tokens": 500}}
RANK_ONE = {"layer": 1, "steps": 4, "further_steps": 2, "context_lengths": [[4, 1]], **COVARIANCE}
JOINT = {"steps": 4, "further_steps": 2, "context_starts": ["The"], "context_tokens": 3, **COVARIANCE}
TWO_LAYERS = {**JOINT, "layers": [1, 2]}
PLUS = {"recalled": 2, "stated": 1, "answers": {"steps": 2, "shown": 0, "others": 1}}
TRAINED = {"layer": 1, "steps": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"steps": 4, "rank": 2, "initial_rank": 3, "warm_up": 1, "final": 0},
    "alphaedit": {**TWO_LAYERS, "threshold": 0.5},
    "calinet": {**TRAINED, "units": 8},
    "comeba": {**TWO_LAYERS, "texts": 2},
    "defer": {**TRAINED, "texts": 4},
    "emmet": {**JOINT, "layer": 1},
    "ft": TRAINED,
    "ft-constrained": TRAINED,
    "ft-ewc": {**TRAINED, "fisher_texts": 3, "fisher_tokens": 5},
    "ft-l": TRAINED,
    "ft-m": TRAINED,
    "glame": RANK_ONE,
    "glame-batch": TWO_LAYERS,
    "glame-gnn": RANK_ONE,
    "glame-mlp": RANK_ONE,
    "glame-plus": {**RANK_ONE, **PLUS},
    "glame-plus:late-block": {**RANK_ONE, **PLUS},
    "grace": TRAINED,
    "ke": {"untrained": True},
    "locft": {**TRAINED, "batch_size": 2},
    "lora": {"steps": 4, "rank": 2},
    "melo": TRAINED,
    "memit": TWO_LAYERS,
    "memit-kg": {**TWO_LAYERS, "statements": 1, "composed": 1},
    "memoe": TRAINED,
    "memoir": {**TRAINED, "background_texts": 4},
    "mend": {"untrained": True},
    "r-rome": RANK_ONE,
    "rome": RANK_ONE,
    "rome-kg": {**RANK_ONE, "statements": 1, "composed": 1},
    "t-patcher": {**TRAINED, "texts": 4},
    "wise": {
        **TRAINED,
        "learning_rate": 3e-3,
        "texts": 4,
        "text_tokens": 4,
        "context_starts": ["I"],
        "context_tokens": [4],
    },
}
ALONE = ("ft", "glame", "memit", "memit-kg", "rome", "rome-kg")  # also each of the ten edits on the unedited model
ON_GPT2 = ("glame", "memit", "rome")  # whose weights are stored transposed
DEFAULTS = ("glame", "memit", "rome")  # on SmolLM2-135M, with no setting changed but the text for C
SUBGRAPHS: dict[str, dict[str, Any]] = {
    "default": {},
    "inverse-hub": {"policy": "inverse-hub", "per_node": 8},
    "three hops": {"hops": 3, "per_node": 5, "seed": 1, "direction": "both"},
}
BENCHMARKS = {"edits": str(HERE / "edits.jsonl"), "ripples": "ripples-smollm2-135m"}
SCORED = ("glame", "rome")
SMOLLM2 = "smollm2-135m"
OWN_TEXT = {"covariance": {"corpus": "self"}}


@pytest.fixture(scope="module")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the covariances of the tiny models are measured once for all tests here."""
    return tmp_path_factory.mktemp("cache")


@cache
def edits() -> tuple[Edit, ...]:
    return tuple(read_edits(HERE / "edits.jsonl").edits)


def rounded(number: float) -> float:
    return float(f"{number:.6g}")


def fingerprints(patch: Patch) -> dict[str, list[float]]:
    """Return [|D|, u^T D v, u'^T D v'] of each change D = left right^T [out, in], and of each further tensor.

    u and v are seeded standard normal vectors, so that the products are of the size of |D|; all in float64. Tensors
    that are not factors of a weight are listed by shape and norm, so that it does not matter how a file names them.
    """
    with tempfile.TemporaryDirectory() as folder:
        tensors = load_file(patch.save(Path(folder) / "patch.safetensors"))
    changes, others = {}, []
    for name, tensor in tensors.items():
        weight, _, side = name.rpartition(".")
        if side == "right" or name.startswith("state/"):  # a state changes nothing in the model
            continue
        change = tensor.astype(np.float64).reshape(len(tensor) if tensor.ndim else 1, -1)
        if side == "left":
            change = change @ tensors[f"{weight}.right"].astype(np.float64).T
        random = np.random.default_rng(0)
        ends = [[random.standard_normal(length) for length in change.shape] for _ in range(2)]
        fingerprint = [rounded(np.linalg.norm(change)), *(rounded(u @ change @ v) for u, v in ends)]
        if side == "left":
            changes[weight] = fingerprint
        else:
            others.append((tensor.shape, fingerprint))
    return changes | {f"{index} {shape}": fingerprint for index, (shape, fingerprint) in enumerate(sorted(others))}


def patches(
    name: str, model: LanguageModel, facts: tuple[Edit, ...], *, alone: bool, **settings: Any
) -> dict[str, Any]:
    """Return the fingerprints of the patch of all facts in one call; if ``alone``, of each fact's own patch too.

    ``name`` is a method, or METHOD:PRESET.
    """
    method_name, _, preset = name.partition(":")
    method = find_method(method_name).on(model, preset=preset or "default", settings=settings)
    each = {edit.id: fingerprints(method.edit([edit])) for edit in facts} if alone else {}
    # One after the other, a fact costs as much as alone; three are enough to see that each builds on the last
    together = facts if method.joint or not alone else facts[:3]
    return each | {"together": fingerprints(method.edit(together))}


def scores(method: str, benchmark: str, *, model: str, **settings: Any) -> dict[str, Any]:
    """Return the mean of each metric of `kg-edit evaluate` on three records, unedited and edited."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        data = ("--dataset", benchmark, "--data", BENCHMARKS[benchmark], "--limit", "3", "--device", "cpu")
        graph = ("--graph", "extract") if method == "glame" and benchmark == "edits" else ()
        options = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
        out = Path(folder) / "run"
        command = ["kg-edit", "evaluate", "--model", model, "--method", method, *data, *graph, *options]
        patch.setattr("sys.argv", [*command, "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        summary = json.loads((out / "summary.json").read_text())
    return {
        phase: {name: rounded(score["mean"]) for name, score in summary[phase].items() if score["mean"] is not None}
        for phase in ("base", "edited")
    }


def tiny_scores(method: str, benchmark: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = tiny("llama")
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return scores(method, benchmark, model=folder, **RANK_ONE)


def subgraphs(name: str) -> dict[str, Any]:
    """Return each edit's number of nodes, number of edges, and hash of the sorted triples (s, r, o)."""
    graphs = WikidataCache(packaged_extract()).subgraphs(edits(), SubgraphOptions(**SUBGRAPHS[name]))
    triples = [sorted((s, key, o) for s, o, key in graph.edges(keys=True)) for graph in graphs]
    hashes = [hashlib.sha256(json.dumps(edges).encode()).hexdigest()[:16] for edges in triples]
    return {
        edit.id: f"{len(graph)} nodes, {graph.number_of_edges()} edges, {digest}"
        for edit, graph, digest in zip(edits(), graphs, hashes, strict=True)
    }


def check(numbers: dict[str, Any], recorded: dict[str, Any], *, tolerance: float) -> None:
    """Compare nested numbers; a fingerprint's products are compared to the scale of its norm."""
    assert numbers.keys() == recorded.keys()
    for name, value in recorded.items():
        if isinstance(value, dict):
            check(numbers[name], value, tolerance=tolerance)
        elif isinstance(value, str):
            assert numbers[name] == value, name
        else:
            scale = abs(value[0]) if isinstance(value, list) else abs(value)
            assert numbers[name] == pytest.approx(value, abs=tolerance * scale + 1e-6), name


@cache
def recorded(kind: str) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((HERE / f"{kind}.json").read_text())
    return numbers


# What is recorded: a file for each kind, with an entry for each name
NAMES: dict[str, tuple[str, ...]] = {
    "patches": (*SETTINGS, *(f"{name} gpt2" for name in ON_GPT2)),
    "scores": tuple(f"{method} {benchmark}" for method in SCORED for benchmark in BENCHMARKS),
    "subgraphs": tuple(SUBGRAPHS),
    "smollm2-patches": DEFAULTS,
    "smollm2-scores": tuple(f"{method} edits" for method in SCORED),
}
# One of each way to compute a patch; the rest is slow
EVERYDAY = {"glame", "memit", "rome", *SUBGRAPHS}


def computed(kind: str, name: str) -> dict[str, Any]:
    """Return the numbers of one entry, as today's code computes them."""
    first, _, second = name.partition(" ")
    if kind == "patches":
        model = tiny(second or "llama")
        return patches(first, model, edits(), alone=first in ALONE and not second, **SETTINGS[first])
    if kind == "scores":
        return tiny_scores(first, second)
    if kind == "subgraphs":
        return subgraphs(name)
    if kind == "smollm2-patches":
        return patches(name, LanguageModel.load(SMOLLM2, device="cpu"), edits()[:3], alone=False, **OWN_TEXT)
    return scores(first, second, model=SMOLLM2, **OWN_TEXT)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=() if name in EVERYDAY and "smollm2" not in kind else pytest.mark.slow)
        for kind, names in NAMES.items()
        for name in names
    ],
)
def test_numbers_stay_as_recorded(kind: str, name: str, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "smollm2" not in kind:  # whose covariances take minutes: the user's cache may hold them already
        monkeypatch.setenv("KG_EDIT_CACHE", str(tiny_cache))
    tolerance = 1e-3 if "smollm2" in kind else LOOSE.get(name, TOLERANCE)
    check(computed(kind, name), recorded(kind)[name], tolerance=tolerance)


def test_every_recorded_number_is_compared() -> None:
    files = {file.stem: tuple(sorted(json.loads(file.read_text()))) for file in HERE.glob("*.json")}
    assert files == {kind: tuple(sorted(names)) for kind, names in NAMES.items()}


def record() -> None:
    """Write every number that today's code computes."""
    with tempfile.TemporaryDirectory() as cache_folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KG_EDIT_CACHE", cache_folder)
        for kind, names in NAMES.items():
            if "smollm2" in kind:
                patch.undo()
            values = {name: computed(kind, name) for name in names}
            text = json.dumps(values, indent=1, sort_keys=True)
            text = re.sub(r"\[[^\[\]]*\]", lambda numbers: " ".join(numbers[0].split()), text)  # a list on a line
            (HERE / f"{kind}.json").write_text(f"{text}\n")


if __name__ == "__main__":
    record()
