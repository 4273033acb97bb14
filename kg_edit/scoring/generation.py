"""Generate text after prompts, greedily or by sampling.

`continue_prompts` is greedy, up to the end of the line or of the text; `continuations` returns only its texts.
`reply_in_chat` answers a conversation in the model's chat template, also greedily. `samples` is top-5 sampling to 100
tokens, as in the published evaluations of fluency and portability, with one seed for each prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from transformers import GenerationConfig

from kg_edit.engine.prefix_cache import Prefix, mask_decides
from kg_edit.engine.prefix_store import KnowsStarts, PrefixStore
from kg_edit.errors import ConfigError, ModelError, PromptError, describe
from kg_edit.models.chat import Message, render
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import make_sampler, plain_generation
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.greedy import Written, greedy
from kg_edit.scoring.judging import CUT, tidy_text
from kg_edit.scoring.requests import COMPARED
from kg_edit.text.matching import first_sentence

TOTAL_TOKENS = 100  # the number of tokens of a prompt and its sampled text together
_TOP_K = 5  # how many of the likeliest tokens `samples` draws from


class Reply(NamedTuple):
    """A generated text, the numbers of tokens read and written, and whether it ended by itself, not at the limit."""

    text: str
    read: int
    written: int
    ended: bool


@torch.no_grad()
def continue_prompts(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    limits: Sequence[int],
    patches: Sequence[WeightPatch | None] | None = None,
    several_lines: bool = False,
) -> tuple[Reply, ...]:
    """Generate text after each prompt, up to the end of the line, the end of the text or the prompt's token limit.

    The text is decoded from the generated ids alone. Each token is the arg-max; the model's own generation settings are
    ignored.

    Args:
        model: the model.
        prompts: the prompts, in the model's form.
        limits: the largest number of tokens after each prompt.
        patches: the patch of each prompt's model; None: the unpatched model.
        several_lines: do not end with a line; a line break becomes a space.
    """
    encoded = [model.encode(prompt) for prompt in prompts]
    if not all(prompt.ids for prompt in encoded):
        raise PromptError("a prompt is empty; give a text to continue")
    for prompt, limit in zip(encoded, limits, strict=True):
        model.check_length(prompt, new_tokens=limit)
    stops = end_tokens(model)

    def is_finished(tokens: Sequence[int]) -> bool:
        if tokens[-1] in stops:
            return True
        return not several_lines and ends_line(model, tokens[-1])

    rows = [prompt.ids for prompt in encoded]
    if len(encoded) == 1 and patches is None:  # several prompts share their beginnings in `greedy`
        answers = [_continue_one(model, encoded[0], limit=limits[0], is_finished=is_finished)]
    else:
        answers = greedy(model, rows, limits=limits, patches=patches, is_finished=is_finished)
    results = []
    for row, written in zip(rows, answers, strict=True):
        text = _decode(model, written.tokens, stops)
        if several_lines:
            text = " ".join(text.split())
        else:
            text = text.split("\n", 1)[0]
        ended = bool(written.tokens) and is_finished(written.tokens)
        results.append(Reply(text=text, read=len(row), written=len(written.tokens), ended=ended))
    return tuple(results)


def continuations(
    model: LanguageModel,
    prompts: Sequence[str],
    *,
    limits: Sequence[int],
    patches: Sequence[WeightPatch | None] | None = None,
    several_lines: bool = False,
) -> tuple[str, ...]:
    """Return the texts of `continue_prompts`, which has the same arguments."""
    results = continue_prompts(model, prompts, limits=limits, patches=patches, several_lines=several_lines)
    return tuple(result.text for result in results)


def ask(
    model: LanguageModel | str | Path,
    prompt: str,
    *,
    tokens: int = 20,
    chat: bool = False,
    max_new_tokens: int | None = None,
) -> str:
    """Return the model's greedy answer to a prompt: at most ``tokens`` tokens of one line.

    The model may be patched; a model's name is accepted too, which is then loaded for each call. With ``chat``, the
    prompt is a user's turn, unchanged, and the answer may have several lines. ``max_new_tokens`` is what transformers
    calls ``tokens``, and is used instead of it.

    Raises:
        PromptError: the prompt is empty, or is not one text.
        ConfigError: fewer than one token is asked for.
        ModelError: the prompt and the answer do not fit into the model's positions, if its config gives their number.
        ChatTemplateError: ``chat`` is set, and the tokenizer has no chat template.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(f"found {describe(prompt)}; expected one text to continue; ask once for each of several")
    if max_new_tokens is not None:
        tokens = max_new_tokens
    if tokens < 1:
        raise ConfigError(f"found tokens={tokens}; give at least 1")
    model = as_model(model)
    if chat:
        text = reply_in_chat(model, [{"role": "user", "content": prompt}], tokens=tokens).text
    else:
        (text,) = continuations(model, [prompt], limits=[tokens])
    return tidy_text(text)


@torch.no_grad()
def reply_in_chat(model: LanguageModel, messages: Sequence[Message], *, tokens: int = 20) -> Reply:
    """Return the assistant's greedy answer to a conversation in the model's chat template, at most ``tokens`` tokens.

    ``messages`` have a ``role`` (system, user, assistant) and a ``content``, and are put into the template unchanged.
    A patch of the prompt adds its facts to the last message.
    """
    *before, last = messages
    if model.prompt_transform:
        last = {**last, "content": model.prompt_transform(last["content"])}
    text = render(model.tokenizer, [*before, last], name=model.name)
    ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    prompt = Prompt(text=text, ids=ids, target_start=len(ids))
    model.check_length(prompt, new_tokens=tokens)
    trained = getattr(model.text_config, "max_position_embeddings", None)
    if trained and len(ids) > trained:  # positions may be computed for any length, but memory grows with its square
        raise ModelError(
            f"the conversation has {len(ids)} tokens, and {model.name} was trained on at most {trained}; shorten it"
        )
    stops = end_tokens(model)

    def is_finished(tokens_so_far: Sequence[int]) -> bool:
        return tokens_so_far[-1] in stops

    written = _continue_one(model, prompt, limit=tokens, is_finished=is_finished)
    answer = _decode(model, written.tokens, stops).strip()
    ended = bool(written.tokens) and is_finished(written.tokens)
    return Reply(text=answer, read=len(ids), written=len(written.tokens), ended=ended)


def _continue_one(
    model: LanguageModel, prompt: Prompt, *, limit: int, is_finished: Callable[[Sequence[int]], bool]
) -> Written:
    """Continue one prompt by `greedy`, after a stored start if a patch of the prompt shares starts (`KnowsStarts`)."""
    transform: object = model.prompt_transform
    # A stored start can be read only by a model in which the mask alone decides what a token attends to.
    if isinstance(transform, KnowsStarts) and mask_decides(model, len(prompt.ids) + limit):
        start = prompt.ids[: transform.count_shared(model, prompt)]
        if start:
            return _continue_after_start(
                model, prompt, start, transform.start_store, limit=limit, is_finished=is_finished
            )
    (written,) = greedy(model, [prompt.ids], limits=[limit], is_finished=is_finished)
    return written


def _continue_after_start(
    model: LanguageModel,
    prompt: Prompt,
    start: tuple[int, ...],
    store: PrefixStore,
    *,
    limit: int,
    is_finished: Callable[[Sequence[int]], bool],
) -> Written:
    """Continue a prompt whose first tokens, ``start``, other prompts have too.

    The first prompt with this start is read whole, and the store keeps the keys and values of the start. For the next
    ones, the store has them, and only the tokens after the start are read.
    """

    def keep_start(read: Prefix) -> None:  # `read` is of the whole prompt; the store keeps only the tokens of the start
        store.keep(model, start, read)

    stored = store.find(model, start)
    if stored is None:
        (written,) = greedy(model, [prompt.ids], limits=[limit], is_finished=is_finished, keep=keep_start)
    else:
        (written,) = greedy(model, [prompt.ids], limits=[limit], is_finished=is_finished, contexts=stored)
    return written


def _decode(model: LanguageModel, tokens: Sequence[int], stops: Collection[int]) -> str:
    """Return the text of generated tokens, without those of ``stops``."""
    ids = [token for token in tokens if token not in stops]
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))


def compared_text(model: LanguageModel, text: str, *, tokens: int = COMPARED, chat: bool = False) -> str:
    """Return the part of a greedy text by which two models are compared where no answer is known to be right.

    It is the first ``tokens`` tokens, or in chat form the first sentence, and ends before a character that is cut, so
    that it is the same for a longer continuation.
    """
    text = text.partition(CUT)[0].strip()
    if chat:
        return first_sentence(text)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(model.tokenizer.decode(ids[:tokens])).rstrip(CUT)


def ends_line(model: LanguageModel, token: int) -> bool:
    """Return whether the text of a token contains a line break."""
    return "\n" in str(model.tokenizer.decode([token]))


def end_tokens(model: LanguageModel) -> list[int]:
    """Return the tokens that end a text, by the model's generation settings and by its tokenizer."""
    tokens = [model.tokenizer.eos_token_id]
    settings = model.model.generation_config
    if settings is not None and isinstance(settings.eos_token_id, list):
        tokens += settings.eos_token_id
    elif settings is not None:
        tokens.append(settings.eos_token_id)
    return sorted({token for token in tokens if token is not None})


@torch.no_grad()
def samples(model: LanguageModel, prompts: Iterable[str]) -> dict[str, str]:
    """Return each prompt with a text sampled after it: top-5 sampling, to 100 tokens including the prompt.

    The seed is a hash of the prompt, so a text does not depend on the other prompts, nor on the device.
    """
    generate = cast(Callable[..., Tensor], model.model.generate)
    end = model.tokenizer.eos_token_id
    texts: dict[str, str] = {}
    for prompt in dict.fromkeys(prompts):
        encoded = model.encode(prompt)
        new_tokens = TOTAL_TOKENS - len(encoded.ids)
        if new_tokens <= 0:  # a prompt of 100 tokens leaves no room for a text
            texts[prompt] = prompt
            continue
        model.check_length(encoded, new_tokens=new_tokens)
        ids = torch.tensor([encoded.ids], device=model.device)  # [1, tokens]
        settings = GenerationConfig(max_new_tokens=new_tokens, eos_token_id=end, pad_token_id=end or 0)
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
        sampler = make_sampler(seed=seed, top_k=_TOP_K)
        with plain_generation(model):
            output = generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings, logits_processor=sampler
            )
        written = model.tokenizer.decode(output[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
        texts[prompt] = prompt + str(written)
    return texts
