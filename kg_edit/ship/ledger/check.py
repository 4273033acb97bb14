"""Check whether an edited model still generates the targets of its edits, by asking the prompts of each edit again.

`check` asks a model in memory and compares probabilities. `check_served` asks a model behind an OpenAI-compatible
server (llama-server, vLLM, `kg-edit serve`), which has only greedy text; it loads no model. Both give a
`CheckedEdit`. `find_lost` compares the edits before and after a change of a ledger.

From a server, an edit in plain text is asked by ``POST /v1/completions`` with temperature 0, and succeeds if the
continuation begins with the new target. An edit in chat form is asked by ``POST /v1/chat/completions``, and succeeds if
the answer's first sentence mentions the target, or if the answer begins with a target that is a paragraph. Some models
have no usable first token (`kg_edit.models.first_token`), which a server does not show. So a prompt that begins with
the edit's subject is asked unchanged first, and if the answer is wrong, once more after a line break.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, ServerError
from kg_edit.patches.entries import Entry
from kg_edit.reports.rows import ProbeKind, Reading, ReportProbe
from kg_edit.ship.live.servers import LiveServer, LlamaServer

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch

KINDS: tuple[ProbeKind, ...] = ("rewrite", "paraphrase", "portability", "locality")
MOST_COMPARED = 100  # edits that `find_lost` asks: a change of one edit should not take as long as a whole check
_SENTENCE = 24  # tokens around the target in an answer
_SPARE = 4  # tokens beyond the target's: a space, an article
_MOST_TOKENS = 2048  # that `kg-edit serve` writes


@dataclass(frozen=True, kw_only=True)
class CheckedPrompt:
    """A prompt of an edit, and the text that the model generates after it.

    Attributes:
        kind: the kind of the prompt.
        prompt: the prompt as it is shown.
        target: the answer that is right.
        text: the greedy continuation.
        success: the text begins with the target (in chat form, and after a question: contains it).
        right: the whole target is more probable than the whole other one, whether it is generated or not. Equal to
            ``success`` if there is no other one, and for a server's model.
        nats: -log p of the target, per token; None for a server's model.
        after_line_break: the prompt was asked after a line break, because it begins with its subject.
    """

    kind: ProbeKind
    prompt: str
    target: str
    text: str
    success: bool
    right: bool
    nats: float | None = None
    after_line_break: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class CheckedEdit:
    """An active edit, and the model's answers to its prompts."""

    entry: Entry
    answers: tuple[CheckedPrompt, ...]

    def of(self, kind: ProbeKind) -> tuple[CheckedPrompt, ...]:
        """Return the answers to one kind of prompt."""
        return tuple(answer for answer in self.answers if answer.kind == kind)

    def failures(self, kinds: Sequence[ProbeKind] = ("rewrite",)) -> tuple[CheckedPrompt, ...]:
        """Return the answers to these kinds of prompts that are not right."""
        return tuple(answer for answer in self.answers if answer.kind in kinds and not answer.right)


def check(
    model: LanguageModel,
    entries: Sequence[Entry],
    kinds: Sequence[ProbeKind] = KINDS,
    *,
    chat: bool | None = None,
    progress: bool = False,
) -> tuple[CheckedEdit, ...]:
    """Ask a model the prompts of the edits.

    Args:
        model: the model with the patch applied.
        entries: the edits.
        kinds: the kinds of prompts to ask.
        chat: in chat form, or in plain text; None: as the edits were made (see `probes.probes`).
        progress: show a progress bar.
    """
    from kg_edit.reports.probes import check_probes, locality_probes, probes, read

    edits = [entry.edit for entry in entries]
    check_probes(model, edits, chat=chat)
    groups = list[list[ReportProbe]]()
    for edit in edits:
        all_probes = (*probes(model, edit, chat=chat), *locality_probes(edit, chat=chat))
        groups.append([probe for probe in all_probes if probe.kind in kinds])
    # All prompts of all edits are asked together, which takes fewer passes.
    asked = list[ReportProbe]()
    for group in groups:
        asked += group
    title = "check" if progress else None
    readings = read(model, asked, progress=title)

    # The readings are in the order of the prompts: first those of the first edit, then those of the second one.
    checked = []
    start = 0
    for entry, group in zip(entries, groups, strict=True):
        own_readings = readings[start : start + len(group)]
        start += len(group)
        answers = list[CheckedPrompt]()
        for probe, reading in zip(group, own_readings, strict=True):
            answers.append(_make_answer(probe, reading))
        checked.append(CheckedEdit(entry=entry, answers=tuple(answers)))
    return tuple(checked)


def _make_answer(probe: ReportProbe, reading: Reading) -> CheckedPrompt:
    """Return a prompt with what the model generated, and whether it is right."""
    return CheckedPrompt(
        kind=probe.kind,
        prompt=probe.prompt,
        target=probe.wanted,
        text=reading.text,
        success=reading.success,
        right=reading.right,
        nats=reading.nats,
    )


def find_lost(
    model: LanguageModel, entries: Sequence[Entry], *, before: Patch, after: Patch, progress: bool = False
) -> tuple[CheckedEdit, ...]:
    """Return the edits that hold on the model with one patch, and fail with another one.

    Only the edits' own prompts are asked, and of more than `MOST_COMPARED` edits the last ones.

    Args:
        model: the unedited model.
        entries: the edits, which are in both patches.
        before: the patch in which an edit has to hold.
        after: the patch in which it fails; the answers that are returned are those with this one.
        progress: show a progress bar.
    """
    compared = entries[-MOST_COMPARED:]
    with after.applied(model) as edited:
        checked = check(edited, compared, ("rewrite",), progress=progress)
    failed = [edit for edit in checked if edit.failures()]
    if not failed:
        return ()
    with before.applied(model) as edited:
        earlier = check(edited, [edit.entry for edit in failed], ("rewrite",))
    return tuple(edit for edit, earlier_edit in zip(failed, earlier, strict=True) if not earlier_edit.failures())


def check_served(
    server: CompletionServer, entries: Sequence[Entry], kinds: Sequence[ProbeKind], *, chat: bool | None = None
) -> Iterator[CheckedEdit]:
    """Ask a server the prompts of the edits, one edit after the other.

    Args:
        server: the server.
        entries: the edits.
        kinds: the kinds of prompts to ask.
        chat: as user's turns, or as plain text; None: in the form in which each edit was made.
    """
    from kg_edit.reports.probes import locality_probes, probes

    server = server.resolve_model()
    for entry in entries:
        edit = entry.edit
        asked = (*probes(None, edit, chat=chat), *locality_probes(edit, chat=chat))
        answers = list[CheckedPrompt]()
        try:
            for probe in asked:
                if probe.kind in kinds:
                    answers.append(_ask_served(server, probe, edit))
        except ServerError as error:
            error.add_note(f"asked for the edit {entry.name!r}")
            raise
        yield CheckedEdit(entry=entry, answers=tuple(answers))


@dataclass(frozen=True, kw_only=True)
class CompletionServer(LiveServer):
    """A server of edited models. Its ``url`` may lack ``/v1``.

    Attributes:
        model: the name of the model to ask, or of an adapter; None: the only model that the server lists.
        fields: further fields of each request.
    """

    model: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def resolve_model(self) -> CompletionServer:
        """Return the same server with the ``model`` and the ``fields`` that its requests have to give.

        SGLang names an adapter BASE:NAME, and llama.cpp wants the adapter's number in the field ``lora``. A name that
        the server does not list is refused.
        """
        listed = {str(entry["id"]): entry for entry in self.models()}
        if self.model is None:
            return replace(self, model=self._choose_only_model(listed))
        entry = listed.get(self.model)
        if entry is None:
            return self._find_adapter_of_llama(listed)
        if entry.get("parent") and entry.get("owned_by") == "sglang":  # the name alone is answered by the base
            return replace(self, model=f"{entry['parent']}:{self.model}")
        return self

    def _choose_only_model(self, listed: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the only model of a server; of `kg-edit serve`, the first one, which has the ledger's edits."""
        is_ours = all(entry.get("owned_by") == "kg-edit" for entry in listed.values())
        if not listed or (len(listed) > 1 and not is_ours):
            raise ConfigError(f"{self.url} serves {len(listed)} models; name one: --served {' or '.join(listed)}")
        return next(iter(listed))

    def _find_adapter_of_llama(self, listed: Mapping[str, Mapping[str, Any]]) -> CompletionServer:
        """Return llama.cpp's server with its adapter of this name applied to each request; refuse any other name."""
        names = list(listed)
        if any(entry.get("owned_by") == "llamacpp" for entry in listed.values()):
            adapters = LlamaServer(url=self.url, key=self.key, seconds=self.seconds).adapters()
            names += adapters
            if self.model in adapters:
                number = adapters[self.model].number
                return replace(self, model=names[0], fields={"lora": [{"id": number, "scale": 1.0}]})
        raise ConfigError(f"{self.url} does not serve {self.model!r}; give --served one of {', '.join(names)}")

    def complete(self, prompt: str, *, tokens: int, chat: bool = False) -> str:
        """Return the greedy continuation of a prompt, or with ``chat`` the answer to a user's turn.

        Args:
            prompt: the prompt.
            tokens: the largest number of tokens of the text.
            chat: whether the prompt is a user's turn.
        """
        body: dict[str, Any] = {"model": self.model, "max_tokens": tokens, "temperature": 0, "stream": False}
        body |= self.fields
        if chat:
            turn = {"role": "user", "content": prompt}
            data = self.ask(self.address("v1/chat/completions"), {**body, "messages": [turn]})
            expected = "a chat completion with a text in choices[0].message.content"
        else:
            data = self.ask(self.address("v1/completions"), {**body, "prompt": prompt})
            expected = "a completion with a text in choices[0].text"
        try:
            choice = data["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
        except (LookupError, TypeError):
            text = None
        if not isinstance(text, str):  # a server sends null for a reasoning that was cut off
            raise self.unexpected(data, expected)
        return text


def _ask_served(server: CompletionServer, probe: ReportProbe, edit: Edit) -> CheckedPrompt:
    """Ask a prompt; if the answer is wrong and the prompt begins with the edit's subject, once more after a break."""
    from kg_edit.models.first_token import LINE_BREAK

    first = _ask_once(server, probe, lead="")
    if first.right or probe.chat or probe.kind == "portability":
        return first
    if not edit.subject or not probe.ask.startswith(edit.subject):
        return first
    again = _ask_once(server, probe, lead=LINE_BREAK)
    return again if again.right else first


def _ask_once(server: CompletionServer, probe: ReportProbe, *, lead: str) -> CheckedPrompt:
    """Ask a prompt with ``lead`` in front, and judge the answer."""
    names = probe.aliases or (probe.wanted,)
    tokens = _SPARE + max(len(name.encode()) for name in names)  # a token has at least one byte
    if probe.chat:
        text = server.complete(probe.ask, tokens=min(tokens + _SENTENCE, _MOST_TOKENS), chat=True)
    else:
        text = server.complete(lead + probe.ask, tokens=min(tokens, _MOST_TOKENS))
        if not probe.several_lines:
            text, _, _ = text.partition("\n")
    text = text.strip()
    right = probe.is_answered(text)
    return CheckedPrompt(
        kind=probe.kind,
        prompt=probe.prompt,
        target=probe.wanted,
        text=text,
        success=right,
        right=right,
        after_line_break=bool(lead),
    )
