"""ROME-KG, a baseline of GLAME's paper (arXiv 2402.13593), on a triplet file, stage by stage.

The facts of the graph around an edit become further ROME edits.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods rome-kg` lists the settings.

python pipelines/rome_kg.py triplets.csv
python pipelines/rome_kg.py triplets.csv --preset paper --set chained=3 --out out/rome-kg-paper/
"""

from __future__ import annotations

import logging

from stages import show_descent, show_subgraph, show_update, start

from kg_edit.cli.console import friendly
from kg_edit.locate_then_edit.descent import descend, descent_model
from kg_edit.locate_then_edit.long_run import anchor
from kg_edit.methods.rome.method import EditValue
from kg_edit.methods.rome_kg.method import RomeKg

log = logging.getLogger("pipelines.rome_kg")


def main() -> None:
    """Edit the model by ROME-KG, one triplet after the other, and write the patch and a report."""
    run = start(RomeKg, str(__doc__))
    rome = run.method
    config = rome.config

    for edit in run.remaining:
        with run.editing(edit):
            # 1. The subgraph: s -r-> o*, and what the graph states about o*.
            log.info("%s -> %s", edit.text, edit.target_new)
            show_subgraph(rome.subgraph(edit))

            # 2. The facts of the graph that are edited in too, in words.
            facts = rome.further_edits(edit)
            log.info("2. %d facts of the graph are edited in as well", len(facts))

            # ROME makes the edit, then one fact after the other, each on the model with the earlier ones.
            patch = rome.empty_patch()
            for fact in (edit, *facts):
                log.info("%s %s", fact.text, fact.target_new)
                with patch.applied_on_top(run.model):
                    # 3. m* (Eq. 4): Adam on m* - m, until the model predicts o* after every prompt.
                    request = rome.request(fact)
                    loss = rome.objective(descent_model(run.model, config.descent_dtype), [fact], [request])
                    m = loss.value[0]
                    k = loss.bare_key[0]
                    k_mean = loss.mean_key[0]
                    delta, _ = rome.propose([fact], loss.value)
                    (descent,) = descend(loss, delta, config.stops)
                    if config.anchor:
                        descent = anchor(descent, m, norm=rome.value_norm, most=config.anchor)
                    show_descent("3. m*: |m|", descent, size=float(m.norm()))

                    # 4. The update (Eq. 2): W + (m* - m) u^T / (k . u) with u = C^-1 k*.
                    value = EditValue(request=request, clean=m, bare_key=k, mean_key=k_mean, descent=descent, notes={})
                    update = rome.write(fact, value, before=run.patch)
                    show_update(4, update)
                patch = patch + update
            patch = rome.gather(edit, patch)  # one record for the edit and its facts
        run.add(patch)

    # 5. Every prompt of the edits, before and after.
    run.report()


if __name__ == "__main__":
    with friendly("pipelines"):
        main()
