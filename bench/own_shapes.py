"""The success of 60 edits of odd shapes, and the locality prompts whose text stays the same, method by method.

Each edit is made alone, or all in one model (`--together`). `--methods` takes names with commas, or all.

The edits (`kg_edit/data/own-shapes.jsonl`) are what people write: a subject of one token at the start of a prompt, in
its middle or after a sentence; at its end; twice; with an apostrophe; in another script; targets of 1 to 30 tokens;
questions; prompts in German, Chinese and Korean. Printed a shape: success if asked as `kg-edit edit` asks; as the
prompt alone; after a line break (`--start always`); after the document's start (BOS); after a sentence; and locality
prompts whose text stays the same. Ends with one JSON line.

Methods that read a graph get one that has each new object, without a statement. MEND takes its plain step where
`--set mend:network=…` names no trained one. A method that can't run (MEND without its network) is reported.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.errors import KgEditError
from kg_edit.methods import EditingMethod, find_method
from kg_edit.methods.registry import method_names
from kg_edit.models.first_token import LINE_BREAK
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.sampling import document_start
from kg_edit.patches.base import Patch
from kg_edit.reports.probes import probes
from kg_edit.scoring.generation import continuations
from kg_edit.text.matching import begins_with

FILE = Path(__file__).resolve().parents[1] / "kg_edit" / "data" / "own-shapes.jsonl"
BEFORE = "I read this today. "
STAYS_TOKENS = 5
MORE_TOKENS = 3
SUCCESS = "success"
ALONE = "alone"
LED = "after a line break"
STARTED = "after the start"
AFTER = "after"
SAME = "locality prompts the same"
SAME_LED = "unedited, the same after a line break"
SAME_STARTED = "unedited, the same after the start"
Counts = dict[str, list[bool]]
Made = Patch | Exception


def main() -> None:
    """Edit, ask, print a line for each shape and method, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--edits", type=Path, default=FILE, help="a file of edits; the shape is the id without -NUMBER")
    parser.add_argument("--methods", default="rome", help="names with commas, or all")
    parser.add_argument("--shapes", help="names with commas; all by default")
    parser.add_argument("--together", action="store_true", help="all edits in one model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="[METHOD:]KEY=JSON", help="a setting of the methods, or of one"
    )
    options = parser.parse_args()
    shapes = options.shapes.split(",") if options.shapes else None
    edits = [edit for edit in read_edits(options.edits).edits if not shapes or shape_of(edit) in shapes]
    names = method_names() if options.methods == "all" else options.methods.split(",")
    model = LanguageModel.load(options.model)
    result = {
        name: measured(model, name, edits, settings=settings_of(name, options.set), together=options.together)
        for name in names
    }
    sizes = {"n": len(edits), "neighbours": sum(len(edit.neighborhood) for edit in edits)}
    print(json.dumps({"name": "own_shapes", **sizes, "together": options.together, **result}))


def settings_of(method: str, given: Sequence[str]) -> dict[str, Any]:
    """Return the settings that `--set` gives to a method; without a network, MEND takes a plain gradient step."""
    settings: dict[str, Any] = {}
    for key, _, value in (option.partition("=") for option in given):
        owner, _, name = key.rpartition(":")
        if owner in ("", method):
            settings[name] = json.loads(value)
    return settings if method != "mend" or "network" in settings else {"untrained": True, **settings}


def measured(
    model: LanguageModel, name: str, edits: Sequence[Edit], *, settings: Mapping[str, Any], together: bool
) -> dict[str, Any]:
    """Return the shares over all edits, and print a line for each shape; a failed edit counts as no success."""
    kind = find_method(name)
    try:
        method = kind.on(model, settings=dict(settings), graph=bare_graph(edits) if kind.needs_graph else None)
        method.prepare()
    except KgEditError as error:
        print(f"{name}: {error}", flush=True)
        return {"error": str(error)}
    began = perf_counter()
    patches = all_in_one(method, edits) if together else each_alone(method, edits)
    took = (perf_counter() - began) / len(edits)
    counted = {edit.id: counts(model, edit, patch) for edit, patch in zip(edits, patches, strict=True)}
    for shape in dict.fromkeys(map(shape_of, edits)):
        print(f"{name:12} {shape:12} {shares([counted[edit.id] for edit in edits if shape_of(edit) == shape])}")
    print(f"{name:12} {in_words(list(counted.values()))}; {took:.1f} s an edit", flush=True)
    failed = sum(isinstance(patch, Exception) for patch in patches)
    return {**shares(list(counted.values())), "failed": failed, "s an edit": round(took, 2)}


def bare_graph(edits: Sequence[Edit]) -> nx.DiGraph:
    """Return a graph that knows every new object but has no statement."""
    graph = nx.DiGraph()
    graph.add_nodes_from({edit.target_new for edit in edits})
    return graph


def each_alone(method: EditingMethod, edits: Sequence[Edit]) -> list[Made]:
    """Return for each edit its patch, or the error that prevents it."""
    refused = refusals(method, edits)
    patches: Iterator[Made] = iter(method.edit_each([edit for edit in edits if edit.id not in refused]))
    return [refused.get(edit.id) or next(patches) for edit in edits]


def all_in_one(method: EditingMethod, edits: Sequence[Edit]) -> list[Made]:
    """Return for each edit the one patch of all edits that can be made, or the error that prevents the edit."""
    refused = refusals(method, edits)
    patch = method.edit([edit for edit in edits if edit.id not in refused])
    return [refused.get(edit.id, patch) for edit in edits]


def refusals(method: EditingMethod, edits: Sequence[Edit]) -> dict[str, Exception]:
    """Return {edit id: error} for the edits that the method's check refuses; for example, KN needs an old object."""
    errors: dict[str, Exception] = {}
    for edit in edits:
        try:
            method.check([edit])
        except KgEditError as error:
            errors[edit.id] = error
    return errors


def counts(model: LanguageModel, edit: Edit, patch: Made) -> Counts:
    """Return whether the edited model generates o* in each form, and which locality prompts keep their text."""
    start = str(model.tokenizer.decode([document_start(model.tokenizer)]))
    prompts = {
        SUCCESS: probes(model, edit)[0].ask,
        ALONE: edit.text,
        LED: LINE_BREAK + edit.text,
        STARTED: start + edit.text,
        AFTER: BEFORE + edit.text,
    }
    if isinstance(patch, Exception):
        print(f"{edit.id}: {patch}")
        return {name: [False] for name in prompts} | {SAME: [True] * len(edit.neighborhood)}
    size = MORE_TOKENS + len(model.tokenizer(edit.target_new)["input_ids"])
    before = unedited(model, edit.neighborhood)
    with patch.applied(model) as edited:
        texts = continuations(edited, list(prompts.values()), limits=[size] * len(prompts))
        after = continuations(edited, edit.neighborhood, limits=[STAYS_TOKENS] * len(before))
    success = {name: [begins_with(text, edit.target_new)] for name, text in zip(prompts, texts, strict=True)}
    same = {SAME: after}
    for name, lead in ((SAME_LED, LINE_BREAK), (SAME_STARTED, start)):
        same[name] = unedited(model, tuple(lead + prompt for prompt in edit.neighborhood))
    return success | {
        name: [old == new for old, new in zip(before, texts, strict=True)] for name, texts in same.items()
    }


@cache
def unedited(model: LanguageModel, prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the unedited model writes after the neighbours' prompts; computed once for all methods."""
    return continuations(model, prompts, limits=[STAYS_TOKENS] * len(prompts))


def shape_of(edit: Edit) -> str:
    """Return the shape of an edit: its id without the last number."""
    return edit.id.rpartition("-")[0]


def shares(found: Sequence[Counts]) -> dict[str, float]:
    """Return the share of True values for each count."""
    return {name: round(sum(values) / len(values), 3) for name, values in gathered(found).items() if values}


def in_words(found: Sequence[Counts]) -> str:
    """Return each count as text, such as "3 of 60 NAME"."""
    return ", ".join(f"{sum(values)} of {len(values)} {name}" for name, values in gathered(found).items())


def gathered(found: Sequence[Counts]) -> Counts:
    """Return the values of all edits for each count."""
    names = dict.fromkeys(name for edit_counts in found for name in edit_counts)
    return {name: [value for edit_counts in found for value in edit_counts.get(name, [])] for name in names}


if __name__ == "__main__":
    main()
