"""AlphaEdit (Fang et al., ICLR 2025): mass editing in the null space of other knowledge, batch after batch.

python pipelines/alphaedit.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("alphaedit", __doc__)
