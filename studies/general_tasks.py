"""Two tasks for `kg-edit evaluate --general`, from files of benchmarks (table `general` of results/).

python studies/general_tasks.py --out tasks/
kg-edit evaluate --dataset counterfact-plus --data dev.json --skip 24 --limit 100 --method rome --preset fast \
    --schedule sequential:100 --evaluate-every 100 --general tasks/ --general-limit 300 --out runs/rome-100/

*known_facts*: the object of a fact of known_1000 after its prompt; accuracy (is it the greedy continuation?) and
perplexity. *popqa_choice*: a question of PopQA, with the right object and three other objects of the same relation, in
an order that the seed decides.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from study import DATA

from kg_edit.cli.console import friendly
from kg_edit.storage.atomic import write_text

KNOWN = DATA / "known_1000.json"
POPQA = DATA / "popqa" / "popqa_1000_with_uris_paragraphs.json"
WRONG = 3  # objects beside the right one

log = logging.getLogger("studies.general_tasks")
Rows = list[dict[str, Any]]


def known_task(data: Path) -> dict[str, Any]:
    """Return the task of known facts: the likelihood of the object."""
    return {
        **_task("known_facts", data),
        "output_type": "loglikelihood",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": " {{attribute}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    }


def choice_task(data: Path) -> dict[str, Any]:
    """Return the task of choices between objects."""
    return {
        **_task("popqa_choice", data),
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc"}],
    }


def _task(name: str, data: Path) -> dict[str, Any]:
    """Return what both tasks have: the name and the file of the data."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
    }


def choices(rows: Sequence[Mapping[str, Any]], *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield each question with its right object among others of the relation; a relation with too few is left out."""
    objects: dict[str, dict[str, None]] = {}
    for row in rows:
        objects.setdefault(row["prop"], {})[row["obj"]] = None
    for row in rows:
        right = {name.casefold() for name in json.loads(row["possible_answers"])}
        others = [name for name in objects[row["prop"]] if name.casefold() not in right]
        if len(others) < WRONG:
            continue
        draw = random.Random(f"{seed}/{row['id']}")  # noqa: S311 - nothing secret
        shown = [row["obj"], *draw.sample(others, WRONG)]
        draw.shuffle(shown)
        yield {"question": row["question"], "choices": shown, "right": shown.index(row["obj"])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both tasks and their data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=Path, default=KNOWN, help="known_1000.json")
    parser.add_argument("--popqa", type=Path, default=POPQA, help="PopQA's file of questions")
    parser.add_argument("--seed", type=int, default=0, help="of the other objects and their order")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tasks")
    options = parser.parse_args(arguments)
    known_facts = []
    for row in _read(options.known):
        known_facts.append({"prompt": row["prompt"], "attribute": row["attribute"]})
    questions = list(choices(_read(options.popqa), seed=options.seed))
    for name, rows, task in (("known_facts", known_facts, known_task), ("popqa_choice", questions, choice_task)):
        data = options.out / f"{name}.json"
        write_text(data, json.dumps(rows, ensure_ascii=False, indent=1))
        write_text(options.out / f"{name}.yaml", json.dumps(task(data), indent=1))  # JSON is YAML
        log.info("%s: %d documents", options.out / f"{name}.yaml", len(rows))


def _read(file: Path) -> Rows:
    rows: Rows = json.loads(file.read_text(encoding="utf-8"))
    return rows


if __name__ == "__main__":
    with friendly("studies"):
        main()
