"""Measure the ceiling of an edit at the subject: s's state is replaced by the state of its new object o*.

python studies/patched_states.py                                       # SmolLM2, the dev records of Ripples
python studies/patched_states.py --split test --limit 200
python studies/patched_states.py --model models/gemma-3-270m-q4_k_m.gguf --blocks 0,3,6,9,12,15

A two-hop question about s ("What is the capital of the country of s?") is asked of the unedited model. In one block b,
the hidden state after the block at s's last token is replaced by the state that o* has in the same question, with o*
in the place of s. This is the best that a value at s can do if it means o* and nothing else: what an editor answers
beyond it, it has learned as an answer.

The questions are those whose second hop SmolLM2 knows by the file, which asked it in three forms; an editor's score
counts them all. Here every model is asked for the second hop too ("What is the capital of o*?", after the same
examples). The rows "asked directly: right" have only the questions that it then gets right; another model than SmolLM2
may not know the rest.

A run continues where it stopped (--out has a line for each record). Writes the table ripples-ceiling of results/: the
share of right answers by block, a mean over records with its bootstrap interval, and the share that says o* itself.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from study import RIPPLES
from tables import RESULTS, ROOT, Number, Results, format_share, model_name
from torch import Tensor

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Query
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.datasets.ripples import part_of
from kg_edit.evaluation.statistics import estimates
from kg_edit.models.hooks import change_output, hidden_state, watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.scoring.questions import generation_prompt
from kg_edit.scoring.requests import room_for
from kg_edit.text.matching import begins_with
from kg_edit.text.relation_nouns import relation_nouns

TABLE = "ripples-ceiling"
UNEDITED = "no block"
DIRECT = "asked directly"
METRICS = ("right", "says o*")  # what is known of an answer
TOKENS = 12  # of an answer, at least
log = logging.getLogger("studies.patched_states")


@dataclass(frozen=True, kw_only=True)
class TwoHops:
    """A two-hop question about s: its template with {} for s, the prompt of its second hop, and the right answers."""

    template: str
    second_hop: str
    answers: tuple[str, ...]


def two_hops(record: BenchmarkRecord) -> list[TwoHops]:
    """Return the record's questions whose second hop SmolLM2 knew when the file was made."""
    (edit,) = record.edits
    first_hop = f"the {relation_nouns().get(edit.relation_id or '')} of {edit.subject}"
    questions = []
    for probe in record.probes:
        if probe.family != "ripples-known":
            continue
        for query in probe.queries:
            if query.prompt.count(first_hop) == 1:
                questions.append(_split_hops(query, edit, first_hop))
    return questions


def _split_hops(query: Query, edit: Edit, first_hop: str) -> TwoHops:
    """Return a question about s and its second hop; ``first_hop`` are the words in it that mean o*."""
    prompt = generation_prompt(query)
    before, asked, after = prompt.rpartition(query.prompt)
    second_hop = before + asked.replace(first_hop, edit.target_new) + after
    template = before + asked.replace(edit.subject, "{}") + after
    return TwoHops(template=template, second_hop=second_hop, answers=tuple(query.answers[0]))


def states_after(model: LanguageModel, row: Prompt, blocks: Sequence[int]) -> dict[int, Tensor]:
    """Return the hidden state [d] after each of ``blocks`` at the last token of the prompt's subject."""
    states = dict[int, Tensor]()

    def keep(block: int) -> Callable[[Tensor, Tensor], None]:
        def see(_: Tensor, output: Tensor) -> None:
            states[block] = output[0, row.edited_at]

        return see

    with torch.no_grad(), ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(watch(model.block(block), keep(block)))
        model.model(input_ids=torch.tensor([row.ids], device=model.device), use_cache=False)
    return states


@torch.no_grad()
def patched_answers(model: LanguageModel, row: Prompt, states: dict[int, Tensor], *, tokens: int) -> list[str]:
    """Return the greedy answer without a change, then the answer with each of ``states`` after its block.

    All answers are one batch of the same prompt; row i + 1 has the i-th state at the subject's last token.
    """
    rows = 1 + len(states)
    ids = torch.tensor([row.ids] * rows, device=model.device)

    def put(index: int, state: Tensor) -> Callable[[Any], Any]:
        def change(output: Any) -> Any:
            hidden_state(output)[index, row.edited_at] = state
            return output

        return change

    with ExitStack() as hooks:
        for index, (block, state) in enumerate(states.items(), 1):
            hooks.enter_context(change_output(model.block(block), put(index, state)))
        output = model.model(input_ids=ids, use_cache=True)

    # Greedy decoding; the change has been made, and lives on in the keys and values of the later blocks.
    written: list[list[int]] = [[] for _ in range(rows)]
    texts = list[str]()
    for _ in range(tokens):
        next_ids = output.logits[:, -1].argmax(-1)  # [rows]
        for answer, token in zip(written, next_ids.tolist(), strict=True):
            answer.append(token)
        texts = [str(model.tokenizer.decode(answer)) for answer in written]
        if all("\n" in text.lstrip(" ") for text in texts):  # an answer is a line
            break
        output = model.model(input_ids=next_ids[:, None], past_key_values=output.past_key_values, use_cache=True)
    return [text.strip().partition("\n")[0] for text in texts]


def measure(model: LanguageModel, record: BenchmarkRecord, blocks: Sequence[int]) -> list[dict[str, list[bool]]]:
    """Return for each question, by block, whether the answer is right, and whether it says o* itself."""
    (edit,) = record.edits
    measured = list[dict[str, list[bool]]]()
    for question in two_hops(record):
        tokens = max(TOKENS, *(room_for(model.tokenizer, name) for name in question.answers))
        direct = encode(model.tokenizer, question.second_hop)
        own = encode(model.tokenizer, question.template, subject=edit.target_new)
        asked = encode(model.tokenizer, question.template, subject=edit.subject)
        texts = patched_answers(model, direct, {}, tokens=tokens)
        texts += patched_answers(model, asked, states_after(model, own, blocks), tokens=tokens)
        judged = dict[str, list[bool]]()
        for name, text in zip(answer_names(blocks), texts, strict=True):
            is_right = any(begins_with(text, answer) for answer in question.answers)
            judged[name] = [is_right, begins_with(text, edit.target_new)]
        measured.append(judged)
    return measured


def answer_names(blocks: Sequence[int]) -> list[str]:
    """Return the names of the answers to a question: that of the second hop, of no change, and by block."""
    return [DIRECT, UNEDITED, *[str(block) for block in blocks]]


def run(model: LanguageModel, records: Sequence[BenchmarkRecord], blocks: Sequence[int], file: Path) -> list[Any]:
    """Measure all records, or those that ``file`` has no line of yet; return what it has of all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {}
    if file.is_file():
        for line in file.read_text().splitlines():
            stored = json.loads(line)
            done[stored["id"]] = stored["questions"]
    for record in records:
        if record.id not in done:
            done[record.id] = measure(model, record, blocks)
            with file.open("a") as out:
                out.write(json.dumps({"id": record.id, "questions": done[record.id]}) + "\n")
            log.info("%s: %d questions", record.id, len(done[record.id]))
    return [done[record.id] for record in records]


def numbers(measured: Sequence[Any], blocks: Sequence[int], *, data: str, model: str) -> list[Number]:
    """Return the rows of the table: those of all questions, and of those whose second hop is right when asked for."""
    known = []
    for questions in measured:
        known.append([question for question in questions if question[DIRECT][0]])
    return [
        *rows_of(measured, blocks, "", data=data, model=model),
        *rows_of(known, blocks, f"{DIRECT}: right", data=data, model=model),
    ]


def rows_of(measured: Sequence[Any], blocks: Sequence[int], group: str, *, data: str, model: str) -> list[Number]:
    """Return by block the shares of right answers, and of answers that are o*: means over the records."""
    columns = list[tuple[str, str]]()
    for name in answer_names(blocks):
        columns += [(name, metric) for metric in METRICS]
    rows = [_shares(questions, columns) for questions in measured if questions]
    found = estimates(rows, names=[f"{name} {metric}" for name, metric in columns], seed=0)
    numbers_of_group = list[Number]()
    for name, metric in columns:
        settings = [name]
        if name.isdecimal():
            settings = [f"block {name}"]
        if group:
            settings.append(group)
        if model != "SmolLM2-135M":
            settings.append(model)
        note = ""
        if (name, metric) == (UNEDITED, "right"):
            note = f"{sum(len(questions) for questions in measured)} questions"
        estimate = found[f"{name} {metric}"]
        numbers_of_group.append(
            Number(
                table=TABLE,
                data=data,
                n=str(len(rows)),
                method="state of o*",
                settings=", ".join(settings),
                metric=metric,
                mean=format_share(estimate.mean),
                low=format_share(estimate.ci95_low),
                high=format_share(estimate.ci95_high),
                model=model,
                note=note,
            )
        )
    return numbers_of_group


def _shares(questions: Sequence[Any], columns: Sequence[tuple[str, str]]) -> dict[str, float | None]:
    """Return the share of a record's questions for which each column, (answer, metric), is true."""
    shares = dict[str, float | None]()
    for name, metric in columns:
        flags = [question[name][METRICS.index(metric)] for question in questions]
        shares[f"{name} {metric}"] = fmean(flags)
    return shares


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one model, and write its rows of the table ripples-ceiling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default=RIPPLES, help="a file of Ripples, or a packaged one")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--limit", type=int, default=100, help="so many records; %(default)s by default")
    parser.add_argument("--blocks", help="with commas, 0-based; by default ten, evenly spread")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "patched_states", help="folder of the answers")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args(arguments)
    model = LanguageModel.load(options.model, dtype="float32")
    depth = len(model.blocks)
    blocks = list(dict.fromkeys(round(depth * tenth / 10) for tenth in range(10)))  # a shallow model has fewer
    if options.blocks:
        blocks = [int(block) for block in options.blocks.split(",")]
    records = part_of(find_dataset("ripples")(options.data), options.split)[: options.limit]
    name = model_name(options.model)
    file = options.out / f"{name}-{options.split}.jsonl".replace(" ", "-").lower()
    measured = run(model, records, blocks, file)
    results = Results(options.results)  # read again: another study may have written there meanwhile
    results.add(numbers(measured, blocks, data=f"Ripples, {options.split}", model=name))
    results.save()


if __name__ == "__main__":
    with friendly("studies"):
        main()
