"""Ask a model: the only way from `Requests` to `Evidence`.

`ask_each` asks many `Requests`, each on a model with a patch of its own. Those of one form (plain or chat) are asked
together: their answers are scored in the same passes, and their texts are continued in two batches, those of one line
and those of several. What is left, such as samples and next tokens, is asked for one `Requests` after the other. `ask`
asks one model, in batches with a progress bar. `check_requests` finds prompts that can't be asked before any work is
done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kg_common.progress import Bar
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.per_token import patch_all_tokens
from kg_edit.patches.walks import find_walks
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
    evidence: dict[int, Evidence] = {}  # by the number in ``requests``
    together: dict[bool, dict[int, _Asked]] = {}  # by form (true: chat), and by the same number
    for number, own_requests in enumerate(requests):
        patch = patches[number] if patches else None
        unedited = before[number] if before else None
        if patch is None or isinstance(patch, WeightPatch):
            together.setdefault(own_requests.chat, {})[number] = _Asked(own_requests, patch, unedited)
            continue
        # The patch changes more than weights, so it is applied to the model, and its requests are asked alone.
        with patch.applied(_in_form(model, chat=own_requests.chat)) as edited:
            [answer] = _ask_together(edited, [_Asked(own_requests, None, unedited)])
            evidence[number] = answer
    for chat, by_number in sorted(together.items()):
        answers = _ask_together(_in_form(model, chat=chat), list(by_number.values()))
        evidence.update(zip(by_number.keys(), answers, strict=True))
    return [evidence[number] for number in range(len(requests))]


class _Asked(NamedTuple):
    """Requests, the patch of weights with which they are asked, and the unedited model's evidence for them."""

    requests: Requests
    patch: WeightPatch | None
    unedited: Evidence | None


def _in_form(model: LanguageModel, *, chat: bool) -> LanguageModel:
    """Return the model in chat form; without ``chat`` as it is, as its caller may have put it in chat form already."""
    if chat:
        return model.in_chat()
    return model


def _ask_together(model: LanguageModel, questions: Sequence[_Asked]) -> list[Evidence]:
    """Ask requests that are all of the form (plain or chat) of ``model``, each with its own patch of weights.

    Answers are scored, and texts and conversations are continued, for all ``questions`` at once. Arg-max tokens,
    samples and next tokens are asked for one question after the other, with its patch applied.
    """
    prompts = list[str]()
    for question in questions:
        prompts += [pair.prompt for pair in question.requests.pairs]
        prompts += [continued.prompt for continued in question.requests.continued]
    # A patch of the prompt that asks the model itself (MeLLo) prepares all of them in one batch.
    model.foresee(prompts)
    pairs = [question.requests.pairs for question in questions]
    scores = score_each(model, pairs, patches=[question.patch for question in questions])
    texts = _continue_together(model, questions)
    exchanges = _converse_together(model, questions)
    evidence = []
    for index, (requests, patch, unedited) in enumerate(questions):
        tokens_before = None
        if unedited is not None:
            tokens_before = unedited.next_tokens
        with patch_all_tokens(model, patch):
            predicted = predictions(model, requests.predicted)
            sampled = samples(model, requests.sampled)
            following = next_tokens(model, requests.next_token_prompts, tokens_of=tokens_before)
        evidence.append(
            Evidence(
                scores=scores[index],
                texts=texts[index],
                compared=compare_beginnings(model, requests, texts[index]),
                predicted=predicted,
                samples=sampled,
                next_tokens=following,
                exchanges=exchanges[index],
                walks=find_walks(model, [continued.prompt for continued in requests.continued]),
                before=unedited,
            )
        )
    return evidence


class _OwnedPrompt(NamedTuple):
    """A prompt, and its owner: the number of the question with whose patch it is continued.

    The owner is None for the unpatched model, so that the questions to it share their prompts.
    """

    owner: int | None
    prompt: str


def _add_owner(question: _Asked, number: int, prompt: str) -> _OwnedPrompt:
    """Return a prompt of the question with this number, with its owner."""
    if question.patch is None:
        return _OwnedPrompt(None, prompt)
    return _OwnedPrompt(number, prompt)


def _continue_together(model: LanguageModel, questions: Sequence[_Asked]) -> list[dict[str, str]]:
    """Return the continuations of each question, by prompt; those of one line are a batch, paragraphs another.

    A prompt that several questions share has the largest of their limits.
    """
    limits: dict[_OwnedPrompt, int] = {}
    paragraphs: set[_OwnedPrompt] = set()
    for number, question in enumerate(questions):
        for continued in question.requests.continued:
            owned = _add_owner(question, number, continued.prompt)
            limit = continued.limit(model.tokenizer, chat=question.requests.chat)
            limits[owned] = max(limits.get(owned, 0), limit)
            if continued.several_lines:
                paragraphs.add(owned)
    of_one_line = [owned for owned in limits if owned not in paragraphs]
    of_several_lines = [owned for owned in limits if owned in paragraphs]
    written = _write(model, questions, of_one_line, limits, several_lines=False)
    written |= _write(model, questions, of_several_lines, limits, several_lines=True)
    by_question = []
    for number, question in enumerate(questions):
        prompts = [continued.prompt for continued in question.requests.continued]
        by_question.append({prompt: written[_add_owner(question, number, prompt)] for prompt in prompts})
    return by_question


def _write(
    model: LanguageModel,
    questions: Sequence[_Asked],
    owned_prompts: Sequence[_OwnedPrompt],
    limits: Mapping[_OwnedPrompt, int],
    *,
    several_lines: bool,
) -> dict[_OwnedPrompt, str]:
    """Continue prompts in one batch, each with the patch of its owner."""
    patches = list[WeightPatch | None]()
    for owned in owned_prompts:
        patches.append(None if owned.owner is None else questions[owned.owner].patch)
    texts = continuations(
        model,
        [owned.prompt for owned in owned_prompts],
        limits=[limits[owned] for owned in owned_prompts],
        patches=patches,
        several_lines=several_lines,
    )
    return dict(zip(owned_prompts, texts, strict=True))


def _converse_together(model: LanguageModel, questions: Sequence[_Asked]) -> list[dict[Conversation, Exchange]]:
    """Return what is said in the conversations of each question, all of them in one batch."""
    together = list[Conversation]()
    patches = list[WeightPatch | None]()
    for question in questions:
        together += question.requests.conversations
        patches += [question.patch] * len(question.requests.conversations)
    exchanges = converse(model, together, patches=patches)
    by_question = []
    start = 0
    for question in questions:
        conversations = question.requests.conversations
        stop = start + len(conversations)
        by_question.append(dict(zip(conversations, exchanges[start:stop], strict=True)))
        start = stop
    return by_question


def compare_beginnings(model: LanguageModel, request: Requests, texts: dict[str, str]) -> dict[str, str]:
    """Return the parts of the texts by which two models are compared, by prompt.

    ``texts`` are continuations by prompt; those that are read from the results of a run may lack some prompts.
    """
    beginnings = {}
    for continued in request.continued:
        prompt = continued.prompt
        if continued.compared and prompt in texts:
            beginnings[prompt] = compared_text(model, texts[prompt], chat=request.chat)
    return beginnings


def ask(model: LanguageModel, requests: Sequence[Requests], *, progress: str | None = None) -> list[Evidence]:
    """Ask a model, in its present state, each of the requests, in batches.

    Args:
        model: the model, edited or not.
        requests: what is asked, in any mixture of forms.
        progress: title of a progress bar; None: no bar.
    """
    # The requests of a batch are of one form (plain or chat), and their texts end alike (one line or several): else
    # `ask_each` would split the batch into smaller ones.
    alike: dict[tuple[bool, bool], list[int]] = {}
    for index, request in enumerate(requests):
        several_lines = any(continued.several_lines for continued in request.continued)
        alike.setdefault((request.chat, several_lines), []).append(index)
    batches = list[list[int]]()
    for indices in alike.values():
        batches += [indices[start : start + _ROWS] for start in range(0, len(indices), _ROWS)]
    evidence: dict[int, Evidence] = {}
    with Bar(title=progress or "", unit="prompt", total=len(requests), shown=bool(progress), leave=False) as bar:
        for batch in batches:
            found = ask_each(model, [requests[index] for index in batch])
            evidence.update(zip(batch, found, strict=True))
            bar.update(len(batch))
    return [evidence[index] for index in range(len(requests))]


def check_requests(model: LanguageModel, requests: Sequence[Requests]) -> None:
    """Encode the prompts of ``pairs`` and ``continued``, to find what can't be asked before an edit is computed.

    The other fields of `Requests` are not checked: the callers, which ask for a report or a page, leave them empty.
    """
    for request in requests:
        reader = _in_form(model, chat=request.chat)
        for pair in request.pairs:
            reader.encode(pair.prompt, target=pair.candidate)
        for continued in request.continued:
            limit = continued.limit(reader.tokenizer, chat=request.chat)
            reader.check_length(reader.encode(continued.prompt), new_tokens=limit)
