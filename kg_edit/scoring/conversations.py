"""Conversations of two steps with a chat model: a second question after its answer, or an answer after some thinking.

`converse` has them all at once, each on a model with a patch of its own:

    turns:     user: PROMPT                assistant: first       user: Are you sure?     assistant: answer
    thinking:  user: PROMPT                assistant: <think> first </think> answer

`Conversation.thinking` says which of them it is, and is the budget of the thought:

    None     turns: the first answer, then the second question
    0        thinking, with the empty thought by which the template itself turns thinking off
    n > 0    thinking, cut after n tokens; then the thought is closed, so that the model has to answer
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch

from kg_edit.errors import ChatTemplateError
from kg_edit.models.chat import Message, render
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, write_user_turn
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.evidence import Exchange
from kg_edit.scoring.generation import end_tokens
from kg_edit.scoring.greedy import greedy
from kg_edit.scoring.requests import Conversation

ANSWERED = 60  # tokens of an answer: in a chat it is a sentence or two
_EMPTY_THOUGHT = re.compile(r"(?P<opening><(?P<tag>\w+)>)\s*(?P<closing></(?P=tag)>\s*)$")
_LAST = 8  # tokens in which the end of a thought is looked for; its mark may be several tokens


class ThinkingForm(NamedTuple):
    """How a template marks a thought: ``<think>``, and ``</think>`` with the white space after it."""

    opening: str
    closing: str


def thinking_form(model: LanguageModel) -> ThinkingForm:
    """Return the marks of a thought in the model's template, which has a switch ``enable_thinking``.

    Without thinking, such a template begins the answer with an empty thought, and with thinking it doesn't.
    """
    messages = [{"role": "user", "content": "Who founded Google?"}]
    without = render(model.tokenizer, messages, name=model.name)  # which turns thinking off
    empty_thought = _EMPTY_THOUGHT.search(without)
    if empty_thought is None or without == render(model.tokenizer, messages, name=model.name, thinking=True):
        raise ChatTemplateError(
            f"the chat template of {model.name!r} has no switch enable_thinking, so the probe thinking can't be asked; "
            "leave it out, or take a model that has one, such as Qwen3"
        )
    return ThinkingForm(opening=empty_thought["opening"], closing=empty_thought["closing"])


@torch.no_grad()
def converse(
    model: LanguageModel,
    conversations: Sequence[Conversation],
    *,
    patches: Sequence[WeightPatch | None] | None = None,
) -> list[Exchange]:
    """Have each of the conversations, greedily.

    Args:
        model: the model, in any form: its chat template is used.
        conversations: what is said.
        patches: the patch of each conversation's model; None: the unpatched model.
    """
    form = None  # only needed where a conversation has a thought
    if any(conversation.thinking is not None for conversation in conversations):
        form = thinking_form(model)
    beginnings = []
    limits = []
    for conversation in conversations:
        beginnings.append(_begin(model, conversation, form))
        if conversation.thinking is None:
            limits.append(ANSWERED)
        else:
            limits.append(conversation.thinking)
    firsts = _write(model, beginnings, limits=limits, patches=patches, form=form)
    texts = []  # of the second step: all that is before the answer
    for conversation, beginning, first in zip(conversations, beginnings, firsts, strict=True):
        if conversation.thinking is None or form is None:  # the second is for mypy: with a thought there is a form
            texts.append(_ask_again(model, conversation, first))
        else:
            texts.append(_end_thought(conversation, beginning, first, form))
    answers = _write(model, texts, limits=[ANSWERED] * len(texts), patches=patches, form=form)
    return [Exchange(first, answer) for first, answer in zip(firsts, answers, strict=True)]


def _begin(model: LanguageModel, conversation: Conversation, form: ThinkingForm | None) -> str:
    """Return the text up to the first step: an answer (without thinking, or after an empty thought), or a thought."""
    turns = [_say(model, write_user_turn(conversation.prompt))]
    if not conversation.thinking or form is None:  # None or 0, as the module's description explains
        return render(model.tokenizer, turns, name=model.name)
    text = render(model.tokenizer, turns, name=model.name, thinking=True)
    if text.rstrip().endswith(form.opening):  # some templates open the thought themselves
        return text
    return f"{text}{form.opening}\n"


def _ask_again(model: LanguageModel, conversation: Conversation, answer: str) -> str:
    """Return the text up to the answer to the second question."""
    turns = [
        {"role": "user", "content": write_user_turn(conversation.prompt)},
        {"role": "assistant", "content": answer},
        _say(model, conversation.follow_up),
    ]
    return render(model.tokenizer, turns, name=model.name)


def _end_thought(conversation: Conversation, beginning: str, thought: str, form: ThinkingForm) -> str:
    """Return the text up to the answer after a thought."""
    if conversation.thinking == 0:  # the template has closed an empty thought
        return beginning
    return f"{beginning}{thought}\n{form.closing}"


def _say(model: LanguageModel, text: str) -> Message:
    """Return the user's last turn, to which a patch of the prompt adds its facts, as in `generation.reply_in_chat`."""
    if model.prompt_transform:
        text = model.prompt_transform(text)
    return {"role": "user", "content": text}


def _write(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    limits: Sequence[int],
    patches: Sequence[WeightPatch | None] | None,
    form: ThinkingForm | None,
) -> list[str]:
    """Return what the model writes after each text: up to the end of a turn or of a thought, or the limit.

    ``form`` is given if one conversation of the batch thinks, else None. Then the mark that ends a thought ends each
    text, also that of a conversation without a thought.
    """
    rows = []
    for text, limit in zip(texts, limits, strict=True):
        ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])  # a template has all special tokens
        model.check_length(Prompt(text=text, ids=ids, target_start=len(ids)), new_tokens=limit)
        rows.append(ids)
    stops = end_tokens(model)
    end_of_thought = None
    if form is not None:
        end_of_thought = form.closing.strip()

    def is_finished(tokens: Sequence[int]) -> bool:
        if tokens[-1] in stops:
            return True
        if end_of_thought is None:
            return False
        return end_of_thought in str(model.tokenizer.decode(list(tokens[-_LAST:])))

    results = []
    for row in greedy(model, rows, limits=limits, patches=patches, is_finished=is_finished):
        ids = tuple(token for token in row.tokens if token not in stops)
        written = str(model.tokenizer.decode(list(ids)))
        if end_of_thought is not None:
            written = written.partition(end_of_thought)[0]
        results.append(written.strip())
    return results
