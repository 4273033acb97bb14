"""LoRA (Hu et al., ICLR 2022), by PEFT: low-rank changes of the attention's projections, trained on the target.

python pipelines/lora.py edits.jsonl --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("lora", __doc__)
