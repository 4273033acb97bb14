"""The settings of a method and of its model that decide a run's results.

A run folder keeps them, and refuses to continue with others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_differences import Settings
from kg_edit.storage.setting_fields import input_files


class Configured(Protocol):
    """What a run records of a method: its name, its settings and its graph."""

    @property
    def name(self) -> str:
        """The method's name in results."""

    @property
    def config(self) -> BaseModel:
        """All settings of the method."""

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """The identity, as JSON, of the knowledge graph that the method reads; None if it reads none."""


def method_settings(method: Configured, model: LanguageModel) -> Settings:
    """Return the settings that decide a method's patches besides the edits: config, files, graph and model."""
    settings: Settings = {
        "method": method.name,
        "config": method.config.model_dump(mode="json"),
        "graph": method.graph_identity,
        "model": {"name": model.name, "fingerprint": model.fingerprint, "dtype": str(model.model.dtype)},
    }
    preset = getattr(method.config, "preset_name", None)
    if preset:
        settings["preset"] = preset  # not compared: the config decides
    files = input_files(method.config)
    if files:
        settings["files_sha256"] = files
    return settings


def chat_settings(model: LanguageModel, edits: Iterable[Edit], chat: bool | None = None) -> Settings:
    """Return the hash of the chat form as a setting, {"chat_form_sha256": …}; {} if no edit is made or asked in it.

    Args:
        model: the model whose tokenizer has the chat template.
        edits: the edits; each says by ``edit.chat`` whether it is made in chat form.
        chat: whether all edits are asked in chat form, whatever they say.
    """
    is_used = chat or any(edit.chat for edit in edits)
    if not is_used:
        return {}
    return {"chat_form_sha256": model.chat_form.sha256}
