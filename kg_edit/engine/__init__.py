"""The same loss, fast: only what a change can reach is run, and what does not change is run once."""

import kg_edit.models as _models  # noqa: F401 - before transformers, so that a notebook does not show a warning of tqdm
