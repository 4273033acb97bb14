"""R-ROME (Gupta et al., EMNLP Findings 2024): ROME with the mean key throughout, stable in a sequence of edits.

python pipelines/r_rome.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("r-rome", __doc__)
