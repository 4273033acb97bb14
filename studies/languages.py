"""Does an edit in one language reach the others? Facts with names in several languages, asked in each of them.

python studies/languages.py --model qwen2.5-coder-0.5b.gguf --limit 20
python studies/languages.py --model smollm2-135m --known

The facts are the packaged ones (kg_edit/data/language_facts.tsv): capitals, official languages, continents, currencies.
Each is edited to the object of another fact of its relation: in one language, with one statement; and in three
languages at once, with a statement in each, so that the fourth is never seen. Then every language is asked:

- efficacy: whether the new object is likelier than the old one after the statement in the language
- generated: whether each token of the new object is the model's first choice there
- paraphrase: as efficacy, after the second wording and after the question
- neighbours: whether two other things of the relation have their own object, and not the new one, as the likelier

Likelier means by the sum over the tokens. What the model knows without an edit is measured apart (--known): whether
the object of a fact is the likeliest of five objects of its relation. A run continues where it stopped: --out has a
line for each edit. Writes the tables languages-… of results/.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tables import RESULTS, ROOT, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.evaluation.statistics import Difference, Estimate, estimates, paired_difference
from kg_edit.graphs.source import open_named
from kg_edit.languages import FORM_LANGUAGES, fill, fit_template, forms_of, named_facts, names_in
from kg_edit.methods import EditingMethod, find_method
from kg_edit.models.first_token import line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair

LANGUAGES = ("en", "de", "zh", "ko")
SEEN = ("en", "zh", "ko")  # the three languages of an edit in several
# The methods, each with the languages of its edits in one language
ALONE: dict[str, Sequence[str]] = {
    "rome": LANGUAGES,
    "memit": ("en", "zh"),
    "rag": ("en", "zh"),
    "graph-memory": ("en", "zh"),
    "glame-plus": ("en", "zh"),
}
# The settings that differ from the preset's: a third of the contexts, so that an edit takes less than half of the time
SETTINGS: dict[str, dict[str, Any]] = {
    "rome": {"context_lengths": [[5, 1], [10, 1]]},
    "memit": {"context_starts": ["The", "I"]},
}
GRAPH = "extract"
MEASURES = ("efficacy", "generated", "paraphrase", "neighbours")
UNEDITED = "unedited"
CHOICES = 5  # objects among which a model that knows a fact prefers the right one
NEIGHBOURS = 2  # other things of the relation, an edit

log = logging.getLogger("studies.languages")


class Fact(NamedTuple):
    """A fact in one language, to be edited: relation, subject, old and new object, and (thing, object) of others."""

    relation: str
    subject: str
    old: str
    new: str
    others: tuple[tuple[str, str], ...]


class Asked(NamedTuple):
    """A prompt, the object that should be the likelier one after it, and the other one; ``measure`` is its group."""

    measure: str
    prompt: str
    wanted: str
    unwanted: str


def facts_in(language: str) -> list[Fact]:
    """Return the packaged facts in a language, with the same new objects and neighbours in every language.

    The new object is that of the next fact of the relation which has another one. Facts of all relations take turns, so
    that the first ones are of each kind.
    """
    rows = named_facts(language)
    # Two names may be equal in one language and not in another, so facts are compared by their places.
    places: dict[str, list[int]] = {}
    for place, (relation, _, _) in enumerate(rows):
        places.setdefault(relation, []).append(place)
    english_objects = [end for _, _, end in named_facts("en")]  # by the place of the fact
    facts = []
    for place in _take_turns(places.values()):
        relation, subject, old = rows[place]
        new_place, other_places = _choose_others(place, places[relation], english_objects)
        if new_place is None or len(other_places) < NEIGHBOURS:
            raise SystemExit(f"{relation} has too few facts")
        _, _, new = rows[new_place]
        others = []
        for other_place in other_places[:NEIGHBOURS]:
            _, thing, end = rows[other_place]
            others.append((thing, end))
        facts.append(Fact(relation, subject, old, new, tuple(others)))
    return facts


def _choose_others(place: int, group: Sequence[int], objects: Sequence[str]) -> tuple[int | None, list[int]]:
    """Return the place of the next fact of a group with another object, and the places of those with a third object.

    Args:
        place: that of the fact to edit.
        group: the places of all facts of its relation, in the order of the file.
        objects: the object of the fact at each place.

    Returns:
        None and [] if all facts of the group have one object. The others are in the order after ``place``, in which
        the first fact of the group follows the last one.
    """
    start = group.index(place)
    following = [*group[start + 1 :], *group[:start]]
    different = [other for other in following if objects[other] != objects[place]]
    if not different:
        return None, []
    new_place = different[0]
    return new_place, [other for other in different if objects[other] != objects[new_place]]


def _take_turns(groups: Iterable[Sequence[int]]) -> list[int]:
    """Return the members of groups: the first of each, then the second of each, and so on."""
    remaining = [list(group) for group in groups]
    order = list[int]()
    while any(remaining):
        for group in remaining:
            if group:
                order.append(group.pop(0))
    return order


def edit_of(fact: Fact, language: str) -> Edit:
    """Return the edit of a fact by its statement in a language."""
    template = forms_of(language)[fact.relation].template
    ids = {name: id_ for id_, name in names_in(language).items()}
    return Edit(
        id=f"{language}-{fact.subject}-{fact.relation}",
        subject=fact.subject,
        prompt=fit_template(template, fact.subject, language),
        target_true=fact.old,
        target_new=fact.new,
        subject_id=ids[fact.subject],
        relation_id=fact.relation,
        target_true_id=ids[fact.old],
        target_new_id=ids[fact.new],
        language=language,
    )


def questions(fact: Fact, language: str) -> Iterator[Asked]:
    """Yield what is asked about a fact and its neighbours in a language."""
    forms = forms_of(language)[fact.relation]
    yield Asked("efficacy", fill(forms.template, fact.subject, language), fact.new, fact.old)
    for wording in (forms.paraphrase, forms.asked):
        yield Asked("paraphrase", fill(wording, fact.subject, language), fact.new, fact.old)
    for thing, end in fact.others:
        yield Asked("neighbours", fill(forms.template, thing, language), end, fact.new)


def ask(model: LanguageModel, fact: Fact, language: str) -> dict[str, float]:
    """Return the mean of each measure, 0 to 1, of what is asked about a fact in a language.

    A prompt that begins with a subject which the model does not read there is asked after a line break, as in reports.
    """
    subjects = {fact.subject, *(thing for thing, _ in fact.others)}
    asked = []
    for row in questions(fact, language):
        for subject in subjects:
            start = line_break_before(model, row.prompt, subject=subject)
            if start:
                row = row._replace(prompt=start + row.prompt)
                break
        asked.append(row)
    pairs = list[Pair]()
    for row in asked:
        pairs += [Pair(row.prompt, row.wanted), Pair(row.prompt, row.unwanted)]
    scores = score(model, pairs)
    found: dict[str, list[float]] = {}
    for row in asked:
        wanted = scores[Pair(row.prompt, row.wanted)]
        unwanted = scores[Pair(row.prompt, row.unwanted)]
        found.setdefault(row.measure, []).append(float(wanted.total_nll < unwanted.total_nll))
        if row.measure == "efficacy":
            found["generated"] = [float(wanted.accuracy == 1)]
    return {measure: sum(values) / len(values) for measure, values in found.items()}


def knows(model: LanguageModel, language: str) -> list[float]:
    """Return for each packaged fact whether its object is the likeliest of itself and four others of its relation."""
    objects: dict[str, list[str]] = {}
    for relation, _, end in named_facts(language):
        if end not in objects.setdefault(relation, []):
            objects[relation].append(end)
    choices: list[list[Pair]] = []
    for relation, subject, end in named_facts(language):
        prompt = fill(forms_of(language)[relation].template, subject, language)
        prompt = line_break_before(model, prompt, subject=subject) + prompt
        names = objects[relation]
        start = names.index(end)
        following = [*names[start:], *names[:start]]
        choices.append([Pair(prompt, name) for name in following[:CHOICES]])  # the right one is the first
    scores = score(model, list(chain.from_iterable(choices)))
    known = []
    for pairs in choices:
        costs = [scores[pair].total_nll for pair in pairs]
        known.append(float(costs[0] == min(costs)))
    return known


def known_of(model: LanguageModel, name: str) -> Iterator[Number]:
    """Yield the share of the packaged facts that the model of this name knows in each language."""
    known = {}
    for code in FORM_LANGUAGES:
        known[code] = knows(model, code)
        log.info("knows in %s: %.2f", code, sum(known[code]) / len(known[code]))
    count = len(known["en"])
    by_fact = []
    for place in range(count):
        by_fact.append({code: known[code][place] for code in FORM_LANGUAGES})
    about = {"table": "languages-known", "data": "packaged facts", "n": str(count), "method": model_name(name)}
    for code, estimate in estimates(by_fact, names=FORM_LANGUAGES, seed=0).items():
        mean, low, high = number_cells(estimate)
        yield Number(**about, settings="", metric=code, mean=mean, low=low, high=high)


def runs(methods: Sequence[str], languages: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each method with the languages of its edits: one alone, then several at once."""
    for method in methods:
        for language in ALONE[method]:
            if language in languages:
                yield method, (language,)
        together = tuple(language for language in SEEN if language in languages)
        if len(together) > 1:
            yield method, together


class Lines:
    """The lines of a file with a record for each edit, which a run that continues does not make again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self.by_key[record["key"]] = record

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Add a record, in memory and to the file."""
        self.by_key[key] = {"key": key, **record}
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(self.by_key[key], ensure_ascii=False) + "\n")


def make_editor(name: str, model: LanguageModel, graph: str, language: str, *, preset: str) -> EditingMethod:
    """Return a method; a graph that it needs has the labels of a language. ``preset`` is that of rome and memit."""
    method = find_method(name)
    if name not in SETTINGS:
        source = open_named([graph], language=language) if method.needs_graph else None
        return method.on(model, graph=source)
    return method.on(model, preset=preset, settings=SETTINGS[name])


def measure(model: LanguageModel, options: argparse.Namespace, lines: Lines) -> None:
    """Make the edits that ``lines`` lacks, and ask each language."""
    facts = {language: facts_in(language)[: options.limit] for language in options.languages}
    count = len(facts[options.languages[0]])
    for number in range(count):
        key = f"{UNEDITED}||{number}"
        if key not in lines.by_key:
            lines.add(key, {"scores": {code: ask(model, facts[code][number], code) for code in options.languages}})
    planned = list(runs(options.methods, options.languages))
    done = 0
    for number in range(count):  # fact by fact, so that an early end has all rows with fewer facts
        for method, written in planned:
            done += 1
            key = f"{method}|{'+'.join(written)}|{number}"
            if key in lines.by_key:
                continue
            editor = make_editor(method, model, GRAPH, written[0], preset=options.preset)
            start = time.perf_counter()
            patch = editor.edit([edit_of(facts[code][number], code) for code in written])
            seconds = time.perf_counter() - start
            with patch.applied(model) as edited:
                scores = {code: ask(edited, facts[code][number], code) for code in options.languages}
            lines.add(key, {"scores": scores, "seconds": round(seconds, 2)})
            log.info("%d of %d: %s in %s", done, count * len(planned), method, "+".join(written))


def rows_of(lines: Lines, method: str, written: Sequence[str], limit: int) -> list[Any]:
    """Return the scores of a method's edits in some languages, by fact; None for a fact that was not edited."""
    keys = [f"{method}|{'+'.join(written)}|{number}" for number in range(limit)]
    return [lines.by_key.get(key) for key in keys]


def number_cells(estimate: Estimate | Difference) -> tuple[str, ...]:
    """Return the mean and the ends of the interval as text."""
    ends = (estimate.mean, estimate.ci95_low, estimate.ci95_high)
    return tuple("" if value is None else f"{value:.2f}" for value in ends)


def tables_of(lines: Lines, options: argparse.Namespace) -> Iterator[Number]:
    """Yield the numbers of the tables: each measure by method and language of the edit, in each language asked."""
    model = model_name(options.model)
    limit = min(options.limit, len(named_facts("en")))
    planned: list[tuple[str, tuple[str, ...]]] = [(UNEDITED, ()), *runs(options.methods, options.languages)]
    rows = {run: rows_of(lines, *run, limit) for run in planned}
    for (method, written), records in rows.items():
        # Of the facts that every row of the method has, so that these rows can be compared.
        complete = []
        for number in range(limit):
            if all(others[number] for (other, _), others in rows.items() if other == method):
                complete.append(number)
        for name in MEASURES:
            scores = []
            for number in complete:
                asked = records[number]["scores"]
                scores.append({code: asked[code][name] for code in options.languages})
            about = {"table": f"languages-{name}", "data": "packaged facts", "n": str(len(complete)), "model": model}
            settings = ""
            if written:
                settings = f"edited in {' + '.join(written)}"
            for code, estimate in estimates(scores, names=options.languages, seed=0).items():
                mean, low, high = number_cells(estimate)
                yield Number(**about, method=method, settings=settings, metric=code, mean=mean, low=low, high=high)


def gains_of(lines: Lines, options: argparse.Namespace) -> Iterator[Number]:
    """Yield what an edit in three languages gains over one in English, paired by fact."""
    model = model_name(options.model)
    together = tuple(code for code in SEEN if code in options.languages)
    for method in options.methods:
        first = rows_of(lines, method, ("en",), options.limit)
        second = rows_of(lines, method, together, options.limit)
        both = [(one, other) for one, other in zip(first, second, strict=True) if one and other]
        about = {"table": "languages-gain", "data": "packaged facts", "n": str(len(both)), "model": model}
        for name in MEASURES:
            for code in options.languages:
                old = np.array([one["scores"][code][name] for one, _ in both])
                new = np.array([other["scores"][code][name] for _, other in both])
                gap = paired_difference(old, new, seed=0)
                if gap is not None:
                    mean, low, high = number_cells(gap)
                    cells = {"mean": mean, "low": low, "high": high, "p": f"{gap.p:.2g}"}
                    yield Number(**about, method=method, settings=name, metric=code, **cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the model knows, the edits that are left, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--languages", default=LANGUAGES, type=lambda text: tuple(text.split(",")))
    parser.add_argument("--methods", default=tuple(ALONE), type=lambda text: tuple(text.split(",")))
    parser.add_argument("--preset", default="fast", help="of rome and memit; %(default)s by default")
    parser.add_argument("--limit", type=int, default=40, help="so many facts; %(default)s by default")
    parser.add_argument("--known", action="store_true", help="measure what the model knows, instead of edits")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "languages.jsonl", help="a line for each edit")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    model = LanguageModel.load(options.model, dtype="float32")
    if options.known:
        numbers = list(known_of(model, options.model))
    else:
        lines = Lines(options.out)
        measure(model, options, lines)
        numbers = [*tables_of(lines, options), *gains_of(lines, options)]
    results = Results(options.results)  # read again: another study may have written there meanwhile
    results.add(numbers)
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
