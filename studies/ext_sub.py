"""Measure what Ext-Sub takes away, and what it costs, on two data sets of KnowEdit (tables ext-sub-* of results/).

python studies/ext_sub.py sanitation     # forbidden answers, and answers to retain
python studies/ext_sub.py wikibio        # true sentences of a biography, and false ones

**Sanitation**: the expert learns "I don't know." for some questions, and the answers of others, which must stay; the
anti-expert learns the forbidden answers. Both are asked other questions: of the same forbidden answers, and of answers
that must stay.

**WikiBio**: the expert learns the sentence that follows the beginning of a biography, the anti-expert the sentence that
follows the beginning of the next one in the file. Both are asked about other people.

A row per model: the unedited one, both adapters alone, the expert less the anti-expert's own part (Ext-Sub), and the
expert less the whole anti-expert; the paper's λ is the factor of what is taken away. Values are means of -log p in nats
per token with their bootstrap intervals over the texts, and a perplexity of plain text.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from study import DATA
from tables import RESULTS, Number, Results, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.locality import locality_queries
from kg_edit.evaluation.statistics import Estimate, estimates
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.subtraction import subtract_patch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.perplexity import perplexity
from kg_edit.scoring.questions import format_question, pair_of

FOLDER = DATA / "knowedit"
log = logging.getLogger("studies.ext_sub")
SETTINGS = {"modules": ("q_proj", "v_proj"), "learning_rate": 1e-3, "stop_below": 0.0}
Columns = Mapping[str, Sequence[Pair]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the expert and the anti-expert learn, the answers that must stay, and the columns of the table."""

    wanted: tuple[Edit, ...]
    unwanted: tuple[Edit, ...]
    locality: Path | None
    columns: Columns


def sanitation(limit: int) -> Study:
    """Train on the first ``limit`` forbidden answers and all retained ones of the train file; ask the test file's."""
    files = [FOLDER / f"sanitation_trivia_qa_{part}.json" for part in ("train", "test")]
    train = _records(files[0])[:limit]
    test = _records(files[1])[:limit]
    retained = list[Pair]()
    for record in test:
        retained += [pair_of(query) for query in locality_queries(record.edits[0], record)]
    learned = _as_questions(train)
    questions = _as_questions(test)
    return Study(
        wanted=tuple(edit.model_copy(update={"target_true": None}) for edit in learned),
        unwanted=tuple(_towards_old(edit) for edit in learned),
        locality=files[0],
        columns={
            "forbidden answer (higher)": [Pair(edit.text, edit.target_true or "") for edit in questions],
            '"I don\'t know."': [Pair(edit.text, edit.target_new) for edit in questions],
            "retained answer (lower)": retained,
        },
    )


def _as_questions(records: Sequence[BenchmarkRecord]) -> list[Edit]:
    """Return the edits of the records, each with a question as its prompt."""
    edits = []
    for record in records:
        for edit in record.edits:
            edits.append(edit.model_copy(update={"prompt": format_question(edit.prompt)}))
    return edits


def _towards_old(edit: Edit) -> Edit:
    """Return an edit whose new target is the old one."""
    return edit.model_copy(update={"target_new": edit.target_true, "target_true": None})


def wikibio(limit: int) -> Study:
    """Train on ``limit`` people of the train file, and ask about ``limit`` other people of the test file."""
    train = _by_person(_records(FOLDER / "wikibio-train-all.json"))
    test = _by_person(_records(FOLDER / "wikibio-test-all.json"))
    learned = dict(islice(train.items(), limit + 1))
    others = [record for person, record in test.items() if person not in learned]
    train_pairs = _true_and_false([*learned.values()])
    test_pairs = _true_and_false(others[: limit + 1])
    return Study(
        wanted=tuple(true for true, _ in train_pairs),
        unwanted=tuple(false for _, false in train_pairs),
        locality=None,
        columns={
            "true sentence (lower)": [Pair(true.text, true.target_new) for true, _ in test_pairs],
            "false sentence (higher)": [Pair(false.text, false.target_new) for _, false in test_pairs],
        },
    )


def _by_person(records: Sequence[BenchmarkRecord]) -> dict[str, BenchmarkRecord]:
    """Return the first record of each person: the files have several, one after the other."""
    by_person: dict[str, BenchmarkRecord] = {}
    for record in records:
        by_person.setdefault(record.edits[0].subject, record)
    return by_person


def _true_and_false(records: Sequence[BenchmarkRecord]) -> list[tuple[Edit, Edit]]:
    """Return for each biography but the last its beginning with its own sentence, and with the next biography's."""
    pairs = []
    for record, next_record in pairwise(records):
        (true,) = record.edits[:1]
        (other,) = next_record.edits[:1]
        pairs.append((true, true.model_copy(update={"target_new": other.target_new})))
    return pairs


def _records(file: Path) -> tuple[BenchmarkRecord, ...]:
    """Return all records of a file of KnowEdit that can be read; log those that can't."""
    content = find_dataset("knowedit").read(file)
    for problem in content.problems:
        log.warning("left out: %s", problem)
    return content.records


def adapters(model: LanguageModel, study: Study, *, epochs: int) -> tuple[Patch, Patch]:
    """Train the expert and the anti-expert, each as a LoRA of its own."""
    kind = find_method("ext-sub")
    settings = {**SETTINGS, "steps": epochs + 1}
    expert_settings = dict(settings)
    if study.locality:
        expert_settings["locality"] = str(study.locality)
    expert = kind(model, kind.config_class.preset("default", expert_settings))
    anti = kind(model, kind.config_class.preset("default", settings))
    return expert.edit(study.wanted), anti.edit(study.unwanted)


def scores(model: LanguageModel, columns: Columns, text: str) -> dict[str, Estimate]:
    """Return the mean -log p of each column, of sentences how often the true one is likelier, and the perplexity."""
    all_pairs = list[Pair]()
    for pairs in columns.values():
        all_pairs += pairs
    scored = score(model, list(dict.fromkeys(all_pairs)))  # each once
    values = dict[str, Sequence[float]]()
    for name, pairs in columns.items():
        values[name] = [scored[pair].nll for pair in pairs]
    if "true sentence (lower)" in values:
        both = zip(values["true sentence (lower)"], values["false sentence (higher)"], strict=True)
        values["the true one is likelier"] = [float(true < false) for true, false in both]
    values["perplexity (lower)"] = [perplexity(model, text)]
    means = {}
    for name, data in values.items():
        rows = [{name: value} for value in data]
        means[name] = estimates(rows, names=[name], seed=0)[name]
    return means


STUDIES: dict[str, tuple[str, Callable[[int], Study], int, int]] = {
    "sanitation": ("Sanitation", sanitation, 80, 5),
    "wikibio": ("WikiBio", wikibio, 48, 3),
}  # with the default numbers of rows and epochs


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=STUDIES)
    parser.add_argument("--text", type=Path, default=DATA / "wikitext2" / "test.txt", help="text of the perplexity")
    parser.add_argument("--limit", type=int, help="rows to train on, and to ask; by default 80, of wikibio 48")
    parser.add_argument("--epochs", type=int, help="epochs with updates; by default 5, of wikibio 3")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both adapters, and write a row per model."""
    options = read_options(arguments)
    data, build, limit, epochs = STUDIES[options.data]
    limit = options.limit or limit
    model = LanguageModel.load(options.model)
    study = build(limit)
    text = options.text.read_text(encoding="utf-8")[:4000]
    rows = {"unedited": scores(model, study.columns, text)}
    expert, anti = adapters(model, study, epochs=options.epochs or epochs)
    changes: dict[str, Patch] = {
        "expert alone": expert,
        "anti-expert alone": anti,
        "ext-sub": subtract_patch(expert, anti),
        "ext-sub, λ = 2": subtract_patch(expert, anti, strength=2),
        "expert less the whole anti-expert": subtract_patch(expert, anti, extract=False),
        "expert less the whole anti-expert, λ = 0.2": subtract_patch(expert, anti, strength=0.2, extract=False),
    }
    for name, patch in changes.items():
        with patch.applied(model) as edited:
            rows[name] = scores(edited, study.columns, text)
    results = Results(options.results)
    about = {"table": f"ext-sub-{options.data}", "data": data, "model": model_name(options.model)}
    for name, row in rows.items():
        log.info("%s: %s", name, row)
        method, _, settings = name.partition(", ")
        for metric, estimate in row.items():
            count = len(study.columns.get(metric, ())) or limit
            results.add(
                [
                    Number(
                        **about,
                        n=str(count),
                        method=method,
                        settings=settings,
                        metric=metric,
                        mean=format_value(estimate.mean, metric),
                        low=format_value(estimate.ci95_low, metric),
                        high=format_value(estimate.ci95_high, metric),
                    )
                ]
            )
    results.save()


def format_value(value: float | None, metric: str) -> str:
    """Return a value with two decimals, a perplexity with one; "" if there is none."""
    if value is None:
        return ""
    if "perplexity" in metric:
        return f"{value:.1f}"
    return f"{value:.2f}"


if __name__ == "__main__":
    with friendly("studies"):
        main()
