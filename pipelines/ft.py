"""FT: one down-projection fine-tuned on the whole sentence.

python pipelines/ft.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("ft", __doc__)
