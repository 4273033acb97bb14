"""LocFT-BF: one down-projection fine-tuned on all edits at once, in mini-batches over many epochs.

python pipelines/locft.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("locft", __doc__)
