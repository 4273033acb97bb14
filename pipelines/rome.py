"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) on a triplet file, stage by stage.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods rome` lists the settings.

python pipelines/rome.py triplets.csv
python pipelines/rome.py triplets.csv --preset paper --set layer=5 --out out/rome-paper/
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stages import main, show_update, show_value

from kg_edit.edits.edit import Edit
from kg_edit.methods.rome.method import Rome
from kg_edit.patches.base import Patch

log = logging.getLogger("pipelines.rome")


class ShownRome(Rome):
    """ROME, with the result of each stage in the log."""

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Make one edit on the model with the earlier edits (``before``)."""
        (edit,) = edits
        log.info("%s -> %s", edit.text, edit.target_new)

        # 1. C [d_ff, d_ff], the second moment of W's inputs over ordinary text: what the update must leave alone.
        shape, tokens = list(self.covariance.moment.shape), self.covariance.tokens
        log.info("1. C of block %d: %s, from %d tokens", self.layer, shape, tokens)

        # 2. The prompts: "{context} {s} {r}" with o* as its target, and "{s} is a", whose output should not change.
        request = self.request(edit)
        for prompt in request.rewrites[:3]:
            log.info("2. prompt: %r", prompt.text)

        # 3. m* (Eq. 4): Adam on m* - m, until the model predicts o* after every prompt.
        (value,) = self.find_values([edit], [request])
        show_value(3, value)

        # 4. The update (Eq. 2): W + (m* - m) u^T / (k . u) with u = C^-1 k*, in a patch with its provenance.
        patch = self.write(edit, value, before=before)
        show_update(4, patch)
        return patch


if __name__ == "__main__":
    main(ShownRome, str(__doc__))
