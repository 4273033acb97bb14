"""Change facts in a trained language model, together with what follows from them."""

__version__ = "0.1.0"
