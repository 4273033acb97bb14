"""What relations are called in a sentence, and which words of a question ask for one.

`RelationWords` knows the words of each `Relation`; `AskedWords` finds the place of a relation's words in a question.

A relation has *phrases*: its noun, its label, the words of its packaged template, and the words of
``data/relation_words.tsv``. A phrase is a set of stems (`StemSet`): the first six letters of its words, without the s
at their end and without function words. It fits a question that has all of its stems.

In German and Spanish the phrases are the noun and the words of ``data/relation_forms.tsv``. In Japanese, Korean and
Chinese each character is a word of its own (`normalised`), and a phrase is a run of them (`CharacterRun`): 首都 in
法国的首都是哪里. So the *parts* of a question are stems or characters. ``language_words`` are those of its language.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files

from kg_edit.edits.templates import RelationTemplates
from kg_edit.graphs.facts import noun_for
from kg_edit.languages import ENGLISH, RelationForms, forms_of
from kg_edit.text.fact_words import FactWords, fact_words, has_translated_words, relation_forms
from kg_edit.text.matching import normalised
from kg_edit.text.relation_nouns import relation_nouns
from kg_edit.writing_systems import is_unspaced

_STEM = 6  # letters of a stem; with five, country and county would have the same
_RUNS = ("ja", "ko", "zh")  # languages whose phrases are runs of characters
_SUBJECT = re.compile(r"\{\}(?:[은이을과]\([는가를와]\))?")  # {}, with the Korean particle behind it: {}이(가)
_AT_ENDS = " 은는は是?\uff1f"  # at the ends of a text: spaces, and marks of a topic or of a question
_PLURAL = 3  # letters; only the s at the end of a longer word may be that of a plural or of a verb
_LONGEST = 3  # stems of a label that is taken as a phrase; longer ones describe, and nobody says them
# Relations with only the words of the file. P1376 (capital of) is packaged with the noun "country", which is P17's.
_ONLY_TSV_WORDS = ("P1376",)
_WEAK = frozenset(("locate", "situat", "lie", "based"))  # after a hop they only say that a thing is somewhere
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to by for from with and or as is are was were be been being do does did has have had "
        "what which who whom whose where when why how that this these those it its he she his her they their there "
        "than then s name please tell me answer question short so called one",
    )
)


def stem(word: str) -> str:
    """Return the first six letters of a word, without the s of a plural or of a verb."""
    if len(word) > _PLURAL and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    return word[:_STEM]


def stems_of(words: Iterable[str]) -> list[str]:
    """Return the stems of words in their order, "" for a function word."""
    stems = []
    for word in words:
        if word in _FUNCTION_WORDS:
            stems.append("")
        else:
            stems.append(stem(word))
    return stems


@dataclass(frozen=True)
class StemSet:
    """A phrase that fits if a question has all of its stems, in any order."""

    stems: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.stems)

    def place(self, parts: Sequence[str], at: int) -> frozenset[int] | None:
        """Return the positions of the stems among a question's ``parts``, each nearest to ``at``; None without one.

        The phrase "head of government" in ("", "head", "", "govern", "", "capita"), at the last one: {1, 3}.
        """
        positions = set[int]()
        for wanted in self.stems:
            places = [index for index, part in enumerate(parts) if part == wanted]
            if not places:
                return None
            positions.add(min(places, key=lambda index: abs(index - at)))
        return frozenset(positions)


@dataclass(frozen=True)
class CharacterRun:
    """A phrase in Japanese, Korean or Chinese, which fits if a question has its characters one after the other."""

    characters: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.characters)

    def place(self, parts: Sequence[str], at: int) -> frozenset[int] | None:
        """Return the positions of the run among a question's ``parts``, nearest to ``at``; None if it is nowhere.

        The phrase 首都 in the characters of 法国的首都是哪里: {3, 4}.
        """
        length = len(self.characters)
        starts = []
        for start in range(len(parts) - length + 1):
            if tuple(parts[start : start + length]) == self.characters:
                starts.append(start)
        if not starts:
            return None
        nearest = min(starts, key=lambda start: abs(start - at))
        return frozenset(range(nearest, nearest + length))


Phrase = StemSet | CharacterRun


def make_english_phrase(text: str) -> StemSet:
    """Return the stems of an English text as a phrase."""
    return StemSet(frozenset(part for part in stems_of(normalised(text.replace("-", " "))) if part))


def make_translated_phrase(text: str, language_words: FactWords) -> Phrase:
    """Return a text in another language as a phrase: its stems without little words, or its characters."""
    parts = normalised(text.replace("-", " "))
    if language_words.language in _RUNS:
        return CharacterRun(parts)
    return StemSet(frozenset(stem(part) for part in parts if part not in language_words.little))


@dataclass(frozen=True)
class Relation:
    """A relation: its ``key`` in the graph (P36, or a label of a private graph), its words, and its phrases.

    The noun is None if it has none ("part of"). ``sentence_template`` has {} for subject and object: "The capital of {}
    is {}.". ``language_words`` are those of the language, and ``forms`` the relation's if it is not English.
    """

    key: str
    label: str
    noun: str | None
    sentence_template: str
    phrases: tuple[Phrase, ...]
    language_words: FactWords
    forms: RelationForms | None = None

    @property
    def name(self) -> str:
        """The noun, or the label."""
        return self.noun or self.label


class RelationWords:
    """The packaged words of relations in a language, read once; each relation is made once."""

    def __init__(self, language: str = ENGLISH) -> None:
        self._language_words = fact_words(language)
        self._templates = RelationTemplates.load()
        self._nouns = relation_nouns(language)
        self._asking_words = _packaged_words()
        self._forms = forms_of(language)
        self._made: dict[tuple[str, str], Relation] = {}

    def relation(self, key: str, label: str) -> Relation:
        """Return the relation of a statement from its key and its label."""
        if (key, label) not in self._made:
            self._made[key, label] = self._make_relation(key, label)
        return self._made[key, label]

    @cached_property
    def packaged(self) -> Mapping[str, Relation]:
        """The relations that have a packaged noun, by property, frequently asked ones first."""
        keys = [key for key in self._nouns if key not in _ONLY_TSV_WORDS]
        return {key: self.relation(key, self._nouns[key]) for key in keys}

    @property
    def language(self) -> str:
        """The language of the words."""
        return self._language_words.language

    def read_question(self, words: Sequence[str], named: Collection[int]) -> AskedWords:
        """Return the words of a question in which the positions ``named`` are the thing's name."""
        return AskedWords.of(words, named, self._language_words)

    def property_of(self, relation: str | None, prompt: str) -> str | None:
        """Return the property of a relation's label, or of the packaged template that is an edit's prompt; or None."""
        if has_translated_words(self.language):
            for forms in self._forms.values():
                if forms.noun == relation or forms.template == prompt:
                    return forms.property_id
        row = self._templates.find(relation)
        if row and row.property_id:
            return row.property_id
        for other in self._templates.english_by_name.values():
            if other.template == prompt and other.property_id:
                return other.property_id
        return None

    def _make_relation(self, key: str, label: str) -> Relation:
        """Return the relation from what is packaged of it: a template, a noun, and further words."""
        if has_translated_words(self.language):
            return self._make_in_language(key, label)
        row = self._templates.find(key) or self._templates.find(label)
        template = None if row is None else row.template
        property_id = key
        if row and row.property_id:
            property_id = row.property_id
        texts = list(self._asking_words.get(property_id, ()))  # what asks for the relation
        noun = None
        if property_id not in _ONLY_TSV_WORDS:
            noun = self._nouns.get(property_id) or noun_for(label)
            texts += _texts_that_ask(noun, template, label)
        phrases = dict.fromkeys(make_english_phrase(text) for text in texts)  # each once
        return Relation(
            key=key,
            label=label,
            noun=noun,
            sentence_template=_make_sentence_template(noun, template, label),
            phrases=tuple(phrase for phrase in phrases if phrase),
            language_words=self._language_words,
        )

    def _make_in_language(self, key: str, label: str) -> Relation:
        """Return the relation from its forms in a language other than English; without them, from its label alone."""
        language_words = self._language_words
        forms = self._forms.get(key) or relation_forms(label, self.language)
        texts = [label]
        noun = None
        template = language_words.labelled.replace("[label]", label.replace("{}", ""))
        if forms is not None:
            texts = [forms.noun, forms.owning, *forms.words.split(";"), *_texts_of_forms(forms)]
            noun = forms.noun
            template = forms.template
        phrases = [make_translated_phrase(text, language_words) for text in texts]
        return Relation(
            key=key,
            label=label,
            noun=noun,
            sentence_template=join_place(template) + language_words.sentence_end,
            phrases=tuple(phrase for phrase in dict.fromkeys(phrases) if phrase),
            language_words=language_words,
            forms=forms,
        )


def _texts_of_forms(forms: RelationForms) -> list[str]:
    """Return what the two statements and the question of a relation say besides their subject, as texts for phrases.

    Of "{}이(가) 속한 나라는" that is "속한 나라". So a question in the words of this statement has no word left after
    the match, and the walk ends. A text with words on both sides of its subject is left out.
    """
    texts = []
    for text in (forms.template, forms.paraphrase, forms.question):
        pieces = [piece for piece in _SUBJECT.split(text) if piece.strip(_AT_ENDS)]
        if len(pieces) == 1:
            texts.append(pieces[0].strip(_AT_ENDS))
    return texts


def join_place(statement: str) -> str:
    """Return a statement with the place {} of its object behind it."""
    if is_unspaced(statement[-1]):
        return f"{statement}{{}}"
    return f"{statement} {{}}"


def _make_sentence_template(noun: str | None, template: str | None, label: str) -> str:
    """Return a relation's sentence with {} for subject and object, from the first of the three that it has.

    Of the noun: "The capital of {} is {}."; of the template: "{} is the capital of {}."; of the label of a private
    relation: "{} reports to {}.".
    """
    if noun:
        return f"The {noun} of {{}} is {{}}."
    if template:
        return f"{template} {{}}."
    return f"{{}} {label.replace('{}', '')} {{}}."


def _texts_that_ask(noun: str | None, template: str | None, label: str) -> list[str]:
    """Return the texts with whose words a question asks for a relation: its noun, its template, a short label."""
    texts = [text for text in (noun, template) if text]
    if len(make_english_phrase(label).stems) <= _LONGEST:
        texts.append(label)
    return texts


def _packaged_words() -> Mapping[str, Sequence[str]]:
    """Return the texts of ``data/relation_words.tsv`` by property: a heading, then lines of property and phrases."""
    text = files("kg_edit").joinpath("data", "relation_words.tsv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    texts: dict[str, Sequence[str]] = {}
    for line in lines[1:]:
        key, _, phrases = line.partition("\t")
        texts[key] = tuple(phrase.strip() for phrase in phrases.split(";"))
    return texts


@dataclass(frozen=True)
class Match:
    """Where a relation's best phrase is in a question, and its distance from the walk's last position.

    ``all_positions`` are those of the words of all phrases that fit.
    """

    positions: frozenset[int]
    distance: int
    all_positions: frozenset[int] = frozenset()

    @property
    def rank(self) -> tuple[int, int]:
        """A smaller distance is better, then more words; the smallest rank is the best."""
        return (self.distance, -len(self.positions))


@dataclass(frozen=True)
class AskedWords:
    """The words of a question that no hop of the walk has used yet, as parts by position, and the walk's position.

    An example: the words of "What is the capital of the country of Sony?" are what, is, capital, of, country, of, sony
    (`normalised` drops articles). The walk begins at Sony, the word 6, and goes to its country, then to the capital:

        parts ("", "", "capita", "", "countr", "", "")    at 6
        parts ("", "", "capita", "", "", "", "")          at 4    `without` the match of country
        parts ("", "", "", "", "", "", "")                at 2    `without` that of capital; `count_left` is 0

    In Japanese, Korean and Chinese a part is a character.
    """

    parts: tuple[str, ...]
    at: int
    language_words: FactWords = field(default_factory=lambda: fact_words(ENGLISH))

    @classmethod
    def of(cls, words: Sequence[str], named: Collection[int], language_words: FactWords) -> AskedWords:
        """Return the words of a question in which the positions ``named`` are the thing's name."""
        if language_words.language in _RUNS:
            parts = list(words)
        elif language_words.language == ENGLISH:
            parts = stems_of(words)
        else:
            parts = [stem(word) for word in words]
        for index in named:
            parts[index] = ""
        return cls(parts=tuple(parts), at=min(named, default=0), language_words=language_words)

    def keep_nearest_to_name(self, names_of_others: Collection[int]) -> AskedWords:
        """Return the words without the names of other things, which are at these positions; there is at least one.

        Of a word that the question has twice, the one that is nearest to the walk's position stays: in "Is the capital
        of Sony's country larger than the capital of Toyota's country?", a walk from Sony has the first "capital" and
        the first "country". In Japanese, Korean and Chinese, the characters stay that are not nearer to another name.
        """
        parts = list(self.parts)
        for index in names_of_others:
            parts[index] = ""
        if self.language_words.language in _RUNS:
            return replace(self, parts=_drop_near_others(parts, self.at, names_of_others))
        nearest: dict[str, int] = {}
        for index, part in enumerate(parts):
            if part not in nearest or abs(index - self.at) < abs(nearest[part] - self.at):
                nearest[part] = index
        for index, part in enumerate(parts):
            if index != nearest[part]:
                parts[index] = ""
        return replace(self, parts=tuple(parts))

    def count_left(self) -> int:
        """Return how many parts are left that ask for something; 0 ends the walk."""
        if self.language_words.language in _RUNS:
            return self._count_characters()
        return self._count_stems()

    def _count_stems(self) -> int:
        """Return how many stems are left that are not little words or question words.

        In German ("was", "ist", "haupts", "") it is 1, the stem of Hauptstadt. In English `stems_of` has dropped the
        function words already, so all that are left count.
        """
        without_meaning = set[str]()
        for word in (*self.language_words.little, *self.language_words.asking):
            without_meaning.update(stem(part) for part in normalised(word))
        return len([part for part in self.parts if part and part not in without_meaning])

    def _count_characters(self) -> int:
        """Return how many characters are left outside little words and question words.

        In 的首都是哪里 it is 2, those of 首都. The longest little word at a place is dropped: 哪里 before 哪.
        """
        little = (*self.language_words.little, *self.language_words.asking)
        longest_first = sorted((re.sub(r"\s", "", word) for word in little), key=len, reverse=True)
        text = "".join(part or " " for part in self.parts)
        return len(re.sub("|".join((r"\s", *longest_first)), "", text))

    def match(self, relation: Relation) -> Match | None:
        """Return the best match of the relation's phrases; None if no phrase has all of its words in the question.

        Its ``all_positions`` are those of all phrases that fit. In "Which country does Sony hail from?", two phrases of
        "country of origin" fit: "hail" is the best, as it is nearest to Sony, and all positions have "country", too.
        """
        matches = []
        all_positions = set[int]()
        for phrase in relation.phrases:
            positions = phrase.place(self.parts, self.at)
            if positions is not None:
                distance = min(abs(index - self.at) for index in positions)
                matches.append(Match(positions=positions, distance=distance))
                all_positions |= positions
        if not matches:
            return None
        best = min(matches, key=lambda match: match.rank)
        return replace(best, all_positions=frozenset(all_positions))

    def without(self, match: Match) -> AskedWords:
        """Return the words without those of a match and without weak ones; the walk is then at the match's best phrase.

        After the match in "Which country does Sony hail from?" (see `match`), both words are gone, and the walk is at
        "hail".
        """
        parts = list(self.parts)
        for index, part in enumerate(self.parts):
            if index in match.all_positions or part in _WEAK:
                parts[index] = ""
        nearest = min(match.positions, key=lambda index: abs(index - self.at))
        return replace(self, parts=tuple(parts), at=nearest)


def _drop_near_others(characters: Sequence[str], at: int, names_of_others: Collection[int]) -> tuple[str, ...]:
    """Return a question's characters, with "" for those that are nearer to the name of another thing than to ``at``."""
    remaining = list(characters)
    for index in range(len(remaining)):
        nearest_other = min(abs(index - other) for other in names_of_others)
        if nearest_other < abs(index - at):
            remaining[index] = ""
    return tuple(remaining)
