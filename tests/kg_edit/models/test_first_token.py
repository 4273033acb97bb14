"""The first token of a text: which models do not read it, and what an edit does about it."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.first_token import begins_unread, readable_contexts, warn_of_unread
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.models.sampling import BARE
from tests.everyday import keep_first
from tests.kg_edit.tiny import tiny

CONTEXTS = (BARE, "It is late. {}")
FOUNDED = Edit(id="g", subject="Google", prompt="{} was founded by", target_new="Steve Jobs")


def test_begins_unread_uses_no_dropout() -> None:
    """A method's check asks this; it leaves the modes and the random state as they were."""
    model = copy.deepcopy(tiny("gpt2"))
    model.model.train()
    model.blocks[1].eval()
    modes, before = [module.training for module in model.model.modules()], torch.get_rng_state()
    begins_unread(model, encode(model.tokenizer, "{} is a letter", subject="T"))
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.model.modules()] == modes


@pytest.mark.parametrize(
    ("prompt", "subject", "unread"),
    keep_first(
        [
            ("{} was founded by", "Google", True),
            ("\n{} was founded by", "Google", False),
            ("{}", "Japan", True),  # nothing behind it to compare with
            ("{} lies in", "New York", False),  # its last token is the second one
            ("Who founded {}? It was", "Google", False),
            (" {} was founded by", "Google", True),  # the space is a part of its token
        ],
        keep=2,
        unpack=True,
    ),
)
def test_begins_unread_finds_subjects_in_the_sink(
    smollm2: LanguageModel, prompt: str, subject: str, unread: bool
) -> None:
    encoded = encode(smollm2.tokenizer, prompt, subject=subject)
    assert begins_unread(smollm2, encoded) == unread
    expected = ("\n{}", CONTEXTS[1]) if unread else CONTEXTS
    assert readable_contexts(smollm2, encoded, CONTEXTS) == expected


@pytest.mark.parametrize("bos", [False, True])
def test_readable_changes_nothing_without_a_sink(bos: bool) -> None:
    model = tiny("llama", bos=bos)
    encoded = encode(model.tokenizer, "{} was", subject="a")
    assert readable_contexts(model, encoded, CONTEXTS) == CONTEXTS


def test_request_begins_with_a_line_break(smollm2: LanguageModel) -> None:
    request = Request.of(smollm2, FOUNDED, CONTEXTS)
    assert [row.text for row in request.rewrites] == [
        "\nGoogle was founded by Steve Jobs",
        "It is late. Google was founded by Steve Jobs",
    ]
    assert request.essence
    assert request.essence.text == "\nGoogle is a"


def test_warning_names_the_unread_edit(smollm2: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unread(smollm2, encode(smollm2.tokenizer, FOUNDED.prompt, subject="Google"), edit="g")
        assert "'g'" in caplog.text and "line break" in caplog.text
        caplog.clear()
        warn_of_unread(smollm2, encode(smollm2.tokenizer, FOUNDED.prompt, subject="Los Angeles"), edit="l")
        assert not caplog.text
