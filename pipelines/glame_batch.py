"""GLAME for many edits at once: the graph makes the values, which are written together as in MEMIT.

python pipelines/glame_batch.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("glame-batch", __doc__)
