"""ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262) on a triplet file, stage by stage.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods rome` lists the settings.

python pipelines/rome.py triplets.csv
python pipelines/rome.py triplets.csv --preset paper --set layer=5 --out out/rome-paper/
"""

from __future__ import annotations

import logging

from stages import show_descent, show_update, start

from kg_edit.cli.console import friendly
from kg_edit.locate_then_edit.descent import descend, descent_model
from kg_edit.locate_then_edit.long_run import anchor
from kg_edit.methods.rome.method import EditValue, Rome

log = logging.getLogger("pipelines.rome")


def main() -> None:
    """Edit the model by ROME, one triplet after the other, and write the patch and a report."""
    run = start(Rome, str(__doc__))
    rome = run.method
    config = rome.config

    # 1. C [d_ff, d_ff], the second moment of W's inputs over ordinary text: what the update must leave alone.
    covariance = rome.covariance
    shape = list(covariance.moment.shape)
    log.info("1. C of block %d: %s, from %d tokens", rome.layer, shape, covariance.tokens)

    for edit in run.remaining:
        with run.editing(edit):
            # 2. The prompts: "{context} {s} {r}" with o* as its target, and "{s} is a", whose output should not change.
            request = rome.request(edit)
            for prompt in request.rewrites[:3]:
                log.info("2. prompt: %r", prompt.text)

            # 3. m* (Eq. 4): Adam on m* - m, until the model predicts o* after every prompt. The loss also has m [d],
            # the key k [d_ff] of the bare prompt, and k* [d_ff], the mean over the contexts.
            loss = rome.objective(descent_model(run.model, config.descent_dtype), [edit], [request])
            m = loss.value[0]
            k = loss.bare_key[0]
            k_mean = loss.mean_key[0]
            delta, _ = rome.propose([edit], loss.value)
            (descent,) = descend(loss, delta, config.stops)
            if config.anchor:
                descent = anchor(descent, m, norm=rome.value_norm, most=config.anchor)
            show_descent("3. m*: |m|", descent, size=float(m.norm()))

            # 4. The update (Eq. 2): W + (m* - m) u^T / (k . u) with u = C^-1 k*, in a patch with its provenance.
            value = EditValue(request=request, clean=m, bare_key=k, mean_key=k_mean, descent=descent, notes={})
            patch = rome.write(edit, value, before=run.patch)
            show_update(4, patch)
        run.add(patch)

    # 5. Every prompt of the edits, before and after.
    run.report()


if __name__ == "__main__":
    with friendly("pipelines"):
        main()
