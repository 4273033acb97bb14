"""Scores of unedited models, kept in the cache folder, so that a second method pays nothing for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from kg_edit.errors import OutputError
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.general import general_scores
from kg_edit.evaluate.records import Section
from kg_edit.evaluate.scorer import score_cases
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import cache_folder
from kg_edit.scoring.out_of_memory import in_halves
from kg_edit.storage.atomic import write_text
from kg_edit.storage.run_folder import Settings, digest

log = logging.getLogger(__name__)

# What an unedited model's scores of a case depend on.
_DECIDES = ("model", "tokenizer_sha256", "protocols", "question_form_sha256", "kg_edit")


class UneditedScores:
    """A file a section under ``folder``, named by the hash of the model, the protocol and the case with its choices."""

    def __init__(self, settings: Settings, *, folder: Path | None = None) -> None:
        named = {name: settings[name] for name in _DECIDES}
        named["model"] = {key: value for key, value in named["model"].items() if key != "name"}
        self._unwritten: dict[str, Section] = {}
        self._key, self._folder = digest(named), folder or cache_folder() / "unedited"

    def sections(self, model: LanguageModel, cases: Mapping[str, Case]) -> dict[str, Section]:
        """The sections of ``cases`` (named) on ``model``: those that are known, the rest scored now and kept."""
        known = {name: section for name, case in cases.items() if (section := self._read(case))}
        asked = {name: case for name, case in cases.items() if name not in known}
        scored = in_halves(lambda some: score_cases(model, some), tuple(asked.values())) if asked else []
        for case, section in zip(asked.values(), scored, strict=True):
            self._write(case, section)
        found = known | dict(zip(asked, scored, strict=True))
        return {name: found[name] for name in cases}

    def general(self, model: LanguageModel, text: str) -> dict[str, float | None]:
        """General ability on ``text``, known or found now."""
        known = self._read(text)
        if known is None:
            known = Section(scores=general_scores(model, text), nll={}, texts={})
            self._write(text, known)
        return known.scores

    def _file(self, asked: Case | str) -> Path:
        name = digest([self._key, to_jsonable_python(asked)])
        return self._folder / name[:2] / f"{name}.json"

    def _read(self, asked: Case | str) -> Section | None:
        file = self._file(asked)
        try:
            return Section.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):  # absent, or not ours: it is scored, and written anew
            return self._unwritten.get(file.name)

    def _write(self, asked: Case | str, section: Section) -> None:
        try:
            write_text(self._file(asked), section.model_dump_json() + "\n")
        except OutputError as error:  # a full or read-only cache makes the next run slower, not this one wrong
            log.warning("scores of the unedited model are not kept: %s", error)
            self._unwritten[self._file(asked).name] = section
