"""Build a Ripples file for one model from one graph: edits, the questions that the model can answer, and provenance.

1. Edits are drawn from the graph (`edits`), or given by the user with the ids of r and o*.
2. Questions of each edit are proposed from the graph (`questions`).
3. The model is asked every fact that a question needs (`knowledge`). Questions with unknown facts are dropped and
   counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kg_edit.edits.edit import Edit, is_item_id
from kg_edit.errors import ConfigError
from kg_edit.evaluation.datasets.ripples import FORMAT, RippleQuestion
from kg_edit.evaluation.ripples.edits import (
    Candidates,
    Change,
    draw_changes,
    find_candidates,
    group_by_object,
    hash_of,
    is_plain,
    split_of,
)
from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.knowledge import AskedFact, Knowledge
from kg_edit.evaluation.ripples.questions import Proposal, find_fact, find_facts, propose, select
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from kg_edit.version import __version__

Document = dict[str, Any]  # the file's JSON
_EXAMPLES = 3
_SHOWN_FROM = 40  # the number of most frequent objects from which a relation's examples are drawn
_PATHS = 5  # examples for each kind of path; two with other answers than the question's are shown
_NEIGHBOURS = 8  # other subjects of o to consider
_NEIGHBORHOOD = 5  # prompts in an edit's neighborhood
_CHOICES = 25


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Builds the file, either for edits drawn from the graph (`build`), or for given ones (`build_for`).

    ``folder`` stores the model's answers, so that the same command resumes an interrupted build. ``dropped`` counts why
    edits and questions were left out.
    """

    model: LanguageModel
    table: FactTable
    folder: Path
    seed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def build(self, relations: Sequence[str], *, n: int) -> Document:
        """Build the document with ``n`` edits of ``relations``, or fewer if the graph has no more."""
        templates = self.table.words.templates(relations)
        pools = [find_candidates(self.table, relation, seed=self.seed) for relation in relations]
        knowledge = self._prepare_knowledge(pools)
        facts = {}
        to_ask: list[AskedFact] = []
        for target in _list_targets(pools):
            facts[target] = list(find_facts(self.table, target))
            to_ask += facts[target]
        knowledge.ask(to_ask, about="objects")
        # How many of the facts about each possible o* the model knows.
        richness = {}
        for target, facts_of_target in facts.items():
            richness[target] = sum(knowledge.knows(fact) for fact in facts_of_target)
        changes = list(draw_changes(self.table, pools, richness, n=n, seed=self.seed))
        if not changes:
            raise ConfigError("no edit: the model knows nothing about any o* of these relations; give other relations")
        edits = []
        for number, change in enumerate(changes, 1):
            edits.append(self._make_edit(change, f"ripples-{number:04d}", prompt=templates[change.relation]))
        return self._make_document(knowledge, changes, edits, pools)

    def build_for(self, edits: Sequence[Edit]) -> Document:
        """Build the document for given edits.

        Edits without the ids of r and o*, and those whose o* the graph does not have, are dropped and counted.
        """
        with_ids = self._keep_with_ids(edits)
        self.table.read(_list_items([_read_change(edit) for edit in with_ids]))
        usable = []
        for edit in with_ids:
            if self.table.label(edit.target_new_id or ""):
                usable.append(edit)
            else:
                self.dropped["edit whose target_new_id is not in the graph"] += 1
        if not usable:
            raise ConfigError("the graph has no label for any edit's target_new_id; give a larger graph")
        changes = [self._complete_change(edit) for edit in usable]
        items = _list_items(changes)
        self.table.read(items)
        relations = sorted({change.relation for change in changes})
        pools = [find_candidates(self.table, relation, seed=self.seed) for relation in relations]
        knowledge = self._prepare_knowledge(pools, spared=set(items))
        return self._make_document(knowledge, changes, usable, pools)

    def _make_edit(self, change: Change, name: str, *, prompt: str) -> Edit:
        """Return the edit in words."""
        return Edit(
            id=name,
            subject=self.table.label(change.subject) or "",
            prompt=prompt,
            relation=self.table.words.nouns[change.relation],
            target_true=self.table.label(change.old),
            target_new=self.table.label(change.new) or "",
            subject_id=change.subject,
            relation_id=change.relation,
            target_true_id=change.old,
            target_new_id=change.new,
        )

    def _keep_with_ids(self, edits: Sequence[Edit]) -> list[Edit]:
        """Return the edits that have the ids of r and o*, and whose r has a noun; the others are counted as dropped."""
        with_ids = []
        lacking = Counter[str]()
        for edit in edits:
            missing = [name for name in ("relation_id", "target_new_id") if not getattr(edit, name)]
            if not missing and edit.relation_id not in self.table.words.nouns:
                missing = [f"a noun for {edit.relation_id}"]
            for name in missing:
                lacking[f"edit without {name}"] += 1
            if not missing:
                with_ids.append(edit)
        if not with_ids:
            reasons = ", ".join(f"{what}: {count}" for what, count in lacking.most_common())
            raise ConfigError(
                f"no edit has relation_id and target_new_id, so the graph can't be asked ({reasons}); give each row "
                "its relation in words, and fill in the ids with `wikidata-cache link`"
            )
        self.dropped.update(lacking)
        return with_ids

    def _complete_change(self, edit: Edit) -> Change:
        """Return the ids of an edit; an old object that it does not name is the one of the graph."""
        change = _read_change(edit)
        old = self.table.current(change.subject, change.relation)
        if old and not change.old and edit.target_true in (None, *self.table.names(old)):
            return replace(change, old=old)
        return change

    def _prepare_knowledge(self, pools: Sequence[Candidates], *, spared: Container[str] = ()) -> Knowledge:
        """Choose three example facts for each relation, and make the `Knowledge` that asks with them.

        Examples are about frequent objects, and for the edited relations also about frequent subjects. No item of
        ``spared`` is in an example, because examples are not asked.
        """
        items = dict.fromkeys(_list_targets(pools))  # in order, each once
        relations = set(self.table.words.asked)
        for pool in pools:
            items |= dict.fromkeys(pool.subjects)
            relations.add(pool.relation)
        by_relation: dict[str, list[AskedFact]] = {}
        for item in items:
            if item in spared:
                continue
            for relation in relations:
                fact = find_fact(self.table, item, relation)
                if fact:
                    by_relation.setdefault(relation, []).append(fact)
        examples: dict[str, list[AskedFact]] = {}
        for relation, facts in by_relation.items():
            drawn = self._draw_examples(facts)
            if len(drawn) == _EXAMPLES:
                examples[relation] = drawn
        return Knowledge(self.model, self.table.words, examples, self.folder)

    def _draw_examples(self, facts: Iterable[AskedFact]) -> list[AskedFact]:
        """Draw three facts with different objects, by hash, from the first `_SHOWN_FROM` facts of a relation."""
        first = list(dict.fromkeys(facts))[:_SHOWN_FROM]
        by_object: dict[str, AskedFact] = {}
        for fact in sorted(first, key=lambda fact: hash_of(self.seed, "example", fact.relation, fact.thing)):
            by_object.setdefault(fact.object, fact)
        return list(by_object.values())[:_EXAMPLES]

    def _draw_neighbours(self, change: Change, subjects: Mapping[str, Sequence[str]]) -> list[str]:
        """Return at most `_NEIGHBOURS` other subjects with the object o, in hash order; ``subjects`` are by object."""
        others = [item for item in subjects.get(change.old, ()) if item != change.subject]
        return sorted(others, key=lambda item: hash_of(self.seed, change.subject, item))[:_NEIGHBOURS]

    def _make_document(
        self,
        knowledge: Knowledge,
        changes: Sequence[Change],
        edits: Sequence[Edit],
        pools: Sequence[Candidates],
    ) -> Document:
        """Propose the questions of each edit, ask the model the facts that they need, and collect the file."""
        proposed_by_edit = self._propose_questions(changes, edits, pools)
        proposed: list[Proposal] = []
        for proposals in proposed_by_edit:
            proposed += proposals
        facts: list[AskedFact] = []
        for proposal in proposed:
            facts += [*proposal.knows, *proposal.lacks]
        knowledge.ask(facts, about="facts")
        records = []
        for change, edit, proposals in zip(changes, edits, proposed_by_edit, strict=True):
            records.append(self._make_record(knowledge, change, edit, proposals))

        words = self.table.words
        used = _list_relations(records)
        return {
            "format": FORMAT,
            "provenance": self._provenance(records, knowledge),
            "nouns": {relation: words.nouns[relation] for relation in sorted(used & words.nouns.keys())},
            "asks": dict(words.asks),
            "inverse": dict(words.inverse),
            "paraphrases": {relation: list(rule.paraphrases) for relation, rule in sorted(words.edited.items())},
            "aliases": _collect_aliases(records, proposed),
            "choices": _collect_choices(proposed),
            "examples": self._find_examples(records, knowledge),
            "records": records,
        }

    def _propose_questions(
        self, changes: Sequence[Change], edits: Sequence[Edit], pools: Sequence[Candidates]
    ) -> list[list[Proposal]]:
        """Return the proposed questions of each edit."""
        subjects = {pool.relation: group_by_object(pool.subjects.items()) for pool in pools}
        proposed = []
        for change, edit in zip(changes, edits, strict=True):
            neighbours = self._draw_neighbours(change, subjects[change.relation])
            proposed.append(list(propose(self.table, change, neighbours=neighbours, name=edit.subject)))
        return proposed

    def _provenance(self, records: Sequence[Mapping[str, Any]], knowledge: Knowledge) -> dict[str, Any]:
        """Return from what the file was made, how the model was asked, and how many questions were dropped."""
        examples = {}
        for relation, facts in sorted(knowledge.examples.items()):
            examples[relation] = [[fact.thing, fact.object] for fact in facts]
        return {
            "kg_edit": __version__,
            "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
            "graph": self.table.graph.source.provenance([]),
            "facts": "Wikidata, CC0 1.0",
            "seed": self.seed,
            "knowledge": list(self.table.words.knowledge),
            "examples": examples,
            "questions": dict(sorted(_count_kinds(records).items())),
            "dropped": dict(sorted(self.dropped.items())),
        }

    def _make_record(
        self, knowledge: Knowledge, change: Change, edit: Edit, proposed: Sequence[Proposal]
    ) -> dict[str, Any]:
        """Return a record of the file: the edit with its neighbours, and the questions.

        The model need not know the neighbours, as in CounterFact.
        """
        neighbours = dict.fromkeys(proposal.start for proposal in proposed if proposal.kind == "same-object")
        if not edit.neighborhood:
            prompts = [edit.prompt.replace("{}", name) for name in neighbours]
            edit = edit.model_copy(update={"neighborhood": tuple(prompts[:_NEIGHBORHOOD])})
        usable = self._keep_answerable(knowledge, proposed)
        questions = []
        for proposal in select(proposed, usable, seed=self.seed, name=edit.id):
            # Half of the statements (o*, r') are withheld from graph methods; a hash decides which.
            is_stated = proposal.kind != "two-hop" or hash_of("stated", change.new, proposal.hops[-1]) % 2 == 0
            question = RippleQuestion(
                kind=proposal.kind,
                start=proposal.start,
                hops=proposal.hops,
                answers=proposal.answers[:1],
                old=proposal.old,
                via=proposal.via,
                known=not proposal.lacks,
                stated=is_stated,
            )
            questions.append(question.model_dump(mode="json", exclude_defaults=True))
        return {
            "id": edit.id,
            "split": change.split,
            "edit": edit.model_dump(mode="json", exclude_defaults=True, exclude={"id", "relation"}),
            "questions": questions,
        }

    def _keep_answerable(self, knowledge: Knowledge, proposed: Iterable[Proposal]) -> list[Proposal]:
        """Return the questions of which the model knows, or lacks, exactly the required facts; count the others."""
        usable = []
        for proposal in proposed:
            knows_all = all(knowledge.knows(fact) for fact in proposal.knows)
            if knows_all and all(knowledge.lacks(fact) for fact in proposal.lacks):
                usable.append(proposal)
                continue
            if not all(knowledge.has_asked(fact) for fact in (*proposal.knows, *proposal.lacks)):
                reason = "a hop that is an example, or has none"
            elif proposal.lacks:
                reason = "a hop that the model knows"
            else:
                reason = "a hop that the model does not know"
            self.dropped[f"{proposal.kind}: {reason}"] += 1
        return usable

    def _find_examples(self, records: Sequence[Mapping[str, Any]], knowledge: Knowledge) -> dict[str, list[list[str]]]:
        """Return paths of the graph, as labels, for each kind of path; none starts at a subject or o* of the file."""
        edited = set[str]()
        kinds = set[tuple[str, ...]]()  # the hops of each kind of path
        for record in records:
            edit = record["edit"]
            edited |= {edit["subject"], edit["target_new"]}
            kinds.add((edit["relation_id"],))
            kinds.update(tuple(question["hops"]) for question in record["questions"])
        items = sorted(self.table.read_items(), key=lambda item: hash_of(self.seed, "path", item))
        starts = [item for item in items if self.table.label(item) not in edited]
        paths = {}
        for hops in sorted(kinds):
            if hops[0].startswith("P"):
                paths[" ".join(hops)] = self._find_paths(hops, starts, knowledge)
        return paths

    def _find_paths(self, hops: tuple[str, ...], starts: Sequence[str], knowledge: Knowledge) -> list[list[str]]:
        """Return paths over ``hops``, as labels, to different ends.

        First come those of which the model knows every fact after the first.
        """
        paths: dict[str, list[str]] = {}  # the labels of a path, by that of its end
        known_ends: set[str] = set()
        for start in starts:
            path = self.table.follow(start, hops)
            if path is None or not is_plain(self.table.label(start)):
                continue
            facts = [find_fact(self.table, item, hop) for item, hop in zip(path[:-1], hops, strict=True)]
            if not all(facts):
                continue
            is_known = all(knowledge.knows(fact) for fact in facts[1:] if fact)
            labels = [self.table.label(item) or "" for item in path]
            end = labels[-1]
            if end not in paths or (is_known and end not in known_ends):
                paths[end] = labels
            if is_known:
                known_ends.add(end)
            if len(known_ends) == _PATHS:
                break
        known = [labels for end, labels in paths.items() if end in known_ends]
        others = [labels for end, labels in paths.items() if end not in known_ends]
        return [*known, *others][:_PATHS]


def write_ripples(path: Path, document: Document) -> Path:
    """Write the document with one record on each line."""
    header = {name: part for name, part in document.items() if name != "records"}
    start = _write_compact_json(header).removesuffix("}")
    lines = ",\n".join(map(_write_compact_json, document["records"]))
    return write_text(path, f'{start},\n"records":[\n{lines}\n]}}\n')


def _write_compact_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _list_questions(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for record in records:
        yield from record["questions"]


def _list_relations(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the relations of the edits and of the questions."""
    relations = {record["edit"]["relation_id"] for record in records}
    for question in _list_questions(records):
        relations.update(question["hops"])
    return relations


def _count_kinds(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Count the questions of each kind; the kinds of two-hop questions are counted apart."""
    counts = Counter[str]()
    for question in _list_questions(records):
        kind = question["kind"]
        if kind == "two-hop":
            known = "known" if question.get("known", True) else "unknown"
            stated = "stated" if question.get("stated", True) else "withheld"
            kind = f"{kind}, {known}, {stated}"
        counts[kind] += 1
    return counts


def _collect_aliases(records: Iterable[Mapping[str, Any]], proposed: Iterable[Proposal]) -> dict[str, list[str]]:
    """Return the aliases of all answers, new and old, by their labels."""
    answers = set[str]()
    for question in _list_questions(records):
        answers.update(question["answers"])
        answers.update(question.get("old", ()))
    names = set[tuple[str, ...]]()
    for proposal in proposed:
        names.add(proposal.answers)
        names.update(fact.names for fact in proposal.knows)
    aliases: dict[str, list[str]] = {}
    for label, *more in sorted(names):  # two answers may have one label
        if more and label in answers:
            aliases[label] = list(dict.fromkeys([*aliases.get(label, ()), *more]))
    return aliases


def _collect_choices(proposed: Iterable[Proposal]) -> dict[str, list[str]]:
    """Return the objects of each relation at the end of a two-hop question, the most frequent ones first."""
    ends: dict[str, Counter[str]] = {}
    for proposal in proposed:
        if proposal.kind == "two-hop":
            ends.setdefault(proposal.hops[-1], Counter())[proposal.answers[0]] += 1
    choices = {}
    for relation, counts in sorted(ends.items()):
        choices[relation] = [name for name, _ in counts.most_common(_CHOICES)]
    return choices


def _list_targets(pools: Iterable[Candidates]) -> list[str]:
    """Return the possible o* of all relations, each once."""
    targets = set[str]()
    for pool in pools:
        targets.update(pool.targets)
    return sorted(targets)


def _list_items(changes: Iterable[Change]) -> list[str]:
    """Return the ids in some edits, as far as the edits have them, each once."""
    items = set[str]()
    for change in changes:
        items |= {change.subject, change.old, change.new}
    return sorted(items - {""})


def _read_change(edit: Edit) -> Change:
    """Return the ids of an edit, "" for a missing one; without an o* that is an entity, it is in the split test."""
    new = edit.target_new_id or ""
    split = split_of(new) if is_item_id(new) else "test"
    return Change(
        subject=edit.subject_id or "",
        relation=edit.relation_id or "",
        old=edit.target_true_id or "",
        new=new,
        split=split,
    )
