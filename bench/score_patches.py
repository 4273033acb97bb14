"""Scoring CounterFactPlus records before and after their edits: many patches in one pass against each in turn.

The plain way applies one patch after the other and runs a left-padded row for each pair of prompt and candidate and
for each text, with the same number of tokens in a pass. The fast way runs all records together: prompts and candidates
share what they share, nothing is padded, each token goes through its own edited model. Scores agree to 1e-4; texts may
differ where two tokens are equally likely. The patches are real (the default settings). Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from tools.model_edits import plain_model, some_edits

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.catalogue import requests_of
from kg_edit.evaluation.scorer import score_cases
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode, left_pad
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.likelihood import _NODES
from kg_edit.scoring.pairs import Pair, TokenScores
from kg_edit.scoring.questions import collect_answers, draw_choices
from kg_edit.scoring.requests import ANSWER_TOKENS

QUICK = RomeConfig()


def cases_of(edits: Sequence[Edit]) -> list[Case]:
    """Return the records as cases, with everything that their metrics ask."""
    pool = collect_answers(edits)
    return [Case.of(edit, choices=draw_choices(edit, pool, seed=0)) for edit in edits]


def passes(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Yield groups of rows, sorted by length; padded, a group has no more tokens than a pass of the fast way."""
    rows: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids)):
        if rows and (len(rows) + 1) * len(prompts[row].ids) > _NODES:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


@torch.no_grad()
def plain_scores(model: LanguageModel, pairs: Sequence[Pair]) -> dict[Pair, TokenScores]:
    """Score each pair as one row through the whole model."""
    distinct = list(dict.fromkeys(pairs))
    prompts = [encode(model.tokenizer, pair.prompt, target=pair.candidate) for pair in distinct]
    scores = {}
    for rows in passes(prompts):
        batch = left_pad([prompts[row].ids for row in rows], device=model.device)
        output = model.model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
        for logits, row in zip(output.logits, rows, strict=True):
            targets = torch.tensor(prompts[row].target_ids)
            log_p = logits[-len(targets) - 1 : -1].log_softmax(-1)
            nll = -log_p[torch.arange(len(targets)), targets].mean()
            hits = (log_p.argmax(-1) == targets).float().mean()
            scores[distinct[row]] = TokenScores(nll=float(nll), accuracy=float(hits), tokens=len(targets))
    return scores


def in_turn(
    model: LanguageModel, cases: Sequence[Case], patches: Sequence[Patch]
) -> list[tuple[dict[Pair, float], list[str]]]:
    """Score the records one by one, each before and after its edit."""
    results = []
    for case, patch in zip(cases, patches, strict=True):
        for applied in (nullcontext(), patch.applied(model)):
            with applied:
                requests = requests_of(case)
                prompts = [text.prompt for text in requests.continued]
                scores = plain_scores(model, requests.pairs)
                texts = [continuations(model, [prompt], limits=[ANSWER_TOKENS])[0] for prompt in prompts]
            results.append(({pair: score.nll for pair, score in scores.items()}, texts))
    return results


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--records", type=int, default=16)
    options = parser.parse_args()
    model = LanguageModel.load(options.model)
    edits = some_edits(options.records)
    cases = cases_of(edits)
    patches = [patch for patch in Rome(model, QUICK).edit_each(edits) if isinstance(patch, Patch)]
    reference = plain_model(options.model)
    start = time.perf_counter()
    slow = in_turn(reference, cases, patches)
    plain_seconds = time.perf_counter() - start
    start = time.perf_counter()
    sections = score_cases(model, [*cases, *cases], patches=[*[None] * len(cases), *patches])
    fast_seconds = time.perf_counter() - start
    apart = 0.0
    different = 0
    for index, case in enumerate(cases):
        requests = requests_of(case)
        for section, (nll, texts) in zip(
            (sections[index], sections[index + len(cases)]), slow[2 * index : 2 * index + 2], strict=True
        ):
            apart = max(apart, *(abs(section.nll[pair.prompt][pair.candidate] - nll[pair]) for pair in requests.pairs))
            names = [text.name or text.prompt for text in requests.continued]
            different += sum(
                section.texts[name] != text[: len(section.texts[name])] for name, text in zip(names, texts, strict=True)
            )
    result = {
        "name": "score_patches",
        "ratio": round(plain_seconds / fast_seconds, 2),
        "plain_seconds": round(plain_seconds, 2),
        "fast_seconds": round(fast_seconds, 2),
        "records": len(cases),
        "pairs": sum(len(requests_of(case).pairs) for case in cases),
        "largest_difference": apart,
        "different_texts": different,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
