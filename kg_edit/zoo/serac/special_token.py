"""Find a special token that no ordinary text contains, to mark text that a program puts before a prompt.

The tokenizer turns the text of a special token back into that token. So a marker can be handled as plain text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from kg_edit.errors import ConfigError


class Marker(NamedTuple):
    """A special token: its id, and its text."""

    id: int
    text: str


def find_marker(tokenizer: PreTrainedTokenizerBase, *, name: str) -> Marker:
    """Return the first special token that is used neither in plain text nor in chat; else EOS, else the unknown token.

    ``name`` is the model's name in the message.
    """
    for marker in (*_list_unused_tokens(tokenizer), *_end_and_unknown(tokenizer)):
        if tokenizer(marker.text, add_special_tokens=False)["input_ids"] == [marker.id]:
            return marker
    raise ConfigError(
        f"the tokenizer of {name!r} has no free special token to mark a text: its chat template or every text has all "
        "of them; add one (tokenizer.add_special_tokens) and save the model with it"
    )


def _list_unused_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[Marker]:
    """Yield the special tokens without a role that the chat template does not write."""
    template = str(tokenizer.chat_template or "")
    with_a_role = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        if token.special and token.content not in with_a_role and token.content not in template:
            yield Marker(number, token.content)


def _end_and_unknown(tokenizer: PreTrainedTokenizerBase) -> Iterator[Marker]:
    """Yield EOS and the unknown token, where neither the chat template nor the tokenizer puts them into every text."""
    template = str(tokenizer.chat_template or "")
    if "eos_token" in template:  # the variable, for which the template writes the token
        return
    in_every_text = tokenizer("")["input_ids"]
    for text in (tokenizer.eos_token, tokenizer.unk_token):
        if isinstance(text, str) and text not in template:
            number = int(tokenizer.convert_tokens_to_ids(text))  # type: ignore[arg-type]
            if number not in in_every_text:
                yield Marker(number, text)
