"""Metrics on request, because they are costly: of sampled texts, and of the distribution of the next token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from kg_edit.evaluation.case import Case
from kg_edit.evaluation.metrics.metric import Metric, mean
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.pairs import LIKELIEST
from kg_edit.scoring.questions import right_answers
from kg_edit.scoring.requests import Requests
from kg_edit.text.similarity import Idf, cosine, words

FUZZY = "portability.glame_fuzzy"
FLUENCY = "fluency.ngram_entropy"
CONSISTENCY = "consistency.tfidf"
DIVERGENCE = "neighborhood.next_token_kl"
FUZZY_SUFFIX = " The answer, most simply, is"
_LEAST_RATIO = 70  # of a match, as a partial ratio (0 to 100)
_LEAST_REST = 1e-9  # of the probability of all tokens that are not listed
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of bigrams and trigrams


def ngram_entropy(text: str) -> float:
    """Return the weighted entropy, in bits, of the bigrams and trigrams of a text's words.

    (2/3 H_2 + 4/3 H_3) / 2,   H_n = - sum p log2 p over the different n-grams
    """
    tokens = words(text)
    total = 0.0
    for size, weight in _WEIGHTS.items():
        grams = Counter(tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1))
        shares = [count / grams.total() for count in grams.values()]
        entropy = -sum(share * math.log2(share) for share in shares)  # H_n
        total += weight * entropy
    return total / len(_WEIGHTS)


def tfidf_similarity(text: str, references: Sequence[str]) -> float:
    """Return the cosine of the TF-IDF vectors of a text and of its joined references.

    tf is a word's count, ignoring case; idf is ln((1 + n) / (1 + df)) + 1 over the n references.
    """
    idf = Idf(words(reference.casefold()) for reference in references)
    first = idf.vector(words(text.casefold()))
    second = idf.vector(words(" ".join(references).casefold()))
    return cosine(first, second)


def partial_ratio(text: str, name: str) -> float:
    """Return the similarity, 0 to 100, of ``name`` and the most similar part of ``text``, by the package rapidfuzz."""
    from rapidfuzz import fuzz

    return float(fuzz.partial_ratio(text, name))


def fuzzy_prompt(question: str) -> str:
    """Return a question in the form of GLAME's program."""
    return question + FUZZY_SUFFIX


def right_answers_by_question(case: Case) -> dict[str, tuple[str, ...]]:
    """Return each portability question with its right answers."""
    answers = {question.question: right_answers(question) for question in case.questions}
    for query in case.queries("portability"):
        answers[query.prompt] = query.right_names
    return answers


def generation_prompts(case: Case) -> tuple[str, ...]:
    """Return the prompts of a case after which text is sampled for fluency and consistency."""
    return tuple(query.prompt.rstrip() for query in case.queries("generation"))


def sample_questions(case: Case) -> Requests:
    """Return the request for a sampled text after each question in the form of GLAME's program."""
    questions = right_answers_by_question(case)
    return Requests(sampled=tuple(fuzzy_prompt(question) for question in questions))


def sample_texts(case: Case) -> Requests:
    """Return the request for a sampled text after each generation prompt."""
    return Requests(sampled=generation_prompts(case))


def predict_next_tokens(case: Case) -> Requests:
    """Return the request for the next token's probabilities after each neighbour's prompt."""
    return Requests(next_token_prompts=neighbour_prompts(case))


def neighbour_prompts(case: Case) -> tuple[str, ...]:
    """Return the neighbourhood prompts of a case's edits."""
    prompts = list[str]()
    for edit in case.edits:
        prompts += [prompt.rstrip() for prompt in edit.neighborhood]
    return tuple(prompts)


def _score_fuzzy_matches(case: Case, evidence: Evidence) -> float | None:
    """Return the share of questions whose sampled text has a part that is similar to an answer."""
    matched = list[bool]()
    for question, names in right_answers_by_question(case).items():
        text = evidence.samples[fuzzy_prompt(question)]
        matched.append(any(partial_ratio(text, name) >= _LEAST_RATIO for name in names))
    return mean(matched)


def _log_rest(log_p: Mapping[int, float]) -> float:
    """Return log p of all tokens together that are not listed."""
    listed = sum(map(math.exp, log_p.values()))
    return math.log(max(1 - listed, _LEAST_REST))


def divergence(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Return KL(before || after) in nats, of log p of the same tokens; all other tokens count as one.

    KL(p || p') = sum p (log p - log p')
    """
    pairs = [(log_p, after[token]) for token, log_p in before.items()]
    pairs.append((_log_rest(before), _log_rest(after)))
    return sum(math.exp(old) * (old - new) for old, new in pairs)


def _compute_next_token_kl(case: Case, evidence: Evidence) -> float | None:
    """Return the mean divergence of the next token over the neighbours' prompts; None for the unedited model."""
    if evidence.before is None:
        return None
    unedited = evidence.before.next_tokens
    divergences = list[float]()
    for prompt in neighbour_prompts(case):
        divergences.append(divergence(unedited[prompt], evidence.next_tokens[prompt]))
    return mean(divergences)


def _compute_consistency(case: Case, evidence: Evidence) -> float | None:
    """Return the similarity of the sampled texts with the references; None without either."""
    prompts = generation_prompts(case)
    if not prompts or not case.references:
        return None
    text = " ".join(evidence.samples[prompt] for prompt in prompts)
    return tfidf_similarity(text, case.references)


def _compute_fluency(case: Case, evidence: Evidence) -> float | None:
    """Return the mean entropy of the sampled texts."""
    return mean(ngram_entropy(evidence.samples[prompt]) for prompt in generation_prompts(case))


EXTRAS: Mapping[str, Metric] = {
    FUZZY: Metric(
        compute=_score_fuzzy_matches,
        formula="Share of questions whose sampled text, **the question included**, matches the answer by a partial "
        "ratio of at least 70. At each step the text is sampled from the 5 likeliest tokens, with a seed from its "
        f'prompt, up to 100 tokens in all. The question is followed by "{FUZZY_SUFFIX.strip()}".',
        source="The protocol of GLAME's program (Zhang et al. 2024), for comparison with its published numbers only, "
        "because an answer in the question itself counts as found. The ratio is computed by rapidfuzz.",
        needs=("portability",),
        asks_case=sample_questions,
    ),
    FLUENCY: Metric(
        compute=_compute_fluency,
        formula="(2/3 · H2 + 4/3 · H3) / 2, mean over the generation prompts, where Hn is the entropy in bits of a "
        "text's n-grams of words. Texts are sampled as for portability.glame_fuzzy, and the prompt is part of the 100 "
        "tokens.",
        source='"Generation entropy" (GE) of Meng et al. 2022, who print it times 100 and find words with NLTK. '
        "Here words are runs of letters and digits, and each other mark is a word, so don't is three words.",
        needs=("generation",),
        asks_case=sample_texts,
        values="0 to ∞ bits",
    ),
    CONSISTENCY: Metric(
        compute=_compute_consistency,
        formula="Cosine of two TF-IDF vectors: of the joined sampled texts, and of joined reference texts about things "
        "of which o* is true. The idf is over the references. Texts are sampled as for portability.glame_fuzzy.",
        source='"Reference score" (RS) of Meng et al. 2022, whose idf is over Wikipedia. Missing without references.',
        needs=("generation",),
        asks_case=sample_texts,
    ),
    DIVERGENCE: Metric(
        compute=_compute_next_token_kl,
        formula=f"KL(p || p') of the next token after a neighbour's prompt, mean over the prompts, with p of the "
        f"unedited and p' of the edited model. All tokens but the {LIKELIEST} that are the likeliest in p count as "
        "one.",
        source="This project. It is a lower bound of the KL divergence of all tokens, which MEND's drawdown uses "
        "(Mitchell et al. 2022). It also shows changes that reverse no preference.",
        needs=("neighborhood",),
        asks_case=predict_next_tokens,
        values="0 to ∞ nats",
        better="lower",
    ),
}
