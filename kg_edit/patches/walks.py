"""A walk over a knowledge graph that a patch of the prompt makes before a text, in the form that reports show.

`graph-memory` makes such walks. The model's ``prompt_transform`` is then a `WalkMaker`, and `find_walks` asks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # a report with walks is shown without torch
    from kg_edit.models.language_model import LanguageModel

Origin = Literal["edit", "rule", "graph", "model"]
_ORIGINS: dict[Origin, str] = {
    "edit": "the edit",
    "rule": "a rule, after the edit",
    "graph": "the graph",
    "model": "the model",
}


class WalkedStatement(BaseModel):
    """A statement of a walk: the labels of its parts, their ids, its sentence, and where it comes from.

    Attributes:
        subject: the label of the thing that the statement is about.
        relation: the noun or the label of the relation.
        object: the label of the thing to which the walk goes on.
        ids: the ids of subject, relation and object.
        sentence: the statement as it is put before the text.
        origin: the edit, a rule that it triggers, the graph, or the model, which was asked for what the graph lacks.
        edit: the id of the edit that made the statement, or around which it was read; "" for the model's statements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    relation: str
    object: str
    ids: tuple[str, str, str]
    sentence: str
    origin: Origin
    edit: str = ""

    @property
    def source(self) -> str:
        """The ids of the statement and where it comes from: "Q17, P36, Q1490; from the graph"."""
        source = f"{', '.join(self.ids)}; from {_ORIGINS[self.origin]}"
        if self.origin == "edit":
            source += f" {self.edit!r}"
        return source


ShownWalk = tuple[WalkedStatement, ...]
"""The statements of a walk in order; empty if nothing is put before the text."""


@runtime_checkable
class WalkMaker(Protocol):
    """A ``prompt_transform`` that puts the statements of a walk before a text."""

    def show_walk(self, text: str) -> ShownWalk:
        """Return the walk of a text."""


def find_walks(model: LanguageModel, texts: Iterable[str]) -> dict[str, ShownWalk]:
    """Return the walk that the model makes before each text; {} if the model makes none."""
    transform: object = model.prompt_transform
    if not isinstance(transform, WalkMaker):
        return {}
    return {text: transform.show_walk(text) for text in texts}
