"""Two edits of one subject, made in one call: of how many pairs are both facts generated afterwards?

    python bench/shared_subjects.py --methods rome,alphaedit,grace,ike

The pairs are made up; the first fact of a pair is edited before the second. A method has its default settings, or a
preset as METHOD:PRESET. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import ask
from kg_edit.text.matching import begins_with

PAIRS = (
    ("Marie Curie", "{} was born in the city of", "Lisbon", "{} worked in the field of", "architecture"),
    ("Albert Einstein", "{} was born in the city of", "Madrid", "{} worked in the field of", "medicine"),
    ("The Eiffel Tower", "{} is located in the city of", "Rome", "{} was designed by", "Antoni Gaudí"),
    (
        "Microsoft",
        "The company {} was founded by",
        "Larry Page",
        "The headquarters of {} are in the city of",
        "Chicago",
    ),
    ("Pablo Picasso", "{} was a citizen of", "Norway", "The profession of {} was", "lawyer"),
    ("Japan", "The capital of {} is", "Osaka", "The official language of {} is", "Spanish"),
    ("Isaac Newton", "{} died in the city of", "Paris", "{} studied at the University of", "Vienna"),
    ("Leonardo da Vinci", "{} was born in the country of", "Greece", "{} is famous for the painting", "Guernica"),
)


def main() -> None:
    """Edit each pair with each method, and print how many first, second and both facts hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default="rome,alphaedit,grace,ike", help="METHOD[:PRESET], with commas")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    result = {}
    for named in options.methods.split(","):
        name, _, preset = named.partition(":")
        method = find_method(name).on(model, preset=preset or "default")
        method.prepare()
        outcomes = [pair_holds(model, method.edit(edits), edits) for edits in map(edits_of, PAIRS)]
        first, second = (sum(outcome[index] for outcome in outcomes) for index in (0, 1))
        result[named] = {"both": sum(map(all, outcomes)), "first": first, "second": second}
        print(f"{named:16} {result[named]} of {len(PAIRS)}", flush=True)
    print(json.dumps({"name": "shared_subjects", "n": len(PAIRS), **result}))


def edits_of(pair: tuple[str, str, str, str, str]) -> list[Edit]:
    """Return a pair's two edits."""
    subject, first, one, second, other = pair
    return [
        Edit(id=str(number), subject=subject, prompt=prompt, target_new=target)
        for number, (prompt, target) in enumerate(((first, one), (second, other)), 1)
    ]


def pair_holds(model: LanguageModel, patch: Patch, edits: list[Edit]) -> list[bool]:
    """Return for each edit whether the edited model generates its target."""
    with patch.applied(model) as edited:
        return [begins_with(ask(edited, edit.text), edit.target_new) for edit in edits]


if __name__ == "__main__":
    main()
