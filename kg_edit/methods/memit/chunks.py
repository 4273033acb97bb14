"""The facts of an unstructured edit, whose target is a paragraph (AnyEdit, Jiang et al., ICML 2025, arXiv 2502.05628).

Each chunk of the paragraph is a fact of its own. Its prompt is all the text before the chunk, and its value is written
at the last token of that text:

    s was born | in 1912 | in London        two chunks of two tokens, whose values are written at "born" and at "1912"
"""

from __future__ import annotations

from dataclasses import replace

from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.objective import Request
from kg_edit.methods.memit.records import Fact
from kg_edit.methods.statement import encode_statement
from kg_edit.models.language_model import LanguageModel


def split_into_chunks(model: LanguageModel, edit: Edit, *, tokens: int, method: str) -> tuple[Fact, ...]:
    """Return a fact for each chunk of an edit's text. Its prompt is all the text before the chunk.

    The published code changes the states of earlier chunks while it looks for the next one's. Here each value is found
    on the unchanged model, so that all are found in one descent.

    Args:
        model: the language model, for its tokenizer.
        edit: the edit with its ``target_text``.
        tokens: the length of a chunk; the last one may be shorter.
        method: the method's name, for the message if the text can't be encoded.
    """
    statement = encode_statement(model, edit, method=method)
    starts = range(statement.target_start, len(statement.ids), tokens)  # the first token of each chunk
    facts = []
    for number, start in enumerate(starts):
        end = min(start + tokens, len(statement.ids))
        # These tokens are written by the facts of the earlier chunks, so their keys are not among those to protect.
        earlier_starts = starts[:number]
        prompt = replace(
            statement,
            ids=statement.ids[:end],
            target_start=start,
            site=start - 1,  # `encode_statement` marks no subject
            also_edited=tuple(earlier - 1 for earlier in earlier_starts),
        )
        text = str(model.tokenizer.decode(list(statement.ids[start:end])))
        chunk = edit.model_copy(update={"id": f"{edit.id}.{number}", "target_text": text, "target_new": text})
        facts.append(Fact(edit=chunk, prompts=Request(rewrites=(prompt,))))
    return tuple(facts)
