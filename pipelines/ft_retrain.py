"""FT with retraining: one down-projection fine-tuned on the new edit together with earlier ones.

python pipelines/ft_retrain.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ft-retrain", __doc__)
