"""Prompts that begin with the subject of an edit, at a place that the model does not read.

Such an edit was made after a line break and is asked so by the report, `kg-edit patch check` and the served page, which
know the edit. `kg-edit generate` goes on with a text as it stands; here it says what to write instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from kg_edit.models.first_token import lead_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch, PatchStack

log = logging.getLogger(__name__)


def warn_of_unread_prompts(model: LanguageModel, patch: Patch, prompts: Sequence[str]) -> None:
    """Say of each prompt in plain text which edit of the patch it can't show, and how to ask for it."""
    subjects = dict(_subjects(patch))
    for prompt in prompts:
        for name, subject in subjects.items():
            if lead_before(model, prompt, subject=subject):
                log.warning(
                    "%r begins with the subject of the edit %r, and this model does not read a text's first token; the "
                    "edit holds after a line break or any other text: $'\\n%s'",
                    prompt,
                    name,
                    prompt.replace("'", r"\'"),
                )


def _subjects(patch: Patch) -> Iterator[tuple[str, str]]:
    """The ids and subjects of edits made in plain text; what is told in the prompt needs no line break."""
    for part in patch.patches if isinstance(patch, PatchStack) else (patch,):
        for record in () if part.kind == "prompt" else part.edits:
            edit = record.get("edit", {})
            if edit.get("subject") and edit.get("chat", False) is not True:
                yield str(edit.get("id", "")), str(edit["subject"])
