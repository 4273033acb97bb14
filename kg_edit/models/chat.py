"""A tokenizer's chat template: it turns a prompt into a user's turn, after which the assistant's answer begins.

`find_chat_form` renders the template once around a marker text. The subject's position in a turn is then found by
counting characters, and no token of the template is mistaken for the subject. `render` puts a whole conversation into
the template, unchanged.

A template is rendered with its own system message, without tools, and with a fixed date, so that the same edit gives
the same tokens on every day. It is rendered without thinking (``enable_thinking`` false), unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any

from transformers import PreTrainedTokenizerBase

from kg_edit.errors import ChatTemplateError
from kg_edit.models.prompts import ChatForm

_DATE = "26 Jul 2024"  # Llama 3.1's own default; other templates use the current date
_DATE_PARTS = {
    "%Y": "2024", "%y": "24", "%m": "07", "%B": "July", "%b": "Jul", "%d": "26", "%A": "Friday", "%a": "Fri",
    "%H": "12", "%M": "00", "%S": "00", "%f": "000000",
}  # fmt: skip
_USER = "<<kg-edit: user>>"
_ANSWER = "<<kg-edit: assistant>>"
_SECONDS = 10  # the longest time that a template may take
_MOST_ADDED = 100_000  # the most characters that a template may add of its own
_MOST_REPEATS = 2  # how often a template may contain each message
Message = Mapping[str, str]


def find_chat_form(tokenizer: PreTrainedTokenizerBase, *, name: str) -> ChatForm:
    """Return the form in which ``tokenizer``'s chat template asks one user's turn.

    ``name`` is the model's name for messages of errors.
    """
    rendered = render(tokenizer, [{"role": "user", "content": _USER}], name=name)
    before, mark, after = rendered.partition(_USER)
    if not mark or _USER in after:
        raise ChatTemplateError(
            f"the chat template of {name!r} contains the user's text {rendered.count(_USER)} times; expected it "
            "once and unchanged. Give the tokenizer another chat_template, or ask in plain text"
        )
    return ChatForm(before=before, after=after, gap=_find_gap(tokenizer, rendered, name=name))


def _find_gap(tokenizer: PreTrainedTokenizerBase, asked: str, *, name: str) -> str:
    """Return the white space that the template puts between ``asked``, which is the user's turn, and an answer.

    Mistral's template makes "[INST] question [/INST]" of a question alone, and "[INST] question [/INST] answer</s>" of
    both, so its gap is a space. If the template has no place for an answer behind ``asked``, the gap is empty.
    """
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    try:
        answered = _apply_template(tokenizer, turns, add_generation_prompt=False, name=name)
    except ChatTemplateError:  # a template for one turn
        return ""
    up_to_answer, mark, _ = answered.partition(_ANSWER)
    if not mark or not up_to_answer.startswith(asked):
        return ""
    gap = up_to_answer.removeprefix(asked)
    if gap.strip():  # it is more than white space
        return ""
    return gap


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, name: str, thinking: bool = False
) -> str:
    """Render a conversation with the template, up to where the assistant answers.

    With ``thinking`` it may think first, if the template has a switch for that (``enable_thinking``).
    The text holds all special tokens, also BOS: encode it with ``add_special_tokens=False``.
    """
    if not tokenizer.chat_template:
        raise ChatTemplateError(
            f"the tokenizer of {name!r} has no chat template, so the model can't be asked in chat form. Use the chat "
            "version of the model (often -Instruct), put its chat_template.jinja into the model's folder (in Python: "
            'set model.tokenizer.chat_template), or leave --chat and the rows\' "chat" out'
        )
    return _apply_template(tokenizer, messages, add_generation_prompt=True, name=name, thinking=thinking)


def _apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    name: str,
    thinking: bool = False,
) -> str:
    """Return the text of ``messages`` in the template.

    With ``add_generation_prompt``, the template's opening of the assistant's next turn is at the end of the text.
    """
    try:
        template = _fix_date(str(tokenizer.get_chat_template()))
        text = _run_in_time(
            tokenizer.apply_chat_template,
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            date_string=_DATE,
            enable_thinking=thinking,
        )
        content = sum(len(message["content"]) for message in messages)
        if len(text) > _MOST_ADDED + _MOST_REPEATS * content:
            raise ValueError(f"it makes a text of {len(text)} characters")
    except Exception as error:  # a template is a program, which may raise anything
        why = str(error) or type(error).__name__
        raise ChatTemplateError(
            f"the chat template of {name!r} can't format the messages: {why}; ask in plain text"
        ) from error
    return text


def _fix_date(template: str) -> str:
    """Let ``strftime_now``, by which some templates ask for the current date, give the fixed date.

    A macro of this name, which takes a pattern such as "%d %b %Y", is put before the template:

        {% macro strftime_now(pattern) %}{{ pattern|replace('%Y', '2024')|replace('%y', '24')… }}{% endmacro %}
    """
    if "strftime_now" not in template:
        return template
    filled_pattern = "pattern"
    for part, value in _DATE_PARTS.items():
        filled_pattern += f"|replace('{part}', '{value}')"
    # The line break after the macro is not part of the text.
    return "{% macro strftime_now(pattern) %}{{ " + filled_pattern + " }}{% endmacro %}\n" + template


def _run_in_time(function: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Return the text that ``function`` makes, or raise its error, or an error if it takes too long.

    A template is a program and may be endless. A thread can't be made to end, so it is left behind.
    """
    texts = list[str]()
    failed = list[Exception]()

    def work() -> None:
        try:
            texts.append(str(function(*args, **options)))
        except Exception as error:
            failed.append(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if failed:
        raise failed[0]
    if not texts:
        raise TimeoutError(f"it takes more than {_SECONDS} seconds")
    return texts[0]
