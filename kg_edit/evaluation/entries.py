"""The commands, data sets and services of the evaluation."""

from kg_edit.registry import CommandEntry, DatasetEntry, ServiceEntry

COMMANDS = (
    CommandEntry(
        "evaluate",
        "Score a method on a benchmark: each edit alone, or in batches and sequences.",
        target="kg_edit.evaluation.cli.evaluate:evaluate",
        panel="Measure",
        resumes=True,
    ),
    CommandEntry(
        "judge",
        "Let a language model judge the greedy answers of a run.",
        target="kg_edit.evaluation.cli.evaluate:judge",
        panel="Measure",
        resumes=True,
    ),
    CommandEntry(
        "compare",
        "Compare runs record by record, or one run with the unedited model.",
        target="kg_edit.evaluation.cli.evaluate:compare",
        panel="Measure",
    ),
    CommandEntry(
        "merge",
        "Merge the shards of a run (`kg-edit evaluate --shard i/n`).",
        target="kg_edit.evaluation.cli.evaluate:merge",
        panel="Measure",
    ),
    CommandEntry(
        "export-results",
        "Write the results of a run in the format of Every Eval Ever, which others read.",
        target="kg_edit.evaluation.cli.export_results:export_results",
        panel="Measure",
    ),
    CommandEntry(
        "metrics",
        "List the metrics with formula, source and range.",
        target="kg_edit.evaluation.cli.metrics:metrics",
        panel="Measure",
    ),
    CommandEntry(
        "locate",
        "Locate facts in a model by causal tracing (Meng et al. 2022).",
        target="kg_edit.evaluation.cli.locate:locate",
        panel="Measure",
        resumes=True,
    ),
    CommandEntry(
        "sweep",
        "Score a grid of methods and settings, such as layers and steps.",
        target="kg_edit.evaluation.cli.sweep:sweep",
        panel="Measure",
        resumes=True,
    ),
    CommandEntry(
        "drift",
        "Edit a classifier's mistakes in a stream of texts, and report TRR, ERR and ARR.",
        target="kg_edit.evaluation.cli.drift:drift",
        panel="Measure",
        resumes=True,
    ),
    CommandEntry(
        "data",
        "Check and create benchmark files.",
        target="kg_edit.evaluation.cli.data:app",
        panel="Measure",
        is_group=True,
        resumes=True,
    ),
)

SERVICES = (ServiceEntry("layer choice", target="kg_edit.evaluation.tracing.layer_sweep"),)

DATASETS = (
    DatasetEntry("counterfact", target="kg_edit.evaluation.datasets.counterfact:COUNTERFACT"),
    DatasetEntry("counterfact-plus", target="kg_edit.evaluation.datasets.counterfact:COUNTERFACT_PLUS"),
    DatasetEntry("mquake", target="kg_edit.evaluation.datasets.mquake:MQUAKE"),
    DatasetEntry("zsre", target="kg_edit.evaluation.datasets.zsre:ZSRE"),
    DatasetEntry("zsre-alt", target="kg_edit.evaluation.datasets.zsre:ZSRE_ALT"),
    DatasetEntry("ripple-edits", target="kg_edit.evaluation.datasets.ripple_edits:RIPPLE_EDITS"),
    DatasetEntry(
        "ripples",
        target="kg_edit.evaluation.datasets.ripples:RIPPLES",
        metrics="kg_edit.evaluation.metrics.ripples:RIPPLES_METRICS",
    ),
    DatasetEntry("knowedit", target="kg_edit.evaluation.datasets.knowedit:KNOWEDIT"),
    DatasetEntry("wikibio", target="kg_edit.evaluation.datasets.wikibio:WIKIBIO"),
    DatasetEntry("popqa", target="kg_edit.evaluation.datasets.popqa:POPQA"),
    DatasetEntry("entity-inferences", target="kg_edit.evaluation.datasets.entity_inferences:ENTITY_INFERENCES"),
    DatasetEntry("halluedit", target="kg_edit.evaluation.datasets.halluedit:HALLUEDIT"),
    DatasetEntry("qaedit", target="kg_edit.evaluation.datasets.qaedit:QAEDIT"),
    DatasetEntry(
        "unke",
        target="kg_edit.evaluation.datasets.unstructured:UNKE",
        metrics="kg_edit.evaluation.metrics.unstructured:UNSTRUCTURED_METRICS",
    ),
    DatasetEntry("akew", target="kg_edit.evaluation.datasets.unstructured:AKEW"),
    DatasetEntry("edits", target="kg_edit.evaluation.datasets.own_edits:OWN_EDITS"),
)
