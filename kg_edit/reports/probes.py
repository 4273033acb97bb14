"""The probes of an edit for the report, `patch check` and the served page: its prompts, asked and judged.

The probes are the rewrite, its paraphrases, its portability questions and its neighborhood prompts. `read` asks a model
their requests, as `kg-edit evaluate` does, and judges its answers. `before_and_after` does so on the unedited and on
the edited model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kg_common.progress import Bar
from kg_edit.edits.edit import Edit
from kg_edit.edits.inputs import Edits, as_edits
from kg_edit.errors import KgEditError
from kg_edit.models.first_token import readable_edit
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches.base import Patch, as_patch
from kg_edit.reports.report import BeforeAfter
from kg_edit.reports.rows import LINE_BREAK, ProbeKind, Reading, ReportProbe, ReportRow
from kg_edit.scoring.asking import ask, check_requests
from kg_edit.scoring.questions import generation_prompt, query_of, right_answers, scoring_prompt


def probes(model: LanguageModel | None, edit: Edit, *, chat: bool | None = None) -> tuple[ReportProbe, ...]:
    """Return all probes of an edit, its own prompt first.

    ``chat``         the edit is made in    its probes are asked in
    true or false    any form               chat form if true, plain text if false
    None             one form               that form
    None             both forms             plain text; the edit's own prompt also in chat form, as the second probe

    In plain text, the prompt and the paraphrases get a line break in front if ``model`` would not read their subject.

    Args:
        model: the model to ask; None: that of a server, whose prompts are as they are in the edit.
        edit: the edit, with its paraphrases, portability questions and neighborhood prompts.
        chat: whether to ask in chat form or in plain text; None: in the form in which the edit is made.
    """
    asks_in_both_forms = chat is None and len(edit.forms) > 1
    if chat is None:
        chat = edit.asks_in_chat  # false for an edit in both forms
    if chat:
        return tuple(_probes_in_chat(edit))
    # The first token of a text is an attention sink for some models: a subject there needs a line break before it.
    readable = edit
    if model is not None:
        readable = readable_edit(model, edit)
    rewrite, *others = _plain_probes(edit, readable.text, readable.paraphrases)
    if asks_in_both_forms:
        rewrite_in_chat = _probes_in_chat(edit)[0]
        return (rewrite, rewrite_in_chat, *others)
    return (rewrite, *others)


def _probes_in_chat(edit: Edit) -> list[ReportProbe]:
    """Return the probes of an edit in chat form, which need no line break: the template stands before each prompt."""
    plain = _plain_probes(edit, edit.text, edit.paraphrases)
    return [probe.model_copy(update={"chat": True}) for probe in plain]


def _plain_probes(edit: Edit, prompt: str, paraphrases: Sequence[str]) -> list[ReportProbe]:
    """Return the probes of an edit in plain text, the rewrite first.

    ``prompt`` and ``paraphrases`` are those of the edit, or the same with a line break in front.
    """
    new = edit.target_new
    old = edit.target_true
    is_paragraph = edit.target_text is not None
    rewrite = _statement_probe("rewrite", prompt, wanted=new, unwanted=old, several_lines=is_paragraph)
    edit_probes = [rewrite]
    for paraphrase in paraphrases:
        probe = _statement_probe("paraphrase", paraphrase, wanted=new, unwanted=old, several_lines=is_paragraph)
        edit_probes.append(probe)
    for question in edit.portability:
        query = query_of(question, language=edit.language)
        probe = ReportProbe(
            kind="portability",
            prompt=question.question,
            ask=generation_prompt(query),
            score=scoring_prompt(query),
            wanted=question.answer,
            aliases=right_answers(question),
        )
        edit_probes.append(probe)
    # A neighborhood prompt is about another subject with the old object, which must not change: so here the old object
    # is the wanted answer. The kind of such a probe is "locality"; the edit's field ``locality`` is not read here, but
    # in `locality_probes`.
    if old:
        for neighbour in edit.neighborhood:
            edit_probes.append(_statement_probe("locality", neighbour, wanted=old, unwanted=new))
    return [probe.model_copy(update={"language": edit.language}) for probe in edit_probes]


def locality_probes(edit: Edit, *, chat: bool | None = None) -> tuple[ReportProbe, ...]:
    """Return a probe for each prompt of the edit's field ``locality`` that has an answer; `probes` leaves them out.

    `kg_edit.reports.differences` compares these prompts before and after an edit. Where only the edited model is at
    hand, as in `kg-edit patch check`, it is asked for the answer. ``chat`` is as in `probes`; an edit in both forms is
    asked in plain text.
    """
    if chat is None:
        chat = edit.asks_in_chat
    locality = []
    for prompt in edit.locality:
        if prompt.answer:
            probe = _statement_probe("locality", prompt.prompt, wanted=prompt.answer, unwanted=None)
            further = {"aliases": prompt.names, "chat": chat, "language": edit.language}
            locality.append(probe.model_copy(update=further))
    return tuple(locality)


def _statement_probe(
    kind: ProbeKind, prompt: str, *, wanted: str, unwanted: str | None, several_lines: bool = False
) -> ReportProbe:
    """Return the probe of a prompt that the ``wanted`` text should continue."""
    text = prompt.rstrip()  # a space at the end would change the target's tokens
    shown = text.replace("\n", f"{LINE_BREAK} ")  # a table cell has one line
    return ReportProbe(
        kind=kind, prompt=shown, ask=text, score=text, wanted=wanted, unwanted=unwanted, several_lines=several_lines
    )


def check_probes(
    model: LanguageModel, edits: Sequence[Edit], *, chat: bool | None = None, progress: bool = False
) -> None:
    """Encode every probe once, to find a prompt that can't be scored before an edit is computed or a prompt is asked.

    Args:
        model: the unedited model.
        edits: the edits whose probes are checked, with their locality prompts that have an answer.
        chat: as in `probes`.
        progress: whether to show a progress bar.
    """
    for edit in Bar(edits, title="checking", unit="edit", shown=progress, leave=False, delay=1.0):
        try:
            all_probes = (*probes(model, edit, chat=chat), *locality_probes(edit, chat=chat))
            check_requests(model, [probe.requests for probe in all_probes])
        except KgEditError as error:
            error.add_note(f"in a prompt of the edit {edit.id!r}")
            raise


def read(
    model: LanguageModel, report_probes: Sequence[ReportProbe], *, progress: str | None = None
) -> tuple[Reading, ...]:
    """Read each probe on the model in its present state.

    Args:
        model: the model, edited or not.
        report_probes: the probes.
        progress: title of a progress bar.
    """
    answers = ask(model, [probe.requests for probe in report_probes], progress=progress)
    return tuple(Reading.of(probe, evidence) for probe, evidence in zip(report_probes, answers, strict=True))


def before_and_after(
    model: LanguageModel | str | Path,
    patch: Patch | str | Path,
    edits: Edits,
    *,
    chat: bool | None = None,
    progress: bool = False,
) -> BeforeAfter:
    """Ask the unedited and the edited model each edit's prompt, paraphrases, questions and neighborhood prompts.

    Args:
        model: the unedited model, or its name.
        patch: the change, or its path; it is removed again at the end.
        edits: the edits whose prompts are asked: edits, rows of their fields, or the path of a file of them.
        chat: whether to ask in chat form or in plain text; None: in the form in which the edit is made.
        progress: whether to show a progress bar.
    """
    patch = as_patch(patch)
    model = as_model(model)
    all_probes = list[ReportProbe]()
    ids = list[str]()  # the edit of each probe
    for edit in as_edits(edits):
        for probe in probes(model, edit, chat=chat):
            all_probes.append(probe)
            ids.append(edit.id)
    unedited = read(model, all_probes, progress=show_if(progress, "unedited"))
    with patch.applied(model) as edited_model:
        edited = read(edited_model, all_probes, progress=show_if(progress, "edited"))
    rows = []
    for index, probe in enumerate(all_probes):
        rows.append(ReportRow(edit=ids[index], probe=probe, unedited=unedited[index], edited=edited[index]))
    return BeforeAfter(rows)


def show_if(progress: bool, title: str) -> str | None:
    """Return the title of a progress bar; None if none is shown."""
    if progress:
        return title
    return None
