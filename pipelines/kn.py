"""KN (Dai et al., ACL 2022): neurons that say the old answer are found, and get the new one's embedding.

python pipelines/kn.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("kn", __doc__)
