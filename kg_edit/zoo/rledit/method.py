"""RLEdit (Li et al., ICML 2025, arXiv 2502.05759): MALMEN with a network that was trained on sequences of edits.

An edit is made as by MALMEN; its training is in `kg_edit.zoo.rledit.training`. In a sequence the network reads the
keys and gradients of the model with the earlier updates.
"""

from __future__ import annotations

from pydantic import Field

from kg_edit.storage.setting_fields import NAMES_A_FILE
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.malmen.method import Malmen, MalmenConfig
from kg_edit.zoo.rledit.network import FORMAT, RLEditManifest


class RLEditConfig(MalmenConfig):
    """RLEdit's settings. All others, such as the edited weights, are stored with the trained editor."""

    network: str | None = Field(
        None,
        json_schema_extra=NAMES_A_FILE,
        description="folder of a trained editor, written by kg-edit rledit train --out FOLDER",
    )


class RLEdit(Malmen):
    """One update for all edits of a call, by a network that was trained to edit a model after earlier updates."""

    entry = method_entry("rledit")
    config_class = RLEditConfig
    config: RLEditConfig
    file_format = FORMAT
    manifest_class = RLEditManifest
