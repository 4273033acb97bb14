"""GLAME's ablation w/ MLP (Zhang et al., EMNLP 2024): the subject's vector alone, no messages.

`glame.py` is the whole method; that of the ablation w/o GKE is `rome.py`.

python pipelines/glame_mlp.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("glame-mlp", __doc__)
