"""FT-M (Zhang et al. 2024): one down-projection fine-tuned on the target's tokens, the prompt masked.

python pipelines/ft_m.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ft-m", __doc__)
