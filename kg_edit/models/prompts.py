"""Encode prompts as token ids, with the position of the subject's last token and that where the target begins.

`encode` makes a `Prompt` from **one** encoding with character offsets; nothing is ever decoded and encoded again. Where
a tokenizer would merge a target with a prompt that is written without spaces, they are encoded apart.
`left_pad` makes a batch of token rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kg_edit.errors import PromptError
from kg_edit.writing_systems import GLUE, join, runs_on

COMPLETE = "Complete the sentence: "
"""The text before an open sentence in the user's turn, which asks the model to complete it."""

_FULL_STOPS = "?!.:;\uff1f\uff01\u3002\uff1a\u061f\u2026"  # Latin, Chinese and Arabic; they end a complete text


@dataclass(frozen=True, kw_only=True)
class ChatForm:
    """A chat template around one user's turn: the texts ``before`` and ``after`` it, up to the assistant's answer.

    ``gap`` is the white space that the template puts before an answer: "" after a line break, a space in Mistral's.
    """

    before: str
    after: str
    gap: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, of everything that decides how a prompt is asked; a run is identified by it."""
        content = json.dumps([self.before, self.after, self.gap, COMPLETE])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token ids of a prompt and of its target, if it has one.

    ``ids[target_start:]`` is the target (empty without one). ``ids[subject_first]`` and ``ids[subject_last]`` are the
    subject's first and last tokens. ``site`` is the token at which the edit is written, where that is not the subject's
    last one. ``also_edited`` are tokens at which other facts of the edit are written. `encode` leaves these two out;
    the methods that need them set them.
    """

    text: str
    ids: tuple[int, ...]
    target_start: int
    subject_last: int | None = None
    subject_first: int | None = None
    site: int | None = None
    also_edited: tuple[int, ...] = ()

    @property
    def target_ids(self) -> tuple[int, ...]:
        """The token ids of the target; () if the prompt has none."""
        return self.ids[self.target_start :]

    @property
    def edited_at(self) -> int:
        """The index of the token at which the edit is written: the ``site``, or else the subject's last token."""
        if self.site is not None:
            return self.site
        if self.subject_last is None:
            raise PromptError(f"the prompt {self.text!r} was encoded without a subject; give subject=...")
        return self.subject_last


def write_user_turn(text: str) -> str:
    """Return the text in which ``text``, a prompt of an edit or a benchmark, is asked.

    A text that ends in a question mark, a full stop or a colon ("Answer:") is asked unchanged. An open sentence gets
    `COMPLETE` before it, without which a chat model answers with small talk ("The capital of France is" -> "I am your
    friendly AI").
    """
    stripped = text.strip()
    if stripped[-1:] in _FULL_STOPS:  # also true of an empty text
        return stripped
    return COMPLETE + stripped


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    *,
    subject: str | None = None,
    target: str | None = None,
    context: str = "{}",
    chat: ChatForm | None = None,
) -> Prompt:
    """Encode ``context`` around ``template`` around ``subject``, then ``target``, as one text.

    There is a space before the target where the script has spaces (`join`); a target that begins with `GLUE` has none.
    ``context`` and ``template`` hold one ``{}`` each; without a subject, the template is used unchanged. With ``chat``,
    everything but the target is a user's turn, and the target begins the assistant's turn (after ``chat.gap``).
    """
    text, span = _fill(template, subject, context)
    if chat:
        text, span = _as_turn(text, span, chat)
    if target is None:
        ids, offsets = _tokenize(tokenizer, text, special=chat is None)
        encoded = _Encoded(text, ids, offsets, target_start=len(ids))
    else:
        encoded = _encode_with_target(tokenizer, text, target, chat)

    first = None
    last = None
    if span is not None:
        first, last = _find_tokens(span, encoded.offsets, encoded.text)
    return Prompt(
        text=encoded.text,
        ids=tuple(encoded.ids),
        target_start=encoded.target_start,
        subject_last=last,
        subject_first=first,
    )


class _Encoded(NamedTuple):
    """A text, its token ids with their character offsets (begin, end), and the index of the target's first token."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    target_start: int


def _encode_with_target(tokenizer: PreTrainedTokenizerBase, text: str, target: str, chat: ChatForm | None) -> _Encoded:
    """Encode a prompt and its target as one text.

    The offsets go at least as far as the prompt's tokens, which is where the subject is looked for.
    """
    if chat:
        joined = f"{text}{chat.gap}{target.removeprefix(GLUE).strip()}"
    else:
        joined = join(text, target)
    special = chat is None  # a chat template brings its special tokens
    ids, offsets = _tokenize(tokenizer, joined, special=special)
    prompt_ids, prompt_offsets = _tokenize(tokenizer, text, special=special)
    if not prompt_ids:
        raise PromptError(f"the prompt {text!r} before {target!r} has no token; give a text before the target")
    if runs_on(text, target) and ids[: len(prompt_ids)] != prompt_ids:
        # With the prompt …是 and the target 中国, Qwen would make one token of 是中. A model that is asked reads 是,
        # and generates the tokens of 中国 after it.
        ids = [*prompt_ids, *_tokenize_apart(tokenizer, target)]
        offsets = prompt_offsets
    start = _find_target(prompt_ids, ids, text, joined, continues_word=target.startswith(GLUE))
    return _Encoded(joined, ids, offsets, start)


def _fill(template: str, subject: str | None, context: str) -> tuple[str, tuple[int, int] | None]:
    """Return ``context`` around ``template`` around ``subject``, and the span of the subject's characters, if any."""
    if subject is None:
        return context.replace("{}", template, 1), None
    if "{}" not in template:
        raise PromptError(f"the prompt {template!r} has no {{}} for the subject {subject!r}; write {{}} in its place")
    begin = context.index("{}") + template.index("{}")
    filled = template.replace("{}", subject, 1)
    return context.replace("{}", filled, 1), (begin, begin + len(subject))


def _as_turn(text: str, span: tuple[int, int] | None, chat: ChatForm) -> tuple[str, tuple[int, int] | None]:
    """Return the text as a user's turn in chat form, and the span of the subject in it."""
    turn = write_user_turn(text)  # the text without white space around it, perhaps after `COMPLETE`
    in_chat = f"{chat.before}{turn}{chat.after}"
    if span is None:
        return in_chat, None
    # The span moves as far as the text's first character that is not white space. In the text it stands after the white
    # space, in chat form after ``before`` and perhaps `COMPLETE`, by which the turn is longer than the stripped text.
    place_in_text = len(text) - len(text.lstrip())
    added_by_turn = len(turn) - len(text.strip())
    place_in_chat = len(chat.before) + added_by_turn
    shift = place_in_chat - place_in_text
    begin, end = span
    return in_chat, (begin + shift, end + shift)


def _find_tokens(span: tuple[int, int], offsets: Sequence[tuple[int, int]], text: str) -> tuple[int, int]:
    """Return the first and the last token with a character of ``span``; they may hold other characters too."""
    begin, end = span
    inside = list[int]()
    for index, (low, high) in enumerate(offsets):
        if low < end and high > begin and high > low:
            inside.append(index)
    if not inside:
        raise PromptError(
            f"no token of {text!r} lies in the subject's span {span}: {text[begin:end]!r} is empty for this "
            "tokenizer; give the subject in other words"
        )
    return inside[0], inside[-1]


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the token ids and their character offsets (begin, end).

    With ``special`` these include the special tokens that the tokenizer puts in front (BOS), but not those at the end
    (EOS). Without, it adds none: the text, a rendered chat template, has them all.
    """
    encoding = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids = list(encoding["input_ids"])
    offsets = list(encoding["offset_mapping"])
    if special:
        is_special = list(encoding["special_tokens_mask"])
        # In GPT-2's tokenizers <|endoftext|> is BOS and EOS. Where it is put in front, an empty text is [BOS], which
        # must not be dropped as an EOS.
        only_bos = [tokenizer.bos_token_id]
        while ids and is_special[len(ids) - 1] and ids != only_bos:
            ids.pop()
    return ids, offsets[: len(ids)]


def _tokenize_apart(tokenizer: PreTrainedTokenizerBase, target: str) -> list[int]:
    """Return the token ids that a target has behind a line break, with which tokenizers hardly ever merge a character.

    One that does is refused.
    """
    before, _ = _tokenize(tokenizer, "\n", special=False)
    ids, _ = _tokenize(tokenizer, f"\n{target}", special=False)
    if ids[: len(before)] != before:
        raise PromptError(f"the tokenizer merges a line break with {target!r}; give the target in other words")
    return ids[len(before) :]


def _find_target(prompt_ids: Sequence[int], ids: Sequence[int], text: str, joined: str, *, continues_word: bool) -> int:
    """Return the index of the target's first token in ``ids``, the tokens of prompt and target together.

    The tokens before it must be those of the prompt alone, ``prompt_ids``. But a target that continues a word may
    change the prompt's last tokens: it starts at the first token in which both differ. For example, the prompt
    "They re" has the tokens [They, re], and with the target "wrote" (after `GLUE`) they are [They, rew, rote]. The
    target then starts at index 1, with "rew". At least the first token has to be the same.

    Args:
        prompt_ids: the tokens of the prompt ``text``.
        ids: the tokens of ``joined``, the prompt with its target.
        text: for the error.
        joined: for the error.
        continues_word: whether the target follows without a space (`GLUE`).
    """
    if continues_word:
        start = _count_common(prompt_ids, ids)
        is_allowed = start > 0
    else:
        start = len(prompt_ids)
        is_allowed = list(ids[:start]) == list(prompt_ids)
    if not is_allowed:
        raise PromptError(
            f"the tokenizer merges the end of {text!r} with the target's beginning in {joined!r}; "
            "end the prompt at a word's end, without trailing white space"
        )
    if len(ids) == start:
        raise PromptError(f"the target of {joined!r} has no token of its own; give a longer target")
    return start


def _count_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens with which both rows begin."""
    count = 0
    for token, other in zip(first, second, strict=False):
        if token != other:
            break
        count += 1
    return count


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded rows: ids, mask (1 = token) and position ids, each [rows, length].

    ``ends`` [rows, length] marks the tokens at which a prompt ends; None if that is not known.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    ends: Tensor | None = None


def left_pad(rows: Sequence[Sequence[int]], *, device: torch.device, ends: Sequence[int | None] | None = None) -> Batch:
    """Pad rows of token ids on the left to the longest one; position ids count real tokens only.

    ``ends`` has the index of the token at which the row's prompt ends; None for a row in which none does.
    """
    length = max(len(row) for row in rows)
    paddings = [length - len(row) for row in rows]
    padded_ids = []
    masks = []
    for row, padding in zip(rows, paddings, strict=True):
        padded_ids.append([0] * padding + list(row))
        masks.append([0] * padding + [1] * len(row))
    mask = torch.tensor(masks, device=device)
    marked_ends = None
    if ends is not None:
        marked_ends = mark_ends(shift_ends(ends, paddings), length)
    return Batch(
        ids=torch.tensor(padded_ids, device=device).long(),
        mask=mask,
        positions=(mask.cumsum(-1) - 1).clamp(min=0),
        ends=marked_ends,
    )


def split_passes(lengths: Sequence[int], *, rows: int, tokens: int) -> Iterator[range]:
    """Divide rows into passes, each a range of their numbers, so that no pass of padded rows takes unbounded memory.

    Args:
        lengths: the number of tokens of each row, in the order in which they are run.
        rows: the largest number of rows in a pass.
        tokens: the largest number of tokens in a pass, padding included; a longer row has a pass of its own.
    """
    start = 0
    longest = 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        count = index + 1 - start
        if count > 1 and (count > rows or count * longest > tokens):
            yield range(start, index)
            start = index
            longest = length
    if lengths:
        yield range(start, len(lengths))


def shift_ends(ends: Sequence[int | None], shifts: Sequence[int]) -> list[int | None]:
    """Add to the index of each row's end how many tokens the row is shifted to the right; None stays None."""
    return [None if end is None else end + shift for end, shift in zip(ends, shifts, strict=True)]


def mark_ends(ends: Sequence[int | None], length: int) -> Tensor:
    """Return a mask [rows, length], on the CPU, that is true at the index of each row's end.

    A row whose end is None, or outside of the row, is false everywhere.
    """
    columns = torch.tensor([-1 if end is None else end for end in ends])  # [rows]; no column has the number -1
    return torch.arange(length) == columns[:, None]
