"""MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229) on a triplet file, stage by stage.

All rows are one batch: they are written together, over several blocks.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods memit` lists the settings.

python pipelines/memit.py triplets.csv
python pipelines/memit.py triplets.csv --preset paper --set 'layers=[4,5,6]' --out out/memit-paper/
"""

from __future__ import annotations

import logging
from itertools import chain

import torch
from stages import show_descent, show_update, start

from kg_edit.cli.console import friendly
from kg_edit.locate_then_edit.descent import descend, descent_model
from kg_edit.methods.memit.method import Memit
from kg_edit.methods.memit.records import FactValue, split_by_edit

log = logging.getLogger("pipelines.memit")


def main() -> None:
    """Edit the model by MEMIT, all triplets in one batch, and write the patch and a report."""
    run = start(Memit, str(__doc__))
    memit = run.method
    config = memit.config
    edits = run.remaining  # all, or none if the run is complete

    # 1. C [d_ff, d_ff] of every written block, the second moment of W's inputs over ordinary text.
    log.info("1. blocks %s; C from %d tokens", list(memit.layers), memit.covariances[memit.layers[0]].tokens)

    if edits:
        with run.editing(*edits):
            groups = memit.make_batch_facts(edits)  # the prompts of each edit
            facts = list(chain.from_iterable(group.facts for group in groups))
            requests = [fact.prompts for fact in facts]

            # 2. z of each fact (Eq. 16): Adam on z - h, until the model predicts o* after every prompt. h [facts, d] is
            # the state of the last written block at the subject's last token. As many facts at once as fit into memory.
            model = descent_model(run.model, config.descent_dtype)
            values = list[FactValue]()
            for part in memit.portions(requests):  # a slice of the facts
                loss = memit.objective(model, requests[part])
                delta, notes = memit.propose([fact.edit for fact in facts[part]], loss.states)
                descents = descend(loss, delta, config.stops)
                if config.anchor:
                    descents = memit.anchor_values(descents, requests[part])
                for index, fact in enumerate(facts[part]):
                    h = loss.states[index]
                    descent = descents[index]
                    show_descent(f"2. z of {fact.edit.text} {fact.edit.target_new}: |h|", descent, size=float(h.norm()))
                    values.append(FactValue(present_state=h, descent=descent, notes=notes[index]))

            # 3. The updates, an equal share in each block: W + R K^T (lambda C + K K^T)^-1 (Eq. 14).
            z = torch.stack([value.target_state for value in values])  # [facts, d]
            values_by_edit = split_by_edit(values, groups)
            memit.refuse_failed(groups, values_by_edit, run.patch)
            records = memit.make_records(groups, values_by_edit)
            patch = memit.write(facts, z, records, run.patch)
            show_update(3, patch)
        run.add(patch)

    # 4. Every prompt of the edits, before and after.
    run.report()


if __name__ == "__main__":
    with friendly("pipelines"):
        main()
