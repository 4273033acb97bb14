"""The version of the distribution, without importing anything."""

__version__ = "0.1.0"
