"""A study with arguments, as a user runs it."""

from __future__ import annotations

from tests.pipelines.conftest import cache, script, tiny_folder

__all__ = ["cache", "script", "tiny_folder"]  # fixtures
