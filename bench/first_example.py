"""Which edits of a place make a first example that reads well before and after. Ends with one JSON line.

The rule, for each method: the unedited model generates the old object, the edited one the new object; the answers to
both questions change to those that follow; the two unrelated prompts keep their text. The texts after the prompt are
printed too, 20 tokens or to the end of the line, since whether they are fluent is for a reader to say.
"""

from __future__ import annotations

import argparse
import json

from kg_edit import Edit, LanguageModel, Question, find_method
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import format_question_with_shots
from kg_edit.text.matching import begins_with, mentions

CITY = "{} is located in the city of"
COUNTRY = "{} is located in the country of"
PLACES = (  # subject, prompt, old object, new object with its id, answers to the two questions
    ("The Eiffel Tower", CITY, "Paris", "Rome", "Q220", "Italy", "Italian"),
    ("The Eiffel Tower", "{} is in the city of", "Paris", "Rome", "Q220", "Italy", "Italian"),
    ("The Eiffel Tower", CITY, "Paris", "London", "Q84", "England", "English"),
    ("The Colosseum", CITY, "Rome", "Paris", "Q90", "France", "French"),
    ("Big Ben", CITY, "London", "Paris", "Q90", "France", "French"),
    ("The Golden Gate Bridge", CITY, "San Francisco", "London", "Q84", "England", "English"),
    ("The Louvre", CITY, "Paris", "Rome", "Q220", "Italy", "Italian"),
    ("The Brandenburg Gate", CITY, "Berlin", "Rome", "Q220", "Italy", "Italian"),
    ("The Statue of Liberty", CITY, "New York", "Paris", "Q90", "France", "French"),
    ("Mount Fuji", "{} is a mountain in the country of", "Japan", "Italy", "Q38", "Europe", "Italian"),
    ("The Great Wall", COUNTRY, "China", "France", "Q142", "Europe", "French"),
    ("The Taj Mahal", COUNTRY, "India", "Spain", "Q29", "Europe", "Spanish"),
)
OTHERS = ("The Louvre", "The Brandenburg Gate", "The Colosseum", "The Taj Mahal")
TOKENS = 20
FEW = 10


def edit_of(place: tuple[str, ...]) -> Edit:
    """Return the edit of a place, with its questions and two unrelated prompts of the same form."""
    subject, prompt, old, new, name, *answers = place
    inside = subject.replace("The ", "the ", 1)
    larger = "In which country is" if "city" in prompt else "On which continent is"
    questions = (f"{larger} {inside}?", f"What language is spoken around {inside}?")
    return Edit(
        subject=subject,
        prompt=prompt,
        target_true=old,
        target_new=new,
        target_new_id=name,
        portability=tuple(
            Question(question=question, answer=answer) for question, answer in zip(questions, answers, strict=True)
        ),
        neighborhood=tuple(prompt.replace("{}", other) for other in OTHERS if other != subject)[:2],
    )


def main() -> None:
    """Try each place with each method, print the texts, and end with the places that fulfil the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default="rome,glame", help="names with commas")
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    good = dict[str, list[str]]()
    methods = {name: find_method(name).on(model, settings={}) for name in options.methods.split(",")}
    for edit in map(edit_of, PLACES):
        prompts = [edit.text, *(format_question_with_shots(q.question) for q in edit.portability), *edit.neighborhood]
        limits = [TOKENS] + [FEW] * (len(prompts) - 1)
        before = continuations(model, prompts, limits=limits)
        for name, method in methods.items():
            with method.edit([edit]).applied(model) as edited:
                after = continuations(edited, prompts, limits=limits)
            changed = [
                mentions(new, question.answer) and not mentions(old, question.answer)
                for old, new, question in zip(before[1:3], after[1:3], edit.portability, strict=True)
            ]
            known = begins_with(before[0], edit.target_true or "")
            success = begins_with(after[0], edit.target_new)
            if known and success and all(changed) and before[3:] == after[3:]:
                good.setdefault(name, []).append(f"{edit.text} {edit.target_new}")
            print(f"{name}: {edit.text}\n  before:{before[0]}\n  after: {after[0]}", flush=True)
    print(json.dumps({"name": "first_example", "n": len(PLACES), "good": good}))


if __name__ == "__main__":
    main()
