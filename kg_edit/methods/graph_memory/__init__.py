"""`graph-memory`: the edits and the graph stay beside the weights, and a prompt gets the statements that it asks for.

- `edited_graph`: the statements around the edits, under the edits.
- `relation_words`: how relations are called, and which words of a question ask for one.
- `entities`: which edited things a prompt names.
- `walk`: from such a thing along the statements that the question asks for.
- `chain_text`: a walk as sentences before the question.
- `patch`: all of this in a file, and in a model's prompts. `method`: the edits, and what is read of the graph.
"""
