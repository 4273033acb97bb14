"""How many of 60 edits of odd shapes are said, and what else changes, method by method.

Each edit is made alone, or all in one model (`--together`).

The edits (`kg_edit/data/own-shapes.jsonl`) are what people write: a subject of one token at the start of a prompt, in
its middle or after a sentence; at its end; twice; with an apostrophe; in another script; targets of 1 to 30 tokens;
questions; prompts in German, Chinese and Korean. Printed a shape: said when asked as `kg-edit edit` asks; as the
prompt stands alone; after a sentence; and neighbours whose text stays the same. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.jobs.before_after import probes
from kg_edit.methods import EditingMethod, find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import continuations
from kg_edit.text.matching import begins_with

FILE = Path(__file__).resolve().parents[1] / "kg_edit" / "data" / "own-shapes.jsonl"
BEFORE = "I read this today. "
STAYS_TOKENS, MORE_TOKENS = 5, 3
Counts = dict[str, list[bool]]


def main() -> None:
    """Edit, ask, print a line for each shape and method, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default="rome", help="names with commas")
    parser.add_argument("--shapes", help="names with commas; all by default")
    parser.add_argument("--together", action="store_true", help="all edits in one model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help="a setting of the methods")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    edits = [
        edit for edit in read_edits(FILE).edits if not options.shapes or shape_of(edit) in options.shapes.split(",")
    ]
    settings = {key: json.loads(value) for key, _, value in (given.partition("=") for given in options.set)}
    result = {}
    for name in options.methods.split(","):
        method = find_method(name).on(model, settings=settings)
        result[name] = measured(method, edits, together=options.together)
    print(json.dumps({"name": "own_shapes", "n": len(edits), **result}))


def measured(method: EditingMethod, edits: Sequence[Edit], *, together: bool) -> dict[str, float]:
    """The shares over all edits; a line is printed for each shape. An edit that fails says nothing."""
    method.prepare()
    began = perf_counter()
    made = [method.edit(edits)] * len(edits) if together else method.edit_each(edits)
    took = (perf_counter() - began) / len(edits)
    found = {edit.id: counts(method.model, edit, patch) for edit, patch in zip(edits, made, strict=True)}
    for shape in dict.fromkeys(map(shape_of, edits)):
        print(f"{method.name:12} {shape:12} {shares([found[edit.id] for edit in edits if shape_of(edit) == shape])}")
    return {**shares(list(found.values())), "s an edit": round(took, 2)}


def counts(model: LanguageModel, edit: Edit, patch: Patch | Exception) -> Counts:
    """What the edited model says, and which neighbours' texts stay."""
    asked = {"said": probes(model, edit)[0].ask, "alone": edit.text, "after": BEFORE + edit.text}
    if isinstance(patch, Exception):
        print(f"{edit.id}: {patch}")
        return {name: [False] for name in asked}
    size = MORE_TOKENS + len(model.tokenizer(edit.target_new)["input_ids"])
    texts = continuations(model, list(asked.values()), limits=[size] * len(asked), patches=[patch] * len(asked))
    near = list(edit.neighborhood)
    limits = [STAYS_TOKENS] * len(near)
    before, after = (continuations(model, near, limits=limits, patches=[one] * len(near)) for one in (None, patch))
    said = {name: [begins_with(text, edit.target_new)] for name, text in zip(asked, texts, strict=True)}
    return {**said, "neighbours stay": [old == new for old, new in zip(before, after, strict=True)]}


def shape_of(edit: Edit) -> str:
    """The edit's shape: what its id begins with."""
    return edit.id.rpartition("-")[0]


def shares(found: Sequence[Counts]) -> dict[str, float]:
    """The share of each count."""
    names = dict.fromkeys(name for one in found for name in one)
    whole = {name: [value for one in found for value in one.get(name, [])] for name in names}
    return {name: round(sum(values) / len(values), 3) for name, values in whole.items() if values}


if __name__ == "__main__":
    main()
