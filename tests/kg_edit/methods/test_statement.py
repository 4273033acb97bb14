"""A subject at a prompt's start: methods that train on the statement itself see it after a line break, as ROME does."""

from __future__ import annotations

import logging

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.methods import find_method
from kg_edit.methods.statement import encode_statement
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import TokenScores
from kg_edit.ship.app.messages import TryRequest
from kg_edit.ship.app.session import make_outcomes, make_requests
from kg_edit.zoo.kn.method import Kn
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny

FOUNDED = Edit(id="g", subject="Google", prompt="{} was founded by", target_new="Steve Jobs", target_true="Larry Page")
LED = "\nGoogle was founded by Steve Jobs"
METHODS = {"ft": {}, "kn": {}, "ft-l": {}, "locft": {}, "grace": {}, "lora": {}, "mend": {"untrained": True}}


def test_statement_gets_a_line_break_before_an_attention_sink(smollm2: LanguageModel) -> None:
    later = FOUNDED.model_copy(update={"prompt": "Who founded {}? It was"})
    assert encode_statement(smollm2, FOUNDED, method="ft").text == LED
    assert encode_statement(smollm2, later, method="ft").text == "Who founded Google? It was Steve Jobs"
    assert encode_statement(tiny("llama"), FOUNDED, method="ft").text == LED.strip()  # no sink, so it is read
    turn = encode_statement(smollm2, FOUNDED.model_copy(update={"chat": True}), method="ft").text
    assert "\nGoogle" not in turn.replace("user\n", "")


@pytest.mark.parametrize("name", keep_first(METHODS))
def test_methods_warn_of_the_line_break(name: str, smollm2: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    method = find_method(name).on(smollm2, settings=METHODS[name])
    with caplog.at_level(logging.WARNING):
        method.check([FOUNDED.model_copy(update={"prompt": "Who founded {}? It was"})])
        assert not caplog.text
        method.check([FOUNDED])
    assert "the subject is the first token" in caplog.text


@pytest.mark.slow
def test_rows_requests_and_contexts_have_the_line_break(smollm2: LanguageModel) -> None:
    """What each family really runs: FT's row, GRACE's request, KN's prompts."""
    read = tuple(smollm2.tokenizer(LED)["input_ids"])
    assert find_method("ft").on(smollm2, settings={}).encode_edit(FOUNDED).ids == read[:-1]  # type: ignore[attr-defined]
    (row,) = find_method("grace").on(smollm2, settings={}).encode_edit(FOUNDED).rewrites  # type: ignore[attr-defined]
    assert row.text == LED
    kn = find_method("kn").on(smollm2, settings={})
    assert isinstance(kn, Kn)
    kn.__dict__["contexts"] = ("{}", "It is late. {}")
    assert [prompt.text for prompt in kn._prompts(FOUNDED)] == [
        "\nGoogle was founded by Larry Page",
        "It is late. Google was founded by Larry Page",
    ]


@pytest.mark.slow
def test_served_page_asks_with_the_line_break(smollm2: LanguageModel) -> None:
    fields = {name: getattr(FOUNDED, name) for name in ("subject", "prompt", "target_new", "target_true")}
    request = TryRequest.model_validate(
        {**fields, "probes": [{"prompt": "Google's founder is"}, {"prompt": "Toyota was founded by"}]}
    )
    requests = make_requests(smollm2, request, FOUNDED)
    assert [text.prompt for each in requests for text in each.continued] == [
        "\nGoogle was founded by",
        "\nGoogle's founder is",
        "Toyota was founded by",
    ]
    evidence = []
    for each in requests:
        (text,) = each.continued
        assert {pair.prompt for pair in each.pairs} == {text.prompt}
        scores = dict.fromkeys(each.pairs, TokenScores(nll=1.0, accuracy=1.0, tokens=2))
        evidence.append(Evidence(texts={text.prompt: "Steve Jobs"}, scores=scores))
    shown = make_outcomes(requests, evidence, evidence)
    assert [(outcome.prompt, outcome.after_line_break) for outcome in shown[1:]] == [
        ("Google's founder is", True),
        ("Toyota was founded by", False),
    ]
