"""Edits made in plain text and in chat form, each asked in both: success, and unchanged locality prompts.

The form of an edit is `Edit.chat`, that of asking `LanguageModel.in_chat`. Printed a method, a form of the edit (plain,
chat, both, or nothing edited) and a form of asking: efficacy.prob (the new target is likelier than the old one), how
many answers begin with the new target or hold it in their first sentence, paraphrase.prob and neighborhood.prob; in
chat form also efficacy.prob where the assistant's turn has begun with the prompt itself, as a chat model's own answer
does (restated). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.graphs.source import open_named
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import write_user_turn
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score_each
from kg_edit.scoring.pairs import Pair
from kg_edit.text.matching import begins_with, first_sentence, mentions

FILE = Path(__file__).resolve().parents[1] / "kg_edit" / "data" / "own-shapes.jsonl"
TOKENS = 24  # enough for the first sentence of a chat model
FORMS = {"plain": False, "chat": True}
EDITED: dict[str, Any] = {**FORMS, "both": "both"}
Shares = dict[str, float]


def main() -> None:
    """Edit in each form, ask in each form, print a line for each pair, and end with the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, nargs="?", default=FILE, help="a file of edits; those with target_true")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default="rome", help="names with commas")
    parser.add_argument("--set", default="{}", help="settings of the methods, as JSON")
    parser.add_argument("--graph", help="for methods that read one")
    parser.add_argument("--limit", type=int, default=20, help="the first so many edits")
    parser.add_argument("--forms", default="plain,chat,both", help="of the edits, with commas")
    parser.add_argument("--near", type=int, default=10, help="neighbours of an edit at most")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    read = [edit for edit in read_edits(options.edits, keep_going=True).edits if edit.target_true][: options.limit]
    edits = [edit.model_copy(update={"neighborhood": edit.neighborhood[: options.near]}) for edit in read]
    graph = open_named(options.graph) if options.graph else None
    result = {"unedited": {name: shares_of(model, edits, [None] * len(edits), chat) for name, chat in FORMS.items()}}
    show("unedited", result["unedited"])
    for method in options.methods.split(","):
        editor = find_method(method).on(model, settings=json.loads(options.set), graph=graph)
        for form in options.forms.split(","):
            chat = EDITED[form]
            patches = editor.edit_each([edit.with_form(chat=chat) for edit in edits])
            good = [patch if isinstance(patch, WeightPatch) else None for patch in patches]
            result[f"{method}, {form}"] = {name: shares_of(model, edits, good, ask) for name, ask in FORMS.items()}
            show(f"{method}, {form}", result[f"{method}, {form}"])
    print(json.dumps({"name": "chat_forms", "n": len(edits), **result}))


def shares_of(model: LanguageModel, edits: Sequence[Edit], patches: Sequence[WeightPatch | None], chat: bool) -> Shares:
    """Return the mean of each score over all edits; each edit is asked in one form on the model with its own patch."""
    reader = model.in_chat(chat=chat)
    pairs = [[Pair(prompt, name) for prompt in prompts_of(edit) for name in targets_of(edit)] for edit in edits]
    scores = score_each(reader, pairs, patches=patches)
    leads = [
        {prompt: by_pair[Pair(prompt, old)].nll - by_pair[Pair(prompt, new)].nll for prompt in prompts_of(edit)}
        for edit, by_pair in zip(edits, scores, strict=True)
        for new, old in [targets_of(edit)]
    ]
    texts = continuations(reader, [edit.text for edit in edits], limits=[TOKENS] * len(edits), patches=patches)
    answers = list(zip(edits, texts, strict=True))
    rows = list(zip(edits, leads, strict=True))
    by_metric = {
        "efficacy.prob": [lead[edit.text] > 0 for edit, lead in rows],
        "begins": [begins_with(text, edit.target_new) for edit, text in answers],
        "in first sentence": [mentions(first_sentence(text), edit.target_new) for edit, text in answers],
        "paraphrase.prob": [lead[prompt.rstrip()] > 0 for edit, lead in rows for prompt in edit.paraphrases],
        "neighborhood.prob": [lead[prompt.rstrip()] < 0 for edit, lead in rows for prompt in edit.neighborhood],
        "restated": restated(model, edits, patches) if chat else [],
    }
    return {name: round(fmean(values), 3) for name, values in by_metric.items() if values}


def restated(model: LanguageModel, edits: Sequence[Edit], patches: Sequence[WeightPatch | None]) -> list[bool]:
    """Return efficacy.prob of each edit, where the assistant's turn begins with the prompt of the user's turn.

    This works for tokenizers that add no BOS by themselves, since the chat form contains its own BOS.
    """
    form = model.chat_form
    reader = replace(
        model, prompt_transform=lambda text: f"{form.before}{write_user_turn(text)}{form.after}{form.gap}{text}"
    )
    pairs = [[Pair(edit.text, name) for name in targets_of(edit)] for edit in edits]
    scores = score_each(reader, pairs, patches=patches)
    return [by_pair[new].nll < by_pair[old].nll for by_pair, (new, old) in zip(scores, pairs, strict=True)]


def prompts_of(edit: Edit) -> list[str]:
    """Return all prompts of an edit that are scored."""
    return [prompt.rstrip() for prompt in (edit.text, *edit.paraphrases, *edit.neighborhood)]


def targets_of(edit: Edit) -> tuple[str, str]:
    """Return the new and the old target."""
    return edit.target_new, str(edit.target_true)


def show(name: str, found: dict[str, Shares]) -> None:
    """Print one line for each form of asking."""
    for form, shares in found.items():
        print(f"{name:24} asked in {form:6}", *(f"{key} {value:.2f}" for key, value in shares.items()), flush=True)


if __name__ == "__main__":
    main()
