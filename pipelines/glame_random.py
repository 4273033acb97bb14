"""GLAME's control: the same, but that o* has the statements of other entities.

`--set 'pool=["Q1345", "Q220"]'` says whose.

python pipelines/glame_random.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("glame-random", __doc__)
