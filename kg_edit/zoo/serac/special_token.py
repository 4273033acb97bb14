"""Find a special token that no ordinary text contains, to mark text that a program puts before a prompt.

The tokenizer turns the text of a special token back into that token. So a marker can be handled as plain text.
"""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from kg_edit.errors import ConfigError


class Marker(NamedTuple):
    """A special token: its id, and its text."""

    id: int
    text: str


def find_marker(tokenizer: PreTrainedTokenizerBase, *, name: str) -> Marker:
    """Return the first special token that is used neither in plain text nor in chat; else EOS, else the unknown token.

    The EOS token is not used if the chat template writes it, or if the tokenizer puts it before every text. ``name`` is
    the model's name in the message.
    """
    template = str(tokenizer.chat_template or "")
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    candidates = [
        Marker(number, token.content)
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and token.content not in used and token.content not in template
    ]
    in_every_text = tokenizer("")["input_ids"]
    for text in (tokenizer.eos_token, tokenizer.unk_token):
        # A template may write the token itself, or the variable eos_token.
        if isinstance(text, str) and text not in template and "eos_token" not in template:
            number = int(tokenizer.convert_tokens_to_ids(text))  # type: ignore[arg-type]
            candidates += [Marker(number, text)] if number not in in_every_text else []
    for marker in candidates:
        if tokenizer(marker.text, add_special_tokens=False)["input_ids"] == [marker.id]:
            return marker
    raise ConfigError(
        f"the tokenizer of {name!r} has no free special token to mark a text: its chat template or every text has all "
        "of them; add one (tokenizer.add_special_tokens) and save the model with it"
    )
