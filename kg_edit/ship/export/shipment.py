"""Write a patch as an adapter or a model, with a model card: the work of `kg-edit patch export` and `merge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError
from kg_edit.models.loading import NAMED_MODELS, named_model_file
from kg_edit.patches.changes import Changes
from kg_edit.reports.rows import RECORDS, ReportRow, known_rows
from kg_edit.ship.export.card import BaseModel, Form, Score, model_card
from kg_edit.ship.export.first_token import are_first_tokens
from kg_edit.ship.export.folders import check_new
from kg_edit.ship.export.layout import Layout, layout_for
from kg_edit.storage.run_folder import PATCH

if TYPE_CHECKING:  # an adapter is written without torch
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch


@dataclass(frozen=True, eq=False, kw_only=True)
class Shipment:
    """A patch to export: its edits, its model, and the report rows that show its effect (or none).

    Attributes:
        patch: the change to ship.
        edits: the edits of the patch.
        model: name of the unedited model.
        base: what is known of this model, by `kg_edit.ship.export.card.base_model`.
        rows: report rows, whose scores the model card has.
    """

    patch: Patch | Changes
    edits: Sequence[Edit]
    model: str
    base: BaseModel
    rows: Sequence[ReportRow] = ()

    def to_peft(self, out: Path) -> Path:
        """Write a PEFT adapter by `kg_edit.ship.export.peft_adapter.write_peft`; raises the same errors."""
        from kg_edit.ship.export.peft_adapter import write_peft

        check_new(out)
        return write_peft(self.patch, out, layout=self._layout, base=self.base.path, card=self.card("peft"))

    def to_gguf(self, out: Path) -> Path:
        """Write a GGUF adapter by `kg_edit.ship.export.gguf_files.write_gguf_adapter`; raises the same errors."""
        from kg_edit.ship.export.gguf_files import write_gguf_adapter

        check_new(out)
        base = self.base.hub or Path(self.base.path).name
        return write_gguf_adapter(self.patch, out, layout=self._layout, base=base, card=self.card("gguf adapter"))

    def to_folder(self, out: Path, model: LanguageModel, *, shard: str) -> Path:
        """Write the model for transformers (`kg_edit.ship.export.merged_model.write_merged`)."""
        from kg_edit.ship.export.merged_model import write_merged

        assert not isinstance(self.patch, Changes)  # noqa: S101 - only adapters are written from arrays
        return write_merged(self.patch, model, out, shard=shard, card=self.card("folder"))

    def to_gguf_model(self, out: Path, model: LanguageModel, *, base: Path, kind: str) -> Path:
        """Write the edited model as GGUF (`kg_edit.ship.export.gguf_files.write_gguf_model`)."""
        from kg_edit.ship.export.gguf_files import write_gguf_model

        assert not isinstance(self.patch, Changes)  # noqa: S101 - only adapters are written from arrays
        card = self.card("gguf model")
        return write_gguf_model(self.patch, out, model=model, base=base, kind=kind, card=card)

    @property
    def _layout(self) -> Layout:
        """How the model holds the weights that the patch changes."""
        weights = getattr(self.patch, "factors", {})
        return layout_for(self.model, weights)

    @cached_property
    def unread(self) -> tuple[Edit, ...]:
        """The edits in plain text whose subject is the first token of the prompt: many models do not read it."""
        candidates = []
        for edit in self.edits:
            in_plain_text = False in edit.forms
            if in_plain_text and edit.subject and edit.text.startswith(edit.subject):
                candidates.append(edit)
        are_first = are_first_tokens(self.model, [(edit.text, edit.subject) for edit in candidates])
        return tuple(edit for edit, is_first in zip(candidates, are_first, strict=True) if is_first)

    @property
    def remark(self) -> str | None:
        """What other programs have to do for the `unread` edits; None if there are none."""
        if not self.unread:
            return None
        named = f"edit {self.unread[0].id!r}"
        if len(self.unread) > 1:
            named += f" and {len(self.unread) - 1} more"
        return (
            f"{named}: the subject is the first token of the prompt, which many models do "
            "not read; in other programs, put a line break before such a text (see README.md)"
        )

    def card(self, form: Form) -> str:
        """Return the model card of the export in this form."""
        scores = scores_of(self.rows)
        return model_card(self.patch, self.edits, base=self.base, form=form, scores=scores, unread=self.unread)


def measured_rows(patch_file: Path | None, edits: Sequence[Edit]) -> tuple[ReportRow, ...]:
    """Return the report rows of these edits from `kg-edit edit`, if the patch is the one in its folder; else ()."""
    # The records beside a patch that was renamed or copied may belong to another patch.
    if patch_file is None or patch_file.name != PATCH:
        return ()
    return known_rows(patch_file.parent / RECORDS, edits)


def scores_of(rows: Sequence[ReportRow]) -> tuple[Score, ...]:
    """Return the number of right prompts of each kind on the unedited and on the edited model.

    The edits' own prompts are counted twice: by success (the target is generated), and by whether it is more likely.
    """
    rewrites = [row for row in rows if row.probe.kind == "rewrite"]
    scores = [
        Score(
            kind="edits, success",
            prompts=len(rewrites),
            unedited=sum(row.unedited.success for row in rewrites),
            edited=sum(row.edited.success for row in rewrites),
        )
    ]
    for kind, name in (
        ("rewrite", "edits, more likely"),
        ("paraphrase", "paraphrases"),
        ("portability", "portability questions"),
        ("locality", "locality prompts"),
    ):
        rows_of_kind = [row for row in rows if row.probe.kind == kind]
        unedited = sum(row.unedited.right for row in rows_of_kind)
        edited = sum(row.edited.right for row in rows_of_kind)
        scores.append(Score(kind=name, prompts=len(rows_of_kind), unedited=unedited, edited=edited))
    return tuple(score for score in scores if score.prompts)


def gguf_of(model: str, gguf: Path | None) -> Path:
    """Return the GGUF file to merge into: ``gguf``, or else that of the model's name."""
    file = gguf
    if file is None:
        if model in NAMED_MODELS:
            file = named_model_file(model)
        else:
            file = Path(model)
    if file.suffix != ".gguf":
        raise ConfigError(
            f"{str(gguf or model)!r} is not a GGUF file, so edits can't be merged into it; give the same model as "
            "GGUF (--gguf FILE), or merge --to folder and convert the folder with llama.cpp's convert_hf_to_gguf.py"
        )
    if not file.is_file():
        raise ConfigError(f"there is no GGUF file {file}; check --gguf")
    return file
