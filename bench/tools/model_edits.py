"""Edits for the measurements of the engine: CounterFactPlus records where they are, else the packaged demonstration."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

from kg_edit.datasets import find_dataset
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.value.objective import Request

RECORDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "counterfact_plus" / "dev.json"
DEMO = Path(__file__).resolve().parents[2] / "kg_edit" / "data" / "demo.jsonl"


def some_edits(count: int) -> list[Edit]:
    """The first ``count`` records; where the benchmark is absent, the demonstration's edits over and over."""
    if RECORDS.exists():
        return [record.edits[0] for record in find_dataset("counterfact-plus")(RECORDS)[:count]]
    return list(islice(cycle(read_edits(DEMO).edits), count))


def request(model: LanguageModel, edit: Edit, contexts: tuple[str, ...]) -> Request:
    """The rows of one edit, as ROME asks for them."""
    rewrites = tuple(
        encode(model.tokenizer, edit.prompt, subject=edit.subject, target=edit.target_new, context=context)
        for context in contexts
    )
    return Request(rewrites=rewrites, essence=encode(model.tokenizer, "{} is a", subject=edit.subject))
