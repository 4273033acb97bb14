"""FT-M's single edits in the same passes of the model, against one edit after the other.

Both make the same changes, up to rounding; the largest difference of the final losses is printed. Ends with one JSON
line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from tools.model_edits import some_edits

from kg_edit.methods.base import EditingMethod
from kg_edit.methods.fine_tuning.ft import FtM
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch


def timed(make: Callable[[], Sequence[Patch | Exception]]) -> tuple[float, list[float]]:
    """Seconds for the edits, and the final loss of each."""
    start = time.perf_counter()
    patches: list[Any] = list(make())
    return time.perf_counter() - start, [patch.edits[0]["loss_after"] for patch in patches]


def main() -> None:
    """Time both ways on the same edits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=16, help="how many edits of the known facts")
    args = parser.parse_args()
    method = FtM.on(LanguageModel.load("smollm2-135m"))
    edits = some_edits(args.edits)
    method.edit(edits[:1])  # the first pass reads the weights from disk
    alone, plain = timed(lambda: EditingMethod.make_each(method, edits))
    together, fast = timed(lambda: method.edit_each(edits))
    gap = max(abs(one - other) for one, other in zip(plain, fast, strict=True))
    print(f"{len(edits)} edits: one after the other {alone:.1f} s, together {together:.1f} s; {gap=:.4f}")
    print(
        json.dumps({"edits": len(edits), "alone": alone, "together": together, "ratio": alone / together, "gap": gap})
    )


if __name__ == "__main__":
    main()
