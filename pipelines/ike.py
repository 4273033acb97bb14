"""IKE (Zheng et al., EMNLP 2023): demonstrations in the prompt; the weights stay.

python pipelines/ike.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ike", __doc__)
