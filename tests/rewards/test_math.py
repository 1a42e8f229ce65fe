"""Which part is the answer, the verdict on it, and labelled, adversarial and real answers."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import shared
from hypothesis import given
from hypothesis import strategies as st

from open_r1.rewards.math import scorers
from open_r1.rewards.math.extraction import extract_answer, extract_gold, read_choice
from open_r1.rewards.math.scorers import accuracy, compute_vote_key, equal, math_verify_alone
from open_r1.system import worker_pool

THOUGHT = "<think>so</think>"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<think>\boxed{1}</think> \boxed{2}", "2"),
        (r"\boxed{1}</think> \boxed{2}", "2"),
        (r"<think>\boxed{1}", ""),
        (r"<think>\boxed{1}</think> I do not know.", "I do not know"),
        (r"<think>x</think><answer>2</answer>", "2"),
        (r"<think>x</think>1<answer>\boxed{2}</answer>3", "2"),
        (r"<think>x</think><answer>2", ""),
        (r"<think>x</think><answer>2</ans", ""),
        (r"<think>x</think>\boxed{2", ""),
        (r"<think>x</think>\boxed{1} then \boxed{}", ""),
        (r"<think>x</think>\boxed{1} then \boxed{", ""),
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{ \boxed{7} }", "7"),
        (r"$\boxed{4}$ dollars.\n\n**Answer:** $\boxed{4}$", "4"),
        (r"$\boxed{0.5} = \boxed{1/2}$", "1/2"),
        (r"First $\boxed{3}$. So the answer is $\boxed{7}$.", "7"),
        (r"\boxed{86} glasses and \boxed{42} plates", "86, 42"),
        (r"$x = \boxed{1}$ or $y = \boxed{2}$", "1, 2"),
        (r"\boxed{2}\boxed{3}", "2, 3"),
        (r"\boxed{1}, thus \boxed{2}", "2"),
        (r"\boxed{255} So far. Final Answer: The final answer is $10,455$.", "$10,455$"),
        (r"\boxed{255}. This final answer is plausible.", "255"),
    ],
)
def test_which_part_is_the_answer(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    "stated",
    [
        "18", "**18**", "$18$", r"\$18", "$18", "18 dollars", r"\(18\)", r"\[ 18 \]", "The answer is 18.",
        "Final answer: 18", "**Final Answer:** 18", "**Answer**: $18 per week.",
        "**Answer:** Ann has **18 apples** left.",
        "First 3 + 4 = 7.\n\n**Answer:** It will take her 18 days to sell 5 cows.",
        "She earns \\$18 more than 2 others.",
        "9 + 9 = **18**", r"Thus $9 \cdot 2 = 18$.", "The total is 9 + 9 = 18.", "答案是18。",
        "所以一共有 18 个苹果。", "x = 18",
        "The answer is $18$. I hope it is correct.", "So there are **18** of them. 🌹", "<answer>18</answer>",
        "<answer>The answer is 18.</answer>", "She had 3 of 20.\nThat makes $9 + $9 = $18", "The largest $n$ is 18.",
    ],
)  # fmt: skip
def test_answers_in_prose(stated):
    assert accuracy(THOUGHT + stated, "18").outcome == "correct"
    assert accuracy(THOUGHT + stated.replace("18", "81"), "18").outcome == "wrong"
    assert accuracy(f"<think>{stated}</think>I do not know.", "18").outcome == "wrong"
    assert accuracy(f"<think>{stated}", "18").outcome == "wrong"


@pytest.mark.parametrize(
    ("completion", "solution", "outcome"),
    [
        (r"\boxed{2}\boxed{3}", "3", "wrong"),
        (r"\boxed{1} or \boxed{2}", "2", "wrong"),
        (r"\boxed{1 \text{ or } 2}", "2", "wrong"),
        (r"$x=\boxed{1}$ and $x=\boxed{2}$", "1,2", "correct"),
        (r"\boxed{1} papers and \boxed{2} bins", "1,2", "correct"),
        (r"\boxed{2}, \boxed{1}", r"\{1, 2\}", "correct"),
        (r"\boxed{18}", "9 + 9 = <<9+9=18>>18\n#### 18", "correct"),
        (r"\boxed{18}", r"so it is $\boxed{18}$.", "correct"),
        (r"\boxed{18}", ["17", "18"], "correct"),
        (r"\boxed{19}", ["17", "18"], "wrong"),
        (r"\boxed{18}", 18, "correct"),
        (r"\boxed{18}", [None, ""], "unknown"),
        (r"\boxed{18}", None, "unknown"),
        (r"\boxed{18}", " \n", "unknown"),
        (r"\boxed{18}", "The triangle can be cut along its midline.", "unknown"),
        (r"The triangle can be cut along its midline", "The triangle can be cut along its midline.", "correct"),
        (r"\boxed{\text{no solution}}", "18", "wrong"),
        (r"\boxed{Evelyn}", r"\text{Evelyn}", "correct"),
        (r"\boxed{Carla}", r"\text{Evelyn}", "wrong"),
        # Left to Math-Verify.
        (r"\boxed{\sin^2 x + \cos^2 x + \tan^2 x}", r"1 + \tan^2 x", "correct"),
        (r"\boxed{\sec^2 x}", r"1 + \cot^2 x", "wrong"),
        (r"\boxed{\ln 8}", r"3 \ln 2", "correct"),
        (r"\boxed{\ln 8 + 10^{-9}}", r"3 \ln 2", "wrong"),
        (r"\boxed{\cos^{10}(\frac{\pi}{10})}", "0.6054", "correct"),
        (r"\boxed{\cos^{10}(\frac{\pi}{10})}", "0.6055", "wrong"),
        (r"\boxed{x^{2}-y^{2}=1}", "x^2+y^2=1", "wrong"),
        (r"\boxed{(4, \log_{10} 2)}", r"(4, \log_{10}(2))", "correct"),
        (r"\boxed{(4, \log_{10} 3)}", r"(4, \log_{10}(2))", "wrong"),
        (r"\boxed{\{4, \log_{10} 2\}}", r"(4, \log_{10}(2))", "wrong"),
        # What Math-Verify accepts.
        (r"\boxed{0=1=42}", "42", "wrong"),
        (r"\boxed{\int_0^1 42\, dx}", "42", "wrong"),
        (r"\boxed{\sum_{k=1}^{42} 1}", "42", "wrong"),
        (r"\boxed{\sin(101_2)}", r"\sin(101_3)", "unknown"),
        (r"x = 3", "y = 4", "wrong"),
    ],
)  # fmt: skip
def test_accuracy(completion, solution, outcome):
    assert accuracy(THOUGHT + completion, solution).outcome == outcome


# Gold answer: what is right, and what is nearly right.
BOXED = [
    (r"(-\infty,-1)\cup(3,\infty)", [r"x<-1\text{ or }x>3", r"\{x: x<-1 \text{ or } x>3\}", "x<-1, x>3"],
     [r"x<-1\text{ and }x>3", r"x>-1\text{ or }x<3", r"x\le-1\text{ or }x\ge3", "-1<x<3"]),
    (r"x<-1\text{ or }x>3", [r"x>3\text{ or }x<-1"], [r"y<-1\text{ or }y>3", "x<-1"]),
    ("0<x<1", [r"x>0\text{ and }x<1", "x>0, x<1"], ["[0,1]", "x<0 or x>1", "0<y<1", "x>0"]),
    ("[-2,5)", [r"-2\le x<5"], ["-2,5", "(-2,5]", r"x\ge-2"]),
    ("[2,3]", [r"2\le x\le 3"], ["2,3", r"\{2,3\}"]),
    (r"\mathbb{R}\setminus\{0,1\}", [r"(-\infty,0)\cup(0,1)\cup(1,\infty)", r"\mathbb{R}\backslash\{1,0\}"],
     [r"\mathbb{R}\setminus\{0\}", r"\{0,1\}", r"\mathbb{R}"]),
    ("a<b<c", ["c>b>a", "a, b, c"], ["a>b>c", "c, b, a", "a<c<b", "a<b"]),
    (r"8:34\text{ p.m.}", ["8:34 PM", "20:34", "8:34", r"8\!:\!34\text{ pm}"],
     ["8:34 a.m.", "8:43 p.m.", "34", "8/34"]),
    ("1.5 million", ["1,500,000", r"1.5\text{ million}"], ["1.5", "1.5 billion", "150000"]),
    (r"0.\overline{3}", ["1/3", r"0.\bar3"], ["0.3", r"0.\overline{6}", r"0.\overline{03}"]),
    (r"2.1\overline{6}", ["13/6"], ["2.16", r"2.\overline{16}"]),
    (r"\begin{cases} x & x>0 \\ -x & x\le 0\end{cases}", [r"\begin{cases}-x, & x\leq 0\\x, & x>0\end{cases}"],
     [r"\begin{cases} -x & x>0 \\ x & x\le 0\end{cases}", "x", "0"]),
    ("(1,2)", [r"\begin{cases}x=1\\y=2\end{cases}", r"\langle 1, 2\rangle", "P(1,2)"],
     [r"\begin{cases}x=2\\y=1\end{cases}"]),
    (r"\cos 20^\circ", [r"\sin 70^\circ", r"\cos\frac{\pi}{9}"], [r"\cos 20", r"\sin 20^\circ"]),
    ("2^{2024}", ["4^{1012}"], ["2^{2024}-1", "2^{2023}"]),
    (r"3^{2019}+2^{2019}", [r"2^{2019}+3^{2019}"], ["3^{2019}", r"3^{2019}+2^{2018}"]),
    ("|a-b|", ["|b-a|"], ["a-b", "b-a"]),
    ("|x-3|", ["|3-x|"], ["x-3", "3-x"]),
    ("2", [r"\log_2 4", r"\lg 100", r"\lim_{n\to\infty} a_n = 2", "a+b=1+1=2", r"\angle ABC = 2"],
     [r"\log_e 2", r"\ge 2", r"2 \mid x", r"3\to 2", "2'", "2_x", r"\neg 2", r"\frac{x}{2}=2",
      "a+b=1+1=3", r"\text{not } 2"]),
    ("e^{i\\pi/4}", [r"\frac{1+i}{\sqrt2}", r"\cos\frac\pi4+i\sin\frac\pi4"], [r"\frac{1-i}{\sqrt2}"]),
    ("f^{-1}(x)=2x", ["2x", "f^{-1}(t)=2t"], ["f(x)=2x"]),
    ("3:2", ["3 to 2", r"3\text{ to }2"], ["2 to 3"]),
    (r"10\text{ m/s}", [r"10\ \mathrm{m\,s^{-1}}", "10 m/s", "36 km/h"], [r"10\ \mathrm{m\,s^{-2}}", "10 m"]),
    (r"20\text{ ounces}", ["20 oz"], [r"20\text{ ounces} - 5\text{ ounces}"]),
    (r"\text{Yes}", [r"\text{Yes, it is}"], [r"\text{No, it is not}", r"\text{no}"]),
    (r"\text{DNE}", [r"\text{The limit does not exist}"], ["0", r"\infty"]),
    (r"\infty", [r"\text{infinitely many}"], ["0", r"-\infty"]),
    (r"\text{Alice and Bob}", [r"\text{Bob and Alice}"], [r"\text{Alice and Carol}"]),
    ("12", [r"\text{Area: } 12", r"\textcolor{red}{12}"], [r"\text{Area: } 13", r"\text{The answer is not } 12"]),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "right", "near"), BOXED, ids=[gold for gold, _, _ in BOXED])
def test_right_and_nearly_right(gold, right, near):
    for text in right:
        assert accuracy(rf"{THOUGHT}\boxed{{{text}}}", gold).outcome == "correct", text
    for text in near:
        assert accuracy(rf"{THOUGHT}\boxed{{{text}}}", gold).outcome in ("wrong", "unknown"), text


@pytest.mark.parametrize(
    "stated",
    [
        "The answer is not 18.", "It isn't 18.", "It cannot be 18.", "The answer is **not** 18.", "Less than 18.",
        "He has more than 18.", "The answer is between 18 and 19.", "The answer is 19, not 18.",
        "Die Lösungen sind 17 und 18.", "不是18",
    ],
)  # fmt: skip
def test_what_is_denied_is_no_answer(stated):
    assert accuracy(THOUGHT + stated, "18").outcome == "wrong"


@pytest.mark.parametrize("gold", ["B", "(B)", r"\text{B}", "$B$", "(B) forty-two", r"\boxed{B}"])
def test_multiple_choice(gold):
    for right in (
        "B", "(B)", "B.", r"\text{B}", "**B**", "Answer: B", "B) 42", r"\boxed{B}", r"\boxed{\text{(B)}}", "b",
        "(B) forty-two",
        "The correct answer is B", "It's not A, therefore I think it's B", "The answer is B, it can't be A or C",
        "答案是B。", "故选：B", "选项A错误，选项B正确。", "I'd go with B.", "I think it's B.", "So, B.",
        "Option B is correct.", "It is B because C is too small",
    ):  # fmt: skip
        assert accuracy(THOUGHT + right, gold).outcome == "correct", right
    for wrong in (
        "A",
        "(C)",
        "A or B",
        "AB",
        r"\boxed{A, B}",
        "Answer: A",
        "C) 42",
        "",
        "I do not know",
        "BANANA",
        "42",
        "B is wrong. So C.",
        "Option C is correct, not B.",
    ):
        assert accuracy(THOUGHT + wrong, gold).outcome == "wrong", wrong
    assert accuracy("<think>B</think>", gold).outcome == "wrong"


def test_no_letter_where_there_are_several():
    assert read_choice("A or B") is None and read_choice("A, B") is None and read_choice("A dog") is None
    assert read_choice("D. it can't be A or B") == "D" and read_choice("A Peter") == "A"
    assert read_choice("I think so") is None and read_choice("I") == "I"


def test_bare_answers_and_votes():
    assert equal("0.5", r"\frac12").outcome == "correct" and equal("0.6", r"\frac12").outcome == "wrong"
    assert equal(r"\boxed{B}", "(B)").outcome == "correct"
    assert equal("", "1").outcome == "wrong" and equal("1", None).outcome == "unknown"
    assert compute_vote_key("0.5") == compute_vote_key(r"\frac12") == compute_vote_key("1/2") != compute_vote_key("2")


def test_a_second_opinion():
    assert math_verify_alone(THOUGHT + r"\boxed{\frac12}", "0.5").outcome == "correct"
    assert math_verify_alone(THOUGHT + r"\boxed{\frac13}", "0.5").outcome == "wrong"
    assert math_verify_alone(r"<think>\boxed{\frac12}</think> I do not know", "0.5").outcome == "wrong"
    assert math_verify_alone(THOUGHT + "1", None).outcome == "unknown"


def test_a_broken_pool_is_an_error_and_never_a_wrong_answer(monkeypatch):
    monkeypatch.setattr(worker_pool, "_pool", worker_pool.Pool(preload="no.such.module"))
    assert accuracy(THOUGHT + r"\boxed{\sin 2}", r"\cos 1").outcome == "error"
    assert math_verify_alone(THOUGHT + "2", "2").outcome == "error"
    assert accuracy(THOUGHT + "2", "2").outcome == "correct"  # needs no pool


def nested(form: str, times: int, inner: str) -> str:
    for _ in range(times):
        inner = form.replace("?", inner)
    return inner


# Boxed against 42 unless a gold is given: what hangs, exhausts or confuses a symbolic grader.
UNANSWERABLE = [
    "9^{9^9} + 1", r"\frac{9^{9^9}}{7}", "2 + 10000000!", r"\binom{100000000}{50000000}", "((9!)!)!",
    r"1.5\cdot 10^{10^{10}}", r"\sqrt[1000000007]{10^{9^{9}}}",
]  # fmt: skip
NOT_42 = [
    "9^{9^9}", "9^{9^{9^9}}", "9^{9^{9^{9^9}}}", "10^{1000000000}", "7^{-1000000000}", "0.1^{1000000000}", "10000000!",
    "100000!", r"\sum_{k=1}^{10000000} \frac{1}{k}", r"\prod_{k=1}^{1000000} (1+\frac{1}{k^2})",
    r"\int_0^1 \frac{\ln(1+x^{2+\sqrt{3}})}{1+x} dx", r"\lim_{x \to 0} \frac{\sin(\tan(x))-\tan(\sin(x))}{x^7}",
    nested(r"\frac{1}{1+?}", 50, "1"), nested(r"\sqrt{3+?}", 60, "2"), "(" * 400 + "1" + ")" * 400,
    "{" * 3000 + "1" + "}" * 3000,
    "1" * 10_000, "1" * 100_000, "+".join(["1"] * 2000), "(a+b+c+d+e)^{60}", "(x+1)^{200}",
    "+".join(rf"\sin({k}x)\cos({k + 1}x)" for k in range(1, 12)), r"e^{\ln(2)\sqrt{3}}+\log_{2}(3^{\sqrt{5}})",
    r"\begin{pmatrix}1&2\\4&5\end{pmatrix}^{100000}", r"\{" + ",".join(map(str, range(3000))) + r"\}", "9⁹⁹⁹",
    "🤖" * 5000,
    "4\x002", r"\text{" + "a b " * 25_000 + "}", '__import__("os").system("true")', r"\zeta(\frac{1}{2}+10^{12} i)",
    "1e1000000000",
    r"\foo" * 1600,
]  # fmt: skip


def test_hanging_answers_are_unknown_within_their_limit(monkeypatch):
    monkeypatch.setattr(scorers, "SECONDS", 0.5)
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda text: equal(text, "42"), UNANSWERABLE))
    assert [verdict.outcome for verdict in verdicts] == ["unknown"] * len(UNANSWERABLE)
    assert all(repr(text) in verdict.reason for text, verdict in zip(UNANSWERABLE, verdicts, strict=True))


@pytest.mark.parametrize("text", NOT_42, ids=lambda text: text[:20])
def test_monsters_are_not_42(text):
    assert accuracy(f"{THOUGHT}The answer is $\\boxed{{{text}}}$.", "42").outcome in ("wrong", "unknown")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (r"\boxed{" * 3000 + "42" + "}" * 3000, "correct"),
        (r"\boxed{1 " * 20_000, "wrong"),
        ("$\\boxed{" + "{" * 100_000 + "1", "wrong"),
        ("$a$ " * 20_000 + r"$\boxed{42}$", "correct"),
        ("the answer is " * 7000, "wrong"),
        ("final answer is " * 6000 + "$42", "correct"),
        ("$" * 100_000, "wrong"),
        (r"\[ " * 30_000, "wrong"),
        (r"\boxed{" + " " * 100_000 + "42}", "correct"),
        ("**" * 50_000, "wrong"),
        ("<answer>" * 12_000, "wrong"),
        ("</think>" * 12_000 + "42", "correct"),
        ("= " * 50_000, "wrong"),
        ("1, " * 33_000, "wrong"),
        ("\ud800" * 1000 + r"\boxed{42}", "correct"),
        (r"\boxed{４２}", "correct"),
        ("\\boxed{4\u200b2}", "correct"),
    ],
    ids=lambda value: value[:12].encode("ascii", "replace").decode(),
)
def test_long_and_odd_completions(text, outcome):
    assert accuracy(text, "42").outcome == outcome


def test_labelled_cases():
    """Of 542 labelled pairs Math-Verify's defaults agree with 406 and accept 7 of the 147 that are not equal."""
    rows = [json.loads(line) for line in shared("oracle", "math.jsonl").read_text().splitlines()]
    with ThreadPoolExecutor(worker_pool.count_cores()) as threads:
        verdicts = list(threads.map(lambda row: accuracy(row["answer"], row["gold"]), rows))
    counts = Counter((row["equal"], verdict.outcome) for row, verdict in zip(rows, verdicts, strict=True))
    falsely = [
        i for i, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)) if not row["equal"] and verdict.score
    ]
    assert len(rows) == 542 and falsely == []
    assert counts[True, "correct"] + counts[False, "wrong"] >= 497
    assert not any(verdict.outcome == "error" for verdict in verdicts)


def test_gold_answers_equal_themselves():
    golds = {str(row["answer"]) for row in json.loads(shared("math", "math_train.json").read_text())}
    golds |= {json.loads(line)["answer"] for line in shared("math", "math500.jsonl").read_text().splitlines()}
    assert [gold for gold in golds if gold and equal(gold, gold).outcome != "correct"] == []


def test_a_changed_digit_or_sign_is_another_answer():
    """Every seventh gold answer of MATH, through Math-Verify where the exact comparison does not decide."""
    golds = sorted({str(row["answer"]) for row in json.loads(shared("math", "math_train.json").read_text())})[::7]
    pairs = []
    for gold in golds:
        digits = [i for i, character in enumerate(gold) if character in "123456789"]
        for i in digits[:1] + digits[-1:]:
            pairs.append((gold, f"{gold[:i]}{(int(gold[i]) + 3) % 10}{gold[i + 1 :]}"))
        for sign, other in (("-", "+"), ("+", "-"), (r"\sqrt", "")):
            if sign in gold:
                pairs.append((gold, gold.replace(sign, other, 1)))
    with ThreadPoolExecutor(worker_pool.count_cores()) as threads:
        verdicts = list(threads.map(lambda pair: equal(pair[1], pair[0]), pairs))
    accepted = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.outcome in ("correct", "error")]
    assert len(pairs) > 500 and accepted == []


def test_real_responses_have_answers():
    """Of R1's 582 responses to GSM8K one is an error message of its server, and 64 have no box."""
    rows = json.loads(shared("outputs", "r1_gsm8k.json").read_text())
    verdicts = Counter(accuracy(row["deepseek-reasoner (question)"], row["answer"]).outcome for row in rows)
    assert (
        sum(verdicts.values()) == 582 and verdicts["correct"] >= 550 and verdicts["unknown"] + verdicts["error"] == 0
    )


def test_real_responses_to_math():
    """R1 got two of 52 wrong."""
    rows = json.loads(shared("outputs", "r1_math.json").read_text())
    verdicts = {row["answer"]: accuracy(row["deepseek-reasoner (question)"], row["answer"]).outcome for row in rows}
    assert {gold for gold, outcome in verdicts.items() if outcome != "correct"} == {r"2\sqrt{113}", r"\sqrt{66}"}
    assert all(verdicts[gold] == "wrong" for gold in (r"2\sqrt{113}", r"\sqrt{66}"))


TAGS = ["<think>", "</think>", "<answer>", "</answer>", r"\boxed{", "{", "}", "$", r"\[", r"\]", r"\text{", "**"]
WORDS = ["42", r"\frac12", "the answer is ", "\n\n", "B", ",", " or ", "=", ". ", "%", "答案", "\ud800", "\x00"]
pieces = st.sampled_from(TAGS + WORDS)


@given(st.lists(pieces, max_size=25).map("".join), st.text(max_size=30))
def test_extraction_is_total_and_deterministic(shaped, text):
    for completion in (shaped, text, shaped + text, f"<think>{text}</think>{shaped}"):
        assert extract_answer(completion) == extract_answer(completion)
        assert extract_gold(completion) == extract_gold(completion)
        assert read_choice(completion) in (None, *"ABCDEFGHIJ")
        assert len(extract_answer(completion)) <= len(completion) * 2


@given(st.lists(pieces, max_size=12).map("".join))
def test_what_stands_in_the_reasoning_does_not_matter(text):
    reasoning = text.replace("</think>", "").replace("<think>", "")
    assert accuracy(rf"<think>{reasoning}</think>\boxed{{42}}", "42").outcome == "correct"
    assert accuracy(rf"<think>{reasoning} \boxed{{42}}</think>\boxed{{41}}", "42").outcome == "wrong"


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_a_right_number_is_right_and_its_neighbour_wrong(number, off):
    completion = f"<think>so</think>\\boxed{{{number}}}"
    assert accuracy(completion, str(number)).outcome == "correct"
    assert accuracy(completion, str(number + off)).outcome == "wrong"
