"""Load a causal language model, encode prompts, hook into its forward passes, and sample text from it."""

import warnings

with warnings.catch_warnings():  # in a notebook without ipywidgets, tqdm's first import warns that its bars are text
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto as _bars  # noqa: F401
