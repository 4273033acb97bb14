"""KN's edits with several intervals of the integral in one pass, against one interval in a pass.

A pass over a few rows takes as long as its weights take to be read. Both choose the same neurons, up to rounding; the
number of edits with the same neurons is printed. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from tools.model_edits import some_edits

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.kn import neurons
from kg_edit.zoo.kn.method import Kn, KnConfig


def timed(method: Kn, edits: Sequence[Edit], *, rows: int) -> tuple[float, list[Any]]:
    """Seconds for the edits, and the neurons of each, with at most ``rows`` rows in a pass."""
    neurons._ROWS = rows
    start = time.perf_counter()
    patches = [method.edit([edit]) for edit in edits]
    return time.perf_counter() - start, [patch.provenance["edits"][0]["neurons"] for patch in patches]


def main() -> None:
    """Time both for the same edits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="default", choices=KnConfig.preset_names())
    parser.add_argument("--edits", type=int, default=2)
    options = parser.parse_args()
    method = Kn(LanguageModel.load("smollm2-135m"), KnConfig.preset(options.preset))
    method.prepare()
    edits = some_edits(options.edits)
    rows = neurons._ROWS
    slow, expected = timed(method, edits, rows=1)
    quick, actual = timed(method, edits, rows=rows)
    same = sum(map(list.__eq__, expected, actual))
    print(f"one interval: {slow / len(edits):.1f} s an edit; together: {quick / len(edits):.1f} s")
    print(f"{slow / quick:.1f} times faster; {same} of {len(edits)} edits change the same neurons")
    print(json.dumps({"alone_s": slow / len(edits), "together_s": quick / len(edits), "ratio": slow / quick}))


if __name__ == "__main__":
    main()
