"""Adaptive retrieval (Mallen et al., ACL 2023): the fact before the prompt, where the subject is unpopular.

The weights stay. Popularity is the number of statements in the graph, or --set popularity=FILE.

python pipelines/popularity_retrieval.py edits.jsonl --graph wikidata.nt.gz --out out/
"""

from _pipeline import run

if __name__ == "__main__":
    run("popularity-retrieval", __doc__)
