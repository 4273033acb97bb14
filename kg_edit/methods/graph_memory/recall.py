"""What the unedited model answers where the graph states nothing (`recall`), and among several objects (`likeliest`).

`recall` asks "What is the capital of Japan?" in three forms, each after facts about other things in the same form. An
answer counts if two forms agree on it. An answer that only repeats the thing ("The continent of Croatia is Croatia")
does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.text.matching import begins_with, normalised
from kg_edit.text.relation_nouns import relation_examples

# The form, and what is between two facts
_FORMS = (
    ("Q: What is the {noun} of {thing}?\nA:", "\n\n"),
    ("The {noun} of {thing} is", ".\n"),
    ("{thing}'s {noun} is", ".\n"),
)
_SHOWN = 3  # facts about other things
# For relations without packaged facts of their own: they only show the form of an answer.
_OTHERS = (
    ("largest planet", "the solar system", "Jupiter"),
    ("chemical symbol", "gold", "Au"),
    ("author", "Hamlet", "William Shakespeare"),
    ("season", "snow", "Winter"),
)


def recall(model: LanguageModel, thing: str, noun: str, *, tokens: int) -> str | None:
    """Return the model's answer to "What is the [noun] of [thing]?"; None if no two forms agree.

    Args:
        model: the unedited model.
        thing: what is asked about.
        noun: the relation.
        tokens: maximum number of tokens of the answer.
    """
    prompts = [_prompt(form, end, thing, noun) for form, end in _FORMS]
    longest = max(len(model.encode(prompt, fitting=False).ids) for prompt in prompts)
    if model.max_positions is not None and longest + tokens > model.max_positions:
        return None

    # The third form is asked only if the first two disagree.
    answers: list[str] = []
    for batch in (prompts[:2], prompts[2:]):
        for text in continuations(model, batch, limits=[tokens] * len(batch)):
            answer = _first_clause(text)
            if answer and normalised(answer) != normalised(thing):
                answers.append(answer)
        common_answer = _find_agreement(answers)
        if common_answer is not None:
            return common_answer
    return None


def _find_agreement(answers: Sequence[str]) -> str | None:
    """Return the shorter of two answers of which one begins with the other; None if no two do."""
    for first, second in combinations(answers, 2):
        if begins_with(first, second) or begins_with(second, first):
            return min(first, second, key=len)
    return None


def likeliest(model: LanguageModel, thing: str, noun: str, objects: Sequence[str]) -> str:
    """Return the object that the model finds likeliest after "What is the [noun] of [thing]?".

    Wikidata lists the Byzantine Empire, the Papal States, Italy and a dozen more as countries of Rome. An object is
    ranked by the sum over its tokens of -log p.
    """
    question_form, _ = _FORMS[0]
    prompt = _fill(question_form, noun, thing)
    pairs = [Pair(prompt, label) for label in objects]
    scores = score(model, pairs)
    costs = [scores[pair].nll * scores[pair].tokens for pair in pairs]
    return objects[costs.index(min(costs))]


def _prompt(form: str, end: str, thing: str, noun: str) -> str:
    """Return the question in a ``form``, after facts about other things, each of which ends with ``end``."""
    facts = [(noun, other, answer) for other, answer in relation_examples().get(noun, ()) if other != thing]
    if not facts:
        facts = list(_OTHERS)
    prompt = ""
    for fact_noun, other, answer in facts[:_SHOWN]:
        prompt += f"{_fill(form, fact_noun, other)} {answer}{end}"
    return prompt + _fill(form, noun, thing)


def _fill(form: str, noun: str, thing: str) -> str:
    return form.replace("{noun}", noun).replace("{thing}", thing)


def _first_clause(text: str) -> str:
    """Return the text up to the end of its first line, a full stop before a space, or a comma."""
    line = text.strip().partition("\n")[0]
    for mark in (". ", ","):
        line = line.partition(mark)[0]
    return line.strip().removesuffix(".").strip()
