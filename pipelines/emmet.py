"""EMMET (Gupta et al., EMNLP Findings 2024): a batch of edits in one layer, each met exactly.

python pipelines/emmet.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("emmet", __doc__)
