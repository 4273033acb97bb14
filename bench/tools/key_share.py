"""The share of their changes that the facts of a run can have, by the number of facts in the model.

With the keys K [d_ff, n] of all facts in a layer, an update R U^T, U = (lambda C + K K^T)^-1 K, changes the output for
the key k_i by r_i k_i^T U_i, and by the other facts' r_j k_i^T U_j. The share k_i^T U_i is near 1 for few facts. Its
sum over the facts is at most d_ff, the rank of K K^T, so its mean is at most d_ff / n. The keys are those of the
patches of a run of `kg-edit evaluate` with MEMIT and `remember`, whose `hold` is left out. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import torch

from kg_edit.locate_then_edit.joint import joint_directions
from kg_edit.locate_then_edit.states import OtherTokens
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import KEY
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.run_folder import read_settings

FACTS = (100, 300, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000)


def main() -> None:
    """Read the keys, and print the mean share of the first n facts, over the layers, and the bound for each n."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--model", required=True, help="the model of the run")
    options = parser.parse_args()
    method = Memit(LanguageModel.load(options.model), MemitConfig.model_validate(read_settings(options.run)["config"]))
    others = OtherTokens(method.model, (), method.layers, memory=method.memory)

    patches = [Patch.load(path) for path in sorted((options.run / "patches").glob("*.safetensors"))]
    by_n: dict[int, list[float]] = {}
    for layer in method.layers:
        name = KEY + method.model.weight_name(layer)
        keys = torch.cat([patch.state[name] for patch in patches if isinstance(patch, WeightPatch)], 1).double()
        for facts in (n for n in FACTS if n <= keys.shape[1]):
            first_keys = keys[:, :facts]
            solved = method.solve(layer, first_keys, others.at(layer))
            directions = joint_directions(first_keys, solved, weight=method.config.mom2_weight or len(first_keys) / 10)
            by_n.setdefault(facts, []).append((first_keys * directions).sum(0).mean().item())
    for facts, shares in by_n.items():
        print(f"{facts} facts: {mean(shares):.3f} (at most {len(first_keys) / facts:.3f})")
    print(json.dumps({"name": "key_share", "share": {facts: round(mean(each), 3) for facts, each in by_n.items()}}))


if __name__ == "__main__":
    main()
