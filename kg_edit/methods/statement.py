"""Encode an edit's prompt and target as one row, for methods that read or train on the statement itself.

These are the FT variants, LoRA, MEND and GRACE. If the subject is the first token of the prompt and that token is an
attention sink, the model does not read the subject (`kg_edit.models.first_token`): it is unread. A line break is then
put before the prompt, as in ROME's rows. Without it, "Google was founded by" and "Toyota was founded by" have almost
the same gradient and key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kg_edit.edits.edit import Edit
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import LayerConfig
from kg_edit.models.first_token import line_break_before, log_unread
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt


class StatementMethod(EditingMethod):
    """A method that reads an edit's statement, or trains on it: the prompt with the target."""

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's statement, so that one that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                self.encode_edit(edit)
                warn_of_unread_edit(self.model, edit, method=self.name)

    def encode_edit(self, edit: Edit) -> Any:
        """Return the statement in the method's form; by default the prompt with its target, as a `Prompt`."""
        return encode_statement(self.model, edit, method=self.name)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, and the layer of a method that has one."""
        provenance = super().provenance()
        if isinstance(self.config, LayerConfig):
            provenance["methods"][0] |= {"layer": self.layer}
        return provenance


def encode_statement(model: LanguageModel, edit: Edit, *, method: str, with_ending: bool = False) -> Prompt:
    """Encode the edit's prompt with its target, in plain text or in chat form; ``method`` is the method's name.

    With ``with_ending``, the target includes the ending of the sentence, if the edit has one.
    """
    chat = edit.is_made_in_chat(method)
    target = edit.target_new
    if with_ending:
        target += edit.ending.rstrip()
    prompt = _needed_line_break(model, edit, chat=chat) + edit.text
    return model.encode(prompt, target=target, chat=chat)


def warn_of_unread_edit(model: LanguageModel, edit: Edit, *, method: str) -> None:
    """Warn if the edit's subject is unread, because the edit then has an effect only after a line break or a text."""
    if _needed_line_break(model, edit, chat=edit.is_made_in_chat(method)):
        log_unread(edit.text, edit=edit.id)


def _needed_line_break(model: LanguageModel, edit: Edit, *, chat: bool) -> str:
    """Return the line break that an unread subject needs before the prompt; "" if the subject is read."""
    if chat:  # the template's tokens come first
        return ""
    return line_break_before(model, edit.text, subject=edit.subject)
