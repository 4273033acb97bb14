"""Does what follows from an edit hold in other languages? The country of a city is edited, and two hops are asked.

python studies/language_hops.py --model qwen2.5-coder-0.5b.gguf --limit 14
python studies/language_hops.py --model qwen2.5-coder-0.5b.gguf --write files/

Each edit moves a capital to another country, in English or in Chinese: "Paris lies in the country of" Japan. Then each
language is asked for what the new country has: "The currency of the country of Paris is" yen. The facts and the names
are the packaged ones (kg_edit/data/language_facts.tsv and language_names.tsv). They are also the graph that
`graph-memory` and `glame-plus` read, with the labels of the language of the edit. No method is trained with the
sentence that asks. A question is

- known: whether the unedited model answers the second hop in the language ("The currency of Japan is")
- right: whether its answer is the likeliest of five objects of its relation, by the sum over the tokens; one of the
  five is what the old country has, if it has a name
- said: whether each token of its answer is the model's first choice

A question whose answer does not change with the country is left out. A run continues where it stopped: --out has a line
for each edit. Writes the tables languages-hops… of results/. --write instead writes the questions as files that
`kg-edit edit` and `kg-edit evaluate` read, one for each language, with the two hops whose second hop the model knows
there.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from languages import LANGUAGES, UNEDITED, Lines, make_editor, number_cells
from tables import RESULTS, ROOT, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit, Question
from kg_edit.errors import KgEditError
from kg_edit.evaluation.statistics import estimates
from kg_edit.languages import fill, fit_template, forms_of, named_facts, names_in
from kg_edit.methods.composed_facts import composed_fact
from kg_edit.models.first_token import line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.storage.atomic import write_text
from kg_edit.text.fact_words import fact_words

WRITTEN = ("en", "zh")  # the languages of edits
METHODS = ("rome", "glame-plus", "graph-memory", "rag")
COUNTRY = "P17"
CAPITAL = "P36"
HOPS = ("P37", "P38", "P30")  # language, currency and continent of the new country
TABLES = {"right": "languages-hops", "said": "languages-hops-said"}
CHOICES = 5
DRAWS = 2  # new countries for a city
# What the old countries have, as far as it has a packaged name and is no packaged fact: so that a question whose answer
# does not change is left out. Wikidata, CC0.
OLD_FACTS = (
    ("P30", "Q183", "Q46"),
    ("P30", "Q38", "Q46"),
    ("P30", "Q29", "Q46"),
    ("P30", "Q159", "Q46"),
    ("P30", "Q41", "Q46"),
    ("P30", "Q40", "Q46"),
    ("P30", "Q45", "Q46"),
    ("P30", "Q869", "Q48"),
    ("P30", "Q17", "Q48"),
    ("P30", "Q241", "Q49"),
    ("P30", "Q34", "Q46"),
    ("P37", "Q29", "Q1321"),
    ("P37", "Q40", "Q188"),
    ("P37", "Q45", "Q5146"),
    ("P37", "Q241", "Q1321"),
)
NOUNS = {
    "P37": "official language",
    "P38": "currency",
    "P30": "continent",
}  # English questions name a relation by these
ENTITY = "http://www.wikidata.org/entity/"
DIRECT = "http://www.wikidata.org/prop/direct/"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"

log = logging.getLogger("studies.language_hops")


class Hop(NamedTuple):
    """A fact of the new country by ids, and the five objects among which it is chosen; the right one is the first."""

    relation: str
    choices: tuple[str, ...]


class Move(NamedTuple):
    """An edit by ids: a city, its country, the new one, and what follows."""

    city: str
    old: str
    new: str
    hops: tuple[Hop, ...]


def facts_by_relation() -> dict[str, dict[str, str]]:
    """Return the packaged facts as ids: {relation: {subject: object}}."""
    ids = {name: id_ for id_, name in names_in("en").items()}
    facts: dict[str, dict[str, str]] = {}
    for relation, subject, end in named_facts("en"):
        facts.setdefault(relation, {})[ids[subject]] = ids[end]
    return facts


def moves() -> list[Move]:
    """Return the edits: each city to one other country, then each to a second one.

    The new countries take turns. They are those of which two hops are packaged facts.
    """
    facts = facts_by_relation()
    old_facts = {relation: dict(facts[relation]) for relation in HOPS}
    for relation, country, end in OLD_FACTS:
        old_facts[relation][country] = end
    countries = [country for country in names_in("en") if sum(country in facts[relation] for relation in HOPS) > 1]
    found: list[Move] = []
    turn = 0
    for _ in range(DRAWS):
        for old, city in facts[CAPITAL].items():
            for _ in countries:
                new = countries[turn % len(countries)]
                turn += 1
                hops = tuple(_find_hops(facts, old_facts, old, new))
                is_made = any((move.city, move.new) == (city, new) for move in found)
                if new != old and hops and not is_made:
                    found.append(Move(city, old, new, hops))
                    break
    return found


def _find_hops(
    facts: dict[str, dict[str, str]], old_facts: dict[str, dict[str, str]], old: str, new: str
) -> Iterator[Hop]:
    """Yield what the new country has and the old one has not."""
    for relation in HOPS:
        right = facts[relation].get(new)
        before = old_facts[relation].get(old)
        if right is None or right == before:
            continue
        objects = list(dict.fromkeys(facts[relation].values()))
        start = objects.index(right)
        following = [*objects[start + 1 :], *objects[:start]]
        if before in following:  # what a model answers that the edit did not change
            following.remove(before)
            following.insert(0, before)
        yield Hop(relation, (right, *following[: CHOICES - 1]))


def edit_of(move: Move, language: str) -> Edit:
    """Return the edit of a move by its statement in a language."""
    names = names_in(language)
    subject = names[move.city]
    return Edit(
        id=f"{language}-{names_in('en')[move.city]}-{names_in('en')[move.new]}",
        subject=subject,
        prompt=fit_template(forms_of(language)[COUNTRY].template, subject, language),
        target_true=names[move.old],
        target_new=names[move.new],
        subject_id=move.city,
        relation="country",
        relation_id=COUNTRY,
        target_true_id=move.old,
        target_new_id=move.new,
        language=language,
    )


def sentence_of(move: Move, hop: Hop, language: str) -> str:
    """Return the sentence that asks for a hop: "The currency of the country of Paris is"."""
    return _ask_for(move, hop, language, fact_words(language).sentence)


def question_of(move: Move, hop: Hop, language: str) -> str:
    """Return the question for a hop: "What is the currency of the country of Paris?"."""
    return _ask_for(move, hop, language, fact_words(language).question)


def _ask_for(move: Move, hop: Hop, language: str, wording: str) -> str:
    edit = edit_of(move, language)
    asked = hop.relation
    if language == "en":
        asked = NOUNS[hop.relation]
    fact = composed_fact(edit, asked, names_in(language)[hop.choices[0]])
    if fact is None:
        raise KgEditError(f"{language} has no words for {COUNTRY} and {hop.relation}")
    return fill(fact.prompt(wording), edit.subject, language)


def write_graph(folder: Path) -> Path:
    """Write the packaged facts, and the country of each capital, with labels in all languages."""
    lines = []
    for relation, facts in facts_by_relation().items():
        for subject, end in facts.items():
            lines.append(f"<{ENTITY}{subject}> <{DIRECT}{relation}> <{ENTITY}{end}> .")
            if relation == CAPITAL:
                lines.append(f"<{ENTITY}{end}> <{DIRECT}{COUNTRY}> <{ENTITY}{subject}> .")
    for language in LANGUAGES:
        for item, name in names_in(language).items():
            lines.append(f"<{ENTITY}{item}> <{LABEL}> {json.dumps(name, ensure_ascii=False)}@{language} .")
        for relation in (COUNTRY, CAPITAL, *HOPS):
            noun = json.dumps(forms_of(language)[relation].noun, ensure_ascii=False)
            lines.append(f"<{ENTITY}{relation}> <{LABEL}> {noun}@{language} .")
    return write_text(folder / "language-hops.nt", "\n".join(lines) + "\n")


def choose(model: LanguageModel, asked: Sequence[tuple[str, Sequence[str], str]]) -> list[dict[str, float]]:
    """Return for each (prompt, choices, subject) whether the first choice is the likeliest, and whether it is said.

    A prompt that begins with a subject which the model does not read there is asked after a line break, as in reports.
    """
    groups = []
    pairs: list[Pair] = []
    for prompt, choices, subject in asked:
        start = line_break_before(model, prompt, subject=subject)
        group = [Pair(start + prompt, choice) for choice in choices]
        groups.append(group)
        pairs += group
    scores = score(model, pairs)
    found = []
    for group in groups:
        costs = [scores[pair].total_nll for pair in group]
        found.append({"right": float(costs[0] == min(costs)), "said": float(scores[group[0]].accuracy == 1)})
    return found


def ask(model: LanguageModel, move: Move, language: str) -> list[dict[str, float]]:
    """Return what a model answers to the two hops of a move in a language."""
    names = names_in(language)
    asked = []
    for hop in move.hops:
        choices = [names[choice] for choice in hop.choices]
        asked.append((sentence_of(move, hop, language), choices, names[move.city]))
    return choose(model, asked)


def ask_second(model: LanguageModel, move: Move, language: str) -> list[dict[str, float]]:
    """Return what a model answers to the second hops alone: "The currency of Japan is"."""
    names = names_in(language)
    asked = []
    for hop in move.hops:
        prompt = fill(forms_of(language)[hop.relation].template, names[move.new], language)
        asked.append((prompt, [names[choice] for choice in hop.choices], names[move.new]))
    return choose(model, asked)


def measure(model: LanguageModel, options: argparse.Namespace, lines: Lines) -> None:
    """Make the edits that ``lines`` lacks, and ask each language."""
    planned = moves()[: options.limit]
    for number, move in enumerate(planned):
        key = f"{UNEDITED}||{number}"
        if key not in lines.by_key:
            known = {code: ask_second(model, move, code) for code in LANGUAGES}
            lines.add(key, {"scores": {code: ask(model, move, code) for code in LANGUAGES}, "known": known})
    with tempfile.TemporaryDirectory() as folder:
        graph = write_graph(Path(folder))
        for number, move in enumerate(planned):
            for method in options.methods:
                for language in WRITTEN:
                    key = f"{method}|{language}|{number}"
                    if key in lines.by_key:
                        continue
                    start = time.perf_counter()
                    patch = make_editor(method, model, str(graph), language, preset="fast").edit(
                        [edit_of(move, language)]
                    )
                    seconds = time.perf_counter() - start
                    with patch.applied(model) as edited:
                        scores = {code: ask(edited, move, code) for code in LANGUAGES}
                    lines.add(key, {"scores": scores, "seconds": round(seconds, 2)})
                    log.info("edit %d of %d: %s in %s", number + 1, len(planned), method, language)


def tables_of(lines: Lines, options: argparse.Namespace) -> Iterator[Number]:
    """Yield the share of right and of said answers to known second hops, by method and language; a mean over edits.

    An edit without a known second hop in a language is left out there, so that n differs by language.
    """
    count = min(options.limit, len(moves()))
    rows = [(UNEDITED, ""), *((method, language) for method in options.methods for language in WRITTEN)]
    for method, written in rows:
        numbers = [number for number in range(count) if f"{method}|{written}|{number}" in lines.by_key]
        for measured in TABLES:
            for code in LANGUAGES:
                means = []
                for number in numbers:
                    answers = lines.by_key[f"{method}|{written}|{number}"]["scores"][code]
                    known = lines.by_key[f"{UNEDITED}||{number}"]["known"][code]
                    values = [one[measured] for one, second in zip(answers, known, strict=True) if second["right"]]
                    if values:
                        means.append({code: sum(values) / len(values)})
                if not means:
                    continue
                mean, low, high = number_cells(estimates(means, names=[code], seed=0)[code])
                settings = ""
                if written:
                    settings = f"edited in {written}"
                yield Number(
                    table=TABLES[measured],
                    data="packaged facts",
                    n=str(len(means)),
                    method=method,
                    settings=settings,
                    metric=code,
                    mean=mean,
                    low=low,
                    high=high,
                    model=model_name(options.model),
                )


def write_files(model: LanguageModel, folder: Path) -> None:
    """Write the edits of each language, with the two hops whose second hop the model knows in it."""
    for language in LANGUAGES:
        names = names_in(language)
        rows: list[dict[str, Any]] = []
        count = 0
        for move in moves():
            questions = []
            for hop, known in zip(move.hops, ask_second(model, move, language), strict=True):
                if known["right"]:
                    question = question_of(move, hop, language)
                    questions.append(Question(question=question, answer=names[hop.choices[0]]))
            count += len(questions)
            edit = edit_of(move, language).model_copy(update={"portability": tuple(questions)})
            rows.append(edit.model_dump(mode="json", exclude_defaults=True))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = write_text(folder / f"hops-{language}.jsonl", text)
        log.info("%s: %d edits, %d known two-hop questions", path, len(rows), count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the edits that are left, and write the table; or write the questions as files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--methods", default=METHODS, type=lambda text: tuple(text.split(",")))
    parser.add_argument("--limit", type=int, default=28, help="so many edits; %(default)s by default, which is all")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "language-hops.jsonl", help="a line for each edit")
    parser.add_argument("--write", type=Path, help="write the questions into this folder, instead of edits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    model = LanguageModel.load(options.model, dtype="float32")
    if options.write:
        write_files(model, options.write)
        return
    lines = Lines(options.out)
    measure(model, options, lines)
    results = Results(options.results)  # read again: another study may have written there meanwhile
    results.add(list(tables_of(lines, options)))
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
