"""ROME and R-ROME: one key, one value, one weight."""

METHODS = {
    "r-rome": "rome:RRome",
    "rome": "rome:Rome",
}
