"""MEND (Mitchell et al., ICLR 2022): a trained network turns the edit's gradients into an update.

Train one first: `kg-edit mend train --data edits.json --out mend/`; then `--set network=mend/`.

python pipelines/mend.py edits.jsonl --set network=mend/ --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("mend", __doc__)
