"""Put a line break before texts that begin with an edited subject which the model would not read there.

An edit of a one-token subject is made after a line break if the first token of a text is an attention sink
(`kg_edit.models.first_token`). "Google was founded by" alone is continued as by the unedited model, after a line break
as edited. The document's start (BOS) in its place was measured too, and is worse (docs/limits.md). Models whose
tokenizer begins every text with BOS read the subject, and need nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from kg_edit.models.first_token import LINE_BREAK, line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch

Start = Literal["auto", "always", "never"]


class StartedTexts(NamedTuple):
    """Texts as the model gets them, and a remark about those that begin with a subject which it does not read."""

    texts: tuple[str, ...]
    remark: str | None = None


def with_start(model: LanguageModel, texts: Sequence[str], *, patch: Patch, start: Start = "auto") -> StartedTexts:
    """Return plain texts with a line break in front, where ``start`` asks for it.

    Args:
        model: the unedited model.
        texts: the texts to continue.
        patch: the patch with the records of its edits.
        start: ``auto``: before a text that begins with an edited subject which the model does not read (a text in chat
            form begins with the template instead); ``always``: before every text; ``never``.
    """
    if start == "always":
        return StartedTexts(tuple(LINE_BREAK + text for text in texts))
    unread = _find_unread(model, texts, patch)
    if not unread:
        return StartedTexts(tuple(texts))
    remark = _describe_unread(unread)
    if start == "never":
        # In a shell, $'\nGoogle is' is a line break and "Google is"; a backslash and a ' of the text are escaped.
        quoted = next(iter(unread)).replace("\\", r"\\").replace("'", r"\'")
        way = f"put a line break or other text before the subject: $'\\n{quoted}'"
        return StartedTexts(tuple(texts), f"{remark}; {way}")
    started = [LINE_BREAK + text if text in unread else text for text in texts]
    way = "a line break is put in front (--start never: leave texts as they are)"
    return StartedTexts(tuple(started), f"{remark}; {way}")


def _find_unread(model: LanguageModel, texts: Sequence[str], patch: Patch) -> dict[str, str]:
    """Return the texts that begin with an edited subject which the model does not read, with the id of its edit."""
    subjects = subjects_in_plain_text(patch)
    unread = dict[str, str]()
    for text in texts:
        for id_, subject in subjects:
            if line_break_before(model, text, subject=subject):
                unread[text] = id_
    return unread


def _describe_unread(unread: dict[str, str]) -> str:
    """Return a remark about texts that `_find_unread` found; it shows the first one."""
    first = next(iter(unread))
    more = ""
    if len(unread) > 1:
        more = f" (and {len(unread) - 1} more)"
    return (
        f"{first!r}{more} begins with the subject of the edit {unread[first]!r}, and this model does not read the "
        "first token"
    )


def subjects_in_plain_text(patch: Patch) -> list[tuple[str, str]]:
    """Return the id and the subject of each edit that is made in plain text, and not by a prompt patch.

    The id is "" if the record of the edit has none.
    """
    subjects = list[tuple[str, str]]()
    for part in patch.parts:
        if part.changed_part == "prompt":
            continue
        for record in part.edits:
            edit = record.get("edit", {})
            is_in_chat_alone = edit.get("chat", False) is True  # an edit with "both" is made in plain text, too
            if edit.get("subject") and not is_in_chat_alone:
                subjects.append((str(edit.get("id", "")), str(edit["subject"])))
    return subjects
