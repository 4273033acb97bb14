"""GRACE (Hartvigsen et al., NeurIPS 2023): a codebook beside one layer; the weights stay.

python pipelines/grace.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("grace", __doc__)
