"""FT with EWC (Kirkpatrick et al., PNAS 2017): weights that the model's own text needs are held back.

python pipelines/ft_ewc.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ft-ewc", __doc__)
