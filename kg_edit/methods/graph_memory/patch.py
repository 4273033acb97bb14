"""The patch of `graph-memory`: edits with the statements around them, as text. No weight changes.

While it is applied, a prompt is looked up and walked (`walk`) with the model below the patch; its weights may be
patched, but prompt patches below do not act in a walk. The chain is put before the question (`chain_text`). A prompt
that names nothing stays as it is, token for token.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from kg_common.terminal import number_of
from kg_edit.engine.prefix_store import PrefixStore, quick_state
from kg_edit.errors import PatchError
from kg_edit.languages import ENGLISH
from kg_edit.methods.graph_memory.chain_text import end_of_examples, put_chain_before
from kg_edit.methods.graph_memory.edited_graph import EditedGraph, Entity, RememberedEdit, Statement
from kg_edit.methods.graph_memory.relation_words import RelationWords
from kg_edit.methods.graph_memory.walk import Walk, Walker, WalkRule
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches import join_provenances
from kg_edit.patches.base import ChangedPart, Patch, without_edits
from kg_edit.patches.container import PatchFile
from kg_edit.patches.walks import ShownWalk
from kg_edit.text.matching import bare_question

_STARTS = 256.0  # MiB of keys and values that an applied patch keeps
_WALKS = 4096  # walks that an applied patch keeps: a server answers for as long as it runs


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GraphMemoryPatch(Patch):
    """Edits in their order, each with the rule of its walks; the rule of the last one counts for all.

    ``applied`` yields another `LanguageModel` with the same weights, whose prompts get the chains.
    """

    changed_part: ClassVar[ChangedPart] = "prompt"
    file_kind: ClassVar[str] = "graph-memory"
    server_needs: ClassVar[str] = (
        "A server of graph-memory has to run the walk before each prompt: the patch file, and the model to ask; "
        "kg-edit serve does"
    )

    remembered: tuple[tuple[WalkRule, RememberedEdit], ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The number of edits, and of the statements around them."""
        stated = set[tuple[str, str, str]]()
        for _, edit in self.remembered:
            stated.update(statement.part_keys for statement in edit.stated)
        return f"{number_of(len(self.remembered), 'edit')} in a graph of {number_of(len(stated), 'statement')}"

    @property
    def is_empty(self) -> bool:
        """Whether there is no edit."""
        return not self.remembered

    @property
    def rule(self) -> WalkRule:
        """The rule of the last edit."""
        if not self.remembered:
            return WalkRule()
        rule, _ = self.remembered[-1]
        return rule

    @cached_property
    def graphs(self) -> Mapping[str, EditedGraph]:
        """The statements around the edits, under the edits, by language; that of the last edit is the first."""
        by_language: dict[str, list[RememberedEdit]] = {}
        for _, edit in self.remembered:
            language = edit.fact.language
            earlier = by_language.pop(language, [])  # so that the language of the last edit is the last
            by_language[language] = [*earlier, edit]
        graphs = {}
        for language, edits in reversed(by_language.items()):
            graphs[language] = EditedGraph(edits, RelationWords(language), inverse=self.rule.inverse)
        return graphs

    @property
    def graph(self) -> EditedGraph:
        """The graph in the language of the last edit."""
        if self.is_empty:
            return EditedGraph([], RelationWords(), inverse=self.rule.inverse)
        return next(iter(self.graphs.values()))

    def without(self, ids: Collection[str]) -> Self:
        """Return the patch without the edits with these ids, as if they had never been made.

        Raises:
            PatchError: the patch has no edit with one of the ids.
        """
        provenance = without_edits(self.provenance, ids, known={edit.id for _, edit in self.remembered})
        kept = tuple((rule, edit) for rule, edit in self.remembered if edit.id not in ids)
        return replace(self, remembered=kept, provenance=provenance)

    def depends_on(self, earlier: Patch) -> bool:
        """Return False: the model is asked when the patch is used, not when an edit is made."""
        return False

    def tensors_of_edit(self, index: int) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return {}, as the record of an edit has its text."""
        return {}

    def check_finite(self) -> None:
        """Do nothing: the patch holds only text, no numbers."""

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Yield another `LanguageModel` with the same weights, whose prompts get the chains; ``model`` is unchanged."""
        self.check_model(model)
        if self.is_empty:
            yield model
            return
        yield replace(model, prompt_transform=WalkedPrompts(self, model))

    def _plus(self, other: Self) -> Self:
        provenance = join_provenances(self.provenance, other.provenance)
        return replace(self, remembered=self.remembered + other.remembered, provenance=provenance)

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the content of the file, and no tensors."""
        return _write(self.remembered), {}

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """Build the patch of a file.

        Raises:
            PatchError: the file has no readable edits.
        """
        try:
            remembered = _read(file.content)
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise PatchError(f"can't read the edits of the patch {file.path}: {error}; make the patch again") from error
        return cls(remembered=remembered, provenance=file.provenance)


def _write(remembered: Sequence[tuple[WalkRule, RememberedEdit]]) -> dict[str, Any]:
    """Return the content of a file: each thing, statement and rule once, and edits that have their indices."""
    rules = list(dict.fromkeys(rule for rule, _ in remembered))
    table = _StatementTable()
    edits = []
    for rule, edit in remembered:
        row = {
            "id": edit.id,
            "prompt": edit.prompt,
            "rule": rules.index(rule),
            "fact": table.index_of(edit.fact),
            "implied": [table.index_of(statement) for statement in edit.implied],
            "stated": [table.index_of(statement) for statement in edit.stated],
        }
        edits.append(row)
    return {
        "rules": [rule.model_dump(mode="json") for rule in rules],
        "things": [[thing.key, thing.label, list(thing.aliases)] for thing in table.things],
        "statements": [list(row) for row in table.rows],
        "edits": edits,
    }


class _StatementTable:
    """The things and statements of a file, each once.

    Attributes:
        things: {thing: its index}.
        rows: {row of a statement: its index}; `_read_statement` reads such a row.
    """

    def __init__(self) -> None:
        self.things: dict[Entity, int] = {}
        self.rows: dict[tuple[Any, ...], int] = {}

    def index_of(self, statement: Statement) -> int:
        """Return the index of a statement in `rows`; a new one is added with its things."""
        subject = self.things.setdefault(statement.subject, len(self.things))
        target = self.things.setdefault(statement.object, len(self.things))
        row: tuple[Any, ...] = (
            subject,
            statement.relation_key,
            statement.relation_label,
            statement.relation_name,
            statement.sentence_template,
            target,
            statement.origin,
        )
        if statement.language != ENGLISH:
            row = (*row, statement.language)
        return self.rows.setdefault(row, len(self.rows))


def _read(content: Any) -> tuple[tuple[WalkRule, RememberedEdit], ...]:
    """Return the edits of a file's content, as `_write` wrote it."""
    rules = [WalkRule.model_validate(rule) for rule in content["rules"]]
    things = [Entity(key=key, label=label, aliases=tuple(aliases)) for key, label, aliases in content["things"]]
    statements = [_read_statement(row, things) for row in content["statements"]]
    remembered = []
    for row in content["edits"]:
        with_id = {"edit": row["id"]}
        edit = RememberedEdit(
            id=row["id"],
            prompt=row["prompt"],
            fact=statements[row["fact"]].model_copy(update=with_id),
            implied=tuple(statements[number].model_copy(update=with_id) for number in row["implied"]),
            stated=tuple(statements[number].model_copy(update=with_id) for number in row["stated"]),
        )
        remembered.append((rules[row["rule"]], edit))
    return tuple(remembered)


def _read_statement(row: Sequence[Any], things: Sequence[Entity]) -> Statement:
    """Return the statement of a row that `_StatementTable.index_of` made, with the indices of two ``things``.

    It has no edit yet. A row without a language is in English.
    """
    subject, key, label, name, sentence_template, target, origin, *rest = row
    language = ENGLISH
    if rest:
        (language,) = rest
    return Statement(
        subject=things[subject],
        relation_key=key,
        relation_label=label,
        relation_name=name,
        sentence_template=sentence_template,
        object=things[target],
        origin=origin,
        language=language,
    )


class WalkedPrompts:
    """The ``prompt_transform`` of a model with the patch: turns a text into the prompt with its chain.

    The walks are made with the model below the patch. If that has a ``prompt_transform`` of its own, it gets the text
    with the chain. Two other parts of kg_edit look at the ``prompt_transform`` of a model:

    - `find_walks`, for reports: any `WalkMaker`, which has `show_walk`;
    - generation: any `KnowsStarts`, which has ``start_store`` and `count_shared`. Questions of one form about other
      things have the same examples, most of what the model has to read; what it read of them is in ``start_store``.
    """

    def __init__(self, patch: GraphMemoryPatch, model: LanguageModel) -> None:
        self._transform_below = model.prompt_transform
        # The walkers write whole prompts of their own: no chain is put before these, and no chat template around them.
        bare_model = replace(model, prompt_transform=None, asked_in=None)
        self._walkers = [Walker(graph, bare_model, patch.rule) for graph in patch.graphs.values()]
        self._languages = tuple(patch.graphs)
        self._rule = patch.rule
        self._model = model
        self._walks: OrderedDict[str, Walk] = OrderedDict()
        self.start_store = PrefixStore(megabytes=_STARTS, find_state=quick_state)

    def __call__(self, text: str) -> str:
        """Return the prompt that the model reads instead of ``text``."""
        prompt = self._add_chain(text)
        if self._transform_below is not None:
            return self._transform_below(prompt)
        return prompt

    def _add_chain(self, text: str) -> str:
        """Return a text with the chain of its walk, and with as many examples as leave room for an answer."""
        walk = self.walk(text)
        if not walk:
            return text
        for examples in range(self._rule.examples, 0, -1):
            prompt = put_chain_before(text, walk.statements, examples=examples)
            if self._fits(prompt):
                return prompt
        return put_chain_before(text, walk.statements, examples=0)

    def count_shared(self, model: LanguageModel, prompt: Prompt) -> int:
        """Return how many tokens the examples with which a prompt begins have; 0 if it has none.

        ``prompt`` is a text that went through this object, so it may have the examples of a chain.
        """
        end = end_of_examples(prompt.text, self._languages)
        if not end:
            return 0
        plain = model.tokenizer(prompt.text, add_special_tokens=False, return_offsets_mapping=True)
        offsets: list[tuple[int, int]] = plain["offset_mapping"]
        special_tokens = len(prompt.ids) - len(offsets)  # at the start of the prompt
        return special_tokens + sum(token_end <= end for _, token_end in offsets)

    def show_walk(self, text: str) -> ShownWalk:
        """Return the walk for a prompt in the form that reports show."""
        return tuple(statement.shown for statement in self.walk(text).statements)

    def walk(self, text: str) -> Walk:
        """Return the walk for a prompt; the last walks are kept, by question."""
        question = bare_question(text)
        if question in self._walks:
            self._walks.move_to_end(question)
            return self._walks[question]
        walk = self._find_walk(question)
        self._walks[question] = walk
        if len(self._walks) > _WALKS:
            self._walks.popitem(last=False)
        return walk

    def _find_walk(self, question: str) -> Walk:
        """Return the first walk of a question through the graphs of all languages."""
        for walker in self._walkers:
            walk = walker.walk(question)
            if walk:
                return walk
        return Walk()

    def _fits(self, prompt: str) -> bool:
        """Return whether a prompt leaves a quarter of the model's positions free, for the answer."""
        positions = self._model.max_positions
        if positions is None:
            return True
        return len(self._model.tokenizer(prompt)["input_ids"]) <= positions - positions // 4
