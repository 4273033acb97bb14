"""Input augmentation (Onoe et al., ACL 2023): the fact, or a definition, before the prompt; the weights stay.

python pipelines/definition.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("definition", __doc__)
