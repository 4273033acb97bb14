"""MEMIT-KG, a baseline of GLAME's paper (Zhang et al., EMNLP 2024, arXiv 2402.13593): the graph's facts in the batch.

The facts of an edit's subgraph become further facts, as in ROME-KG (`FurtherFactsMethod`). MEMIT writes the edit and
all its facts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from kg_edit.edits.edit import Edit
from kg_edit.methods.entries import method_entry
from kg_edit.methods.memit.method import Memit, MemitConfig
from kg_edit.methods.rome_kg.method import PUBLISHED_FACTS, FurtherFactsConfig, FurtherFactsMethod


class MemitKgConfig(FurtherFactsConfig, MemitConfig):
    """MEMIT's settings, and how many facts of each kind are written too.

    The preset ``paper`` has MEMIT's published settings and 20 facts of the kind ``chained``, no others.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        **MemitConfig.presets,
        "paper": {**MemitConfig.presets["paper"], **PUBLISHED_FACTS},
    }
    published_as: ClassVar[str | None] = "memit"  # a published preset, such as "gpt2-xl", has MEMIT's settings


class MemitKg(FurtherFactsMethod, Memit):
    """The edit itself and the facts around it as one batch; many edits of a call form one batch with all their facts.

    In the patch, the record of an edit has a field ``requests``, in which MEMIT puts the records of the further facts.
    """

    entry = method_entry("memit-kg")
    config_class = MemitKgConfig
    config: MemitKgConfig

    def check(self, edits: Sequence[Edit]) -> None:
        """Warn of what can't be said in the edits' languages; encode the prompts of every edit and of its facts."""
        self.warn_of_words(edits)
        super().check(edits)  # MEMIT's, which encodes all `edits_to_write`

    def edits_to_write(self, edit: Edit) -> tuple[Edit, ...]:
        """Return what MEMIT writes for an edit: the edit itself, then the facts of its subgraph."""
        return (edit, *self.further_edits(edit))
