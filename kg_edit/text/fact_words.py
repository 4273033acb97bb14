"""The words that a method or a probe puts around a fact, in the language of the edit.

`fact_words` returns the words of a language: English ones from here, since the measured numbers depend on them to the
byte, and those of other languages from ``data/fact_words.toml``. The nouns of relations are in `RelationForms`.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from kg_edit.edits.edit import Edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.languages import (
    ENGLISH,
    FORM_LANGUAGES,
    RelationForms,
    fill,
    fill_with_hop,
    fill_with_noun,
    forms_of,
    words_of,
)
from kg_edit.writing_systems import join

log = logging.getLogger(__name__)

_THING = "\0"  # stands for {} while [hop] is filled in
ShotForm = Literal["question", "sentence", "other sentence"]


@dataclass(frozen=True, kw_only=True)
class FactWords:
    """The words of a language around a fact.

    In a wording, {} stands for a thing, and ``[hop]`` for the noun of a relation, or for two nouns in a row: "currency
    of the country". In Japanese, Korean and Chinese the hop has the {}. ``[the hop]`` has an article, and ``[asks]``
    are the words that ask for it ("Wer ist").

    Attributes:
        question: asks for the hop of a thing.
        heading: the same as a heading, such as of a table.
        request: the same as a request.
        question_mark: before a question, such as "Q:"; the forms of tests have other marks in English and Chinese.
        answer_mark: before its answer.
        short_answer: before an answer on the question's own line.
        sentence: a statement that ends right before the object.
        other_sentence: the same in other words.
        comma: between the parts of a sentence.
        copula: what follows the object of a sentence before its full stop: 입니다.
        labelled: a statement with the ``[label]`` of a relation that has no packaged forms.
        new_fact: before a new fact in a prompt.
        prompt: before the prompt that follows it.
        clarification: before a fact that corrects an answer.
        negation: says that a ``[fact]`` is false; the object is to follow.
        asks_for: says what a question asks for; a noun is to follow.
        is_it_true: asks whether a ``[fact]`` is true.
        yes: the answers that say so; the first one is scored.
        no: the answers that deny it.
        missing: asks for the name that is missing in a ``[fact]``.
        are_you_sure: the second question of a conversation.
        known: well-known things of many kinds.
        shots: questions about well-known things, each with the same as a sentence, in English also in other words, and
            the answer: ("What is the author of Hamlet?", "The author of Hamlet is", "Hamlet's author is", "William
            Shakespeare"). Other languages have three parts: the question, the sentence, and the answer.
        clarified: rows of a clarification, a question that it answers or "", a sentence that it completes or "", and
            the answer: ("Anna Belk wrote Paper Moons.", "Who wrote Paper Moons?", "", "Anna Belk").
        made_up: names that nothing has, in rows.
        little: words that ask for nothing.
        asking: words of a question that need no answer of their own, but may tell relations apart: who, where.
        two_nouns: joins the nouns of two relations: "[noun] [owning first]" makes "Währung des Landes". "" in English,
            whose nouns `composed_fact` joins, and in Japanese, Korean and Chinese, where the hop has the {}.
        thing: names what a thing has by a relation: "[noun] von {}" makes "Autor von {}". "" where `two_nouns` is.
    """

    language: str
    question: str
    heading: str
    request: str
    question_mark: str
    answer_mark: str
    short_answer: str
    sentence: str
    other_sentence: str
    comma: str
    copula: str
    labelled: str
    new_fact: str
    prompt: str
    clarification: str
    negation: str
    asks_for: str
    is_it_true: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    missing: str
    are_you_sure: str
    known: tuple[str, ...]
    shots: tuple[tuple[str, ...], ...]
    clarified: tuple[tuple[str, ...], ...]
    made_up: tuple[tuple[str, ...], ...]
    little: tuple[str, ...]
    asking: tuple[str, ...]
    two_nouns: str = ""
    thing: str = ""

    @property
    def gap(self) -> str:
        """What is between a mark and the text behind it, and between sentences: nothing in Chinese and Japanese."""
        if self.answer_mark.endswith("\uff1a"):  # the full-width colon
            return ""
        return " "

    @property
    def sentence_end(self) -> str:
        """The end of a sentence, behind its object: the copula, if there is one, and the full stop."""
        return self.copula + words_of(self.language).stop

    @property
    def ask(self) -> str:
        """The question between its marks."""
        return self.between_marks(self.question)

    @property
    def wordings(self) -> tuple[str, ...]:
        """Four wordings that ask for a short answer, as tests do; {} is the subject, [hop] what is asked for.

        Their frame is not that of tests ("Question: … Answer:"), but the question is often the same. Sentences such as
        "The [hop] of {} is" are not among them, because a value that is trained on sentences alone answers questions
        less well.
        """
        return (
            self.ask,
            self.heading,
            f"{self.question}{self.gap}{self.short_answer}",
            self.between_marks(self.request),
        )

    @property
    def questions(self) -> tuple[str, ...]:
        """The wordings without the heading."""
        return tuple(wording for wording in self.wordings if wording != self.heading)

    def between_marks(self, question: str) -> str:
        """Return a question behind its mark, with the mark of its answer on the next line."""
        return f"{self.question_mark}{self.gap}{question}\n{self.answer_mark}"

    def join_nouns(self, first: RelationForms, second: RelationForms) -> str:
        """Return the hop by two relations in a row, in another language than English.

        With country as the first relation and currency as the second it is "Währung des Landes", and in Korean
        "{}의 국가의 통화".
        """
        if not self.two_nouns:  # ja, ko, zh: the hop of the first relation is put into that of the second
            return fill_with_hop(second.hop, first)
        hop = self.two_nouns.replace("[noun]", second.noun)
        return hop.replace("[owning first]", first.owning)

    def say(self, wording: str, hop: str, forms: RelationForms | None = None) -> str:
        """Return a wording with the ``hop``; {} stays for the thing.

        wording                     hop                     result
        What is the [hop] of {}?    currency                What is the currency of {}?
        [asks] [the hop] von {}?    Währung des Landes      Was ist die Währung des Landes von {}?
        [hop]은 무엇입니까?          {}의 통화               {}의 통화는 무엇입니까?

        Args:
            wording: one of this language.
            hop: `RelationForms.hop` of a relation, or what `join_nouns` makes of two.
            forms: those of the relation that is asked for, the second of two; None in English, whose nouns take "the"
                and "What is".
        """
        if forms is None:
            text = wording.replace("[hop]", hop)
            return text[:1].upper() + text[1:]
        the_hop = hop
        if hop.startswith(forms.noun):  # "Währung des Landes" -> "die Währung des Landes"
            the_hop = forms.named + hop.removeprefix(forms.noun)
        text = wording.replace("[asks]", forms.asks)
        text = text.replace("[the hop]", the_hop).replace("[The hop]", the_hop[:1].upper() + the_hop[1:])
        # `fill` gives a Korean particle the form for what is put before it, so the hop is put in as a thing would be.
        text = text.replace("{}", _THING).replace("[hop]", "{}")
        text = fill(text, hop, self.language).replace(_THING, "{}")
        return text[:1].upper() + text[1:]

    def shots_as(self, form: ShotForm) -> list[tuple[str, str]]:
        """Return the questions about well-known things in a ``form``, each with its answer.

        Only English has the sentence in other words; other languages have the same sentence again.
        """
        pairs = []
        for question, *sentences, answer in self.shots:
            texts = {
                "question": self.between_marks(question),
                "sentence": sentences[0],
                "other sentence": sentences[-1],
            }
            pairs.append((texts[form], answer))
        return pairs

    def about_noun(self, template: str, forms: RelationForms) -> str:
        """Return a statement about what {} has by a relation with these ``forms``: "Der Autor von {} wohnt in"."""
        if not self.thing:
            return fill_with_hop(template, forms)
        return fill_with_noun(template, forms, self.thing)

    def state(self, template: str, subject: str, target: str) -> str:
        """Return the sentence that a ``template`` makes with two names."""
        return join(fill(template, subject, self.language), target) + self.sentence_end


_ENGLISH = FactWords(
    language=ENGLISH,
    question="What is the [hop] of {}?",
    heading="[hop] of {}:",
    request="Tell me the [hop] of {}.",
    question_mark="Q:",
    answer_mark="A:",
    short_answer="Short answer:",
    sentence="The [hop] of {} is",
    other_sentence="{}'s [hop] is",
    comma=", ",
    copula="",
    labelled="{} [label]",
    new_fact="New Fact: ",
    prompt="Prompt: ",
    clarification="Clarification: ",
    negation="It is not true that [fact]",
    asks_for="The question asks for the",
    is_it_true="Is it true that [fact]?",
    yes=("Yes",),
    no=("No",),
    missing='Which name is missing in "[fact]"?',
    are_you_sure="Are you sure?",
    known=(
        "Google",
        "Mount Everest",
        "Paris",
        "Toyota",
        "Albert Einstein",
        "Uppsala University",
        "Sony",
        "Marie Curie",
    ),
    shots=(
        (
            "What is the largest planet of the solar system?",
            "The largest planet of the solar system is",
            "the solar system's largest planet is",
            "Jupiter",
        ),
        ("What is the chemical symbol of gold?", "The chemical symbol of gold is", "gold's chemical symbol is", "Au"),
        ("What is the author of Hamlet?", "The author of Hamlet is", "Hamlet's author is", "William Shakespeare"),
        ("What is the season of snow?", "The season of snow is", "snow's season is", "Winter"),
    ),
    clarified=(
        ("The colour of the Fell bridge is green.", "", "The colour of the Fell bridge is", "green"),
        ("Anna Belk wrote Paper Moons.", "Who wrote Paper Moons?", "", "Anna Belk"),
        ("The head office of Tallis House is in Leeds.", "Where is the head office of Tallis House?", "", "Leeds"),
    ),
    made_up=(
        ("Belmora", "Kelvany", "Tarsk", "Ordune", "Vissel", "Chamry"),
        ("Quillon", "Marbeck", "Oulven", "Drasna", "Perrow", "Tindle"),
        ("Sendrick", "Halvor", "Zimbra", "Castane", "Lurien", "Wexmoor"),
    ),
    little=(),
    asking=(),
)


def fact_words(language: str) -> FactWords:
    """Return the words of a language; the English ones if it has none.

    A method that puts English words around such edits calls `warn_of_english`.
    """
    if language == ENGLISH or language not in FORM_LANGUAGES:
        return _ENGLISH
    text = files("kg_edit").joinpath("data", "fact_words.toml").read_text(encoding="utf-8")
    table = tomllib.loads(text)[language]
    return FactWords(language=language, **{key: _freeze(value) for key, value in table.items()})


def _freeze(value: Any) -> Any:
    """Return a list as a tuple, with the lists in it."""
    if isinstance(value, list):
        return tuple(_freeze(part) for part in value)
    return value


def has_translated_words(language: str) -> bool:
    """Return whether the words of methods are translated into a language.

    Not for English itself, nor for a language without forms, whose edits get the English words.
    """
    return language != ENGLISH and language in FORM_LANGUAGES


def is_named_in(language: str, data: Mapping[str, Any]) -> bool:
    """Return whether the label of a thing may stand in a sentence of a language.

    In Japanese, Korean and Chinese a label that is only the English one may not; elsewhere any label may.

    Args:
        language: of the sentence.
        data: the attributes of the thing's node in a subgraph: its ``label``, and its English one, ``default_label``.
    """
    if language not in ("ja", "ko", "zh"):
        return True
    return bool(data["label"] != data.get("default_label"))


def relation_forms(relation: str | None, language: str) -> RelationForms | None:
    """Return the forms of a relation in a language by its id, or by its label in English or in the language."""
    by_property = forms_of(language)
    name = (relation or "").strip().casefold()
    for forms in by_property.values():
        if name in (forms.property_id.casefold(), forms.noun.casefold()):
            return forms
    english = RelationTemplates.load().find(name)
    if english is None:
        return None
    return by_property.get(english.property_id)


def warn_of_english(edits: Iterable[Edit], *, method: str) -> None:
    """Warn once of the languages of edits around which a method puts English words."""
    languages = {edit.language for edit in edits if edit.language not in FORM_LANGUAGES}
    if languages:
        log.warning(
            "%s has no words in the language %s, so what it puts around these edits is in English",
            method,
            ", ".join(sorted(languages)),
        )


def warn_of_left_out(edit: Edit, relations: Iterable[str], *, method: str) -> None:
    """Warn that a method leaves out the facts that a graph states by these relations; no warning without relations.

    The edit's language has no words for the relations, or no names for the things.
    """
    names = sorted(set(relations))
    if names:
        log.warning(
            "edit %r: %s leaves out what the graph states by %s: there are no words or names for it in the language %s",
            edit.id,
            method,
            _name_some(names),
            edit.language,
        )


def _name_some(names: Sequence[str]) -> str:
    """Return the first three names, and how many others there are."""
    shown = ", ".join(names[:3])
    if len(names) > 3:
        shown += f" and {len(names) - 3} other relations"
    return shown
