"""MEMIT-KG, a baseline of GLAME's paper (arXiv 2402.13593), on a triplet file, stage by stage.

The facts of the graph around the edits become further facts of the same MEMIT batch.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods memit-kg` lists the settings. Each fact has a value of its own, so that five
edits take minutes; the preset is `fast`, and `--preset default` takes longer.

python pipelines/memit_kg.py triplets.csv
python pipelines/memit_kg.py triplets.csv --preset paper --set chained=3 --out out/memit-kg-paper/
"""

from __future__ import annotations

import logging
from itertools import chain

import torch
from stages import show_descent, show_subgraph, show_update, start

from kg_edit.cli.console import friendly
from kg_edit.locate_then_edit.descent import descend, descent_model
from kg_edit.methods.memit.records import FactValue, split_by_edit
from kg_edit.methods.memit_kg.method import MemitKg

log = logging.getLogger("pipelines.memit_kg")


def main() -> None:
    """Edit the model by MEMIT-KG, all triplets in one batch, and write the patch and a report."""
    run = start(MemitKg, str(__doc__), preset="fast")  # five edits have 35 values with the default settings
    memit = run.method
    config = memit.config
    edits = run.remaining  # all, or none if the run is complete

    if edits:
        with run.editing(*edits):
            for edit in edits:
                # 1. The subgraph: s -r-> o*, and what the graph states about o*.
                log.info("%s -> %s", edit.text, edit.target_new)
                show_subgraph(memit.subgraph(edit))

            # 2. The edits, and the facts of the graph that are written together with them, in words.
            groups = memit.make_batch_facts(edits)
            facts = list(chain.from_iterable(group.facts for group in groups))
            requests = [fact.prompts for fact in facts]
            log.info("2. %d facts of the graph are edited in as well", len(facts) - len(edits))
            for fact in facts:
                log.info("     %s %s", fact.edit.text, fact.edit.target_new)

            # 3. z of each fact (Eq. 16): Adam on z - h, until the model predicts o* after every prompt. h [facts, d] is
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
                    show_descent(f"3. z of {fact.edit.text} {fact.edit.target_new}: |h|", descent, size=float(h.norm()))
                    values.append(FactValue(present_state=h, descent=descent, notes=notes[index]))

            # 4. The updates, an equal share in each block: W + R K^T (lambda C + K K^T)^-1 (Eq. 14).
            z = torch.stack([value.target_state for value in values])  # [facts, d]
            values_by_edit = split_by_edit(values, groups)
            memit.refuse_failed(groups, values_by_edit, run.patch)
            records = memit.make_records(groups, values_by_edit)
            patch = memit.write(facts, z, records, run.patch)
            show_update(4, patch)
        run.add(patch)

    # 5. Every prompt of the edits, before and after.
    run.report()


if __name__ == "__main__":
    with friendly("pipelines"):
        main()
