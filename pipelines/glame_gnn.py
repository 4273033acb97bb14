"""GLAME's ablation w/ GNN (Zhang et al., EMNLP 2024): messages without relations.

python pipelines/glame_gnn.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("glame-gnn", __doc__)
