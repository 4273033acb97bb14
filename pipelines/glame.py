"""GLAME (Zhang et al., EMNLP 2024, arXiv 2402.13593) on a triplet file, stage by stage.

The file has the columns subject, relation, new_object (labels or Wikidata ids), and optionally object; files of edits
with prompts are read too. `kg-edit methods glame` lists the settings.

python pipelines/glame.py triplets.csv
python pipelines/glame.py triplets.csv --graph wikidata.nt.gz --preset paper --set hops=1 --out out/glame-paper/
"""

from __future__ import annotations

import logging

from stages import show_descent, show_subgraph, show_update, start

from kg_edit.cli.console import friendly
from kg_edit.locate_then_edit.descent import descend, descent_model
from kg_edit.locate_then_edit.long_run import anchor
from kg_edit.methods.glame.method import Glame, GraphDelta
from kg_edit.methods.rome.method import EditValue

log = logging.getLogger("pipelines.glame")


def main() -> None:
    """Edit the model by GLAME, one triplet after the other, and write the patch and a report."""
    run = start(Glame, str(__doc__))
    glame = run.method
    config = glame.config

    for edit in run.remaining:
        with run.editing(edit):
            # 1. The subgraph: s -r-> o*, and what the graph states about o*.
            log.info("%s -> %s", edit.text, edit.target_new)
            subgraph = glame.subgraph(edit)
            show_subgraph(subgraph)

            # 2. Hidden states of an early block represent the labels: nodes [nodes, d], relations [edges, d].
            encoded, notes = glame.encode(edit)
            nodes = encoded.nodes
            relations = encoded.relations
            edges = encoded.edges
            layer = glame.representation_layer
            log.info("2. hidden states of block %d: nodes %s, relations %s", layer, [*nodes.shape], [*relations.shape])

            # 3. The loss of a change of m (Eq. 7): -log p(o*) in every context, and the KL of "{s} is a". It also has
            # m [d], the key k [d_ff] of the bare prompt, and k* [d_ff], the mean over the contexts.
            request = glame.request(edit)
            loss = glame.objective(descent_model(run.model, config.descent_dtype), [edit], [request])
            m = loss.value[0]
            k = loss.bare_key[0]
            k_mean = loss.mean_key[0]

            # 4. m* = m + z_s^n (Eq. 6): the subject's vector after the R-GNN, whose weights AdamW trains on the loss.
            rgnn = glame.start_rgnn(m)
            delta = GraphDelta(encoded.to(m.device), m, config, rgnn=rgnn)
            (descent,) = descend(loss, GraphDelta.together([delta]), config.stops)
            if config.anchor:
                descent = anchor(descent, m, norm=glame.value_norm, most=config.anchor)
            # z_s^(l+1) = g(W_1 aggr(z_o + z_r) + W_2 z_s) (Eq. 5): what comes by messages, what by the subject itself
            for hop, terms in enumerate(rgnn.trace(nodes, edges, relations, encoded.subject), start=1):
                norms = float(terms.by_messages.norm()), float(terms.by_itself.norm()), float(terms.z.norm())
                log.info("3. R-GNN, layer %d: by messages %.2f, by itself %.2f, z_s %.2f", hop, *norms)
            show_descent("4. m*: |m|", descent, size=float(m.norm()))

            # 5. The update (Eq. 8): W + (m* - m) u^T / (k . u) with u = C^-1 k*, in a patch with its provenance.
            value = EditValue(request=request, clean=m, bare_key=k, mean_key=k_mean, descent=descent, notes=notes)
            patch = glame.write(edit, value, before=run.patch)
            show_update(5, patch)
        run.add(patch)

    # 6. Every prompt of the edits, before and after.
    run.report()


if __name__ == "__main__":
    with friendly("pipelines"):
        main()
