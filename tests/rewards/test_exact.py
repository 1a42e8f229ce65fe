"""The exact comparison: what it reads, near misses of each form, and what must not matter."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1.rewards.math.exact import compare, parse
from open_r1.rewards.math.exact.arithmetic import number, variable

# Every line: forms of one answer, all equal to each other.
SAME = [
    ["5", "5.", "$5$", "+5", "5.0", r"\boxed{5}", "x = 5", "5 = x", r"x \approx 5", "five", r"\text{5}", "2 + 3 = 5"],
    ["1234567", "1,234,567", "1 234 567", r"1{,}234{,}567", r"1,\!234,\!567", r"1\,234\,567", "１２３４５６７"],
    [r"x \ne 3", r"(-\infty,3) \cup (3,\infty)", r"x \neq 3"],
    [r"\mathbb{R}", r"\text{all real numbers}", r"(-\infty, \infty)"],
    ["60 mph", "60 miles per hour", "1 mile/minute"],
    ["72°F", "72 degrees", "72"],
    ["1/7", "1/7 = 0.143", r"\frac17 \approx 0.143"],
    ["0.5", ".5", r"\frac12", r"\dfrac{1}{2}", "1/2", "½", r"\frac{3}{6}", r"50\%", "5.0e-1", r"2^{-1}"],
    ["3.5", "3 1/2", r"3\frac{1}{2}", r"3\frac12", r"\frac72"],
    ["-3.5", r"-3\frac12", r"-\frac{7}{2}", "−3.5"],
    ["1870000", "1.87e6", r"1.87 \times 10^6", "1.87 × 10^(6)", "1,870,000"],
    ["100000000000", "1e11", "10^{11}"],
    [r"\sqrt{8}", r"2\sqrt{2}", "2√2", r"2^{3/2}", r"\frac{4}{\sqrt2}", "sqrt(8)", r"\sqrt[4]{64}"],
    [r"\frac{1}{1+\sqrt2}", r"\sqrt2-1", r"-1+\sqrt{2}"],
    [r"5\sqrt[3]{4}", r"5 \cdot 2^{2/3}"],
    [r"2\pi", "2π", r"\pi\cdot 2", r"\frac{4\pi}{2}"],
    ["2i", "i+i", r"\sqrt{-4}", r"\frac{-2}{i}"],
    ["x^2+2x+1", "(x+1)^2", "1 + 2x + x^2", "(1+x)(x+1)"],
    [r"\frac{x+2}{7}", r"\frac{x}{7}+\frac27", "(x+2)/7"],
    ["18", "$18", r"\$18", "18 dollars", "18 apples per day", r"18\text{ cm}", "**18**", r"18^\circ", "18%", "18th"],
    ["1 hour", "60 minutes", r"3600\text{ s}"],
    ["5 hours and 30 minutes", "5.5 hours", "330 minutes"],
    ["5 m", r"5\text{ meters}", "500 cm", "0.005 km"],
    ["2 m^2", r"2\text{ m}^2", "20000 cm^2", "2 square meters"],
    ["90°", r"90^\circ", r"\frac{\pi}{2}", "90 degrees"],
    ["(1, 2)", r"\left(1,2\right)", "(1;2)", "1 < x < 2", r"x \in (1,2)", r"\{x \mid 1<x<2\}", "(1.0, 4/2)"],
    ["x > 3", "2x > 6", r"(3, \infty)", "3 < x", "-x < -3", r"(3,+\infty)"],
    ["{1, 2}", r"\{2, 1\}", "1, 2", "2 and 1", r"x = 1 \text{ or } x = 2", "1; 2", r"\{1,2\}"],
    [r"1\pm\sqrt5", r"1+\sqrt5, 1-\sqrt5", r"\{1-\sqrt5, 1+\sqrt5\}", r"x = 1 \pm \sqrt{5}"],
    [r"\{1,2,2\}", r"\{2,1\}"],
    ["(1,2),(3,4)", "(3, 4), (1, 2)", "(1,2),(3,4),(1,2)", "(x, y) = (1, 2) or (3, 4)"],
    ["p=5,q=2;p=7,q=2", "(5,2),(7,2)"],
    [r"\emptyset", r"\varnothing", r"\{\}", "∅"],
    [r"[0,1)\cup(2,3]", r"(2,3]\cup[0,1)"],
    ["7:32", "14:64", "7/32"],
    ["101_2", "101_{2}", r"(101)_2", "101"],
    ["f(x) = 2x", "f(z) = 2z", "2x"],
    ["y = 2x + 1", "y - 2x = 1", "4x - 2y + 2 = 0"],
    [r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", "(1, 2)"],
    [r"\text{Evelyn}", "Evelyn", "evelyn.", r"\textbf{Evelyn}"],
    ["B", "(B)", r"\text{(B)}", "B."],
    [r"\infty", r"+\infty", "∞"],
]  # fmt: skip

# Pairs that are not equal, and that a careless comparison calls equal.
DIFFERENT = [
    ("1.6e-19", "9.1e-31"),
    ("2.5", "2.4999999"),
    ("0.1", "0.10000001"),
    ("1000000", "1000001"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("[0,1)", "(0,1]"),
    ("101_2", "101_3"),
    ("5 cm", "5 m"),
    (r"5\text{ cm}", r"5\text{ cm}^2"),
    ("60 minutes", "60 hours"),
    ("east", "seat"),
    ("Evelyn", "Carla"),
    ("32349", "32, 349"),
    ("2", "1 or 2"),
    ("2", r"\{1,2\}"),
    ("1,2", "1,2,3"),
    ("1,2", "1,2,2"),
    ("0.5", "0.5%"),
    ("x > 3", r"x \ge 3"),
    ("x > 3", "x < 3"),
    ("x > 3", "y > 3"),
    ("x = 1", "y = 1"),
    ("7 = 11a + c", "11a + c"),
    ("2x + z = 1", "1"),
    (r"\sqrt2", r"\sqrt3"),
    (r"\sqrt2", "1.5"),
    (r"2\pi", "2"),
    ("2i", "2"),
    (r"3\frac12", r"\frac32"),
    ("3 1/2", "31/2"),
    ("9^{9^{9^9}}", "42"),
    ("-2^{100000}", "-2"),
    ("0.1^{1000000}", "0"),
    ("100000!", "24"),
    ("-xy", "xy"),
    ("5 m/s", "5 m/s^2"),
    ("x^2+1", "x^2-1"),
    ("7:32", "32:7"),
    ("12:00", "1:00"),
    ("AB", "B"),
    ("A or B", "B"),
    ("0.64N", "0.64"),
    ("10", "9⁹⁹"),
    ("1/3", "0.33"),
    ("5/2", "2.501"),
]


@pytest.mark.parametrize("forms", SAME, ids=lambda forms: forms[0])
def test_forms_of_one_answer(forms):
    for form in forms[1:]:
        assert compare.are_equal(form, forms[0]) is True, form
        assert compare.are_equal(forms[0], form) is True, form


@pytest.mark.parametrize(("answer", "gold"), [("0=1=42", "42"), ("3+3=7", "7"), ("0.16 = 56%", "0.56")])
def test_a_false_equation_between_numbers_is_no_answer(answer, gold):
    assert compare.are_equal(answer, gold) is False and compare.are_equal(gold, answer) is None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_near_misses(one, other):
    assert compare.are_equal(one, other) is False and compare.are_equal(other, one) is False


@pytest.mark.parametrize("i", range(len(SAME)))
def test_answers_of_different_lines_are_different(i):
    may_miss_something = (r"\{1,2,2\}", "5 m", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "{1, 2}")  # a unit, brackets
    for forms in SAME[i + 1 :]:
        if forms[0] not in may_miss_something:
            assert compare.are_equal(forms[0], SAME[i][0]) is not True, (forms[0], SAME[i][0])


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("1/3", "0.3333", True),
        ("1/3", "0.3334", False),
        (r"\frac{600}{7}", "85.71", True),
        ("0.458", r"\frac{27}{59}", True),
        ("41.494", r"17+10\sqrt{6}", True),
        ("5/8", "0.6250001", False),
        ("0.33", "1/3", False),
        (r"2\pi", "6.283", True),
        (r"2\pi", "6.284", False),
    ],
)
def test_rounded_decimals(gold, answer, same):
    assert compare.are_equal(answer, gold) is same


@pytest.mark.parametrize(
    "text",
    ["", " ", "9^{9^{9^9}}+1", "(" * 300, "{" * 5000, r"\sin x", r"\int_0^1 x", "\ud800", "4\x002", "1e9999"],
)
def test_what_is_not_read_is_none(text):
    assert compare.are_equal(text, "42") is None
    assert compare.are_equal("42", text) is None


def test_votes_are_counted_by_value():
    assert (
        len({compare.compute_key(text) for text in ("0.5", r"\frac12", "1/2", "$.50$", "x = 1/2", r"\frac{2}{4}")})
        == 1
    )
    assert compare.compute_key("1, 2") == compare.compute_key(r"\{2, 1\}") != compare.compute_key("(2, 1)")
    assert (
        len({compare.compute_key(text) for text in ("1/2", "1/3", "(1,2)", "x", r"\sqrt2", "yes", "no", r"\sin x")})
        == 8
    )


integers = st.integers(-(10**6), 10**6)
fractions = st.builds(Fraction, integers, st.integers(1, 999))


def latex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


scalars = st.one_of(
    integers.map(str),
    st.decimals(-1000, 1000, places=3).map(str),
    fractions.map(latex),
    st.builds(lambda a, n: f"{a}\\sqrt{{{n}}}", st.integers(1, 99), st.integers(2, 999)),
    st.builds(lambda a, b: f"{a}x^2 - {b}y", st.integers(1, 99), st.integers(1, 99)),
    integers.map(lambda n: f"{n}\\pi"),
)
several = st.lists(scalars, min_size=2, max_size=4, unique=True)
answers = st.one_of(
    scalars,
    several.map(lambda items: "(" + ", ".join(items) + ")"),
    several.map(lambda items: r"\{" + ", ".join(items) + r"\}"),
    several.map(", ".join),
    st.builds(lambda a, b: f"[{a}, {b})", scalars, scalars),
    scalars.map(lambda text: f"x = {text}"),
)


@given(answers)
def test_what_is_read_equals_itself(text):
    assert parse.parse_answer(text).readings
    assert compare.are_equal(text, text) is True and compare.compute_key(text) == compare.compute_key(text)


@given(answers)
def test_what_must_not_matter(text):
    brackets = text.replace("(", r"\left(").replace(")", r"\right)")
    for variant in (
        f"  {text} ", f"${text}$", f"\\({text}\\)", f"{text}.", text.replace(" ", r"\, "), text.replace("frac",
        "dfrac"),
        brackets, f"\\boxed{{{text}}}",
    ):  # fmt: skip
        assert compare.are_equal(variant, text) is True, variant


@given(several, st.randoms())
def test_order_matters_in_a_point_only(items, random):
    shuffled = random.sample(items, len(items))
    assert compare.are_equal(", ".join(shuffled), ", ".join(items)) is True
    assert compare.are_equal(r"\{" + ", ".join(shuffled) + r"\}", r"\{" + ", ".join(items) + r"\}") is True
    assert (
        compare.are_equal(f"({', '.join(items[::-1])})", f"({', '.join(items)})") is not True or items == items[::-1]
    )


@given(fractions, integers, fractions.filter(bool))
def test_a_value_and_its_neighbours(value, n, off):
    assert compare.are_equal(str(value), latex(value)) is True
    assert compare.are_equal(latex(value + off), latex(value)) is False
    assert compare.are_equal(str(n + 1), str(n)) is False
    assert compare.are_equal(str(-n), str(n)) is (n == 0)
    assert compare.are_equal(f"{n}.001", str(n)) is False


@given(scalars, scalars)
def test_a_changed_bracket_is_another_answer(low, high):
    kinds = [f"({low}, {high})", f"[{low}, {high}]", f"[{low}, {high})", f"({low}, {high}]", f"\\{{{low}, {high}\\}}"]
    for i, one in enumerate(kinds):
        assert all(compare.are_equal(other, one) is False for other in kinds[i + 1 :])


@given(st.integers(1, 10**6), st.sampled_from(["cm", "m", "kg", "hours", "dollars", "%"]))
def test_a_changed_unit_is_another_answer(n, unit):
    others = {"cm": "m", "m": "kg", "kg": "g", "hours": "minutes", "dollars": "cents", "%": "cm"}
    assert compare.are_equal(f"{n} {unit}", f"{n} {unit}") is True
    assert compare.are_equal(f"{n} {others[unit]}", f"{n} {unit}") is False


@settings(max_examples=300)
@given(st.text(max_size=80), st.text(alphabet=r"\frac{}()[]^_$,.=<>0123456789x+-*/ %|:;!&sqrtpm", max_size=60))
def test_total_and_deterministic_on_any_text(text, shaped):
    for one, other in ((text, shaped), (shaped, text), (shaped, shaped)):
        result = compare.are_equal(one, other)
        assert result in (True, False, None) and compare.are_equal(one, other) is result
        compare.compute_key(one)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=4))
def test_arithmetic_is_that_of_a_field(terms):
    value = number(0)
    for coefficient, radicand, power in terms:
        value = value + number(coefficient) * number(radicand).root(2) * variable("x").power(Fraction(power))
    if value.numerator:
        assert value / value == number(1)
        assert (value + number(1)) * (value - number(1)) == value * value - number(1)
        assert value.inverse().inverse() == value
    assert value - value == number(0)
