"""MEMIT-KG, a baseline of GLAME's paper (arXiv 2402.13593), on a triplet file, stage by stage.

The facts of the graph around the edits become further requests of the same MEMIT batch.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods memit-kg` lists the settings.

python pipelines/memit_kg.py triplets.csv
python pipelines/memit_kg.py triplets.csv --preset paper --set chained=3 --out out/memit-kg-paper/
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stages import ShowsMemit, main, show_subgraph

from kg_edit.edits.edit import Edit
from kg_edit.methods.memit_kg.method import MemitKg
from kg_edit.patches.base import Patch

log = logging.getLogger("pipelines.memit_kg")


class ShownMemitKg(MemitKg, ShowsMemit):
    """MEMIT-KG, with the result of each stage in the log."""

    stage = 3  # 3. z of every edit and fact, 4. the updates: `stages.ShowsMemit`

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make all edits and their facts in one batch."""
        for edit in edits:
            # 1. The subgraph: s -r-> o*, and what the graph states about o*.
            show_subgraph(self, edit)

            # 2. The facts of the graph that are written together with the edit, in words.
            facts = self.further_edits(edit)
            log.info("2. %d facts of the graph are edited in as well", len(facts))
            for fact in facts:
                log.info("     %s %s", fact.text, fact.target_new)
        return super().make(edits, before=before)


if __name__ == "__main__":
    main(ShownMemitKg, str(__doc__))
