"""Warn about prompts that begin with the subject of an edit, at a place that the model does not read.

Such an edit was made after a line break. The report, `kg-edit patch check` and the served page know the edit, and ask
for it after a line break too. `kg-edit generate` continues a text as it is; this module tells the user what to write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from kg_edit.models.first_token import lead_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch, PatchStack

log = logging.getLogger(__name__)


def warn_of_unread_prompts(model: LanguageModel, patch: Patch, prompts: Sequence[str]) -> None:
    """For each plain-text prompt, warn which edit of the patch it can't show, and how to ask for it."""
    subjects = dict(_subjects(patch))
    for prompt in prompts:
        for name, subject in subjects.items():
            if lead_before(model, prompt, subject=subject):
                log.warning(
                    "%r begins with the subject of the edit %r, and this model does not read a text's first token; put "
                    "a line break or other text before the subject: $'\\n%s'",
                    prompt,
                    name,
                    prompt.replace("'", r"\'"),
                )


def _subjects(patch: Patch) -> Iterator[tuple[str, str]]:
    """Yield the ids and subjects of edits made in plain text.

    Patches of the prompt are left out: their facts are told in the prompt, and need no line break.
    """
    for part in patch.patches if isinstance(patch, PatchStack) else (patch,):
        for record in () if part.kind == "prompt" else part.edits:
            edit = record.get("edit", {})
            if edit.get("subject") and edit.get("chat", False) is not True:
                yield str(edit.get("id", "")), str(edit["subject"])
