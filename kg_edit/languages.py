"""The languages of edits: their codes, and the packaged words in which each states and asks facts.

- `check_language` reads a code. An edit may be in any language with a two-letter code (BCP 47's primary subtag).
- `words_of` and `forms_of` are the packaged words of a language and of its relations. `FORM_LANGUAGES` have them: an
  edit in another language brings its own prompt, and what is asked beside it is in English.
- `fill` puts a name into a template with what the language asks for beside it: a Korean particle, a German article.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

from kg_edit.errors import ConfigError

ENGLISH = "en"
FORM_LANGUAGES = ("en", "de", "es", "ja", "ko", "zh")  # those of the packaged tables, in the order of their columns
_FACTS = "language_facts.tsv"
# The marks of a topic at the end of a statement, and {} with the mark of a possessive: "{}の" is "{}'s"
_TOPICS = {"ja": (("は",), "{}の"), "ko": (("은", "는"), "{}의 "), "zh": (("是",), "{}的")}
_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
CODES = frozenset(_ISO_639_1.split())


class LanguageWords(NamedTuple):
    """A row of languages.tsv: the words of a language that belong to no relation."""

    code: str
    name: str
    essence: str  # a prompt about a subject alone: "{} is a"
    question: str  # before a question: "Question:"
    answer: str  # before its answer: "Answer:"
    stop: str  # at the end of a sentence

    @property
    def gap(self) -> str:
        """What is between a mark and the text behind it: nothing behind a Chinese or Japanese colon, else a space."""
        if self.answer.endswith("\uff1a"):
            return ""
        return " "


class RelationForms(NamedTuple):
    """A row of relation_forms.tsv: how a language names, states and asks for the object of a relation.

    ``template`` and ``paraphrase`` have {} for the subject and end right before the object. The others follow the noun:

        noun       Währung
        named      die Währung      as the subject of a sentence
        owning     der Währung      behind another noun
        within     der Währung      behind "von" or "in"
        asks       Wie heißt        the words that ask for it
    """

    property_id: str
    language: str
    noun: str
    template: str
    paraphrase: str
    question: str
    named: str
    owning: str
    within: str
    asks: str
    words: str  # further words by which a question asks for the relation, with semicolons between them

    @property
    def hop(self) -> str:
        """The relation's object in words, for the place [hop] of a question such as "What is the [hop] of {}?".

        In most languages it is the noun: Währung. In Japanese, Korean and Chinese it is a phrase with {} for the thing.
        If the statement ends in the mark of a topic, the phrase is the statement without that mark: {}がある国 of
        {}がある国は. Else it is the noun behind a possessive: {}の通貨.
        """
        if self.language not in _TOPICS:
            return self.noun
        topics, possessive = _TOPICS[self.language]
        if self.template.endswith(topics):
            return self.template[:-1]
        return possessive + self.noun

    @property
    def asked(self) -> str:
        """The question with the mark of an answer behind it, so that the object comes last: "…? Answer:"."""
        words = words_of(self.language)
        return f"{self.question}{words.gap}{words.answer}"


def check_language(code: str) -> str:
    """Return a language's code in lower case.

    Raises:
        ConfigError: it is not a two-letter code of a language.
    """
    lower = code.strip().lower()
    if lower in CODES:
        return lower
    primary = re.split("[-_]", lower)[0]
    way = f"give two letters, such as {', '.join(FORM_LANGUAGES)}"
    if primary in CODES:
        way = f"give the two letters alone: {primary}"
    raise ConfigError(f"found {code!r}, which is not the code of a language; {way}")


def words_of(language: str) -> LanguageWords:
    """Return the words of a language; the English ones if it has no packaged words."""
    by_language = {row[0]: LanguageWords(*row) for row in packaged_rows("languages.tsv")}
    return by_language.get(language, by_language[ENGLISH])


def forms_of(language: str) -> Mapping[str, RelationForms]:
    """Return the forms of each relation in a language, by property; {} if it has no packaged forms."""
    by_property = {}
    for row in packaged_rows("relation_forms.tsv"):
        forms = RelationForms(*row)
        if forms.language == language:
            by_property[forms.property_id] = forms
    return by_property


def packaged_rows(name: str) -> list[list[str]]:
    """Return the cells of a packaged table's rows, without its comments and its heading."""
    text = files("kg_edit").joinpath("data", name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [line.split("\t") for line in lines[1:]]


def answered_questions(language: str) -> tuple[tuple[str, str], ...]:
    """Return answered questions of a language, which show a model the form of an answer; () if it has none."""
    rows = packaged_rows("question_examples.tsv")
    return tuple((question, answer) for code, question, answer in rows if code == language)


def named_facts(language: str) -> tuple[tuple[str, str, str], ...]:
    """Return facts about well-known things: a property, and the names of subject and object in a language."""
    if language not in FORM_LANGUAGES:
        return ()
    names = names_in(language)
    facts = []
    for property_id, subject_id, object_id in packaged_rows(_FACTS):
        facts.append((property_id, names[subject_id], names[object_id]))
    return tuple(facts)


def names_in(language: str) -> Mapping[str, str]:
    """Return the packaged names of well-known things in one of `FORM_LANGUAGES`, by their Wikidata ids."""
    names = {}
    for id_, _, *own_names in packaged_rows("language_names.tsv"):  # an id, a source, a name in each of FORM_LANGUAGES
        name_in = dict(zip(FORM_LANGUAGES, own_names, strict=True))
        names[id_] = name_in[language]
    return names


def fit_template(template: str, subject: str, language: str) -> str:
    """Return a template, still with {}, in the form that it has around ``subject`` in a language."""
    if language == "ko":
        return _with_particle(template, subject)
    if language == "de" and subject in _ARTICLES:
        return _with_article(template, *_ARTICLES[subject])
    return template


def fill(template: str, subject: str, language: str) -> str:
    """Return a template around a subject in a language."""
    return fit_template(template, subject, language).replace("{}", subject)


def fill_with_hop(template: str, forms: RelationForms) -> str:
    """Return a Japanese, Korean or Chinese template about what a thing has by a relation; {} is then the thing.

        template        forms           the result
        {}の通貨は      of 国           {}がある国の通貨は
        {}은(는)        of 본사         {}의 본사가 있는 곳은

    `RelationForms.hop` says what the thing has. A Korean particle behind it depends on the last sound of the hop, which
    need not end in the noun.
    """
    return fit_template(template, forms.hop, forms.language).replace("{}", forms.hop)


def fill_with_noun(template: str, forms: RelationForms, phrase: str) -> str:
    """Return a German or Spanish template about what a thing has by a relation; {} is then the thing.

        template                   forms            phrase           the result
        {} wird trainiert von      of Mannschaft    [noun] von {}    Die Mannschaft von {} wird trainiert von

    Args:
        template: a statement with {} for its subject.
        forms: those of the relation.
        phrase: how the language says that {} has a [noun].
    """
    if forms.language == "de":
        return _fill_german(template, forms, phrase)
    text = template.replace("{}", phrase.replace("[noun]", forms.named))
    text = text.replace(" de el ", " del ").replace(" a el ", " al ")  # as Spanish contracts them
    return _capitalise(text)


def _fill_german(template: str, forms: RelationForms, phrase: str) -> str:
    """Return `fill_with_noun` in German, where article and noun depend on the place in the template.

    For die Mannschaft and the phrase "[noun] von {}", the article is put before {}, then the phrase takes its place:

        {} spielt in             Die {} spielt in               Die Mannschaft von {} spielt in
        Der Trainer von {} ist   Der Trainer von der {} ist     Der Trainer von der Mannschaft von {} ist
    """
    article, _, noun = forms.named.partition(" ")
    dative_article, _, dative_noun = forms.within.partition(" ")
    if _follows_preposition(template):
        noun = dative_noun
    template = _with_article(template, article, dative_article)
    return _capitalise(template.replace("{}", phrase.replace("[noun]", noun)))


def replace_name(text: str, name: str, other: str, language: str) -> str:
    """Return a text with another name in the place of ``name``, and in Korean with the particle that this one takes.

    With 제주 in the place of 서울, "서울은" becomes "제주는". The particle 은 is one of the two forms 은(는), of which
    `fill` takes the one that follows 제주.
    """
    if language != "ko":
        return text.replace(name, other)

    def with_particle(match: re.Match[str]) -> str:
        return fill("{}" + _BOTH_FORMS.get(match[1], ""), other, language)

    return re.sub(rf"{re.escape(name)}(?:([은는이가을를과와])(?!\w))?", with_particle, text)


# Korean: the first form follows a consonant, the second a vowel.
_PARTICLES = {"은(는)": ("은", "는"), "이(가)": ("이", "가"), "을(를)": ("을", "를"), "과(와)": ("과", "와")}
_BOTH_FORMS = {form: both for both, forms in _PARTICLES.items() for form in forms}  # 은 and 는: 은(는)
_PLACE_WITH_PARTICLE = re.compile("|".join(re.escape("{}" + both) for both in _PARTICLES))  # {}은(는), {}이(가), ...
_FIRST_SYLLABLE = 0xAC00
_LAST_SYLLABLE = 0xD7A3
_FINALS = 28  # syllables in a row that differ in their final consonant alone; the first of them has none
_LETTERS_ON_CONSONANTS = "LMNR"  # read 엘, 엠, 엔, 알; the names of the other letters end in a vowel
_DIGITS_ON_VOWELS = "2459"  # read 이, 사, 오, 구; the other digits end in a consonant
_ABBREVIATION = re.compile(r"(?<![A-Za-z])[A-Z]{2,}$")


def _with_particle(template: str, subject: str) -> str:
    """Return a Korean template with the particle that follows ``subject``; with both, if its sound is not known."""
    ends_in_consonant = _ends_in_consonant(subject)

    def choose_particle(match: re.Match[str]) -> str:
        if ends_in_consonant is None:
            return match[0]
        after_consonant, after_vowel = _PARTICLES[match[0].removeprefix("{}")]
        if ends_in_consonant:
            return "{}" + after_consonant
        return "{}" + after_vowel

    return _PLACE_WITH_PARTICLE.sub(choose_particle, template)


def _ends_in_consonant(name: str) -> bool | None:
    """Return whether a Korean name ends in a consonant; None if it is empty or ends in another script.

    An abbreviation in capitals, such as BTS, is read letter by letter.
    """
    letters = [character for character in unicodedata.normalize("NFC", name) if character.isalnum()]
    if not letters:
        return None
    last = letters[-1]
    if last in "0123456789":
        return last not in _DIGITS_ON_VOWELS
    if _ABBREVIATION.search(name):
        return last in _LETTERS_ON_CONSONANTS
    if _FIRST_SYLLABLE <= ord(last) <= _LAST_SYLLABLE:
        return (ord(last) - _FIRST_SYLLABLE) % _FINALS > 0
    return None


# German: countries that are named with an article, by its nominative and dative.
_FEMININE = ("die", "der")
_MASCULINE = ("der", "dem")
_ARTICLES = {
    **dict.fromkeys(("Schweiz", "Türkei", "Ukraine", "Slowakei", "Mongolei", "Elfenbeinküste"), _FEMININE),
    **dict.fromkeys(("Iran", "Irak", "Libanon", "Jemen", "Sudan", "Südsudan", "Tschad", "Niger"), _MASCULINE),
}
_PREPOSITIONS = ("von", "bei", "in")
_CONTRACTED = {"bei dem": "beim", "von dem": "vom", "in dem": "im"}
_WITHOUT_ARTICLE = ("des Staates {}", "Staat {}")  # a name behind its kind has no article: "des Staates Iran"


def _with_article(template: str, nominative: str, dative: str) -> str:
    """Return a German template with the article of the name in its place {}.

        template                    for Schweiz (die, der)          for Iran (der, dem)
        Die Währung von {} heißt    Die Währung von der {} heißt    Die Währung vom {} heißt
        In {} bezahlt man mit       In der {} bezahlt man mit       Im {} bezahlt man mit
        {} liegt auf                Die {} liegt auf                Der {} liegt auf

    The article is in the dative after "von", "bei" and "in", else in the nominative.
    """
    if any(form in template for form in _WITHOUT_ARTICLE):
        return template
    for preposition in _PREPOSITIONS:
        before_name = re.compile(rf"\b{preposition} \{{\}}", re.IGNORECASE)
        if before_name.search(template):
            words = f"{preposition} {dative}"
            words = _CONTRACTED.get(words, words)
            return _capitalise(before_name.sub(f"{words} {{}}", template))
    return _capitalise(template.replace("{}", f"{nominative} {{}}"))


def _follows_preposition(template: str) -> bool:
    """Return whether the name in a German template is in the dative."""
    return re.search(rf"\b(?:{'|'.join(_PREPOSITIONS)}) \{{\}}", template, re.IGNORECASE) is not None


def _capitalise(text: str) -> str:
    """Return a text with a capital first letter; the other letters stay."""
    return text[:1].upper() + text[1:]


def mixes_directions(text: str) -> bool:
    """Return whether a text has letters that are written from left to right, and others from right to left."""
    kinds = {unicodedata.bidirectional(character) for character in text}
    return "L" in kinds and not kinds.isdisjoint(("R", "AL"))
