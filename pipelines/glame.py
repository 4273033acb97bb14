"""GLAME (Zhang et al., EMNLP 2024, arXiv 2402.13593) on a triplet file, stage by stage.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods glame` lists the settings.

python pipelines/glame.py triplets.csv
python pipelines/glame.py triplets.csv --graph wikidata.nt.gz --preset paper --set hops=1 --out out/glame-paper/
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stages import main, show_subgraph, show_update, show_value

from kg_edit.edits.edit import Edit
from kg_edit.methods.glame.method import Glame
from kg_edit.patches.base import Patch

log = logging.getLogger("pipelines.glame")


class ShownGlame(Glame):
    """GLAME, with the result of each stage in the log."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make one edit on the model with the earlier edits (``before``)."""
        (edit,) = edits

        # 1. The subgraph: s -r-> o*, and what the graph states about o*.
        show_subgraph(self, edit)

        # 2. Hidden states of an early block represent the labels: the input of the R-GNN.
        encoded, _ = self.encode(edit)
        nodes, relations = list(encoded.nodes.shape), list(encoded.relations.shape)
        log.info("2. hidden states of block %d: nodes %s, relations %s", self.representation_layer, nodes, relations)

        # 3. m* = m + z_s^n (Eq. 6): the subject's vector after the R-GNN, whose weights AdamW trains until the model
        # predicts o* after every prompt (Eq. 7).
        (value,) = self.find_values([edit], [self.request(edit)])
        show_value(3, value)

        # 4. The update (Eq. 8): W + (m* - m) u^T / (k . u) with u = C^-1 k*, in a patch with its provenance.
        patch = self.write(edit, value, before=before)
        show_update(4, patch)
        return patch


if __name__ == "__main__":
    main(ShownGlame, str(__doc__))
