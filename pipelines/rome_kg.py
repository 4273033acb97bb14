"""ROME-KG, a baseline of GLAME's paper (arXiv 2402.13593), on a triplet file, stage by stage.

The facts of the graph around an edit become further ROME edits.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods rome-kg` lists the settings.

python pipelines/rome_kg.py triplets.csv
python pipelines/rome_kg.py triplets.csv --preset paper --set chained=3 --out out/rome-kg-paper/
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stages import main, show_subgraph, show_update, show_value

from kg_edit.edits.edit import Edit
from kg_edit.methods.rome.method import EditValue
from kg_edit.methods.rome_kg.method import RomeKg
from kg_edit.patches.base import Patch

log = logging.getLogger("pipelines.rome_kg")


class ShownRomeKg(RomeKg):
    """ROME-KG, with the result of each stage in the log."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make one edit and its facts on the model with the earlier edits (``before``)."""
        (edit,) = edits

        # 1. The subgraph: s -r-> o*, and what the graph states about o*.
        show_subgraph(self, edit)

        # 2. The facts of the graph that are edited in too, in words.
        facts = self.further_edits(edit)
        log.info("2. %d facts of the graph are edited in as well", len(facts))
        for fact in facts:
            log.info("     %s %s", fact.text, fact.target_new)

        # 3. and 4. ROME makes the edit, then one fact after the other, each on the model with the earlier ones.
        return super().make(edits, before=before)

    def write(self, edit: Edit, value: EditValue, *, before: Patch | None = None) -> Patch:
        """Write the value m* of the edit or of a fact: W + (m* - m) u^T / (k . u) with u = C^-1 k*."""
        log.info("%s %s", edit.text, edit.target_new)
        show_value(3, value)
        patch = super().write(edit, value, before=before)
        show_update(4, patch)
        return patch


if __name__ == "__main__":
    main(ShownRomeKg, str(__doc__))
