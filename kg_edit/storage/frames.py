"""Results as tables for other programs: a pandas.DataFrame, if pandas is installed, and CSV, which needs nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a pandas.DataFrame of rows with the same columns."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigError("a DataFrame needs the package pandas: pip install 'kg-edit[pandas]'") from error
    return pd.DataFrame(list(rows))


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same columns as CSV with a header; None is an empty cell."""
    columns = list[str]()
    if rows:
        columns = list(rows[0])
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
