"""Two edits of one subject, made in one call: of how many pairs are both facts generated afterwards?

    python bench/shared_subjects.py --methods rome,alphaedit,grace,ike

The pairs (`shared_subjects.jsonl`) are made up; the first fact of a pair is edited before the second. A method has its
default settings, or a preset as METHOD:PRESET. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import ask
from kg_edit.text.matching import begins_with

FILE = Path(__file__).with_suffix(".jsonl")  # a pair on two lines, the first fact first


def main() -> None:
    """Edit each pair with each method, and print how many first, second and both facts hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default="rome,alphaedit,grace,ike", help="METHOD[:PRESET], with commas")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    pairs = read_pairs()
    result = {}
    for named in options.methods.split(","):
        name, _, preset = named.partition(":")
        method = find_method(name).on(model, preset=preset or "default")
        method.prepare()
        outcomes = [pair_holds(model, method.edit(edits), edits) for edits in pairs]
        first, second = (sum(outcome[index] for outcome in outcomes) for index in (0, 1))
        result[named] = {"both": sum(map(all, outcomes)), "first": first, "second": second}
        print(f"{named:16} {result[named]} of {len(pairs)}", flush=True)
    print(json.dumps({"name": "shared_subjects", "n": len(pairs), **result}))


def read_pairs() -> list[tuple[Edit, Edit]]:
    """Return the two edits of each pair."""
    edits = read_edits(FILE).edits
    return list(zip(edits[::2], edits[1::2], strict=True))


def pair_holds(model: LanguageModel, patch: Patch, edits: Sequence[Edit]) -> list[bool]:
    """Return for each edit whether the edited model generates its target."""
    with patch.applied(model) as edited:
        return [begins_with(ask(edited, edit.text), edit.target_new) for edit in edits]


if __name__ == "__main__":
    main()
