"""What else did an edit change? Ask prompts on the unedited and on the edited model, and compare their texts.

*Unchanged*: if the unedited model's text begins with one of the prompt's answers, the edited model's text begins with
this answer too. Otherwise the first five tokens of both greedy texts are the same. In chat form, the first sentence has
to mention the answer, or has to be the same.

Where the unedited model gives the answer, unchanged means that `locality.unchanged` of `kg-edit evaluate` is 1: at each
position of the answer the most probable token is the same. Where it does not, this metric reads the tokens that the
models predict after the answer's earlier tokens, which neither model would write. For a prompt without an answer,
unchanged means that `locality.same_text` is 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kg_common.terminal import number_of
from kg_edit.errors import KgEditError, PromptError, describe
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches.base import Patch, as_patch
from kg_edit.patches.provenance import merged_provenance
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.counts import Count
from kg_edit.reports.prompts import AskedPrompt
from kg_edit.reports.rows import LINE_BREAK
from kg_edit.scoring.asking import ask, check_requests
from kg_edit.scoring.generation import compared_text
from kg_edit.scoring.judging import generates, tidy_text
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.requests import COMPARED
from kg_edit.scoring.text_start import with_start
from kg_edit.text.display import escaped_markdown, markdown_table, one_line

_HEADER = ("", "prompt", "unedited", "edited", "answer")


class PromptDifference(BaseModel):
    """A prompt with the texts of both models and the probabilities of its answers; a line of ``locality.jsonl``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    asked: AskedPrompt
    unchanged: bool
    unedited: str
    edited: str
    unedited_probabilities: tuple[float, ...] = ()
    edited_probabilities: tuple[float, ...] = ()

    @property
    def verdict(self) -> str:
        """Return unchanged, changed, or no answer."""
        if not self.answered:
            return "no answer"
        return "unchanged" if self.unchanged else "changed"

    @property
    def answered(self) -> bool:
        """Whether a model writes something; where both end their text at once there is nothing to compare."""
        return bool(self.unedited or self.edited)

    @property
    def probabilities(self) -> tuple[str, ...]:
        """Each answer with its probability on the unedited and on the edited model: "Rome 0.91 → 0.12"."""
        pairs = zip(self.asked.answer, self.unedited_probabilities, self.edited_probabilities, strict=True)
        return tuple(f"{name} {old:.2f} → {new:.2f}" for name, old, new in pairs)


def compare_prompts(
    model: LanguageModel | str | Path,
    patch: Patch | LanguageModel | str | Path,
    prompts: AskedPrompt | str | Sequence[AskedPrompt | str],
    *,
    tokens: int = COMPARED,
    progress: bool = False,
) -> tuple[PromptDifference, ...]:
    """Ask each prompt on the unedited and on the edited model.

    A prompt in plain text that begins with an edited subject which the model would not read there gets a line break in
    front, as in `kg-edit generate`.

    Args:
        model: the unedited model, or its name.
        patch: the change, or its path; it is removed again at the end. Or the edited model itself, from the folder that
            `kg-edit patch merge` wrote.
        prompts: one prompt or several; a text is a prompt without an answer.
        tokens: number of tokens to compare; a text is longer where an answer has more tokens, and in chat form.
        progress: show a progress bar on a terminal.

    Raises:
        PromptError: a prompt is no text, or its end and an answer can't be separated.
        ModelError: the edited model's output is not finite, or a prompt does not fit into the model's positions.
        ChatTemplateError: a prompt is in chat form, and the tokenizer has no chat template.
        PatchError: the patch can't be read, or another one is applied to the model.
        PatchMismatchError: the patch is for another model.
    """
    records: Patch
    if isinstance(patch, LanguageModel):  # its change is in its weights; the records of its edits are beside them
        merged = patch
        records = WeightPatch(factors={}, provenance=merged_provenance(patch.name))
    else:
        merged = None
        records = as_patch(patch)
    model = as_model(model)
    entries = _lead(model, _as_prompts(prompts), records)
    check_prompts(model, entries, tokens=tokens)
    requests = [entry.requests(tokens=tokens) for entry in entries]
    unedited = ask(model, requests, progress=show_if(progress, "unedited"))
    applied = records.applied(model) if merged is None else nullcontext(merged)
    with applied as edited_model:
        edited = ask(edited_model, requests, progress=show_if(progress, "edited"))
    differences = []
    for entry, before, after in zip(entries, unedited, edited, strict=True):
        old = tidy_text(before.texts[entry.text])
        new = tidy_text(after.texts[entry.text])
        pairs = [Pair(entry.text, answer) for answer in entry.answer]
        difference = PromptDifference(
            asked=entry,
            unchanged=is_unchanged(model, entry, old, new, tokens=tokens),
            unedited=old,
            edited=new,
            unedited_probabilities=tuple(before.scores[pair].probability for pair in pairs),
            edited_probabilities=tuple(after.scores[pair].probability for pair in pairs),
        )
        differences.append(difference)
    return tuple(differences)


def _as_prompts(prompts: AskedPrompt | str | Sequence[AskedPrompt | str]) -> list[AskedPrompt]:
    """Return one prompt or several as a list; a text is a prompt without an answer."""
    several: Sequence[AskedPrompt | str]
    if isinstance(prompts, Sequence) and not isinstance(prompts, str):
        several = prompts
    else:
        several = [prompts]
    entries = []
    for entry in several:
        asked = AskedPrompt(prompt=entry) if isinstance(entry, str) else entry
        if not isinstance(asked, AskedPrompt):
            raise PromptError(f"found {describe(asked)} in the place of a prompt; give a text or an AskedPrompt")
        entries.append(asked)
    return entries


def _lead(model: LanguageModel, entries: Sequence[AskedPrompt], records: Patch) -> list[AskedPrompt]:
    """Return the prompts, with a line break before those in plain text that need one after the edits of ``records``."""
    plain = tuple(dict.fromkeys(entry.prompt for entry in entries if not entry.chat))
    led = dict(zip(plain, with_start(model, plain, patch=records).texts, strict=True))
    prompts = []
    for entry in entries:
        if entry.chat:
            prompts.append(entry)
        else:
            prompts.append(entry.model_copy(update={"prompt": led[entry.prompt]}))
    return prompts


def show_if(progress: bool, title: str) -> str | None:
    """Return the title of a progress bar; None if none is shown."""
    return title if progress else None


def is_unchanged(
    model: LanguageModel, prompt: AskedPrompt, unedited: str, edited: str, *, tokens: int = COMPARED
) -> bool:
    """Return whether the edited model gives the unedited model's answer, as the module's description defines it."""
    given = [answer for answer in prompt.answer if generates(unedited, answer, chat=prompt.chat)]
    if given:
        return any(generates(edited, answer, chat=prompt.chat) for answer in given)
    old = compared_text(model, unedited, tokens=tokens, chat=prompt.chat)
    new = compared_text(model, edited, tokens=tokens, chat=prompt.chat)
    return old == new


def check_prompts(model: LanguageModel, prompts: Sequence[AskedPrompt], *, tokens: int = COMPARED) -> None:
    """Encode each prompt, to find one that can't be asked before an edit is computed or a prompt is asked."""
    for entry in prompts:
        try:
            check_requests(model, [entry.requests(tokens=tokens)])
        except KgEditError as error:
            of = f" of the edit {entry.edit!r}" if entry.edit else ""
            error.add_note(f"in the prompt {entry.prompt!r}{of}")
            raise


def read_differences(path: Path) -> tuple[PromptDifference, ...]:
    """Return the prompts of a ``locality.jsonl``; () if there is none, or it can't be read."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return tuple(PromptDifference.model_validate_json(line) for line in lines if line)
    except (OSError, ValueError, ValidationError):
        return ()


def counted(differences: Sequence[PromptDifference], *, forms: bool = False) -> str:
    """Return how many prompts are unchanged, those of the edits apart from others.

    For example: "1 of 2 locality prompts, 28 of 30 unrelated prompts unchanged". Prompts that neither model answers are
    counted apart. The form in which they were asked is named if one was asked in chat form, or if ``forms`` is set.
    """
    names_form = forms or any(row.asked.chat for row in differences)
    by_name: dict[str, list[bool]] = {}
    for row in differences:
        name = counted_as(row)
        if names_form:
            name += " in chat form" if row.asked.chat else " in plain text"
        flags = by_name.setdefault(name, [])
        if row.answered:
            flags.append(row.unchanged)
    unchanged = ", ".join(f"{sum(flags)} of {len(flags)} {name}" for name, flags in by_name.items()) + " unchanged"
    silent = [row for row in differences if not row.answered]
    if not silent:
        return unchanged
    way = "" if all(row.asked.chat for row in silent) else "; in chat form (--chat) a question may get one"
    return f"{unchanged}; {number_of(len(silent), 'prompt')} without an answer: both models end their text at once{way}"


def difference_table(differences: Sequence[PromptDifference]) -> Table:
    """Return the prompts as a table for a rich console: the texts of both models side by side."""
    meaning = "unchanged: the edited text gives the unedited model's answer, or begins with the same tokens."
    table = Table(title="What else changed?", caption=meaning, caption_justify="left", box=SIMPLE_HEAD)
    table.show_edge = False
    table.padding = (0, 1, 0, 0)
    has_answers = any(row.asked.answer for row in differences)
    header = _HEADER if has_answers else _HEADER[:-1]
    for name in header:
        table.add_column(name, overflow="fold")
    for row in differences:
        colour = {"unchanged": "green", "changed": "red", "no answer": "yellow"}[row.verdict]
        cells = [
            Text(row.verdict, style=colour),
            Text(_shown(row.asked.prompt)),
            Text(_answer(row.unedited)),
            Text(_answer(row.edited), style=colour),
        ]
        if has_answers:
            cells.append(Text("\n".join(map(_shown, row.probabilities))))
        table.add_row(*cells)
    return table


def difference_markdown(differences: Sequence[PromptDifference], *, forms: bool = False) -> str:
    """Return the prompts as a section of Markdown, with `counted` as its first line; ``forms`` as there."""
    rows = []
    for row in differences:
        prompt = _shown(row.asked.prompt)
        probabilities = "; ".join(row.probabilities)
        cells = (row.verdict, prompt, _answer(row.unedited), _answer(row.edited), probabilities)
        rows.append([escaped_markdown(one_line(cell)) for cell in cells])
    table = markdown_table(_HEADER, rows)
    return f"## What else changed?\n\n{counted(differences, forms=forms)}\n\n{table}\n"


def difference_rows(differences: Sequence[PromptDifference]) -> str:
    """Return the head and the body of an HTML table of the prompts."""
    lines = []
    for row in differences:
        kind = {"unchanged": "good", "changed": "bad", "no answer": "warn"}[row.verdict]
        texts = "".join(
            f'<td data-label="{name}" dir="auto">{escape(_answer(text))}</td>'
            for name, text in (("unedited", row.unedited), ("edited", row.edited))
        )
        answers = "<br>".join(escape(_shown(text)) for text in row.probabilities)
        prompt = escape(_shown(row.asked.prompt))
        lines.append(
            f'<tr><td><span class="{kind}">{row.verdict}</span></td><td dir="auto">{prompt}</td>{texts}'
            f'<td data-label="answer" dir="auto">{answers}</td></tr>'
        )
    heads = "".join(f'<th scope="col">{name}</th>' for name in _HEADER)
    return f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"


def difference_page(differences: Sequence[PromptDifference], *, title: str) -> str:
    """Return a self-contained HTML page of the prompts."""
    parts = {"TITLE": escape(title), "STYLE": page_file("report.css"), "VERDICT": counted(differences)}
    return fill_template("differences.html", parts | {"TABLE": difference_rows(differences)})


def page_file(name: str) -> str:
    """Return the text of a file in ``kg_edit/reports/page``."""
    return (files("kg_edit") / "reports" / "page" / name).read_text(encoding="utf-8")


def fill_template(template: str, parts: Mapping[str, str]) -> str:
    """Return a template of `page_file` with ``parts`` in the place of ``@@NAME@@``."""
    # In one pass: a placeholder within a text that was put in is not replaced
    return re.sub("@@([A-Z]+)@@", lambda match: parts[match[1]], page_file(template))


def _shown(text: str) -> str:
    return one_line(text.replace("\n", f"{LINE_BREAK} ")).strip()


def _answer(text: str) -> str:
    return _shown(text) or "(nothing)"


def count_unchanged(differences: Sequence[PromptDifference]) -> dict[str, Count]:
    """Count the prompts that should not change, by the names of `counted_as`; ``edited`` are those unchanged.

    Prompts that neither model answers are not counted.
    """
    flags = dict[str, list[bool]]()
    for row in differences:
        if row.answered:
            flags.setdefault(counted_as(row), []).append(row.unchanged)
    return {name: Count(prompts=len(of), unedited=len(of), edited=sum(of)) for name, of in flags.items()}


def counted_as(difference: PromptDifference) -> str:
    """Return the name under which a prompt is counted: those of edits, of a file, or unrelated ones."""
    names = {"edit": "locality prompts", "file": "prompts"}
    return names.get(difference.asked.source, "unrelated prompts")
