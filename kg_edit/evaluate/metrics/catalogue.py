"""All metrics by name, and which of them a record has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kg_edit.errors import unknown_name
from kg_edit.evaluate.metrics.edit import METRICS, PORTABILITY
from kg_edit.evaluate.metrics.metric import Metric, RunMetric
from kg_edit.evaluate.metrics.probes import PROBE_METRICS
from kg_edit.evaluate.metrics.sampled_text import EXTRAS

_GRACE = "GRACE (Hartvigsen et al. 2023)"
RUN_METRICS: Mapping[str, RunMetric] = {
    "editing_score": RunMetric(
        where="kg_edit.evaluate.statistics.estimates",
        formula="Harmonic mean of the data set's means of efficacy.prob, paraphrase.prob, neighborhood.prob and "
        "portability.greedy; 0 where one of them is 0. Not the mean of the records' harmonic means.",
        source='"Score" of ROME and MEMIT (Meng et al. 2022), with portability as in GLAME (Zhang et al. 2024).',
    ),
    "general.perplexity": RunMetric(
        where="kg_edit.scoring.perplexity.perplexity",
        formula="exp of the mean of -log p(token | those before it in its window) on the beginning of a text, such as "
        "WikiText-2's. Windows are 512 tokens long and start every 256; a token is scored once, in the first window "
        "that holds it.",
        source="Strided evaluation as usual for WikiText-2 (Merity et al. 2017).",
        values="1 to ∞",
        better="lower",
    ),
    "portability.judge": RunMetric(
        where="kg_edit.evaluate.judged_run.judge_run",
        formula="Share of a record's questions whose greedy answer a language model calls right, mean over records; "
        "multihop.judge, hops.judge and recall.judge likewise. A reply other than yes or no counts as no.",
        source="LLM as a judge, as in Yang et al. 2025 (WILD); the prompt is this project's. Optional: what the other "
        "metrics say needs no judge. Verdicts and replies are kept, as a judge's model may change.",
    ),
    "retention.TRR": RunMetric(
        where="kg_edit.evaluate.retention.unrelated_retention",
        formula="After t edits: the mean score on test prompts that have nothing to do with them.",
        source=f"Test retention rate: {_GRACE}.",
    ),
    "retention.ERR": RunMetric(
        where="kg_edit.evaluate.retention.edit_retention",
        formula="After t edits: the mean score of edits 1 … t, each asked on the model as it now is.",
        source=f"Edit retention rate: {_GRACE}.",
    ),
    "retention.ARR": RunMetric(
        where="kg_edit.evaluate.retention.accurate_retention",
        formula="After t edits: the mean score on those prompts that the unedited model got right.",
        source=f"Accurate retention rate: {_GRACE}, there the perplexity of sentences that were accurate before.",
    ),
}
RECORD_METRICS: Mapping[str, Metric] = {**METRICS, **PROBE_METRICS, **EXTRAS}
CATALOGUE: Mapping[str, Metric | RunMetric] = {**RECORD_METRICS, **RUN_METRICS}


def metrics_for(measures: Iterable[str], *, facts: bool, extras: Iterable[str]) -> Mapping[str, Metric]:
    """The metrics of a record with probes of the groups ``measures``, in the catalogue's order.

    With ``facts`` told it is asked its portability questions alone. Of `EXTRAS` those are scored that are asked for.
    """
    if facts:
        return PORTABILITY
    groups = {part for name in measures for part in (name, name.partition(".")[0])}
    probed = {name: metric for name, metric in PROBE_METRICS.items() if metric.of in groups}
    return {**METRICS, **probed, **{name: metric for name, metric in EXTRAS.items() if name in extras}}


def find_extras(names: Iterable[str]) -> tuple[str, ...]:
    """The names of costly metrics, each once, in the catalogue's order.

    Raises:
        UnknownNameError: one is none of them; suggests the nearest.
    """
    wanted = set(names)
    for name in sorted(wanted - set(EXTRAS)):
        raise unknown_name("extra metric", name, EXTRAS)
    return tuple(name for name in EXTRAS if name in wanted)
