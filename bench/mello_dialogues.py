"""MeLLo's dialogues of one record's prompts, written together, against one after the other.

The prompts are those that `kg-edit evaluate` asks: the edit, its paraphrases and neighbours, and its questions. Padding
changes a logit in its last digits, so a dialogue may differ where two tokens are equally likely; the share of equal
dialogues is printed. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time

from tools.model_edits import some_edits

from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.mello.method import Mello, MelloConfig


def main() -> None:
    """Time both ways for each record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2)
    options = parser.parse_args()
    model = LanguageModel.load("smollm2-135m")
    alone = together = 0.0
    equal = count = 0
    for edit in some_edits(options.records):
        prompts = [edit.text, *edit.paraphrases, *edit.neighborhood, *(q.question for q in edit.portability)]
        patch = Mello(model, MelloConfig()).edit([edit])
        start = time.perf_counter()
        with patch.applied(model) as edited:
            plain = [edited.encode(text).text for text in prompts]
        middle = time.perf_counter()
        with patch.applied(model) as edited:
            edited.foresee(prompts)
            foreseen = [edited.encode(text).text for text in prompts]
        together += time.perf_counter() - middle
        alone += middle - start
        equal += sum(map(str.__eq__, plain, foreseen))
        count += len(prompts)
    print(f"{count} dialogues: {alone / count:.2f} s each alone, {together / count:.2f} s together")
    print(f"{alone / together:.1f} times faster; {equal} of {count} dialogues are equal")
    print(json.dumps({"alone_s": alone / count, "together_s": together / count, "ratio": alone / together}))


if __name__ == "__main__":
    main()
