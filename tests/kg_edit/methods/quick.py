"""Settings with which each method takes about a second on a tiny model, for the matrix that runs them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TEXT = Path(__file__).resolve().parents[2] / "data" / "corpus.txt"  # read in a moment; the model's own takes a second
COVARIANCE = {"covariance": {"corpus": str(_TEXT), "tokens": 200}}
_RANK_ONE: dict[str, Any] = {"layer": 1, "steps": 4, "further_steps": 0, "context_lengths": [[4, 1]], **COVARIANCE}
_JOINT: dict[str, Any] = {"steps": 4, "further_steps": 0, "context_starts": ["The"], "context_tokens": 3, **COVARIANCE}
_ADAPTER: dict[str, Any] = {"layer": 1, "steps": 4, "learning_rate": 0.01}
_TUNING: dict[str, Any] = {"layer": 1, "steps": 4, "learning_rate": 0.01}

# What a method needs that has no network of its own at hand
_TRAINED = ("ke", "malmen", "mend", "rledit", "serac")
UNTRAINED: dict[str, dict[str, Any]] = {name: {"untrained": True} for name in _TRAINED}

QUICK: dict[str, dict[str, Any]] = {
    "adalora": {"steps": 4, "rank": 2, "initial_rank": 3, "warm_up": 1, "final": 0, "learning_rate": 0.05},
    "alphaedit": {**_JOINT, "layers": [1, 2], "threshold": 0.5},
    "calinet": {**_ADAPTER, "units": 8},
    "comeba": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0, "texts": 2},
    "defer": {**_ADAPTER, "texts": 4, "shut": 20.0},
    "definition": {},
    "eamet": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0},
    "emmet": {**_JOINT, "layer": 1},
    "ext-sub": {"steps": 4, "rank": 2, "learning_rate": 0.01, "dropout": 0.0},
    "ft": _TUNING,
    "ft-all": {"steps": 4, "learning_rate": 0.002},
    "ft-augmented": {"layers": [1], "steps": 4, "learning_rate": 0.01, "contexts": 2, "context_tokens": 4, "texts": 1},
    "ft-constrained": {**_TUNING, "radius": 0.02},
    "ft-ewc": {**_TUNING, "fisher_texts": 3, "fisher_tokens": 5},
    "ft-l": _TUNING,
    "ft-m": _TUNING,
    "ft-retrain": _TUNING,
    "glame": _RANK_ONE,
    "glame-batch": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0},
    "glame-gnn": _RANK_ONE,
    "glame-mlp": _RANK_ONE,
    "glame-plus": {**_RANK_ONE, "recalled": 2, "stated": 1, "answers": {"steps": 2, "shown": 0, "others": 1}},
    "glame-random": {**_RANK_ONE, "pool": ["Q2", "Q4"]},
    "grace": {"layer": 1, "steps": 4},
    "graph-memory": {},
    "ike": {"count": 0},
    "ke": UNTRAINED["ke"],
    "kn": {"steps": 2, "context_lengths": [[4, 1]]},
    "locft": {**_TUNING, "batch_size": 2},
    "lora": {"steps": 4, "rank": 2, "learning_rate": 0.005},
    "malmen": UNTRAINED["malmen"],
    "mello": {"shots": 0, "steps": 1, "tokens": 4},
    "melo": _ADAPTER,
    "memit": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0},
    "memit-kg": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0, "statements": 1, "composed": 1},
    "memoe": _ADAPTER,
    "memoir": {**_ADAPTER, "background_texts": 4},
    "memory": _ADAPTER,
    "memprompt": {"shots": 0},
    "mend": UNTRAINED["mend"],
    "pmet": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0},
    "popularity-retrieval": {},
    "r-rome": _RANK_ONE,
    "rag": {},
    "restrained-emmet": {**_JOINT, "layer": 1, "sphere": 0.8},
    "restrained-memit": {**_JOINT, "layers": [1, 2], "mom2_weight": 10.0, "sphere": 0.8},
    "restrained-rome": {**_RANK_ONE, "sphere": 0.8},
    "rledit": UNTRAINED["rledit"],
    "rome": _RANK_ONE,
    "rome-kg": {**_RANK_ONE, "statements": 1, "composed": 1},
    "serac": UNTRAINED["serac"],
    "ultraedit": {"layers": [1, 2], "texts": 2, "text_tokens": 4},
    "t-patcher": {**_ADAPTER, "texts": 4},
    "wise": {**_ADAPTER, "texts": 4, "text_tokens": 4, "context_starts": ["I"], "context_tokens": [4], "ratio": 0.1},
}
