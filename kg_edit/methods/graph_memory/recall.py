"""What the unedited model answers where the graph states nothing, and which of several objects it finds likeliest.

`recall_object` asks "What is the capital of Japan?" in three forms, each after facts about other things in the same
form. An answer counts if two forms agree on it. An answer that only repeats the thing ("The continent of Croatia is
Croatia") does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from kg_edit.languages import fill
from kg_edit.methods.graph_memory.relation_words import Relation
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.text.fact_words import ShotForm
from kg_edit.text.matching import begins_with, normalised
from kg_edit.text.relation_nouns import relation_examples
from kg_edit.writing_systems import join

_FORMS: tuple[ShotForm, ...] = ("question", "sentence", "other sentence")
_SHOWN = 3  # facts about other things
_WIDE_MARKS = ("\u3002", "\uff0c", "\u3001")  # the Chinese and Japanese full stop and commas


def recall_object(model: LanguageModel, thing: str, relation: Relation, *, tokens: int) -> str | None:
    """Return the model's answer to "What is the [noun] of [thing]?".

    None if no two forms agree, or if a prompt with its answer has more tokens than the model has positions.

    Args:
        model: the unedited model.
        thing: what is asked about.
        relation: what is asked for.
        tokens: maximum number of tokens of the answer.
    """
    prompts = [_prompt(form, thing, relation) for form in _FORMS]
    longest = max(len(model.encode(prompt, fitting=False).ids) for prompt in prompts)
    if model.max_positions is not None and longest + tokens > model.max_positions:
        return None

    # The third form is asked only if the first two disagree.
    answers: list[str] = []
    for batch in (prompts[:2], prompts[2:]):
        for text in continuations(model, batch, limits=[tokens] * len(batch)):
            # Korean and Japanese put "is" (the copula) behind the object: 도쿄입니다 gives 도쿄.
            answer = _first_clause(text).removesuffix(relation.language_words.copula)
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


def likeliest_object(model: LanguageModel, thing: str, relation: Relation, objects: Sequence[str]) -> str:
    """Return the object that the model finds likeliest after "What is the [noun] of [thing]?".

    Wikidata lists the Byzantine Empire, the Papal States, Italy and a dozen more as countries of Rome. An object is
    ranked by the sum over its tokens of -log p.
    """
    prompt = _ask("question", thing, relation)
    pairs = [Pair(prompt, label) for label in objects]
    scores = score(model, pairs)
    costs = [scores[pair].nll * scores[pair].tokens for pair in pairs]
    return objects[costs.index(min(costs))]


def _prompt(form: ShotForm, thing: str, relation: Relation) -> str:
    """Return the question in a ``form``, after facts about other things in the same form.

    A relation without packaged facts of its own has others, which only show the form of an answer.
    """
    end = f"{relation.language_words.sentence_end}\n"  # of a fact
    if form == "question":
        end = "\n\n"
    facts = []
    for other, answer in relation_examples(relation.language_words.language).get(relation.name, ()):
        if other != thing:
            facts.append((_ask(form, other, relation), answer))
    if not facts:
        facts = relation.language_words.shots_as(form)
    prompt = ""
    for text, answer in facts[:_SHOWN]:
        prompt += f"{join(text, answer)}{end}"
    return prompt + _ask(form, thing, relation)


def _ask(form: ShotForm, thing: str, relation: Relation) -> str:
    """Return the question for a thing in one of the three forms.

    In Korean, the first two wordings take the hop with its {} for the thing ("{}의 통화"). The third one has a {} of
    its own, so it takes the noun alone ("통화").
    """
    words = relation.language_words
    wordings = {"question": words.ask, "sentence": words.sentence, "other sentence": words.other_sentence}
    hop = relation.name
    if relation.forms is not None and form != "other sentence":
        hop = relation.forms.hop
    return fill(words.say(wordings[form], hop, relation.forms), thing, words.language)


def _first_clause(text: str) -> str:
    """Return the text up to the end of its first line, a full stop before a space, or a comma."""
    line = text.strip().partition("\n")[0]
    for mark in (". ", ",", *_WIDE_MARKS):
        line = line.partition(mark)[0]
    return line.strip().removesuffix(".").strip()
