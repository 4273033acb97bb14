"""A prompt as a user's turn: where its subject and its target are, by the template's own tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kg_edit.models.chat import find_chat_form
from kg_edit.models.loading import resolve_model
from kg_edit.models.prompts import COMPLETE, encode, write_user_turn
from tests.kg_edit.tiny import CHAT_TEMPLATE as WITH_BOS
from tests.kg_edit.tiny import byte_level, tiny

SPACED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DATED = "{{ date_string }} {{ enable_thinking }} " + WITH_BOS


def tokenizer(template: str | None, *, bos: bool = True) -> PreTrainedTokenizerBase:
    reader = byte_level(bos=bos)
    reader.chat_template = template
    return reader


def text_at(reader: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return str(reader.decode(list(ids)))


@pytest.mark.parametrize("template", [WITH_BOS, SPACED])
def test_chat_prompt_equals_the_template(template: str) -> None:
    reader = tokenizer(template)
    form = find_chat_form(reader, name="tiny")
    prompt = encode(reader, "Who founded {}?", subject="Google", chat=form)
    turn = [{"role": "user", "content": "Who founded Google?"}]
    expected = reader.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(prompt.ids) == expected
    assert prompt.ids.count(reader.bos_token_id) == 1
    answered = encode(reader, "Who founded {}?", subject="Google", target="Steve Jobs", chat=form)
    turns = [*turn, {"role": "assistant", "content": "Steve Jobs"}]
    dialogue = reader.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert dialogue[: len(answered.ids)] == list(answered.ids) or template is WITH_BOS
    gap = " " if template is SPACED else ""
    assert text_at(reader, answered.target_ids) == f"{gap}Steve Jobs"


@pytest.mark.parametrize("subject", ["user", "assistant", "INST", "Complete the sentence", "the", "s"])
@pytest.mark.parametrize("context", ["{}", "The user said. {}"])
def test_chat_subject_is_not_found_in_the_template(subject: str, context: str) -> None:
    reader = tokenizer(WITH_BOS)
    form = find_chat_form(reader, name="tiny")
    prompt = encode(reader, "  {} plays for", subject=subject, target="Rome", context=context, chat=form)
    assert prompt.subject_first is not None
    text = text_at(reader, prompt.ids[: prompt.edited_at + 1])
    assert text == f"<s><user>{COMPLETE}{context.format('  ' + subject).strip()}"
    assert subject in text_at(reader, prompt.ids[prompt.subject_first : prompt.edited_at + 1])
    assert text_at(reader, prompt.ids[prompt.edited_at + 1 : prompt.target_start]) == " plays for\n<assistant>"


def test_user_turn_completes_only_open_sentences() -> None:
    assert write_user_turn(" Google was founded by ") == COMPLETE + "Google was founded by"
    for text in ("Who founded Google?", "Question: who?\nAnswer:", "Tell me of Google.", "谁创立了谷歌\uff1f"):
        assert write_user_turn(text) == text


def test_chat_form_has_fixed_date_and_no_thinking() -> None:
    assert find_chat_form(tokenizer(DATED), name="tiny").before == "26 Jul 2024 False <s><user>"


def test_strftime_now_gives_the_fixed_date() -> None:
    """As the templates of Mistral Small do; also inside a macro of the template."""
    day = "{% macro day() %}{{ strftime_now('%d %b') }}{% endmacro %}"
    template = f"\n{{% set today = strftime_now('%Y-%m-%d') %}}{day}{{{{ today }}}}, {{{{ day() }}}} {WITH_BOS}"
    assert find_chat_form(tokenizer(template), name="tiny").before == "\n2024-07-26, 26 Jul <s><user>"
    indented = f"  {{% if strftime_now is defined %}}{{{{ strftime_now('%B %Y') }}}}{{% endif %}} {WITH_BOS}"
    assert find_chat_form(tokenizer(indented), name="tiny").before == "July 2024 <s><user>"


def test_template_for_one_turn_is_asked_without_a_gap() -> None:
    refused = "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    form = find_chat_form(tokenizer(f"{refused}<user>{{{{ messages[0].content }}}}<end>"), name="tiny")
    assert (form.before, form.after, form.gap) == ("<user>", "<end>", "")


def test_chat_form_digest_covers_all_fields() -> None:
    form = find_chat_form(tokenizer(WITH_BOS), name="tiny")
    assert form.sha256 == find_chat_form(tokenizer(WITH_BOS), name="other").sha256
    others = (replace(form, before="x"), replace(form, after="x"), replace(form, gap=" "))
    assert len({form.sha256, *(other.sha256 for other in others)}) == 4


def test_in_chat_encodes_a_turn() -> None:
    plain = tiny("llama")
    model = replace(plain, tokenizer=tokenizer(WITH_BOS), prompt_transform=lambda text: f"New fact. {text}")
    prompt = model.in_chat().encode("Who?", target="Rome")
    assert prompt.text == "<s><user>New fact. Who?\n<assistant>Rome"
    assert model.in_chat().in_chat(chat=False).encode("Who?").text == "New fact. Who?"


@pytest.mark.slow
def test_chat_template_of_gguf_is_used() -> None:
    reader = AutoTokenizer.from_pretrained(resolve_model("smollm2-135m"))
    form = find_chat_form(reader, name="smollm2-135m")
    assert form.before.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert form.after == "<|im_end|>\n<|im_start|>assistant\n"
    prompt = encode(reader, "{} was founded by", subject="Google", target="Steve Jobs", chat=form)
    tokens = reader.convert_ids_to_tokens(list(prompt.ids))
    assert tokens[prompt.edited_at] == "ĠGoogle"
    assert tokens[0] == "<|im_start|>" and tokens.count("<|im_start|>") == 3 and tokens.count("<|im_end|>") == 2
    assert tokens[prompt.target_start - 1 :] == ["Ċ", "Ste", "ve", "ĠJobs"]
