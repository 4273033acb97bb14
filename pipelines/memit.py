"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229) on a triplet file, stage by stage.

All rows are one batch: they are written together, over several blocks.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods memit` lists the settings.

python pipelines/memit.py triplets.csv
python pipelines/memit.py triplets.csv --preset paper --set 'layers=[4,5,6]' --out out/memit-paper/
"""

from __future__ import annotations

import logging

from stages import ShowsMemit, main

log = logging.getLogger("pipelines.memit")


class ShownMemit(ShowsMemit):
    """MEMIT, with the result of each stage in the log."""

    stage = 2  # 2. z of every fact, 3. the updates: `stages.ShowsMemit`

    def prepare(self) -> None:
        """Sample the contexts, and load or measure C of every written block, once for all edits."""
        ready = "covariances" in vars(self)
        super().prepare()
        if not ready:
            log.info("1. blocks %s; C from %d tokens", list(self.layers), self.covariances[self.layers[0]].tokens)


if __name__ == "__main__":
    main(ShownMemit, str(__doc__))
