"""ROME and R-ROME: one key, one value, one weight."""

METHODS = {
    "r-rome": "method:RRome",
    "rome": "method:Rome",
}
