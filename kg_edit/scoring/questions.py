"""The fixed question forms of the portability metrics, and the answers to choose from."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from kg_edit.edits.edit import Edit, Question
from kg_edit.edits.record import BenchmarkRecord, Example, Query, as_record, form_of
from kg_edit.languages import ENGLISH, answered_questions, words_of
from kg_edit.scoring.pairs import Pair
from kg_edit.text.fact_words import fact_words
from kg_edit.text.matching import normalised
from kg_edit.writing_systems import join

ANSWER = "Answer:"
CHOICES = 10

# These examples only show the form. Each has two steps, about things of everyday life.
SHOTS = (
    Example(
        question="What colour is the fruit that lemonade is made from?",
        answer="Yellow",
        facts=("Lemonade is made from lemons.", "The colour of lemons is yellow."),
    ),
    Example(
        question="Which drink comes from the animal whose young is called a calf?",
        answer="Milk",
        facts=(
            "The animal whose young is called a calf is the cow.",
            "The drink that comes from the cow is milk.",
        ),
    ),
    Example(
        question="Who built the boat that carried two of every kind of animal?",
        answer="Noah",
        facts=("The boat that carried two of every kind of animal is the Ark.", "The Ark was built by Noah."),
    ),
    Example(
        question="In which season does the tree that bears acorns lose its leaves?",
        answer="Autumn",
        facts=("The tree that bears acorns is the oak.", "The oak loses its leaves in autumn."),
    ),
)
_SO = "So:"
_TOPICS = ("은", "는", "は")  # the marks of a topic at the end of a Korean or Japanese prompt
Normalised = tuple[str, ...]  # the words of an answer as `normalised` returns them


def format_question(question: str, facts: str = "", *, language: str = ENGLISH) -> str:
    """Return the question in the plain form, after ``facts`` (sentences) if there are any; the answer follows it."""
    words = words_of(language)
    lines = [f"{words.question}{words.gap}{question}", words.answer]
    if facts:
        lines.insert(0, facts)
    return "\n".join(lines)


def format_question_with_shots(
    question: str, facts: str = "", *, examples: Sequence[Example] = (), language: str = ENGLISH
) -> str:
    """Return the question in the few-shot form: answered examples first, separated by empty lines.

    Without ``examples`` they are those of the language.
    """
    gap = words_of(language).gap
    shots = []
    for shot in examples or shots_in(language):
        shots.append(f"{format_question(shot.question, shot.context, language=language)}{gap}{shot.answer}")
    return "\n\n".join([*shots, format_question(question, facts, language=language)])


def shots_in(language: str) -> tuple[Example, ...]:
    """Return the examples of the few-shot form in a language; the English ones if it has none."""
    examples = [Example(question=question, answer=answer) for question, answer in answered_questions(language)]
    return tuple(examples) or SHOTS


def format_question_with_steps(question: str, facts: str = "", *, examples: Sequence[Example] = SHOTS) -> str:
    """Return the question after ``examples`` whose steps are on one line, so that a text ends in "So: [answer]"."""
    shots = [f"{format_question(shot.question, shot.context)} {shot.steps} {_SO} {shot.answer}" for shot in examples]
    return "\n\n".join([*shots, format_question(question, facts)])


def parse_stepped_answer(text: str) -> str:
    """Return the answer at the end of a text with steps; "" if the text gives none."""
    _, so, answer = text.rpartition(_SO)
    if not so:
        return ""
    return answer


def generation_prompt(query: Query) -> str:
    """Return the prompt after which the model generates: a question in the few-shot form, a sentence unchanged."""
    if query.form == "sentence":
        return _sentence(query)
    return format_question_with_shots(query.prompt, query.context, examples=query.examples, language=query.language)


def scoring_prompt(query: Query) -> str:
    """Return the prompt after which answers are scored: a question in the plain form, a sentence unchanged."""
    if query.form == "sentence":
        return _sentence(query)
    return format_question(query.prompt, query.context, language=query.language)


def steps_prompt(query: Query) -> str:
    """Return the prompt after which the model answers a question with its steps written out."""
    return format_question_with_steps(query.prompt, query.context, examples=query.examples or SHOTS)


def _sentence(query: Query) -> str:
    """Return the query's sentence, after its context if it has one."""
    sentence = query.prompt
    if query.context:
        gap = " "
        if query.language != ENGLISH:
            gap = words_of(query.language).gap
        sentence = f"{query.context}{gap}{query.prompt}"
    return sentence.rstrip().lstrip(" ")  # the line break that `readable_edit` puts before an unread subject stays


def new_fact(edit: Edit) -> str:
    """Return the edited fact as a sentence without a full stop: prompt with subject, new target, ``ending``."""
    stop = words_of(edit.language).stop
    ending = edit.ending.rstrip().removesuffix(stop)
    return join(edit.text, edit.target_new) + ending


def fact_sentence(edit: Edit) -> str:
    """Return the edited fact as a sentence with one full stop, also after "Jr.".

    After the topic of a Korean or Japanese sentence, the object takes a copula: "프랑스의 수도는 로마입니다.".
    """
    stop = words_of(edit.language).stop
    copula = ""
    if edit.text.endswith(_TOPICS) and not edit.ending:
        copula = fact_words(edit.language).copula
    return new_fact(edit).removesuffix(stop) + copula + stop


def recalled_fact(recalled_relation: str) -> str:
    """Turn CounterFactPlus's "(s, r, o)" into a plain sentence "s r o."; commas in the object remain.

    A limit of this simple rule: of the 46 of 530 dev records with more than two commas, most have a comma in the
    object, but seven chain two facts. Then the second fact becomes a part of the object: "(Miguel de Cervantes,
    notable work, Don Quixote, language, Spanish)" becomes "Miguel de Cervantes notable work Don Quixote, language,
    Spanish.".
    """
    inner = recalled_relation.strip().removeprefix("(").removesuffix(")")
    return " ".join(part.strip() for part in inner.split(",", 2)) + "."


def collect_answers(records: Iterable[Edit | BenchmarkRecord]) -> Mapping[Normalised, str]:
    """Return all distinct answers by their normalised words, sorted, so that the order of records does not matter."""
    found = list[str]()
    for record in records:
        for edit in as_record(record).edits:
            found += [question.answer for question in edit.portability]
    # Of several answers with the same normalised words, the first one in the alphabet counts.
    by_words = {normalised(answer): answer for answer in sorted(found, reverse=True)}
    return dict(sorted(by_words.items()))


def draw_choices(
    record: Edit | BenchmarkRecord, pool: Mapping[Normalised, str], *, seed: int
) -> tuple[tuple[str, ...], ...]:
    """Draw ten answers for each of the plain questions of ``record``'s edits: the right one, then nine from ``pool``.

    The nine are drawn from ``pool`` (made by `collect_answers`) without replacement, seeded by ``seed`` and the edit's
    id. After normalisation, none equals another one or any right answer of the edit. A question gets () if the pool is
    too small.
    """
    drawn: list[tuple[str, ...]] = []
    for edit in as_record(record).edits:
        right = set[Normalised]()
        for question in edit.plain_questions:
            right.update(normalised(answer) for answer in right_answers(question))
        wrong = [answer for normalised_answer, answer in pool.items() if normalised_answer not in right]
        for number, question in enumerate(edit.plain_questions):
            if len(wrong) < CHOICES - 1:
                drawn.append(())
                continue
            rng = random.Random(f"{seed}/{edit.id}/{number}")  # noqa: S311 - not for secrets
            drawn.append((question.answer, *rng.sample(wrong, CHOICES - 1)))
    return tuple(drawn)


def query_of(question: Question, *, language: str = ENGLISH) -> Query:
    """Return a portability question as a query.

    A question with a category is a sentence to complete, unless it ends in a question mark.
    """
    form = form_of(question.question) if question.category else "question"
    return Query(prompt=question.question, answers=(right_answers(question),), form=form, language=language)


def right_answers(question: Question) -> tuple[str, ...]:
    """Return all names of the right answer: the answer, then its aliases."""
    return (question.answer, *question.aliases)


def pair_of(query: Query) -> Pair:
    """Return the query as a pair to score: its prompt in scored form, and the name of its first answer."""
    return Pair(scoring_prompt(query), query.answers[0][0])
