"""Ask a model: the only way from `Requests` to `Evidence`.

`ask_each` asks many requests in one forward pass for all answers and one batch of continuations, each on a model with a
patch of its own. `ask` asks one model, in batches with a progress bar. `check_requests` finds what can't be asked
before any work is done.
"""

from __future__ import annotations

from collections.abc import Sequence

from kg_common.progress import Bar
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.per_token import patch_all_tokens
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.conversations import converse
from kg_edit.scoring.evidence import Evidence, Exchange
from kg_edit.scoring.generation import compared_text, continuations, samples
from kg_edit.scoring.likelihood import next_tokens, predictions, score_each
from kg_edit.scoring.requests import Conversation, Requests

_ROWS = 32  # requests in a batch of `ask`; all prompts of a long file at once would fill the memory


def ask_each(
    model: LanguageModel,
    requests: Sequence[Requests],
    *,
    patches: Sequence[Patch | None] | None = None,
    before: Sequence[Evidence | None] | None = None,
) -> list[Evidence]:
    """Ask each of the requests, and return the evidence of each.

    Args:
        model: the model, with or without edits.
        requests: what is asked.
        patches: a patch for each of the requests, applied while it is asked; patches of weights are asked together.
        before: the unedited model's evidence for each of the requests, if ``model`` is edited or patched.
    """
    unedited: Sequence[Evidence | None] = before or [None] * len(requests)
    by_request: Sequence[Patch | None] = patches or [None] * len(requests)
    evidence: dict[int, Evidence] = {}
    for chat in sorted({request.chat for request in requests}):
        reader = model.in_chat() if chat else model
        together = list[int]()  # the numbers of the requests that are asked together
        weights = list[WeightPatch | None]()  # their patches
        for index, request in enumerate(requests):
            if request.chat != chat:
                continue
            patch = by_request[index]
            if patch is None or isinstance(patch, WeightPatch):
                together.append(index)
                weights.append(patch)
            else:  # it changes more than weights, so its request is asked alone
                with patch.applied(reader) as edited:
                    (evidence[index],) = _ask_together(edited, [requests[index]], [None], [unedited[index]])
        if together:
            asked = [requests[index] for index in together]
            earlier = [unedited[index] for index in together]
            evidence |= zip(together, _ask_together(reader, asked, weights, earlier), strict=True)
    return [evidence[index] for index in range(len(requests))]


def _ask_together(
    model: LanguageModel,
    requests: Sequence[Requests],
    patches: Sequence[WeightPatch | None],
    before: Sequence[Evidence | None],
) -> list[Evidence]:
    """Ask requests that are all in ``model``'s form, each with its own patch of weights."""
    prompts = list[str]()
    for request in requests:
        prompts += [pair.prompt for pair in request.pairs]
        prompts += [text.prompt for text in request.continued]
    model.foresee(prompts)
    scores = score_each(model, [request.pairs for request in requests], patches=patches)
    texts = _continue_together(model, requests, patches)
    exchanges = _converse_together(model, requests, patches)
    evidence = []
    for index, request in enumerate(requests):
        unedited = before[index]
        known_tokens = None if unedited is None else unedited.next_tokens
        with patch_all_tokens(model, patches[index]):
            predicted = predictions(model, request.predicted)
            sampled = samples(model, request.sampled)
            following = next_tokens(model, request.next_token_prompts, tokens_of=known_tokens)
        evidence.append(
            Evidence(
                scores=scores[index],
                texts=texts[index],
                compared=compare_beginnings(model, request, texts[index]),
                predicted=predicted,
                samples=sampled,
                next_tokens=following,
                exchanges=exchanges[index],
                before=unedited,
            )
        )
    return evidence


def _continue_together(
    model: LanguageModel, requests: Sequence[Requests], patches: Sequence[WeightPatch | None]
) -> list[dict[str, str]]:
    """Return the continuations of each of the requests, by prompt; those of one line are a batch, paragraphs another.

    Requests to the unpatched model share their prompts, with the largest limit.
    """
    # The owner of a prompt is the number of the request whose patch is applied; None: the unpatched model.
    owners = [None if patch is None else index for index, patch in enumerate(patches)]
    limits: dict[tuple[int | None, str], int] = {}  # by owner and prompt
    paragraphs: set[tuple[int | None, str]] = set()
    for owner, request in zip(owners, requests, strict=True):
        for text in request.continued:
            key = (owner, text.prompt)
            limits[key] = max(limits.get(key, 0), text.limit(model.tokenizer, chat=request.chat))
            if text.several_lines:
                paragraphs.add(key)
    written: dict[tuple[int | None, str], str] = {}
    for several_lines in (False, True):
        keys = [key for key in limits if (key in paragraphs) == several_lines]
        patches_of_keys = [None if owner is None else patches[owner] for owner, _ in keys]
        texts = continuations(
            model,
            [prompt for _, prompt in keys],
            limits=[limits[key] for key in keys],
            patches=patches_of_keys,
            several_lines=several_lines,
        )
        written |= zip(keys, texts, strict=True)
    texts_by_request = []
    for owner, request in zip(owners, requests, strict=True):
        texts_by_request.append({text.prompt: written[owner, text.prompt] for text in request.continued})
    return texts_by_request


def _converse_together(
    model: LanguageModel, requests: Sequence[Requests], patches: Sequence[WeightPatch | None]
) -> list[dict[Conversation, Exchange]]:
    """Return what is said in the conversations of each of the requests, all of them in one batch."""
    together = list[Conversation]()
    own_patches = list[WeightPatch | None]()
    for request, patch in zip(requests, patches, strict=True):
        together += request.conversations
        own_patches += [patch] * len(request.conversations)
    exchanges = iter(converse(model, together, patches=own_patches))
    by_request = []
    for request in requests:
        by_request.append({conversation: next(exchanges) for conversation in request.conversations})
    return by_request


def compare_beginnings(model: LanguageModel, request: Requests, texts: dict[str, str]) -> dict[str, str]:
    """Return the parts of the texts by which two models are compared, by prompt."""
    beginnings = {}
    for text in request.continued:
        if text.compared and text.prompt in texts:
            beginnings[text.prompt] = compared_text(model, texts[text.prompt], chat=request.chat)
    return beginnings


def ask(model: LanguageModel, requests: Sequence[Requests], *, progress: str | None = None) -> list[Evidence]:
    """Ask a model, in its present state, each of the requests, in batches.

    Args:
        model: the model, edited or not.
        requests: what is asked, in any mixture of forms.
        progress: title of a progress bar; None: no bar.
    """
    # The requests of a batch are of one form (plain or chat), and their texts end alike (one line or several).
    alike: dict[tuple[bool, bool], list[int]] = {}
    for index, request in enumerate(requests):
        several_lines = any(text.several_lines for text in request.continued)
        alike.setdefault((request.chat, several_lines), []).append(index)
    batches = list[list[int]]()
    for indices in alike.values():
        batches += [indices[start : start + _ROWS] for start in range(0, len(indices), _ROWS)]
    evidence: dict[int, Evidence] = {}
    with Bar(title=progress or "", unit="prompt", total=len(requests), shown=bool(progress), leave=False) as bar:
        for batch in batches:
            found = ask_each(model, [requests[index] for index in batch])
            evidence |= zip(batch, found, strict=True)
            bar.update(len(batch))
    return [evidence[index] for index in range(len(requests))]


def check_requests(model: LanguageModel, requests: Sequence[Requests]) -> None:
    """Encode all that is asked, to find what can't be asked before an edit is computed."""
    for request in requests:
        reader = model.in_chat() if request.chat else model
        for pair in request.pairs:
            reader.encode(pair.prompt, target=pair.candidate)
        for text in request.continued:
            limit = text.limit(reader.tokenizer, chat=request.chat)
            reader.check_length(reader.encode(text.prompt), new_tokens=limit)
