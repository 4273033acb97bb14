"""How long an answer takes with `graph-memory`, compared with the unedited model: the walk, then a longer prompt.

The edits are those of the first `dev` records of the packaged Ripples, all in one patch that stays applied, as in
`kg-edit serve`. The questions are about what follows from them, as a user asks them ("Question: …"), or with
`--examples` after the examples that `kg-edit evaluate` puts before them. Each is answered by the unedited and by the
edited model, in turns. No question comes twice, but some have the form of an earlier one. Times are CPU seconds. The
medians and sums are printed, and one JSON line at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

from kg_edit.edits.edit import Edit
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
    parser.add_argument("--records", type=int, default=16, help="number of edits")
    parser.add_argument("--out", type=Path, help="file for a JSON line of each question: walk, answer and times")
    parser.add_argument("--examples", action="store_true", help="ask after examples")
    options = parser.parse_args()
    model = LanguageModel.load("smollm2-135m")
    method = GraphMemory.on(model, graph=open_named(RIPPLES))
    records = part_of(read_dataset("ripples", Path(RIPPLES)).records, "dev")[: options.records]
    edits = list[Edit]()
    for record in records:
        edits += record.edits
    rows = list[Row]()
    with method.edit(edits).applied(model) as edited:
        for record in records:
            for prompt in _list_prompts(record, examples=options.examples):
                rows.append(_time_question(model, edited, prompt))
    if options.out:
        options.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    result: dict[str, float] = {"questions": len(rows)}
    for name in ("unedited", "walk", "answer"):
        seconds = [float(str(row[name])) for row in rows]
        result[f"{name}, s"] = round(sum(seconds), 3)
        print(f"{name}: median {median(seconds):.3f} s, sum {sum(seconds):.2f} s")
    ratios = [(float(str(row["walk"])) + float(str(row["answer"]))) / float(str(row["unedited"])) for row in rows]
    result["edited / unedited, median"] = round(median(ratios), 2)
    result["edited / unedited, sums"] = round((result["walk, s"] + result["answer, s"]) / result["unedited, s"], 2)
    print(json.dumps(result))


def _list_prompts(record: BenchmarkRecord, *, examples: bool) -> list[str]:
    """Return the prompts of a record's first questions about what follows from its edit."""
    prompts = []
    for probe in record.probes:
        if probe.family in FOLLOWS:
            prompts += [_ask(query, examples=examples) for query in probe.queries]
    return prompts[:PER_RECORD]


def _time_question(model: LanguageModel, edited: LanguageModel, prompt: str) -> Row:
    """Return the CPU seconds of the unedited model, of the walk, and of the edited model after it."""
    start = time.process_time()
    continuations(model, [prompt], limits=[ANSWER_TOKENS])
    unedited = time.process_time()
    walk = find_walks(edited, [prompt])[prompt]
    walked = time.process_time()
    (answer,) = continuations(edited, [prompt], limits=[ANSWER_TOKENS])
    answered = time.process_time()
    return {
        "question": prompt.rpartition("\n\n")[2],
        "unedited": unedited - start,
        "walk": walked - unedited,
        "answer": answered - walked,
        "statements": [f"{statement.sentence} ({statement.origin})" for statement in walk],
        "text": answer,
    }


def _ask(query: Query, *, examples: bool) -> str:
    """Return the prompt of a question."""
    if examples:
        return generation_prompt(query)
    return f"Question: {query.prompt}\nAnswer:"


if __name__ == "__main__":
    main()
