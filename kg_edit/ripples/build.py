"""Build a Ripples file for one model from one graph: edits, the questions that the model can answer, and provenance.

1. Edits are drawn from the graph (`edits`), or given by the user with the ids of r and o*.
2. Questions of each edit are proposed from the graph (`questions`).
3. The model is asked every fact that a question needs (`knowledge`). Questions with unknown facts are dropped and
   counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kg_edit.datasets.ripples import FORMAT, RippleQuestion
from kg_edit.edits.edit import Edit, is_entity_id
from kg_edit.errors import ConfigError
from kg_edit.models.language_model import LanguageModel
from kg_edit.ripples.edits import Candidates, Change, by_object, candidates, changes, hashed, is_plain, split_of
from kg_edit.ripples.facts import FactTable
from kg_edit.ripples.knowledge import AskedFact, Knowledge
from kg_edit.ripples.questions import Proposal, fact_of, facts_of, proposals, selected
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
        """Build the document with ``n`` edits of ``relations``, or fewer if the graph has no more.

        Raises:
            ConfigError: a relation has no noun or no template; or the graph and the model give no edit at all.
        """
        templates = self.table.words.templates(relations)
        found = [candidates(self.table, relation, seed=self.seed) for relation in relations]
        targets = _targets(found)
        knowledge = self._knowledge(found)
        knowledge.ask((fact for target in targets for fact in facts_of(self.table, target)), about="objects")
        rich = {o: sum(map(knowledge.knows, facts_of(self.table, o))) for o in targets}
        chosen = list(changes(self.table, found, rich, n=n, seed=self.seed))
        if not chosen:
            raise ConfigError("no edit: the model knows nothing about any o* of these relations; give other relations")
        edits = [
            Edit(
                id=f"ripples-{place:04d}",
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
            for place, change in enumerate(chosen, 1)
        ]
        return self._document(knowledge, chosen, edits, found)

    def build_for(self, edits: Sequence[Edit]) -> Document:
        """Build the document for given edits.

        Edits without the ids of r and o*, and those whose o* the graph does not have, are dropped and counted.

        Raises:
            ConfigError: no edit is left.
        """
        given, lacking = [], Counter[str]()
        for edit in edits:
            missing = [name for name in ("relation_id", "target_new_id") if not getattr(edit, name)]
            if not missing and edit.relation_id not in self.table.words.nouns:
                missing = [f"a noun for {edit.relation_id}"]
            lacking.update(f"edit without {name}" for name in missing)
            given += [] if missing else [edit]
        if not given:
            reasons = ", ".join(f"{what}: {count}" for what, count in lacking.most_common())
            raise ConfigError(
                f"no edit has relation_id and target_new_id, so the graph can't be asked ({reasons}); give each row "
                "its relation in words, and fill in the ids with `wikidata-cache link`"
            )
        self.dropped.update(lacking)
        self.table.read(_items_of(map(_change_of, given)))
        usable = [edit for edit in given if self.table.label(edit.target_new_id or "")]
        self.dropped.update(["edit whose target_new_id is not in the graph"] * (len(given) - len(usable)))
        if not usable:
            raise ConfigError("the graph has no label for any edit's target_new_id; give a larger graph")
        # An old object that an edit does not name is the one of the graph.
        chosen = []
        for edit, change in zip(usable, map(_change_of, usable), strict=True):
            found = self.table.current(change.subject, change.relation)
            known = found and edit.target_true in (None, *self.table.names(found))
            chosen.append(replace(change, old=found) if found and known and not change.old else change)
        items = _items_of(chosen)
        self.table.read(items)
        pools = [candidates(self.table, r, seed=self.seed) for r in sorted({change.relation for change in chosen})]
        return self._document(self._knowledge(pools, spared=set(items)), chosen, usable, pools)

    def _knowledge(self, found: Sequence[Candidates], *, spared: Container[str] = ()) -> Knowledge:
        """Choose three example facts for each relation, and make the `Knowledge` that asks with them.

        Examples are about frequent objects, and for the edited relations also about frequent subjects. No item of
        ``spared`` is in an example, because examples are not asked.
        """
        pool: dict[str, list[AskedFact]] = {}
        for item in dict.fromkeys([*_targets(found), *(s for one in found for s in one.subjects)]):
            if item in spared:
                continue
            for relation in {*self.table.words.asked, *(one.relation for one in found)}:
                if fact := fact_of(self.table, item, relation):
                    pool.setdefault(relation, []).append(fact)
        # Three facts with different objects, drawn by hash from the first `_SHOWN_FROM` facts of a relation.
        whole: dict[str, list[AskedFact]] = {}
        for relation, facts in pool.items():
            first = list(dict.fromkeys(facts))[:_SHOWN_FROM]
            drawn: dict[str, AskedFact] = {}
            for fact in sorted(first, key=lambda one: hashed(self.seed, "example", one.relation, one.thing)):
                drawn.setdefault(fact.object, fact)
            if len(drawn) >= _EXAMPLES:
                whole[relation] = list(drawn.values())[:_EXAMPLES]
        return Knowledge(self.model, self.table.words, whole, self.folder)

    def _neighbours(self, change: Change, near: Mapping[str, Sequence[str]]) -> list[str]:
        """At most `_NEIGHBOURS` other subjects with the object o, in hash order."""
        others = [item for item in near.get(change.old, ()) if item != change.subject]
        return sorted(others, key=lambda item: hashed(self.seed, change.subject, item))[:_NEIGHBOURS]

    def _document(
        self,
        knowledge: Knowledge,
        chosen: Sequence[Change],
        edits: Sequence[Edit],
        pools: Sequence[Candidates],
    ) -> Document:
        near = {one.relation: by_object(one.subjects.items()) for one in pools}
        around = [self._neighbours(change, near[change.relation]) for change in chosen]
        found = [
            list(proposals(self.table, change, neighbours=others, name=edit.subject))
            for change, edit, others in zip(chosen, edits, around, strict=True)
        ]
        asked = (fact for some in found for one in some for fact in (*one.knows, *one.lacks))
        knowledge.ask(asked, about="facts")
        records = [
            self._record(knowledge, change, edit, some) for change, edit, some in zip(chosen, edits, found, strict=True)
        ]
        words = self.table.words
        counts, used = Counter[str](), set[str]()
        for record in records:
            used.add(record["edit"]["relation_id"])
            for question in record["questions"]:
                used.update(question["hops"])
                kind = question["kind"]
                if kind == "two-hop":
                    known, stated = question.get("known", True), question.get("stated", True)
                    kind += f", {'known' if known else 'unknown'}, {'stated' if stated else 'withheld'}"
                counts[kind] += 1

        # The aliases of all answers, new and old.
        answers = {
            name for row in records for one in row["questions"] for name in (*one["answers"], *one.get("old", ()))
        }
        names = {names for some in found for one in some for names in (one.answers, *(f.names for f in one.knows))}
        aliases: dict[str, list[str]] = {}
        for label, *more in sorted(names):  # two answers may have one label
            if more and label in answers:
                aliases[label] = list(dict.fromkeys([*aliases.get(label, ()), *more]))

        # The objects of each relation at the end of a two-hop question, the most frequent ones first.
        ends: dict[str, Counter[str]] = {}
        for one in (one for some in found for one in some if one.kind == "two-hop"):
            ends.setdefault(one.hops[-1], Counter())[one.answers[0]] += 1
        choices = {r: [name for name, _ in seen.most_common(_CHOICES)] for r, seen in sorted(ends.items())}
        return {
            "format": FORMAT,
            "provenance": {
                "kg_edit": __version__,
                "model": {"name": self.model.name, "fingerprint": self.model.fingerprint},
                "graph": self.table.graph.source.provenance([]),
                "facts": "Wikidata, CC0 1.0",
                "seed": self.seed,
                "knowledge": list(words.knowledge),
                "examples": {
                    r: [[one.thing, one.object] for one in some] for r, some in sorted(knowledge.examples.items())
                },
                "questions": dict(sorted(counts.items())),
                "dropped": dict(sorted(self.dropped.items())),
            },
            "nouns": {r: words.nouns[r] for r in sorted(used & words.nouns.keys())},
            "asks": dict(words.asks),
            "inverse": dict(words.inverse),
            "paraphrases": {r: list(rule.paraphrases) for r, rule in sorted(words.edited.items())},
            "aliases": aliases,
            "choices": choices,
            "examples": self._examples(records, knowledge),
            "records": records,
        }

    def _record(self, knowledge: Knowledge, change: Change, edit: Edit, found: Sequence[Proposal]) -> dict[str, Any]:
        """A record of the file: the edit with its neighbours, and the questions.

        The model need not know the neighbours, as in CounterFact.
        """
        # A question is dropped and counted unless the model knows, or lacks, exactly the facts that it requires.
        right = []
        for one in found:
            if all(map(knowledge.knows, one.knows)) and all(map(knowledge.lacks, one.lacks)):
                right.append(one)
                continue
            asked = all(map(knowledge.has_asked, (*one.knows, *one.lacks)))
            known = "a hop that the model knows" if one.lacks else "a hop that the model does not know"
            self.dropped[f"{one.kind}: {known if asked else 'a hop that is an example, or has none'}"] += 1
        same = dict.fromkeys(one.start for one in found if one.kind == "same-object")
        near = tuple(edit.prompt.replace("{}", name) for name in same)[:_NEIGHBORHOOD]
        whole = edit if edit.neighborhood else edit.model_copy(update={"neighborhood": near})
        questions = [
            RippleQuestion(
                kind=one.kind,
                start=one.start,
                hops=one.hops,
                answers=one.answers[:1],
                old=one.old,
                via=one.via,
                known=not one.lacks,
                # Half of the statements (o*, r') are withheld from graph methods; a hash decides which.
                stated=one.kind != "two-hop" or hashed("stated", change.new, one.hops[-1]) % 2 == 0,
            )
            for one in selected(found, right, seed=self.seed, name=edit.id)
        ]
        return {
            "id": edit.id,
            "split": change.split,
            "edit": whole.model_dump(mode="json", exclude_defaults=True, exclude={"id", "relation"}),
            "questions": [one.model_dump(mode="json", exclude_defaults=True) for one in questions],
        }

    def _examples(self, records: Sequence[Mapping[str, Any]], knowledge: Knowledge) -> dict[str, list[list[str]]]:
        """Paths of the graph, as labels, for each kind of path; none starts at a subject or an o* of the file."""
        edited = {record["edit"][name] for record in records for name in ("subject", "target_new")}
        asked = (tuple(question["hops"]) for record in records for question in record["questions"])
        paths = {*asked, *((record["edit"]["relation_id"],) for record in records)}
        items = sorted(self.table.read_items(), key=lambda item: hashed(self.seed, "path", item))
        starts = [item for item in items if self.table.label(item) not in edited]
        return {" ".join(hops): self._paths(hops, starts, knowledge) for hops in sorted(paths) if hops[0][0] == "P"}

    def _paths(self, hops: tuple[str, ...], starts: Sequence[str], knowledge: Knowledge) -> list[list[str]]:
        """Paths over ``hops`` to different ends.

        Paths of which the model knows every fact after the first come first.
        """
        found: dict[str, tuple[bool, list[str]]] = {}
        for start in starts:
            path = self.table.followed(start, hops)
            facts = [fact_of(self.table, item, hop) for item, hop in zip(path or (), hops, strict=False)]
            if path is None or not all(facts) or not is_plain(self.table.label(start)):
                continue
            known = all(knowledge.knows(fact) for fact in facts[1:] if fact)
            labels = [self.table.label(item) or "" for item in path]
            if labels[-1] not in found or known > found[labels[-1]][0]:
                found[labels[-1]] = (known, labels)
            if sum(known for known, _ in found.values()) == _PATHS:
                break
        return [labels for _, labels in sorted(found.values(), key=lambda one: not one[0])][:_PATHS]


def write_ripples(path: Path, document: Document) -> Path:
    """Write the document with one record on each line."""
    head = {name: part for name, part in document.items() if name != "records"}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in document["records"])
    start = json.dumps(head, ensure_ascii=False, indent=None, separators=(",", ":"))[:-1]
    return write_text(path, f'{start},\n"records":[\n{lines}\n]}}\n')


def _targets(found: Iterable[Candidates]) -> list[str]:
    """The possible o* of all relations, each once."""
    return sorted({target for one in found for target in one.targets})


def _items_of(changes: Iterable[Change]) -> list[str]:
    """The ids in some edits, as far as they are given, each once."""
    return sorted({item for one in changes for item in (one.subject, one.old, one.new) if item})


def _change_of(edit: Edit) -> Change:
    subject, old, new = edit.subject_id or "", edit.target_true_id or "", edit.target_new_id or ""
    return Change(subject, edit.relation_id or "", old, new, split_of(new) if is_entity_id(new) else "test")
