"""Ext-Sub on WikiBio: does a model that subtracts false sentences prefer the true ones, also of other people?

python bench/ext_sub_wikibio.py wikibio-train-all.json wikibio-test-all.json --text wikitext2/test.txt

The files are KnowEdit's: the beginning of a biography, and its true next sentence. The false one is the next sentence
of the biography after it in the file. The expert is trained on true sentences, the anti-expert on false ones; both are
asked about the people of the test file. Printed for the unedited model and each change: -log p of the true and of the
false sentence in nats per token, how often the true one is likelier, and the perplexity of the text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from kg_edit.closed_form.extraction import subtracted
from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.likelihood import Pair, score
from kg_edit.scoring.perplexity import perplexity

SETTINGS = {"modules": ("q_proj", "v_proj"), "learning_rate": 1e-3, "stop_below": 0.0}


def read(path: Path, limit: int) -> list[tuple[str, str, str, str]]:
    """Return (name, beginning, true sentence, false sentence) of the first ``limit`` passages with the name in them."""
    rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["concept"] in row["text"]]
    return [
        (row["concept"], row["text"].strip(), row["labels"].strip(), other["labels"].strip())
        for row, other in pairwise(rows[: limit + 1])
    ]


def edits(rows: list[tuple[str, str, str, str]], *, true: bool) -> Iterator[Edit]:
    """Yield an edit per passage: its beginning, and the true or the false sentence as the target."""
    for number, (name, text, right, wrong) in enumerate(rows):
        prompt = text.replace("{", "(").replace("}", ")").replace(name, "{}", 1)
        yield Edit(id=str(number), subject=name, prompt=prompt, target_new=right if true else wrong)


def line(model: LanguageModel, rows: list[tuple[str, str, str, str]], text: str) -> str:
    """Return the four numbers of a model, as text."""
    pairs = [(Pair(begin, right), Pair(begin, wrong)) for _, begin, right, wrong in rows]
    found = score(model, [pair for both in pairs for pair in both])
    nll = [(found[right].nll, found[wrong].nll) for right, wrong in pairs]
    true, false = fmean(one for one, _ in nll), fmean(two for _, two in nll)
    share = fmean(one < two for one, two in nll)
    return f"true {true:.3f}, false {false:.3f}, true likelier {share:.2f}, perplexity {perplexity(model, text):.1f}"


def main() -> None:
    """Train both adapters, and print a line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="plain text for the perplexity")
    parser.add_argument("--limit", type=int, default=48, help="passages to train on, and to ask")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    model, rows = LanguageModel.load(options.model), read(options.train, options.limit)
    asked, text = read(options.test, options.limit), options.text.read_text(encoding="utf-8")[:4000]
    found = find_method("ext-sub")
    method = found(model, found.config_class.preset("default", {**SETTINGS, "steps": options.epochs + 1}))
    print(f"unedited: {line(model, asked, text)}", flush=True)
    expert, anti = (method.edit([*edits(rows, true=true)]) for true in (True, False))
    changes: dict[str, Patch] = {
        "expert alone": expert,
        "anti-expert alone": anti,
        "Ext-Sub": subtracted(expert, anti),
        "whole anti-expert subtracted": subtracted(expert, anti, extract=False),
    }
    for name, patch in changes.items():
        with patch.applied(model) as edited:
            print(f"{name}: {line(edited, asked, text)}", flush=True)


if __name__ == "__main__":
    main()
