"""What follows from an edit by one statement of its new object, as questions about its subject.

The edit s -r-> o* and a statement o* -r'-> o' of the graph make a `ComposedFact`: "Q: What is the currency of the
country of X?" yen. Relations are named by nouns from a packaged table, which is ordered by what people ask first. The
subject is as late in an English question as possible, because only the tokens from there on cost time. A question is in
the language of the edit (`FactWords`); a relation without packaged forms in it is left out.

`rows_of` makes rows of the loss from such facts (`Request.further`), for methods whose value learns them. GLAME-plus
also has a teacher, the unedited model, which answers what the graph does not state (`Answer`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import PromptError
from kg_edit.graphs.facts import overlaps, target_of
from kg_edit.graphs.source import subject_of
from kg_edit.languages import ENGLISH, RelationForms, fill, fit_template
from kg_edit.locate_then_edit.objective import FurtherRow, SoftTarget
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.text.fact_words import fact_words, has_translated_words, is_named_in, relation_forms
from kg_edit.text.relation_nouns import asked_nouns, relation_examples, relation_nouns
from kg_edit.writing_systems import join

# Words that two names may share although they have nothing to do with each other
_COMMON = {"the", "and", "for", "language", "languages", "city", "united", "new", "company"}
# Relations whose objects would be an odd answer to a question
_VAGUE = {"kind", "broader kind", "larger whole", "part", "largest part", "counterpart", "quality", "neighbour"}
_COMPARED = 40  # the objects of one noun that are compared, at most
# Prompts that name the relation by a noun
_PROMPTS_WITH_NOUN = (re.compile(r"The (?P<noun>.+) of \{\} is"), re.compile(r"\{\}'s (?P<noun>.+) is"))
_OWN_QUESTIONS = 2  # how often the edit itself is among its stated facts; `rows_of` gives each another wording


@dataclass(frozen=True, kw_only=True)
class ComposedFact:
    """A fact about s that a question asks for: the ``hop`` of s is ``target``.

    The hop is one relation ("country of origin": the edit itself, or what rules imply) or two of them ("currency of the
    country of origin"). ``forms`` are those of the relation that the question asks for, here currency; None in English,
    whose questions need only the noun. In Japanese, Korean and Chinese the hop has {} for s, because s comes first:

        English  hop "currency of the country of origin", forms None
                 "Q: What is the currency of the country of origin of {}?"
        Korean   hop "{}이(가) 유래한 나라의 통화", forms of 통화 (currency)
                 "질문: {}이(가) 유래한 나라의 통화는 무엇입니까?"
    """

    hop: str
    target: str
    forms: RelationForms | None = None

    @property
    def language(self) -> str:
        """The language of the hop."""
        if self.forms is None:
            return ENGLISH
        return self.forms.language

    @property
    def noun(self) -> str:
        """The noun of the relation that the question asks for: "currency" of "currency of the country".

        In English it is what comes before " of the ", so a user's own relation "head of the house" has "head".
        """
        if self.forms is not None:
            return self.forms.noun
        return self.hop.partition(" of the ")[0]

    def prompt(self, wording: str, *, hop: str | None = None) -> str:
        """Return the question as a template with {} for the subject; it ends right before the target.

        Args:
            wording: one of `FactWords.wordings`.
            hop: another one than that of the fact.
        """
        return fact_words(self.language).say(wording, hop or self.hop, self.forms)

    def context(self, wording: str, *, shown: int) -> str:
        """Return up to ``shown`` facts about other things in the same wording, then {} for the prompt.

        They show the form and the kind of the answer, so that the value does not have to learn these. One fact about
        currencies is "Q: What is the currency of Japan?\\nA: yen\\n\\n{}".
        """
        facts = relation_examples(self.language).get(self.noun, ())
        others = [(thing, target) for thing, target in facts if target != self.target][:shown]
        question = self.prompt(wording, hop=hop_of(self.noun, self.forms))
        lines = [f"{join(fill(question, thing, self.language), target)}\n\n" for thing, target in others]
        return "".join(lines) + "{}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of the teacher: its ``text``, its token ``ids``, and its distribution at each token."""

    text: str
    ids: tuple[int, ...]
    soft_target: SoftTarget


def direct_question(noun: str, thing: str, language: str = ENGLISH) -> str:
    """Return the question for the object of one relation of a thing: "Q: What is the currency of Japan?", then "A:"."""
    words = fact_words(language)
    forms = forms_to_ask(noun, language)
    return fill(words.say(words.ask, hop_of(noun, forms), forms), thing, language)


def forms_to_ask(relation: str, language: str) -> RelationForms | None:
    """Return the forms of a relation (its id or noun) that a question in a language needs.

    None in English, whose questions need only the noun, and for a relation without packaged forms.
    """
    if not has_translated_words(language):
        return None
    return relation_forms(relation, language)


def hop_of(noun: str, forms: RelationForms | None) -> str:
    """Return one relation as the hop of a question: its noun ("currency"), or in Chinese a phrase ("{}的货币")."""
    if forms is None:
        return noun
    return forms.hop


def objects_of(
    edit: Edit, graph: nx.MultiDiGraph, *, exclude: Sequence[str], every_relation: bool = False
) -> dict[str, list[str]]:
    """Return the objects of the graph's statements about o*, by the relation's noun.

    The relations that things like o* usually have are first (`asked_nouns`). The others follow with
    ``every_relation``, or if it is not known which relations are usual. Objects that contain a word of ``exclude`` are
    left out, as are relations that only name a kind or a part, and relations without a noun (`_nouns`).
    """
    objects: dict[str, list[str]] = {}
    for noun, label in _statements_of_target(graph, edit.language):
        if not _can_be_asked_for(label, edit) or gives_away(label, exclude):
            continue
        labels = objects.setdefault(noun, [])
        if label not in labels:
            labels.append(label)
    order = list(asked_nouns(edit.relation_id, edit.language))
    if every_relation or not order:
        order += relation_nouns(edit.language).values()
    return {noun: objects[noun] for noun in order if noun in objects}


def _statements_of_target(graph: nx.MultiDiGraph, language: str) -> list[tuple[str, str]]:
    """Return (noun of the relation, label of the object) of each statement about o* whose noun says enough."""
    target = target_of(graph)
    nouns = _nouns(language)
    statements = []
    for _, end, key in sorted(graph.out_edges(target, keys=True)):
        data = graph.edges[target, end, key]
        noun = nouns.get(str(data.get("property", key)).casefold())
        is_named = is_named_in(language, graph.nodes[end])
        if noun and noun not in _VAGUE and is_named and data.get("role") != "edit":
            statements.append((noun, str(graph.nodes[end]["label"])))
    return statements


def _can_be_asked_for(label: str, edit: Edit) -> bool:
    """Return whether an object can be the answer to a question about s: it has a name, which is not that of s or o*."""
    is_id = re.fullmatch("[QP][0-9]+", label) is not None  # an entity without a label is named by its id
    is_target = label.casefold() == edit.target_new.casefold()  # the country of Japan is Japan
    return not is_id and not is_target and not overlaps(label, edit.subject)


def implied_facts(graph: nx.MultiDiGraph, *, exclude: Sequence[str], language: str = ENGLISH) -> list[ComposedFact]:
    """Return what follows from the edit about s by rules (`SubgraphOptions.rules`); ``exclude`` as in `objects_of`."""
    nouns = relation_nouns(language)
    subject = subject_of(graph)
    found = []  # (-confidence, property, object), so that the surest come first
    for _, end, data in graph.out_edges(subject, data=True):
        if data.get("role") == "consequence" and data["property"] in nouns:
            found.append((-data["confidence"], data["property"], end))
    facts = list[ComposedFact]()
    for _, property_, end in sorted(found):
        label = str(graph.nodes[end]["label"])
        forms = forms_to_ask(property_, language)
        fact = ComposedFact(hop=hop_of(nouns[property_], forms), target=label, forms=forms)
        if fact not in facts and not gives_away(fact.target, exclude):
            facts.append(fact)
    return facts


def ripples(edit: Edit, objects: Mapping[str, Sequence[str]], *, limit: int, per_relation: int) -> list[ComposedFact]:
    """Return at most ``limit`` composed facts; each noun contributes its first ``per_relation`` objects."""
    facts = list[ComposedFact]()
    for noun, labels in objects.items():
        for label in labels[:per_relation]:
            fact = composed_fact(edit, noun, label)
            if fact is not None:
                facts.append(fact)
    return facts[:limit]


def composed_fact(edit: Edit, noun: str, target: str) -> ComposedFact | None:
    """Return the fact that the ``noun`` of the edited relation of s is ``target``.

    None if there are no words for the edited relation: in English, if it has no noun (`edited_noun`); in another
    language, if it or the relation of ``noun`` has no packaged forms.
    """
    if not has_translated_words(edit.language):
        edited = edited_noun(edit)
        if edited is None:
            return None
        return ComposedFact(hop=f"{noun} of the {edited}", target=target)
    edited_forms = forms_of_edit(edit)
    forms = forms_to_ask(noun, edit.language)
    if edited_forms is None or forms is None:
        return None
    hop = fact_words(edit.language).join_nouns(edited_forms, forms)
    return ComposedFact(hop=hop, target=target, forms=forms)


def edit_as_fact(edit: Edit) -> ComposedFact | None:
    """Return the edit itself as a fact; None if there are no words for its relation (see `composed_fact`)."""
    if not has_translated_words(edit.language):
        edited = edited_noun(edit)
        if edited is None:
            return None
        return ComposedFact(hop=edited, target=edit.target_new)
    forms = forms_of_edit(edit)
    if forms is None:
        return None
    return ComposedFact(hop=forms.hop, target=edit.target_new, forms=forms)


def forms_of_edit(edit: Edit) -> RelationForms | None:
    """Return the forms of the edited relation in the language of the edit, by its id or its label; None without."""
    for name in (edit.relation_id, edit.relation):
        forms = relation_forms(name, edit.language)
        if forms is not None:
            return forms
    return None


def edited_noun(edit: Edit) -> str | None:
    """Return the edited relation as a noun that questions can name: "country of origin"; None if there is none.

    A packaged noun comes first (`_nouns`), then the edit's own label of the relation, then the noun in its prompt:

        relation_id P495                          country of origin
        relation "home port"                      home port
        prompt "The capital of {} is" alone       capital
        prompt "{}'s child is" alone              child
        prompt "{} is in the city of" alone       None
    """
    nouns = _nouns(edit.language)
    for name in (edit.relation_id, edit.relation):
        if name and name.casefold() in nouns:
            return nouns[name.casefold()]
    if edit.relation:
        return edit.relation
    for pattern in _PROMPTS_WITH_NOUN:
        match = pattern.fullmatch(edit.prompt)
        if match is not None:
            return match["noun"]
    return None


def _nouns(language: str) -> dict[str, str]:
    """Return the noun of each relation by its id, label and noun, in lower case; an own graph has labels only."""
    by_id = relation_nouns(language)
    nouns = {noun.casefold(): noun for noun in by_id.values()}
    for name, template in RelationTemplates.load().english_by_name.items():
        if template.property_id in by_id:
            nouns[name] = by_id[template.property_id]
    for id_, noun in by_id.items():
        nouns[id_.casefold()] = noun
    return nouns


def gives_away(text: str, answers: Sequence[str]) -> bool:
    """Return whether a text overlaps an answer, or shares a meaningful word with it."""
    words = _meaningful_words(text)
    return any(overlaps(text, answer) or words & _meaningful_words(answer) for answer in answers)


def _meaningful_words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2} - _COMMON


def likeliest_first(
    model: LanguageModel,
    thing: str,
    objects: Mapping[str, Sequence[str]],
    *,
    most_nouns: int,
    language: str = ENGLISH,
) -> dict[str, list[str]]:
    """Return the first ``most_nouns`` nouns of ``objects``, and sort the objects of each (at most `_COMPARED`).

    The likeliest answer to "What is the [noun] of [thing]?" is the first object.

    For example, Wikidata lists the Byzantine Empire, the Papal States, Italy and a dozen more as countries of Rome; the
    model finds one of them likeliest. An object is ranked by the sum over its tokens of -log p. Objects that can't be
    scored are last.
    """
    compared = {noun: list(labels[:_COMPARED]) for noun, labels in islice(objects.items(), most_nouns)}
    questions = {noun: direct_question(noun, thing, language) for noun in compared}
    pairs = list[Pair]()
    for noun, labels in compared.items():
        if len(labels) > 1:
            pairs += [Pair(questions[noun], label) for label in labels]
    costs = _compute_costs(model, pairs)

    ranked = {}
    for noun, labels in compared.items():
        costs_here = {label: costs.get(Pair(questions[noun], label), math.inf) for label in labels}
        ranked[noun] = sorted(labels, key=costs_here.__getitem__)
    return ranked


def _compute_costs(model: LanguageModel, pairs: Sequence[Pair]) -> dict[Pair, float]:
    """Return the sum over a candidate's tokens of -log p, for each pair that can be encoded and fits into the model."""
    usable = list[Pair]()
    for pair in pairs:
        try:
            prompt = model.encode(pair.prompt, target=pair.candidate, fitting=False)
        except PromptError:
            continue
        if _fits(model, prompt):
            usable.append(pair)
    scores = score(model, usable)
    return {pair: scores[pair].nll * scores[pair].tokens for pair in usable}  # nll is the mean over the tokens


def _fits(model: LanguageModel, prompt: Prompt) -> bool:
    """Return whether the model has a position for each token of a prompt."""
    return model.max_positions is None or len(prompt.ids) <= model.max_positions


def stated_facts(
    model: LanguageModel, edit: Edit, graph: nx.MultiDiGraph, *, most: int, exclude: Sequence[str]
) -> list[ComposedFact]:
    """Return the edit itself, twice unless it gives away ``exclude``, then at most ``most`` facts of the graph.

    There is one fact for each relation of o*.

    Args:
        model: ranks the objects of a relation.
        edit: the edit.
        graph: its subgraph.
        most: the maximum number of facts besides the edit.
        exclude: texts; a fact that shares a word with one of them is left out.
    """
    facts = list[ComposedFact]()
    own = edit_as_fact(edit)
    if own is not None and not gives_away(edit.target_new, exclude):
        facts += [own] * _OWN_QUESTIONS
    objects = objects_of(edit, graph, exclude=exclude, every_relation=True)
    likeliest = likeliest_first(model, edit.target_new, objects, most_nouns=most, language=edit.language)
    return [*facts, *ripples(edit, likeliest, limit=most, per_relation=1)]


def rows_of(
    model: LanguageModel, subject: str, facts: Sequence[tuple[ComposedFact, Answer | None]], *, shown: int
) -> tuple[FurtherRow, ...]:
    """Return facts about ``subject`` as rows of the loss, each with the weight 1; the wordings take turns.

    A fact that does not fit into the model's positions, or whose target can't be encoded, is left out.

    Args:
        model: the language model, for its tokenizer and its positions.
        subject: s.
        facts: each with the teacher's answer, which the row then has to predict; with None it is the fact's target.
        shown: how many facts about other things precede a question; none precede it if it only fits without them.
    """
    rows = list[FurtherRow]()
    for index, (fact, answer) in enumerate(facts):
        wordings = fact_words(fact.language).wordings
        wording = wordings[index % len(wordings)]
        prompt = _encode_fact(model, subject, fact, answer, wording=wording, shown=shown)
        if prompt is None:
            prompt = _encode_fact(model, subject, fact, answer, wording=wording, shown=0)
        if prompt is not None:
            soft_target = None if answer is None else answer.soft_target
            rows.append(FurtherRow(prompt=prompt, weight=1.0, soft_target=soft_target))
    return tuple(rows)


def _encode_fact(
    model: LanguageModel, subject: str, fact: ComposedFact, answer: Answer | None, *, wording: str, shown: int
) -> Prompt | None:
    """Return a fact's question about ``subject`` with the answer or the fact's target; None if it can't be a row."""
    template = fit_template(fact.prompt(wording), subject, fact.language)
    context = fact.context(wording, shown=shown)
    if answer is not None:
        # The teacher's own tokens follow the question, because its distribution belongs to them. Without a target,
        # `encode` sets `target_start` to the end of the question, which is where they begin.
        question = encode(model.tokenizer, template, subject=subject, context=context)
        text = join(question.text, answer.text)
        prompt = replace(question, text=text, ids=(*question.ids, *answer.ids))
    else:
        try:
            prompt = encode(model.tokenizer, template, subject=subject, target=fact.target, context=context)
        except PromptError:  # the target can't be located after this wording
            return None
    if not _fits(model, prompt):
        return None
    return prompt
