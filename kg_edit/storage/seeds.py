"""The range of seeds in settings: torch's generators take 64 bits, and some callers add up to a million to a seed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST = 2**40

Seed = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
