"""MEMIT-KG (Zhang et al., EMNLP 2024): MEMIT for the edit and the facts of its subgraph, all in one batch.

python pipelines/memit_kg.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("memit-kg", __doc__)
