"""A case as requests of another program: answered one by one, they give the metrics of `score_cases`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.evaluation.case import TEACHER_FORCED, Case
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.metrics.catalogue import RECORD_METRICS
from kg_edit.evaluation.records import items
from kg_edit.evaluation.requests import CaseRequests, TextRequest, parts_of, target_of
from kg_edit.evaluation.scorer import score_cases
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import answers
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import Nudge
from tests.kg_edit.evaluation.datasets.rows import written
from tests.kg_edit.evaluation.datasets.test_reading import ROWS

BENCHMARKS = keep_first(["zsre", "counterfact-plus", "mquake", "ripples", "knowedit"], keep=2)


def answered(model: LanguageModel, requests: Sequence[TextRequest]) -> list[Any]:
    """As the harness answers them, each by itself: (sum of log p, whether all are the arg-max), or a text."""
    return [_answer(model, *request) for request in requests]


@torch.no_grad()
def _answer(model: LanguageModel, kind: str, arguments: tuple[str, Any]) -> Any:
    context, more = arguments
    if kind == "generate_until":
        assert not more["do_sample"]
        return continuations(model, [context], limits=[more["max_gen_toks"]])[0]
    assert context == context.rstrip()  # the harness would move white space into the continuation
    first, ids = len(encode(model.tokenizer, context).ids), encode(model.tokenizer, context + more).ids
    log_p = model.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)[first - 1 : -1]
    targets = torch.tensor(ids[first:])
    return float(log_p.gather(1, targets[:, None]).sum()), bool((log_p.argmax(-1) == targets).all())


def case_of(name: str, folder: Path) -> Case:
    records = find_dataset(name)(written(folder, ROWS[name]))
    (item,) = items(records, answers(records), EvalConfig(chat=False))
    return item.case


@pytest.mark.parametrize("name", BENCHMARKS)
def test_requests_give_the_metrics_of_the_scorer(
    name: str, model: LanguageModel, method: Nudge, tmp_path: Path
) -> None:
    case = case_of(name, tmp_path)
    case_requests = CaseRequests(case=case, tokenizer=model.tokenizer)
    with method.update(case.edits).applied(model) as edited:
        (section,) = score_cases(edited, [case])
        metrics = case_requests.metrics(answered(edited, case_requests.requests))
    expected = {metric: value for metric, value in section.scores.items() if value is not None}
    assert metrics == pytest.approx(expected, abs=1e-4)
    assert expected


def test_only_counted_tokens_are_asked_one_by_one(model: LanguageModel, tmp_path: Path) -> None:
    """A share of right tokens that is never asked for is no number, so that no metric can read it unseen."""
    case = case_of("counterfact-plus", tmp_path)
    case_requests = CaseRequests(case=case, tokenizer=model.tokenizer)
    evidence = case_requests.evidence(answered(model, case_requests.requests))
    counted = set(case.forced_pairs)
    assert {pair for pair, scores in evidence.scores.items() if scores.accuracy == scores.accuracy} == counted
    assert set(case_requests.parts) == counted < set(case_requests.targets)


def test_all_families_that_are_teacher_forced_are_named() -> None:
    needs = [metric.needs for name, metric in RECORD_METRICS.items() if name.endswith(".teacher_forced")]
    assert {need.partition(".")[0] for all_needs in needs for need in all_needs} == TEACHER_FORCED


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The mother tongue of Danielle Darrieux is", "English"),
        ("Question: Who?\nAnswer:", "a seasoned Norwegian ethnographer, born 1989"),
        ("It was founded in", "1998"),  # the space is a token of its own
        ("Das Land heißt", "Österreich-Ungarn 🇦🇹"),  # a flag is several tokens, none of them a character
    ],
)
def test_target_parts_are_its_tokens(prompt: str, target: str, smollm2: LanguageModel) -> None:
    tokenizer = smollm2.tokenizer
    encoded = encode(tokenizer, prompt, target=target)
    parts = list(parts_of(tokenizer, Pair(prompt, target)))
    assert "".join(piece.text for piece in parts) == f" {target}"
    assert sum(piece.tokens for piece in parts) == len(encoded.target_ids)
    assert (max(piece.tokens for piece in parts) > 1) == ("🇦🇹" in target)
    for piece in parts:
        ids, before = encode(tokenizer, piece.context + piece.text).ids, encode(tokenizer, piece.context)
        assert ids[: len(before.ids)] == before.ids
        assert len(ids) - len(before.ids) == piece.tokens
    assert target_of(tokenizer, Pair(prompt, target)) == (prompt, f" {target}", len(encoded.target_ids))


def test_token_behind_white_space_is_written_not_scored(smollm2: LanguageModel, tmp_path: Path) -> None:
    """The harness scores " 1" where it is asked for "1" after "in ": both tokens would have to be the arg-max."""
    zsre = {**ROWS["zsre"], "answers": ["1998"], "alt": "1999"}
    (record,) = find_dataset("zsre")(written(tmp_path, zsre))
    case_requests = CaseRequests(case=Case.of(record), tokenizer=smollm2.tokenizer)
    spaced = next(r for r in case_requests.requests if r.arguments[0] == f"{record.edits[0].text} ")
    assert spaced.kind == "generate_until" and spaced.arguments[1]["max_gen_toks"] == 1
    replies = [
        ("1" if r == spaced else "x") if r.kind == "generate_until" else (-1.0, False) for r in case_requests.requests
    ]
    scores = case_requests.evidence(replies).scores[Pair(record.edits[0].text, "1998")]
    assert (scores.nll, scores.accuracy) == (pytest.approx(1 / 5), pytest.approx(1 / 5))
