"""A tokenizer's chat template: how a prompt becomes a user's turn, and where the assistant's answer begins.

`chat_form` renders the template once around a mark, so a subject's place in a turn is known by counting characters and
no token of the template is taken for the subject's. `user_turn` is what a prompt of an edit or a benchmark is asked as;
`render` puts a whole conversation into the template, as it was written.

A template is rendered with its own system message, without tools, without thinking (``enable_thinking`` false), and
with one date, so that the same edit gives the same tokens on every day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from kg_edit.errors import ChatTemplateError

COMPLETE = "Complete the sentence: "
"""What stands before a sentence that is to be completed, in the user's turn."""

_DATE = "26 Jul 2024"  # Llama 3.1's own default; other templates take today's
_USER, _ANSWER = "<<kg-edit: user>>", "<<kg-edit: assistant>>"
_FULL_STOPS = "?!.:;\uff1f\uff01\u3002\uff1a\u061f\u2026"  # Latin, Chinese and Arabic; what ends in one is complete
Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ChatForm:
    """A template around one user's turn: ``before`` it, and ``after`` it up to the assistant's answer.

    ``gap`` is what the template itself puts before an answer: nothing after a line break, a space in Mistral's.
    """

    before: str
    after: str
    gap: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, of all that decides how a prompt is asked; part of what a run is known by."""
        return hashlib.sha256(json.dumps([self.before, self.after, self.gap, COMPLETE]).encode()).hexdigest()


def chat_form(tokenizer: PreTrainedTokenizerBase, *, name: str) -> ChatForm:
    """The form in which ``tokenizer``'s chat template asks one user's turn; ``name`` is the model's, for messages.

    Raises:
        ChatTemplateError: the tokenizer has no template, or one that does not keep the user's text as it is.
    """
    asked = render(tokenizer, [{"role": "user", "content": _USER}], name=name)
    before, mark, after = asked.partition(_USER)
    if not mark or _USER in after:
        raise ChatTemplateError(
            f"the chat template of {name!r} holds the user's text {asked.count(_USER)} times; expected it once, as it "
            "was written. Give the tokenizer another chat_template, or ask in plain text"
        )
    return ChatForm(before=before, after=after, gap=_gap(tokenizer, asked))


def _gap(tokenizer: PreTrainedTokenizerBase, asked: str) -> str:
    """The white space that the template puts between a user's turn and its answer, beyond ``asked``."""
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    before, mark, _ = _rendered(tokenizer, turns, answer=False).partition(_ANSWER)
    gap = before.removeprefix(asked)
    return gap if mark and before.startswith(asked) and not gap.strip() else ""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, name: str) -> str:
    """A conversation in the template's form, up to where the assistant answers.

    The text holds all special tokens, a BOS as well: encode it with ``add_special_tokens=False``.

    Raises:
        ChatTemplateError: the tokenizer has no template, or it refuses these messages.
    """
    if not tokenizer.chat_template:
        raise ChatTemplateError(
            f"the tokenizer of {name!r} has no chat template, so the model can't be asked in chat form. Take the chat "
            "version of the model (often -Instruct), put its chat_template.jinja into the model's folder (in Python: "
            'set model.tokenizer.chat_template), or leave --chat and the rows\' "chat" out'
        )
    return _rendered(tokenizer, messages, answer=True, name=name)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, answer: bool, name: str = "the model"
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=answer,
            date_string=_DATE,
            enable_thinking=False,
        )
    except Exception as error:  # a template is a program, which raises what it likes
        raise ChatTemplateError(f"the chat template of {name!r} refuses the messages: {error}") from error
    return str(text)


def user_turn(text: str) -> str:
    """What ``text``, a prompt of an edit or a benchmark, is asked as: a sentence is to be completed, all else as it is.

    A text that ends in a question mark, a full stop or a colon ("Answer:") asks by itself. A chat model takes a
    sentence without its end for small talk ("The capital of France is" -> "I am your friendly AI").
    """
    asked = text.strip()
    return asked if asked[-1:] in _FULL_STOPS else COMPLETE + asked
