"""Ids and spans from one encoding, over three kinds of tokenizer."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kg_edit.errors import PromptError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode, left_pad, split_passes
from kg_edit.writing_systems import GLUE, join
from tests.kg_edit.tiny import TEXT, byte_level


@cache
def sentencepiece_style() -> PreTrainedTokenizerFast:
    """Unigram over words that carry their space as ▁, a BOS in front, an EOS behind: as T5's and Llama-2's."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    specials = ["<unk>", "<s>", "</s>"]
    core.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=200, special_tokens=specials, unk_token="<unk>"))
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def without_words() -> PreTrainedTokenizerFast:
    """A BPE that sees no word boundaries, so that its merges cross them."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"])
    core.train_from_iterator([*TEXT, *["James plays for Miami"] * 20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<unk>")


TOKENIZERS = {
    "byte-level": byte_level,
    "byte-level with BOS": lambda: byte_level(bos=True),
    "sentencepiece": sentencepiece_style,
    "no words": without_words,
}
words = st.lists(st.text("abcdeLMJé'🙂", min_size=1, max_size=6), min_size=1, max_size=3).map(" ".join)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(subject=words, tail=words, target=words, context=st.sampled_from(["{}", "Where is it. {}"]))
def test_encode_equals_the_joined_text(kind: str, subject: str, tail: str, target: str, context: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    template = f"{{}} {tail}"
    text = context.replace("{}", f"{subject} {tail}")
    try:
        encoded = encode(tokenizer, template, subject=subject, target=target, context=context)
    except PromptError as error:
        assert kind == "no words", "the others keep words apart, so that any target can be asked for"
        assert "merges" in str(error)
        return
    prompt = encode(tokenizer, text)
    assert encoded.ids[: encoded.target_start] == prompt.ids, "the prompt alone is a prefix of the joined text"
    assert encoded.target_ids
    assert encoded.ids == encode(tokenizer, join(text, target)).ids
    assert sum(token == tokenizer.bos_token_id for token in encoded.ids) <= 1


@pytest.mark.parametrize("kind", ["byte-level", "byte-level with BOS", "sentencepiece"])
@given(subject=words, tail=words)
def test_subject_last_is_the_last_token(kind: str, subject: str, tail: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    prompt = encode(tokenizer, f"{{}} {tail}", subject=subject)
    encoding = tokenizer(prompt.text, return_offsets_mapping=True)
    start, end = encoding["offset_mapping"][prompt.edited_at]
    assert start < len(subject) <= end
    assert prompt.subject_last is not None and prompt.subject_last < len(prompt.ids)


@pytest.mark.parametrize(("kind", "target"), [("byte-level", " James plays"), ("sentencepiece", "s plays")])
def test_glued_target_has_no_space(kind: str, target: str) -> None:
    """Where the word is one token (byte-level), the target begins with this token."""
    tokenizer = TOKENIZERS[kind]()
    prompt = encode(tokenizer, "LeBron Jame", target=f"{GLUE}s plays")
    assert prompt.text == "LeBron James plays" and prompt.ids == encode(tokenizer, "LeBron James plays").ids
    assert tokenizer.decode(prompt.target_ids).strip() == target.strip()


def test_encode_drops_eos_and_has_bos() -> None:
    tokenizer = sentencepiece_style()
    ids = encode(tokenizer, "{} plays for", subject="Dwyane Wade", target="Miami").ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids


def test_encode_drops_eos_that_is_also_bos() -> None:
    core = byte_level()._tokenizer
    core.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")
    prompt = encode(tokenizer, "{} plays for", subject="LeBron James", target="Rome")
    plain = encode(byte_level(), "{} plays for", subject="LeBron James", target="Rome")
    assert prompt.ids == (0, *plain.ids) and prompt.target_ids == plain.target_ids
    assert encode(tokenizer, "").ids == (0,)


def test_braces_in_subject_are_text() -> None:
    prompt = encode(byte_level(), "{} plays for", subject="a {} b", context="So. {}")
    assert prompt.text == "So. a {} b plays for"


def test_encode_with_a_real_tokenizer(smollm2: LanguageModel) -> None:
    tokenizer = smollm2.tokenizer
    prompt = encode(tokenizer, "{}'s capital city,", subject="First Czechoslovak Republic", target="Boston")
    assert tokenizer.decode(prompt.ids[prompt.edited_at]) == " Republic"
    assert tokenizer.decode(list(prompt.target_ids)) == " Boston"


def test_left_pad_has_ids_mask_and_positions() -> None:
    import torch

    batch = left_pad([[5, 6, 7], [8]], device=torch.device("cpu"))
    assert batch.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.positions.tolist() == [[0, 1, 2], [0, 0, 0]]


@pytest.mark.parametrize(
    ("text", "target", "joined"),
    [
        ("Paris is in", "France", "Paris is in France"),
        ("中国的首都是", "上海", "中国的首都是上海"),
        ("中国的首都是", "Shanghai", "中国的首都是 Shanghai"),
        ("한국의 수도는", "부산", "한국의 수도는 부산"),
    ],
)
def test_join_follows_the_script(text: str, target: str, joined: str) -> None:
    assert join(text, target) == joined


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([3, 3, 3], [range(3)]),
        ([3] * 5, [range(3), range(3, 5)]),  # rows
        ([2, 4, 9], [range(2), range(2, 3)]),  # tokens, with padding
        ([50, 1, 1], [range(1), range(1, 3)]),  # a long row alone
    ],
)
def test_pass_of_padded_rows_has_a_bound_in_rows_and_in_tokens(lengths: list[int], expected: list[range]) -> None:
    assert list(split_passes(lengths, rows=3, tokens=12)) == expected
