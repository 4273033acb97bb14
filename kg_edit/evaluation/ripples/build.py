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

from kg_edit.edits.edit import Edit, is_entity_id
from kg_edit.errors import ConfigError
from kg_edit.evaluation.datasets.ripples import FORMAT, RippleQuestion
from kg_edit.evaluation.ripples.edits import (
    Candidates,
    Change,
    candidates,
    changes,
    group_by_object,
    hash_of,
    is_plain,
    split_of,
)
from kg_edit.evaluation.ripples.facts import FactTable
from kg_edit.evaluation.ripples.knowledge import AskedFact, Knowledge
from kg_edit.evaluation.ripples.questions import Proposal, fact_of, facts_of, proposals, selected
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
    """Builds the file; ``folder`` stores the model's answers, so that the same command resumes an interrupted build."""

    model: LanguageModel
    table: FactTable
    folder: Path
    seed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def build(self, relations: Sequence[str], *, n: int) -> Document:
        """Build the document with ``n`` edits of ``relations``, or fewer if the graph has no more."""
        templates = self.table.words.templates(relations)
        pools = [candidates(self.table, relation, seed=self.seed) for relation in relations]
        targets = _targets(pools)
        knowledge = self._knowledge(pools)
        knowledge.ask((fact for target in targets for fact in facts_of(self.table, target)), about="objects")
        rich = {o: sum(map(knowledge.knows, facts_of(self.table, o))) for o in targets}
        chosen = list(changes(self.table, pools, rich, n=n, seed=self.seed))
        if not chosen:
            raise ConfigError("no edit: the model knows nothing about any o* of these relations; give other relations")
        edits = [
            Edit(
                id=f"ripples-{number:04d}",
                subject=self.table.label(change.subject) or "",
                prompt=templates[change.relation],
                relation=self.table.words.nouns[change.relation],
                target_true=self.table.label(change.old),
                target_new=self.table.label(change.new) or "",
                subject_id=change.subject,
                relation_id=change.relation,
                target_true_id=change.old,
                target_new_id=change.new,
            )
            for number, change in enumerate(chosen, 1)
        ]
        return self._document(knowledge, chosen, edits, pools)

    def build_for(self, edits: Sequence[Edit]) -> Document:
        """Build the document for given edits.

        Edits without the ids of r and o*, and those whose o* the graph does not have, are dropped and counted.
        """
        with_ids = []
        lacking = Counter[str]()
        for edit in edits:
            missing = [name for name in ("relation_id", "target_new_id") if not getattr(edit, name)]
            if not missing and edit.relation_id not in self.table.words.nouns:
                missing = [f"a noun for {edit.relation_id}"]
            lacking.update(f"edit without {name}" for name in missing)
            if not missing:
                with_ids.append(edit)
        if not with_ids:
            reasons = ", ".join(f"{what}: {count}" for what, count in lacking.most_common())
            raise ConfigError(
                f"no edit has relation_id and target_new_id, so the graph can't be asked ({reasons}); give each row "
                "its relation in words, and fill in the ids with `wikidata-cache link`"
            )
        self.dropped.update(lacking)
        self.table.read(_items_of(map(_change_of, with_ids)))
        usable = [edit for edit in with_ids if self.table.label(edit.target_new_id or "")]
        self.dropped.update(["edit whose target_new_id is not in the graph"] * (len(with_ids) - len(usable)))
        if not usable:
            raise ConfigError("the graph has no label for any edit's target_new_id; give a larger graph")
        # An old object that an edit does not name is the one of the graph.
        chosen = []
        for edit, change in zip(usable, map(_change_of, usable), strict=True):
            old = self.table.current(change.subject, change.relation)
            if old and not change.old and edit.target_true in (None, *self.table.names(old)):
                chosen.append(replace(change, old=old))
            else:
                chosen.append(change)
        items = _items_of(chosen)
        self.table.read(items)
        pools = [candidates(self.table, r, seed=self.seed) for r in sorted({change.relation for change in chosen})]
        return self._document(self._knowledge(pools, spared=set(items)), chosen, usable, pools)

    def _knowledge(self, pools: Sequence[Candidates], *, spared: Container[str] = ()) -> Knowledge:
        """Choose three example facts for each relation, and make the `Knowledge` that asks with them.

        Examples are about frequent objects, and for the edited relations also about frequent subjects. No item of
        ``spared`` is in an example, because examples are not asked.
        """
        by_relation: dict[str, list[AskedFact]] = {}
        for item in dict.fromkeys([*_targets(pools), *(s for pool in pools for s in pool.subjects)]):
            if item in spared:
                continue
            for relation in {*self.table.words.asked, *(pool.relation for pool in pools)}:
                fact = fact_of(self.table, item, relation)
                if fact:
                    by_relation.setdefault(relation, []).append(fact)
        # Three facts with different objects, drawn by hash from the first `_SHOWN_FROM` facts of a relation.
        examples: dict[str, list[AskedFact]] = {}
        for relation, facts in by_relation.items():
            first = list(dict.fromkeys(facts))[:_SHOWN_FROM]
            drawn: dict[str, AskedFact] = {}
            for fact in sorted(first, key=lambda fact: hash_of(self.seed, "example", fact.relation, fact.thing)):
                drawn.setdefault(fact.object, fact)
            if len(drawn) >= _EXAMPLES:
                examples[relation] = list(drawn.values())[:_EXAMPLES]
        return Knowledge(self.model, self.table.words, examples, self.folder)

    def _neighbours(self, change: Change, near: Mapping[str, Sequence[str]]) -> list[str]:
        """At most `_NEIGHBOURS` other subjects with the object o, in hash order."""
        others = [item for item in near.get(change.old, ()) if item != change.subject]
        return sorted(others, key=lambda item: hash_of(self.seed, change.subject, item))[:_NEIGHBOURS]

    def _document(
        self,
        knowledge: Knowledge,
        chosen: Sequence[Change],
        edits: Sequence[Edit],
        pools: Sequence[Candidates],
    ) -> Document:
        near = {pool.relation: group_by_object(pool.subjects.items()) for pool in pools}
        around = [self._neighbours(change, near[change.relation]) for change in chosen]
        groups = [
            list(proposals(self.table, change, neighbours=others, name=edit.subject))
            for change, edit, others in zip(chosen, edits, around, strict=True)
        ]
        facts = list[AskedFact]()
        for group in groups:
            for proposal in group:
                facts += [*proposal.knows, *proposal.lacks]
        knowledge.ask(facts, about="facts")
        records = [
            self._record(knowledge, change, edit, group)
            for change, edit, group in zip(chosen, edits, groups, strict=True)
        ]
        proposed = [proposal for group in groups for proposal in group]
        words = self.table.words
        used = {record["edit"]["relation_id"] for record in records}
        for question in _questions_of(records):
            used.update(question["hops"])
        examples = {}
        for relation, facts_of_relation in sorted(knowledge.examples.items()):
            examples[relation] = [[fact.thing, fact.object] for fact in facts_of_relation]
        return {
            "format": FORMAT,
            "provenance": {
                "kg_edit": __version__,
                "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
                "graph": self.table.graph.source.provenance([]),
                "facts": "Wikidata, CC0 1.0",
                "seed": self.seed,
                "knowledge": list(words.knowledge),
                "examples": examples,
                "questions": dict(sorted(_count_kinds(records).items())),
                "dropped": dict(sorted(self.dropped.items())),
            },
            "nouns": {r: words.nouns[r] for r in sorted(used & words.nouns.keys())},
            "asks": dict(words.asks),
            "inverse": dict(words.inverse),
            "paraphrases": {r: list(rule.paraphrases) for r, rule in sorted(words.edited.items())},
            "aliases": _collect_aliases(records, proposed),
            "choices": _collect_choices(proposed),
            "examples": self._examples(records, knowledge),
            "records": records,
        }

    def _record(self, knowledge: Knowledge, change: Change, edit: Edit, proposed: Sequence[Proposal]) -> dict[str, Any]:
        """A record of the file: the edit with its neighbours, and the questions.

        The model need not know the neighbours, as in CounterFact.
        """
        # A question is dropped and counted unless the model knows, or lacks, exactly the facts that it requires.
        right = []
        for proposal in proposed:
            if all(map(knowledge.knows, proposal.knows)) and all(map(knowledge.lacks, proposal.lacks)):
                right.append(proposal)
                continue
            if not all(map(knowledge.has_asked, (*proposal.knows, *proposal.lacks))):
                reason = "a hop that is an example, or has none"
            elif proposal.lacks:
                reason = "a hop that the model knows"
            else:
                reason = "a hop that the model does not know"
            self.dropped[f"{proposal.kind}: {reason}"] += 1
        same = dict.fromkeys(proposal.start for proposal in proposed if proposal.kind == "same-object")
        near = tuple(edit.prompt.replace("{}", name) for name in same)[:_NEIGHBORHOOD]
        full_edit = edit if edit.neighborhood else edit.model_copy(update={"neighborhood": near})
        questions = [
            RippleQuestion(
                kind=proposal.kind,
                start=proposal.start,
                hops=proposal.hops,
                answers=proposal.answers[:1],
                old=proposal.old,
                via=proposal.via,
                known=not proposal.lacks,
                # Half of the statements (o*, r') are withheld from graph methods; a hash decides which.
                stated=proposal.kind != "two-hop" or hash_of("stated", change.new, proposal.hops[-1]) % 2 == 0,
            )
            for proposal in selected(proposed, right, seed=self.seed, name=edit.id)
        ]
        return {
            "id": edit.id,
            "split": change.split,
            "edit": full_edit.model_dump(mode="json", exclude_defaults=True, exclude={"id", "relation"}),
            "questions": [question.model_dump(mode="json", exclude_defaults=True) for question in questions],
        }

    def _examples(self, records: Sequence[Mapping[str, Any]], knowledge: Knowledge) -> dict[str, list[list[str]]]:
        """Paths of the graph, as labels, for each kind of path; none starts at a subject or an o* of the file."""
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
                paths[" ".join(hops)] = self._paths(hops, starts, knowledge)
        return paths

    def _paths(self, hops: tuple[str, ...], starts: Sequence[str], knowledge: Knowledge) -> list[list[str]]:
        """Paths over ``hops`` to different ends.

        Paths of which the model knows every fact after the first come first.
        """
        paths: dict[str, tuple[bool, list[str]]] = {}
        for start in starts:
            path = self.table.followed(start, hops)
            facts = [fact_of(self.table, item, hop) for item, hop in zip(path or (), hops, strict=False)]
            if path is None or not all(facts) or not is_plain(self.table.label(start)):
                continue
            known = all(knowledge.knows(fact) for fact in facts[1:] if fact)
            labels = [self.table.label(item) or "" for item in path]
            if labels[-1] not in paths or known > paths[labels[-1]][0]:
                paths[labels[-1]] = (known, labels)
            if sum(known for known, _ in paths.values()) == _PATHS:
                break
        return [labels for _, labels in sorted(paths.values(), key=lambda pair: not pair[0])][:_PATHS]


def write_ripples(path: Path, document: Document) -> Path:
    """Write the document with one record on each line."""
    head = {name: part for name, part in document.items() if name != "records"}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in document["records"])
    start = json.dumps(head, ensure_ascii=False, indent=None, separators=(",", ":"))[:-1]
    return write_text(path, f'{start},\n"records":[\n{lines}\n]}}\n')


def _questions_of(records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for record in records:
        yield from record["questions"]


def _count_kinds(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Count the questions of each kind; the kinds of two-hop questions are counted apart."""
    counts = Counter[str]()
    for question in _questions_of(records):
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
    for question in _questions_of(records):
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


def _targets(pools: Iterable[Candidates]) -> list[str]:
    """The possible o* of all relations, each once."""
    return sorted({target for pool in pools for target in pool.targets})


def _items_of(changes: Iterable[Change]) -> list[str]:
    """The ids in some edits, as far as they are given, each once."""
    return sorted({item for change in changes for item in (change.subject, change.old, change.new) if item})


def _change_of(edit: Edit) -> Change:
    subject = edit.subject_id or ""
    old = edit.target_true_id or ""
    new = edit.target_new_id or ""
    return Change(subject, edit.relation_id or "", old, new, split_of(new) if is_entity_id(new) else "test")
