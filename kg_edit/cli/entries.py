"""The commands of the core, in the order of `kg-edit --help`."""

from kg_edit.registry import CommandEntry

COMMANDS = (
    CommandEntry(
        "edit",
        "Make the edits of a file, and write the patch and a report to a folder.",
        target="kg_edit.cli.edit:edit",
        panel="Edit and ask",
        resumes=True,
    ),
    CommandEntry(
        "demo",
        "Edit three facts in SmolLM2-135M, offline, with the packaged extract of Wikidata.",
        target="kg_edit.cli.edit:demo",
        panel="Edit and ask",
        resumes=True,
    ),
    CommandEntry(
        "generate",
        "Continue texts with a model, edited or not (greedy decoding).",
        target="kg_edit.cli.generate:generate",
        panel="Edit and ask",
    ),
    CommandEntry(
        "diff",
        "Compare the answers of the unedited and the edited model, prompt by prompt.",
        target="kg_edit.cli.diff:diff",
        panel="Edit and ask",
    ),
    CommandEntry(
        "plan",
        "Estimate the memory of edits on this machine, without loading the model.",
        target="kg_edit.cli.plan:plan",
        panel="Edit and ask",
    ),
    CommandEntry(
        "methods",
        "List the editing methods, or show the settings and presets of one.",
        target="kg_edit.cli.catalogue:methods",
        panel="Edit and ask",
    ),
    CommandEntry(
        "models",
        "List the named models, and the families of models that can be edited.",
        target="kg_edit.cli.catalogue:models",
        panel="Edit and ask",
    ),
    CommandEntry(
        "doctor",
        "Inspect a model and try one edit on it.",
        target="kg_edit.cli.catalogue:doctor",
        panel="Edit and ask",
    ),
    CommandEntry(
        "cache",
        "Show what is stored between runs and fills the disk, or delete it.",
        target="kg_edit.cli.cache:cache",
        panel="Edit and ask",
    ),
    CommandEntry(
        "covariance",
        "Measure the covariance of the keys, which edits need, for several layers in one pass.",
        target="kg_edit.cli.covariance:app",
        panel="Edit and ask",
        is_group=True,
        resumes=True,
    ),
)
