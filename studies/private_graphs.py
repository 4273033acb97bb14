"""Measure what edits with a private graph teach: three small graphs of names that no model knows.

python studies/private_graphs.py                                                  # all rows, resumable
python studies/private_graphs.py --limit 2 --rows rome,graph-memory,graph-memory+wrong    # METHOD[:PRESET][+wrong]

Beside this script are a company, a museum and a fleet. Each has its statements (`company.tsv`), five edits
(`company.jsonl`) and their questions (`questions.tsv`), of four kinds:

- the edit as a question;
- what follows from it by a statement about its new object: asked in the words of the graph, in other words, and by a
  relation that has no label in Wikidata;
- other facts, of the edit's subject and of another thing with the edited relation, which must stay.

Each edit is made alone with the method's defaults. `+wrong` gives o* as many statements of the other two graphs. A line
of --out is the answer to one question. Writes the table private-graphs of results/.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from study import Row, apply_changes, parse_row
from tables import RESULTS, ROOT, Number, Results, format_share, model_name

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.edits.files import read_edits
from kg_edit.errors import ConfigError
from kg_edit.evaluation.statistics import estimates, paired_difference
from kg_edit.graphs.controls import WrongGraph
from kg_edit.graphs.source import SubgraphSource, open_named
from kg_edit.methods import EditingMethod, find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import format_question_with_shots
from kg_edit.text.matching import mentions

FOLDER = Path(__file__).with_suffix("")
NAMES = ("company", "museum", "fleet")
UNEDITED = "unedited"
ROWS = (
    *("rome", "glame", "glame+wrong", "glame-plus", "glame-plus+wrong"),
    *("glame-plus:late-block", "glame-plus:late-block+wrong", "graph-memory", "graph-memory+wrong", "rag"),
)
DIFFERENCES = (  # of two rows: the second minus the first
    ("glame+wrong", "glame"),
    ("glame-plus+wrong", "glame-plus"),
    ("glame-plus:late-block+wrong", "glame-plus:late-block"),
    ("graph-memory+wrong", "graph-memory"),
    ("rome", "glame"),
    ("rome", "glame-plus"),
    ("glame-plus", "graph-memory"),
    ("rag", "graph-memory"),
)
THE_EDIT = "the edit"
FOLLOWS = "what follows"
SAME = "other facts, same answer"
WITHOUT = "other facts, without what is new"
SECONDS = "s an edit"
TOKENS = 16  # of an answer; the longest name has six

log = logging.getLogger("studies.private_graphs")


class Question(NamedTuple):
    """A question about an edit. ``answer`` is empty where the answer must stay as it was."""

    edit: str
    measure: str
    text: str
    answer: str

    @property
    def prompt(self) -> str:
        """What the model reads: the edit's own prompt as it is, a question after examples of other questions."""
        if self.measure == THE_EDIT:
            return self.text
        return format_question_with_shots(self.text)


class Answers:
    """The lines of a file, one for each row and question; a run that continues asks none of them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}  # by row and question
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            for text in path.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                self.lines[line["row"], line["question"]] = line

    def add(self, row: str, question: Question, answer: str, seconds: float) -> None:
        """Add the model's answer, in memory and to the file; ``seconds`` of the processor were needed for the edit."""
        line = {
            "row": row,
            "edit": question.edit,
            "measure": question.measure,
            "question": question.text,
            "expected": question.answer,
            "answer": answer,
            "seconds": round(seconds, 2),
        }
        self.lines[row, question.text] = line
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")

    def has(self, row: str, questions: Sequence[Question]) -> bool:
        """Return whether all questions were asked in this row."""
        return all((row, question.text) in self.lines for question in questions)

    def text(self, row: str, question: Question) -> str:
        """Return the model's answer to a question in this row."""
        answer: str = self.lines[row, question.text]["answer"]
        return answer


class Study:
    """The model, the three graphs as one, the edits by graph, and the questions by edit.

    Args:
        model: the model's name.
        limit: so many edits of each graph.
    """

    def __init__(self, model: str, limit: int | None) -> None:
        self.model = LanguageModel.load(model, dtype="float32")
        self.graph = open_named([FOLDER / f"{name}.tsv" for name in NAMES])
        self.edits: dict[str, Sequence[Edit]] = {}  # all of them: the wrong graph of a few is that of all
        for name in NAMES:
            self.edits[name] = read_edits(FOLDER / f"{name}.jsonl").edits
        self.questions: dict[str, list[Question]] = {}
        for edits in self.edits.values():
            for edit in edits[:limit]:
                self.questions[edit.id] = [Question(edit.id, THE_EDIT, edit.text, edit.target_new)]
        with (FOLDER / "questions.tsv").open(encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines, delimiter="\t"):
                question = Question(line["edit"], line["measure"], line["question"], line["answer"])
                if question.edit in self.questions:
                    self.questions[question.edit].append(question)

    def ask_unedited(self, answers: Answers) -> None:
        """Ask the unedited model all questions."""
        for questions in self.questions.values():
            if not answers.has(UNEDITED, questions):
                self._ask(self.model, UNEDITED, questions, answers, seconds=0.0)

    def measure(self, text: str, answers: Answers) -> None:
        """Make the edits of a row, each alone, and ask their questions."""
        for name, edits in self.edits.items():
            method = None  # made for a graph whose edits are not all measured
            for edit in edits:
                questions = self.questions.get(edit.id, [])
                if answers.has(text, questions):
                    continue
                if method is None:
                    method = self._make_method(row_of(text), name)
                start = time.process_time()
                patch = method.edit([edit])
                seconds = time.process_time() - start
                with patch.applied(self.model) as edited:
                    self._ask(edited, text, questions, answers, seconds)
                log.info("%s: %s, %.1f s", text, edit.id, seconds)

    def _make_method(self, row: Row, name: str) -> EditingMethod:
        """Return the method of a row, with its graph for the edits of the graph ``name``."""
        method = find_method(row.method)
        config = method.config_class.preset(row.preset, {}, method=row.method)
        if not method.needs_graph:
            return method(self.model, config)
        graph: SubgraphSource = self.graph
        if row.control is not None:
            pool = list[Edit]()
            for other, edits in self.edits.items():
                if other != name:
                    pool += edits
            graph = WrongGraph(self.graph, pool=pool)
        return method(self.model, config, graph=graph)

    def _ask(
        self, model: LanguageModel, row: str, questions: Sequence[Question], answers: Answers, seconds: float
    ) -> None:
        """Ask a model questions about one edit, and add its answers."""
        prompts = [question.prompt for question in questions]
        texts = continuations(model, prompts, limits=[TOKENS] * len(prompts))
        for question, text in zip(questions, texts, strict=True):
            answers.add(row, question, text.strip(), seconds)

    def score(self, row: str, answers: Answers) -> dict[str, dict[str, float]]:
        """Return the share of right answers by edit and measure, of the edits whose questions were all asked."""
        scores = {}
        for edit, questions in self.questions.items():
            if not answers.has(row, questions):
                continue
            new_names = [question.answer for question in questions if question.answer]
            found: dict[str, list[float]] = {}
            for question in questions:
                text = answers.text(row, question)
                if question.answer:
                    is_right = mentions(text, question.answer)
                    found.setdefault(question.measure, []).append(float(is_right))
                    if question.measure.startswith(FOLLOWS):
                        found.setdefault(FOLLOWS, []).append(float(is_right))
                    continue
                is_same = text == answers.text(UNEDITED, question)
                found.setdefault(SAME, []).append(float(is_same))
                says_new = any(mentions(text, name) for name in new_names)
                found.setdefault(WITHOUT, []).append(float(not says_new))
            scores[edit] = {measure: sum(values) / len(values) for measure, values in found.items()}
        return scores


def row_of(text: str) -> Row:
    """Return the row that METHOD[:PRESET][+wrong] names."""
    method, preset, changes = parse_row(text)
    if set(changes) - {"wrong"}:
        raise ConfigError(f"{text}: found +{'+'.join(changes)}; expected +wrong, or nothing after the method")
    return apply_changes(method, preset, changes, label="")


def row_name(text: str) -> str:
    """Return a row's name in the tables."""
    row = row_of(text)
    return ", ".join(part for part in (row.method, row.description()) if part)


def numbers_of(study: Study, answers: Answers, rows: Sequence[str], model: str) -> Iterator[Number]:
    """Yield the means of each row, with their intervals over the edits."""
    for text in (UNEDITED, *rows):
        scores = list(study.score(text, answers).values())
        method = UNEDITED
        settings = ""
        if text != UNEDITED:
            method = row_of(text).method
            settings = row_of(text).description()
        about = {"table": "private-graphs", "data": "private graphs", "n": str(len(scores)), "model": model}
        about |= {"method": method, "settings": settings}
        for metric, estimate in estimates(scores, names=list(scores[0]), seed=0).items():
            ends = (estimate.mean, estimate.ci95_low, estimate.ci95_high)
            mean, low, high = (format_share(value) for value in ends)
            yield Number(**about, metric=metric, mean=mean, low=low, high=high)
        if text != UNEDITED:
            seconds = median(line["seconds"] for line in answers.lines.values() if line["row"] == text)
            yield Number(**about, metric=SECONDS, mean=f"{seconds:.1f}")


def differences_of(study: Study, answers: Answers, rows: Sequence[str], model: str) -> Iterator[Number]:
    """Yield the differences of two rows, paired by edit."""
    for first, second in DIFFERENCES:
        if first not in rows or second not in rows:
            continue
        before = study.score(first, answers)
        after = study.score(second, answers)
        both = [edit for edit in before if edit in after]
        about = {"table": "private-graphs", "data": "private graphs", "n": str(len(both)), "model": model}
        about["method"] = f"difference: {row_name(second)} - {row_name(first)}"
        for metric in before[both[0]]:
            old = np.array([before[edit][metric] for edit in both])
            new = np.array([after[edit][metric] for edit in both])
            gap = paired_difference(old, new, seed=0)
            assert gap is not None
            ends = (gap.mean, gap.ci95_low, gap.ci95_high)
            mean, low, high = ("" if value is None else f"{value:+.2f}" for value in ends)
            yield Number(**about, settings="", metric=metric, mean=mean, low=low, high=high, p=f"{gap.p:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows that are left, and write the table private-graphs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rows", default=",".join(ROWS), help="METHOD[:PRESET][+wrong], with commas; all by default")
    parser.add_argument("--limit", type=int, help="so many edits of each graph; all by default")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "private-graphs.jsonl", help="a line for each row and question"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)

    rows = options.rows.split(",")
    for text in rows:
        row_of(text)  # a wrong name is an error before the model is loaded
    study = Study(options.model, options.limit)
    answers = Answers(options.out)
    study.ask_unedited(answers)
    for text in rows:
        study.measure(text, answers)
    model = model_name(options.model)
    numbers = [*numbers_of(study, answers, rows, model), *differences_of(study, answers, rows, model)]
    results = Results(options.results)  # read again: another study may have written there meanwhile
    results.add(numbers)
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
