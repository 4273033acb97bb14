"""The words and relations of a Ripples benchmark: the packaged ``ripples.toml``, and a user's file on top."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kg_edit.edits.templates import RelationTemplates, utf8_text
from kg_edit.errors import ConfigError, faults_of
from kg_edit.text.relation_nouns import relation_nouns

Ids = Annotated[tuple[str, ...], Field(strict=False)]


class EditedRelation(BaseModel):
    """A relation r that may be edited: the classes of which o* has to be an instance, and sentences for the fact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: Ids = ()
    paraphrases: Ids = ()


class RippleWords(BaseModel):
    """The content of ``ripples.toml``, which explains each part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    knowledge: Annotated[tuple[str, str, str], Field(strict=False)]
    asked: Ids
    former: Ids
    edited: Mapping[str, EditedRelation]
    asks: Mapping[str, str]
    inverse: Mapping[str, str]
    nouns: Mapping[str, str]

    @classmethod
    def load(cls, file: Path | None = None) -> Self:
        """Load the packaged file, with ``file`` on top: tables are merged, lists are replaced."""
        packaged = files("kg_edit").joinpath("data", "ripples.toml").read_text(encoding="utf-8")
        content = tomllib.loads(packaged)
        if file:
            try:
                content = _merge(content, tomllib.loads(utf8_text(file)))
            except tomllib.TOMLDecodeError as error:
                raise ConfigError(f"{file}: not TOML: {error}") from None
        content = _merge({"nouns": dict(relation_nouns())}, content)
        try:
            words = cls.model_validate(content)
        except ValidationError as error:
            faults = "; ".join(map(str, faults_of(error, cls)))
            raise ConfigError(f"{file or 'ripples.toml'}: {faults}") from None
        nameless = [relation for relation in words.asked if relation not in words.nouns]
        if nameless:
            raise ConfigError(f"{file}: field asked: {nameless[0]} has no noun; add one to [nouns]")
        return words

    def templates(self, relations: Sequence[str]) -> dict[str, str]:
        """Return the prompt template of each relation."""
        all_templates = RelationTemplates.load()
        templates = dict[str, str]()
        for relation in relations:
            row = all_templates.find(relation)
            if not row or relation not in self.nouns:
                raise ConfigError(
                    f"relation {relation} has no noun or no template; `kg-edit data ripples --help` lists relations"
                )
            templates[relation] = row.template
        return templates


def _merge(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with the changes on top: tables are merged, other values are replaced."""
    merged = dict(content)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], value)
        else:
            merged[name] = value
    return merged
