"""Dates and quantities as values of statements, each as one text, which is its key as a node of a subgraph.

The texts are those of KGTK (https://kgtk.readthedocs.io/en/latest/data_model/): `^1984-12-30T00:00:00Z/11` is a date
with its precision (11 a day, 10 a month, 9 a year, 8 a decade, 7 a century), `206Q174728` a quantity with its unit,
`3898747` one without. None of them is an id. Dates are Gregorian, and the year 0 is 1 BCE, as in Wikidata's RDF.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from kg_common.ids import is_item
from wikidata_cache.ids import local_id

XSD = "http://www.w3.org/2001/XMLSchema#"
_NUMBERS = ("decimal", "integer", "double")
DATATYPES = ("dateTime", "date", "gYearMonth", "gYear", *_NUMBERS)  # the types of literals

_CENTURY = 7
_DECADE = 8
_YEAR = 9
_MONTH = 10
_DAY = 11
_PRECISIONS = {"date": _DAY, "gYearMonth": _MONTH, "gYear": _YEAR}  # a dateTime does not tell its precision
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
# A date, or a number with or without a unit. Numbers are limited to 130 digits before and after the point.
_VALUE = re.compile(
    r"\^(?P<year>-?\d{4,12})-(?P<month>\d\d)-(?P<day>\d\d)T00:00:00Z/(?P<precision>[7-9]|1[01])"
    r"|(?P<amount>-?\d{1,130}(?:\.\d{1,130})?)(?P<unit>Q[1-9]\d*)?",
    re.ASCII,
)
_RDF_TIME = re.compile(r"\+?(-?\d{1,12})(?:-(\d\d))?(?:-(\d\d))?(?:T[\d:.]+)?(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_JSON_TIME = re.compile(r"([+-])(\d+)-(\d\d)-(\d\d)(T[\d:]+Z)", re.ASCII)
_JULIAN = "Q1985786"
_NO_UNIT = ("", "1", "Q199")  # how a number without unit is written: with nothing, in JSON, in RDF


def is_value(text: str) -> bool:
    """Return whether a node key is a date or a quantity."""
    return _VALUE.fullmatch(text) is not None


def date_value(time: str, precision: int) -> str | None:
    """Return a date from its xsd:dateTime or a shorter text, such as "1984-12"; None if it can't be read.

    It is also None if it is less precise than a century. What is more precise than `precision` is left out:
    date_value("1984-12-30T00:00:00Z", 10) -> "^1984-12-01T00:00:00Z/10".
    """
    match = _RDF_TIME.fullmatch(time)
    if match is None or precision < _CENTURY:
        return None
    month = 1
    if precision >= _MONTH:
        month = int(match[2] or 1)
    day = 1
    if precision >= _DAY:
        day = int(match[3] or 1)
    if not (1 <= month <= len(_MONTHS) and 1 <= day <= 31):
        return None
    shown_precision = min(precision, _DAY)  # a time of the day is read as its day
    return f"^{_write_date(int(match[1]), month, day)}T00:00:00Z/{shown_precision}"


def _write_date(year: int, month: int, day: int) -> str:
    """Return a date such as 1984-12-30, or -0043-03-15 for a year before 0."""
    sign = ""
    if year < 0:
        sign = "-"
    return f"{sign}{abs(year):04d}-{month:02d}-{day:02d}"


def quantity_value(amount: str, unit: str = "") -> str | None:
    """Return a quantity from its number and the id of its unit ("", "1" or "Q199" for none); None for another text."""
    try:
        number = Decimal(amount)
    except InvalidOperation:
        return None
    if not number.is_finite() or abs(number.adjusted()) > 100:  # 1e999999 would have a million digits
        return None
    if unit in _NO_UNIT:
        unit = ""
    elif not is_item(unit):
        return None
    digits = f"{number:f}"  # not normalize(), which rounds to 28 digits
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    if digits == "-0":
        digits = "0"
    value = digits + unit
    if not is_value(value):
        return None
    return value


def literal_value(text: str, datatype: str) -> str | None:
    """Return the value of a literal alone; None if it is neither a date nor a quantity.

    An xsd:dateTime does not tell its precision, and Wikidata writes a year as its 1 January. So 1 January is read as
    the year, and the first day of another month as the month: this is never wrong, but may be less precise.
    """
    if not datatype.startswith(XSD):
        return None
    name = datatype.removeprefix(XSD)
    if name not in DATATYPES:
        return None
    if name in _NUMBERS:
        return quantity_value(text)
    if name in _PRECISIONS:
        return date_value(text, _PRECISIONS[name])
    if "-01-01T" in text:
        return date_value(text, _YEAR)
    if "-01T" in text:
        return date_value(text, _MONTH)
    return date_value(text, _DAY)


def json_value(datavalue: Any) -> str | None:
    """Return the value of a `datavalue` of Wikibase's JSON; None for other types, and for one that can't be read."""
    try:
        value = datavalue["value"]
        if datavalue["type"] == "time":
            return date_value(rdf_time(value), value["precision"])
        if datavalue["type"] == "quantity":
            unit = local_id(value["unit"]) or value["unit"]
            return quantity_value(value["amount"], unit)
    except (ValueError, KeyError, TypeError, AttributeError):  # JSON of another shape
        return None
    return None


def rdf_time(value: Any) -> str:
    """Return a time of the JSON format as xsd:dateTime, by the rules of Wikibase's RDF export.

    An unknown month or day (00) is the first one, a day of the Julian calendar is converted to the Gregorian one, and
    the year before 1 is 0 (XSD 1.1), which JSON writes as -1.
    """
    match = _JSON_TIME.fullmatch(value["time"])
    if match is None:
        raise ValueError(f"expected a time, found {value['time']!r:.80}")
    year = int(match[2])
    if match[1] == "-":
        year = 1 - year
    month = max(1, int(match[3]))
    day = max(1, int(match[4]))
    if value["precision"] >= _DAY and value["calendarmodel"].endswith(_JULIAN):
        year, month, day = _convert_julian(year, month, day)
    return _write_date(year, month, day) + match[5]


def _convert_julian(year: int, month: int, day: int) -> tuple[int, int, int]:
    """Convert a date by its Julian day, the number of days since noon of 1 January 4713 BCE.

    The formulas are those of https://en.wikipedia.org/wiki/Julian_day (Richards). Years begin in March there. The
    comments have the numbers for 25 December 1642, which is 4 January 1643 in the Gregorian calendar.
    """
    # The Julian day of a date of the Julian calendar. Five months from March on have 153 days, and four years 1461.
    years_back = (14 - month) // 12  # 1 in January and February, which belong to the year before; else 0
    months = month + 12 * years_back - 3  # since March: 9
    years = year + 4800 - years_back  # 6442
    julian_day = day + (153 * months + 2) // 5 + 365 * years + years // 4 - 32083  # 2321157

    # The date of a Julian day in the Gregorian calendar, which leaves out three leap days in 400 years (146097 days).
    left_out = ((4 * julian_day + 274277) // 146097) * 3 // 4 - 38  # 10
    quarters = 4 * (julian_day + 1401 + left_out) + 3  # of days: 9290275
    day_of_year = quarters % 1461 // 4  # 309 days after 1 March
    fifths = 5 * day_of_year + 2  # of days: 1547
    day = fifths % 153 // 5 + 1  # 4
    month = (fifths // 153 + 2) % 12 + 1  # 1
    year = quarters // 1461 - 4716 + (14 - month) // 12  # 1643
    return year, month, day


def find_unit(value: str) -> str | None:
    """Return the id of the unit of a value, or None."""
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    return match["unit"]


def describe_value(value: str, label: Callable[[str], str | None]) -> str | None:
    """Return a value in words, such as "30 December 1984" or "206 centimetre"; None if its unit has no `label`."""
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    if match["amount"]:
        number = f"{Decimal(match['amount']):,f}"
        if match["unit"] is None:
            return number
        unit = label(match["unit"])
        if not unit:
            return None
        return f"{number} {unit}"
    return _describe_date(int(match["year"]), int(match["month"]), int(match["day"]), int(match["precision"]))


def _describe_date(year: int, month: int, day: int, precision: int) -> str:
    """Return a date in words, to its precision: "5 March 1953", "March 1953", "1950s", "20th century"."""
    era = ""
    if year < 1:  # the year 0 is 1 BCE
        era = " BCE"
        year = 1 - year
    if precision == _CENTURY:
        century = (year + 99) // 100
        return f"{_write_ordinal(century)} century{era}"
    if precision == _DECADE:
        return f"{year // 10 * 10}s{era}"
    text = f"{year}{era}"
    if precision >= _MONTH:
        text = f"{_MONTHS[month - 1]} {text}"
    if precision == _DAY:
        text = f"{day} {text}"
    return text


def _write_ordinal(number: int) -> str:
    """Return a number such as 1st, 2nd, 3rd, 4th, 11th, 21st."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def typed_literal(value: str) -> tuple[str, str]:
    """Return a value as the text and the datatype of an RDF literal, such as ("1984-12", ".../XMLSchema#gYearMonth").

    The datatype tells whether a date is precise to the day, the month or the year. Decades and centuries become a
    gYear, and the unit of a quantity is left out.
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is neither a date nor a quantity")
    if match["amount"]:
        return match["amount"], f"{XSD}decimal"
    year = match["year"]
    month = match["month"]
    day = match["day"]
    precision = int(match["precision"])
    if precision == _DAY:
        return f"{year}-{month}-{day}", f"{XSD}date"
    if precision == _MONTH:
        return f"{year}-{month}", f"{XSD}gYearMonth"
    return year, f"{XSD}gYear"
