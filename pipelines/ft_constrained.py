"""Constrained FT (Zhu et al. 2020): one down-projection fine-tuned within an L-infinity ball.

python pipelines/ft_constrained.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ft-constrained", __doc__)
