"""GLAME beyond the paper: the value also learns what follows from the edit, with the graph's facts at hand.

python pipelines/glame_plus.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("glame-plus", __doc__)
