"""MEMIT (Meng et al., ICLR 2023): all edits of the file in one batch, spread over several layers.

python pipelines/memit.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("memit", __doc__)
