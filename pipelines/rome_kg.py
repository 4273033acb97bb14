"""ROME-KG (Zhang et al., EMNLP 2024): ROME for the edit, then for each fact of its subgraph, one after the other.

python pipelines/rome_kg.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("rome-kg", __doc__)
