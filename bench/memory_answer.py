"""How long an answer takes with `graph-memory`, compared with the unedited model: the walk, then a longer prompt.

The questions are those of the first `dev` records of the packaged Ripples about what follows from an edit, as a user
asks them ("Question: …"), or with `--examples` after the examples that `kg-edit evaluate` puts before them. Each is
answered by the unedited and by the edited model, in turns, and no walk is reused. Times are CPU seconds. The medians
and sums are printed, and one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from kg_edit.edits.record import BenchmarkRecord, Query
from kg_edit.evaluation.datasets import read_dataset
from kg_edit.evaluation.datasets.ripples import part_of
from kg_edit.graphs.source import open_named
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.walks import find_walks
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.questions import generation_prompt
from kg_edit.scoring.requests import ANSWER_TOKENS

RIPPLES = "ripples-smollm2-135m"
FOLLOWS = ("ripples-known", "ripples-unknown", "ripples-more")  # groups of questions about what follows from the edit
PER_RECORD = 2
Row = dict[str, object]


def main() -> None:
    """Time each question, and print the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument(
        "--out", type=Path, help="file for a JSON line of each question: its walk, its answer, the times"
    )
    parser.add_argument("--examples", action="store_true", help="ask after examples")
    options = parser.parse_args()
    model = LanguageModel.load("smollm2-135m")
    method = GraphMemory.on(model, graph=open_named(RIPPLES))
    records = part_of(read_dataset("ripples", Path(RIPPLES)).records, "dev")
    rows = list[Row]()
    for record in records:
        if len(rows) >= options.questions:
            break
        rows += _time_record(method, record, examples=options.examples)
    if options.out:
        options.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    result: dict[str, float] = {"questions": len(rows)}
    for name in ("unedited", "walk", "answer"):
        seconds = [float(str(row[name])) for row in rows]
        result[f"{name}, s"] = round(sum(seconds), 3)
        print(f"{name}: median {median(seconds):.3f} s, sum {sum(seconds):.2f} s")
    result["edited / unedited"] = round((result["walk, s"] + result["answer, s"]) / result["unedited, s"], 2)
    print(json.dumps(result))


def _time_record(method: GraphMemory, record: BenchmarkRecord, *, examples: bool) -> list[Row]:
    """Make the edit of a record, and return a row for each of its first questions."""
    questions = []
    for probe in record.probes:
        if probe.family in FOLLOWS:
            questions += [_ask(query, examples=examples) for query in probe.queries]
    patch = method.edit(record.edits)
    rows = list[Row]()
    for question in questions[:PER_RECORD]:
        start = time.process_time()
        continuations(method.model, [question], limits=[ANSWER_TOKENS])
        unedited = time.process_time()
        with patch.applied(method.model) as edited:  # which has made no walk yet
            walk = find_walks(edited, [question])[question]
            walked = time.process_time()
            (answer,) = continuations(edited, [question], limits=[ANSWER_TOKENS])
        answered = time.process_time()
        rows.append(
            {
                "record": record.id,
                "question": question.rpartition("\n\n")[2],
                "walk": walked - unedited,
                "unedited": unedited - start,
                "answer": answered - walked,
                "statements": [f"{statement.sentence} ({statement.origin})" for statement in walk],
                "text": answer,
            }
        )
    return rows


def _ask(query: Query, *, examples: bool) -> str:
    """Return the prompt of a question."""
    if examples:
        return generation_prompt(query)
    return f"Question: {query.prompt}\nAnswer:"


if __name__ == "__main__":
    main()
