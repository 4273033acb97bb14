"""FT-L (Meng et al., NeurIPS 2022): one down-projection fine-tuned; the prompt's last token predicts the whole target.

python pipelines/ft_l.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ft-l", __doc__)
