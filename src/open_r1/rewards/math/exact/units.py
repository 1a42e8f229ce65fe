"""Units of measurement, exactly: 60 minutes are an hour, a square metre is 10,000 cm^2."""

from __future__ import annotations

import re
from fractions import Fraction

from .tokens import Tokens

Dimension = tuple[tuple[str, int], ...]  # (("length", 1), ("time", -1)); percent, angle and money are dimensions too
Unit = tuple[Dimension, Fraction]  # with the factor to the first unit of the dimension


def _build_table() -> dict[str, tuple[str, Fraction]]:
    """Word -> (dimension, factor to the dimension's first unit)."""
    table = {
        "length": "m meter meters metre metres=1 cm centimeter centimeters centimetre centimetres=1/100 mm millimeter "
        "millimeters millimetre millimetres=1/1000 km kilometer kilometers kilometre kilometres=1000 inch inches "
        "in=254/10000 ft foot feet=3048/10000 yd yard yards=9144/10000 mi mile miles=1609344/1000",
        "mass": "kg kilogram kilograms=1 g gram grams=1/1000 mg milligram milligrams=1/1000000 lb lbs pound pounds="
        "45359237/100000000 oz ounce ounces=45359237/1600000000 ton tons tonne tonnes=1000",
        "time": "s sec secs second seconds=1 min mins minute minutes=60 h hr hrs hour hours=3600 day days=86400 week "
        "weeks=604800",
        "months": "month months=1 year years yr yrs=12",
        "volume": "l L liter liters litre litres=1 ml mL milliliter milliliters millilitre millilitres=1/1000",
        "gallons": "gallon gallons gal=1 quart quarts=1/4 pint pints=1/8 cup cups=1/16",
        "money": "dollar dollars usd USD=1 cent cents=1/100",
        "euros": "euro euros eur EUR=1",
        "percent": "% percent pct percentage=1",
        "angle": "degree degrees deg=1",
        "radians": "rad rads radian radians=1",
        "celsius": "celsius Celsius=1",
        "fahrenheit": "fahrenheit Fahrenheit=1",
        "force": "N newton newtons=1 kN=1000",
        "energy": "J joule joules=1 kJ=1000 eV=1602176634/10000000000000000000000000000",
        "power": "W watt watts=1 kW=1000",
        "voltage": "V volt volts=1",
        "current": "A ampere amperes amp amps=1",
        "frequency": "Hz hertz=1 kHz=1000 MHz=1000000",
        "pressure": "Pa pascal pascals=1 kPa=1000 atm=101325",
        "temperature": "K kelvin kelvins=1",
        "amount": "mol mole moles=1",
    }
    return {
        word: (dimension, Fraction(factor))
        for dimension, entries in table.items()
        for names, factor in re.findall(r"([^=]+)=(\S+)", entries)
        for word in names.split()
    }


_UNITS = _build_table()
_SPEEDS = {"mph": ("mile", "hour"), "kmh": ("km", "hour"), "kph": ("km", "hour")}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}
PERCENT: Dimension = (("percent", 1),)
ANGLE: Dimension = (("angle", 1),)
TEMPERATURES: tuple[Dimension, ...] = ((("celsius", 1),), (("fahrenheit", 1),))
MONEY: Unit = ((("money", 1),), Fraction(1))


def is_unit(word: str) -> bool:
    return word in _UNITS or word in _SPEEDS


def find_unit(tokens: Tokens) -> Unit | None:
    """The unit that the words after a number begin with; None for things that are only counted."""
    dimensions: dict[str, int] = {}
    factor, sign, power, i = Fraction(1), 1, 1, 0
    while i < len(tokens):
        word = tokens[i].text
        if word in ("/", "per"):
            sign = -1
        elif word == "\\cdot":
            pass
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in _SPEEDS and not dimensions:
            (length, scale), (time, hours) = _UNITS[_SPEEDS[word][0]], _UNITS[_SPEEDS[word][1]]
            return ((length, 1), (time, -1)), scale / hours
        elif word in _UNITS and not (word == "in" and i + 1 < len(tokens) and tokens[i + 1].kind in ("word", "text")):
            dimension, scale = _UNITS[word]
            power, i = _read_unit_power(tokens, i, power)
            dimensions[dimension] = dimensions.get(dimension, 0) + sign * power
            factor *= scale ** (sign * power)
            if dimension == "money":  # "dollars per ticket" are dollars
                break
            sign, power = 1, 1
        else:
            break
        i += 1
    if dimensions.get("angle") and i < len(tokens) and tokens[i].text in ("C", "F"):
        return ((("celsius" if tokens[i].text == "C" else "fahrenheit"), 1),), Fraction(1)
    return (tuple(sorted(dimensions.items())), factor) if dimensions else None


def _read_unit_power(tokens: Tokens, i: int, power: int) -> tuple[int, int]:
    """The exponent of the unit at i (cm^2, s^{-1}, cm squared) and the place of its last token."""
    following = [token.text for token in tokens[i + 1 : i + 6]]
    if following[:3] == ["^", "{", "-"] and following[4:] == ["}"] and following[3].isdigit():
        return -min(int(following[3]), 9), i + 5
    if following[:2] == ["^", "{"] and following[3:] == ["}"] and following[2].isdigit():
        return min(int(following[2]), 9), i + 4
    if following[:1] == ["^"] and following[1:2] and following[1].isdigit():
        return min(int(following[1]), 9), i + 2
    if following[:1] and following[0] in ("squared", "cubed"):
        return _POWERS[following[0]], i + 1
    return power, i


ORDINAL = frozenset(("st", "nd", "rd", "th"))
