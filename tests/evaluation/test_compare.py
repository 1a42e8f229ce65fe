"""Comparing runs: what is refused, what the figures are, what is said, and what is written."""

import html.parser
import json
import random
import re
from pathlib import Path

import pytest
from support.simulated import evaluation, put_evaluation, samples

from open_r1.errors import RecipeError
from open_r1.evaluation import compare, compatibility, significance
from open_r1.evaluation.intervals import estimate_interval
from open_r1.report import comparison

ATTACK = "<script>alert(1)</script>"
BASE = [0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0, 1.0] * 3
BETTER = [min(1.0, rate + 0.4) for rate in BASE]


def put(tmp_path: Path, run: str, rates: list[float] = BASE, k: int = 8, seed: int = 0, **changes) -> str:
    """A run directory with one evaluation."""
    judged_PK = changes.pop("judged_PK", None) or samples(rates, k, seed)
    put_evaluation(tmp_path / run, evaluation(judged_PK, **changes))
    return str(tmp_path / run)


def only(compared: dict) -> tuple[dict, dict]:
    """The benchmark and its pair, of a comparison that has one of each."""
    (benchmark,) = compared["benchmarks"]
    (pair,) = benchmark["pairs"]
    return benchmark, pair


def by_problem(run: str, key: str) -> list[float | None]:
    found = json.loads((Path(run) / "evaluations" / "made.json").read_text())
    return [problem[key] for problem in found["by_problem"]]


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [put(tmp_path, "base"), put(tmp_path, "better", BETTER, seed=1)]


def test_figures_are_those_of_the_evaluations_and_their_paired_differences(pair: list[str]):
    benchmark, against = only(compare.compare_runs(pair))
    stored = [json.loads((Path(run) / "evaluations" / "made.json").read_text()) for run in pair]
    for side, found in zip(benchmark["sides"], stored, strict=True):
        assert side["figures"]["pass@1"]["value"] == found["metrics"]["pass@1"]["value"]
        assert side["figures"]["mean_length"]["high"] == found["tokens"]["mean"]["high"]
        assert side["k"] == 8
    for name in ("pass@1", "maj@8"):
        d = significance.pair_differences(by_problem(pair[0], name), by_problem(pair[1], name))
        told = against["differences"][name]
        assert told["value"] == pytest.approx(sum(d) / len(d)) and told["problems"] == 30
        assert (told["low"], told["high"]) == estimate_interval(d, bounds=(-1.0, 1.0))
    d = significance.pair_differences(by_problem(pair[0], "pass@1"), by_problem(pair[1], "pass@1"))
    assert against["p"] == against["p_holm"] == significance.compute_sign_flip_p(d) < 0.001
    assert list(benchmark["sides"][0]["figures"])[:2] == ["pass@1", "maj@8"]


def test_the_tested_metric_can_be_another(pair: list[str]):
    benchmark, against = only(compare.compare_runs(pair, metric="maj@k"))
    d = significance.pair_differences(by_problem(pair[0], "maj@8"), by_problem(pair[1], "maj@8"))
    assert benchmark["metric"] == "maj@8" and against["p"] == significance.compute_sign_flip_p(d)
    assert against["power"] is None, "what more samples would do to a vote cannot be told"
    assert next(iter(benchmark["sides"][0]["figures"])) == "maj@8"


def test_in_the_other_direction_everything_changes_its_sign(pair: list[str]):
    (_, up), (_, down) = (only(compare.compare_runs(runs)) for runs in (pair, pair[::-1]))
    for name, figure in up["differences"].items():
        if figure["value"] is not None and name != "mean_length":
            assert down["differences"][name]["value"] == pytest.approx(-figure["value"])
            assert down["differences"][name]["low"] == pytest.approx(-figure["high"])
    assert down["p"] == up["p"] and len(down["flips"]) == len(up["flips"])
    assert "B is better than A: +" in up["meaning"] and "B is worse than A: -" in down["meaning"]


def test_flips_are_the_problems_whose_rate_crossed_one_half_greatest_first(pair: list[str]):
    _, against = only(compare.compare_runs(pair))
    counts = [list(zip(by_problem(run, "correct"), by_problem(run, "evidence"), strict=True)) for run in pair]
    rates_a, rates_b = ([right / judged for right, judged in of_run] for of_run in counts)
    crossed = {f"made-{p}" for p in range(30) if (rates_a[p] > 0.5) != (rates_b[p] > 0.5)}
    assert {flip["problem"] for flip in against["flips"]} == crossed != set()
    sizes = [abs(flip["after"] - flip["before"]) for flip in against["flips"]]
    assert sizes == sorted(sizes, reverse=True)
    assert [row["before"] for row in against["by_problem"]] == rates_a


def test_what_it_takes_is_told_where_no_difference_can_be(tmp_path: Path):
    slightly = [min(1.0, rate + 0.03) for rate in BASE]
    runs = [put(tmp_path, "a", seed=5), put(tmp_path, "b", slightly, seed=6)]
    _, against = only(compare.compare_runs(runs))
    needs = against["power"]
    assert against["p"] > 0.05 and against["meaning"].startswith("No significant difference between A and B: ")
    assert f"would take {needs['problems']:,} problems" in against["meaning"]
    assert f"about {100 * needs['detectable']:.1f} points or more" in against["meaning"]


def test_a_copy_shows_no_difference_and_asks_for_no_problems(tmp_path: Path):
    runs = [put(tmp_path, "a"), put(tmp_path, "copy")]
    _, against = only(compare.compare_runs(runs))
    assert against["p"] == 1.0 and against["flips"] == [] and against["differences"]["pass@1"]["value"] == 0.0
    assert against["meaning"].startswith("No significant difference between A and B: +0.0")
    assert "would take" not in against["meaning"]


def test_several_runs_and_benchmarks_are_corrected_for_all_tests(tmp_path: Path):
    runs = []
    for name, shift in (("a", 0.0), ("b", 0.1), ("c", 0.3)):
        rates = [min(1.0, rate + shift) for rate in BASE]
        for benchmark, seed in (("aime", 1), ("math", 2)):
            put(tmp_path, name, rates, seed=seed + int(100 * shift), name=benchmark)
        runs.append(str(tmp_path / name))
    compared = compare.compare_runs(runs)
    pairs = [pair for benchmark in compared["benchmarks"] for pair in benchmark["pairs"]]
    assert [pair["run"] for pair in pairs] == ["B", "C", "B", "C"] and compared["tests"] == 4
    assert [pair["p_holm"] for pair in pairs] == significance.correct_holm([pair["p"] for pair in pairs])
    assert any(pair["p_holm"] > pair["p"] for pair in pairs)
    assert all("corrected for 4 tests" in pair["meaning"] for pair in pairs)
    alone = only(compare.compare_runs([f"{runs[0]}:aime", f"{runs[1]}:aime"]))[1]["power"]
    assert pairs[0]["power"]["problems"] > alone["problems"], "each of four tests is left with a quarter of the level"


def test_one_benchmark_that_only_the_first_run_has_is_left_out(tmp_path: Path):
    first = put(tmp_path, "a", name="aime")
    put(tmp_path, "a", name="math")
    second = put(tmp_path, "b", BETTER, name="math")
    put(tmp_path, "b", name="code")
    compared = compare.compare_runs([first, second])
    assert [benchmark["name"] for benchmark in compared["benchmarks"]] == ["math"]
    assert compared["left_out"] == ["aime: only in A", "code: only in B"]
    assert "not in all of them: aime: only in A\n" in comparison.format_comparison(compared)
    assert compare.compare_runs([f"{first}:aime", f"{second}:math"], allow=["problems"])["left_out"] == []


def test_two_single_evaluations_are_compared_whatever_their_names(tmp_path: Path):
    run = tmp_path / "r1_zero"
    for name, rates in (("before", BASE), ("after", BETTER)):
        put_evaluation(run, evaluation(samples(rates, 8), name=name))
    benchmark, against = only(compare.compare_runs([f"{run}:before", f"{run}:after"]))
    assert benchmark["name"] == "before and after" and against["differences"]["pass@1"]["value"] > 0.2


def test_false_alarms_of_two_runs_of_the_same_model(tmp_path: Path):
    """The whole way from stored evaluations to the sentence: told apart no more often than level allows."""
    chance, alarms, trials = random.Random(0), 0, 60
    for trial in range(trials):
        rates = [chance.betavariate(0.5, 0.5) for _ in range(12)]
        runs = [put(tmp_path, f"{trial}-{side}", rates, 4, 2 * trial + side, names=("pass@1",)) for side in (0, 1)]
        alarms += "No significant difference" not in only(compare.compare_runs(runs))[1]["meaning"]
    assert alarms <= 8, "at 5% more than 8 of 60 happens once in 250 times"


# What is refused.


def test_a_run_from_before_verifiers_had_versions_of_their_own(tmp_path: Path):
    old, new = "accuracy() 0123456789ab (math-verify 0.9.0)", "accuracy() ba9876543210, math-verify 0.9.0"
    runs = [put(tmp_path, "a", grader=old), put(tmp_path, "b", BETTER, grader=new)]
    with pytest.raises(RecipeError, match=r"(?s)version of A covers all verifiers.*--rejudge"):
        compare.compare_runs([*map(str, runs)])
    assert compare.compare_runs(runs, allow=["grader"])
    both = [put(tmp_path, name, grader=old.replace("0123", digits)) for name, digits in (("c", "aaaa"), ("d", "bbbb"))]
    with pytest.raises(RecipeError, match="grader: ") as refused:
        compare.compare_runs(both)
    assert "covers all" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "key", "told"),
    [
        ({"grader": "v2"}, "grader", "grader: v1 of A, v2 of B"),
        ({"verifier": "code"}, "verifier", "verifier: accuracy of A, code of B"),
        ({"prompt": "chat"}, "prompt", "prompt: boxed of A, chat of B"),
        ({"system_prompt": "Think."}, "system_prompt", "system_prompt: none of A, Think. of B"),
        ({"chat_template": "r1"}, "chat_template", "chat_template: none of A, r1 of B"),
        ({"temperature": 1.0}, "temperature", "temperature: 0.6 of A, 1 of B"),
        ({"top_p": 1.0}, "top_p", "top_p: 0.95 of A, 1 of B"),
        ({"top_k": 20}, "top_k", "top_k: 0 of A, 20 of B"),
        ({"max_tokens": 64}, "max_tokens", "max_tokens: 512 of A, 64 of B"),
        ({"identity": "f" * 16}, "problems", "problems: 30 of A, 30 of B, of which 30 have the same id"),
    ],
)
def test_what_is_not_of_one_kind_is_refused_and_told_if_allowed(tmp_path: Path, changes: dict, key: str, told: str):
    runs = [put(tmp_path, "a"), put(tmp_path, "b", BETTER, **changes)]
    with pytest.raises(RecipeError) as refused:
        compare.compare_runs(runs)
    assert f"made: {told}" in str(refused.value) and f"--allow {key}" in str(refused.value)
    assert ("--rejudge" in str(refused.value)) == (key == "grader")
    allowed = compare.compare_runs(runs, allow=[key])
    benchmark, _ = only(allowed)
    assert [words.startswith(told) for words in benchmark["differing"]] == [True]
    assert f"  not the same, and allowed: {told}" in comparison.format_comparison(allowed)
    with pytest.raises(RecipeError, match=re.escape(told)):
        compare.compare_runs(runs, allow=[other for other in compatibility.ALLOWED if other != key])


def test_everything_that_differs_is_told_at_once(tmp_path: Path):
    runs = [put(tmp_path, "a"), put(tmp_path, "b", grader="v2", temperature=1.0), put(tmp_path, "c", prompt="chat")]
    with pytest.raises(RecipeError) as refused:
        compare.compare_runs(runs)
    for told in ("v2 of B", "1 of B", "chat of C", "--allow grader temperature prompt"):
        assert told in str(refused.value)


def test_two_long_prompts_that_begin_alike_are_told_apart(tmp_path: Path):
    runs = [put(tmp_path, name, system_prompt="word " * 30 + name) for name in ("a", "b")]
    with pytest.raises(RecipeError, match="system_prompt: two texts that begin with word word"):
        compare.compare_runs(runs)


def test_other_numbers_of_samples_are_compared_if_that_is_allowed(tmp_path: Path):
    runs = [put(tmp_path, "a", k=8), put(tmp_path, "b", BETTER, k=4)]
    with pytest.raises(RecipeError, match="k: 8 of A, 4 of B"):
        compare.compare_runs(runs)
    compared = compare.compare_runs(runs, allow=["k"])
    benchmark, against = only(compared)
    metrics = [name for name in benchmark["sides"][0]["figures"] if "@" in name]
    assert metrics == ["pass@1"], "maj@8 and maj@4 are two metrics"
    assert against["p"] < 0.01 and "30 problems, 4 or 8 samples of each" in comparison.format_comparison(compared)


def test_a_p_of_too_unequal_numbers_is_not_relied_upon(tmp_path: Path):
    runs = [put(tmp_path, "a", k=16, names=("pass@1",)), put(tmp_path, "b", BETTER, k=1, names=("pass@1",))]
    compared = compare.compare_runs(runs, allow=["k"])
    _, against = only(compared)
    assert against["p"] < 0.01 and against["samples"] == [16, 1]
    said = " ".join(comparison.format_comparison(compared).split())
    assert "not reliable: unequal samples" in said
    assert "These data do not show whether B is better than A" in said and "A has 16 judged samples and B 1." in said
    comparison.write_comparison(compared, tmp_path / "page.html")
    assert "not reliable: unequal samples" in (tmp_path / "page.html").read_text()
    near = compare.compare_runs([runs[0], put(tmp_path, "c", BETTER, k=4, names=("pass@1",))], allow=["k"])
    assert only(near)[1]["meaning"].startswith(
        "B is better than A"
    ) and "not reliable" not in comparison.format_comparison(near)


def test_so_many_unjudged_samples_are_unequal_numbers_too(tmp_path: Path):
    judged_PK = samples(BETTER, 16, 1)
    for judged_K in judged_PK[:10]:
        for sample in judged_K[1:]:
            sample["verdict"] = "unknown"
    runs = [put(tmp_path, "a", k=16), put(tmp_path, "b", judged_PK=judged_PK)]
    assert "A has 16 judged samples and B 11." in only(compare.compare_runs(runs))[1]["meaning"]


def test_other_problems_are_compared_on_those_that_all_have(tmp_path: Path):
    first = put(tmp_path, "a", BASE)
    fewer = put(tmp_path, "b", judged_PK=samples(BETTER, 8, 1)[10:], identity="f" * 16)
    with pytest.raises(RecipeError, match="30 of A, 20 of B, of which 20 have the same id"):
        compare.compare_runs([first, fewer])
    compared = compare.compare_runs([first, fewer], allow=["problems"])
    benchmark, against = only(compared)
    assert "20 of 30 problems, 8 samples of each" in comparison.format_comparison(compared)
    values = by_problem(first, "pass@1")[10:]
    a = benchmark["sides"][0]["figures"]["pass@1"]
    assert a["value"] == pytest.approx(sum(values) / 20) and (a["low"], a["high"]) == estimate_interval(values)
    assert len(against["by_problem"]) == 20


def test_not_one_problem_in_common_is_never_allowed(tmp_path: Path):
    judged_PK = samples(BASE, 8, problem="another")[:1]
    runs = [put(tmp_path, "a"), put(tmp_path, "b", judged_PK=judged_PK, identity="f" * 16)]
    with pytest.raises(RecipeError, match="not one of its problems is in"):
        compare.compare_runs(runs, allow=["problems"])


def test_a_benchmark_of_which_nothing_was_judged_is_a_plain_statement(tmp_path: Path):
    for name, seed in (("a", 0), ("b", 1)):
        put(tmp_path, name, BASE, seed=seed, name="math")
    unknown = samples(BASE, 8, verdict="unknown")
    for name in ("a", "b"):
        put(tmp_path, name, judged_PK=unknown if name == "b" else samples(BASE, 8), name="code")
    compared = compare.compare_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    code, math = compared["benchmarks"]
    assert code["pairs"][0]["p"] is None and compared["tests"] == 1, "what cannot be tested counts for no test"
    assert code["pairs"][0]["meaning"].startswith("Nothing can be said of B against A")
    assert math["pairs"][0]["p_holm"] == math["pairs"][0]["p"]
    assert "Nothing can be said" in comparison.format_comparison(compared)


def test_problems_without_a_verdict_are_left_out_of_the_difference(tmp_path: Path):
    judged_PK = samples(BETTER, 8, 1)
    for sample in judged_PK[0] + judged_PK[1]:
        sample["verdict"] = "error"
    runs = [put(tmp_path, "a"), put(tmp_path, "b", judged_PK=judged_PK)]
    _, against = only(compare.compare_runs(runs))
    assert against["differences"]["pass@1"]["problems"] == 28
    assert against["by_problem"][0]["difference"] is None


def test_a_run_whose_failures_cannot_be_judged_is_not_better(tmp_path: Path):
    rates = [0.9] * 20 + [0.3] * 20
    judged_PK = samples(rates, 8, 1)
    for judged_K in judged_PK[20:]:
        for sample in judged_K:
            sample["verdict"] = "unknown" if sample["verdict"] == "wrong" else sample["verdict"]
    compared = compare.compare_runs([put(tmp_path, "a", rates, seed=1), put(tmp_path, "b", judged_PK=judged_PK)])
    benchmark, against = only(compared)
    low, high = against["bounds"]
    assert against["p"] < 0.01 and low <= 0 < high
    assert "neither is better" in against["meaning"] or "do not show whether" in against["meaning"]
    assert benchmark["sides"][1]["figures"]["unjudged"]["value"] > 0.2 and "unjudged" in comparison.format_comparison(
        compared
    )
    # With all of them judged there is no such row, and a difference beyond all doubt stands.
    clear = samples([1.0] * 40, 8, 1)
    clear[0][0]["verdict"] = "unknown"
    compared = compare.compare_runs([put(tmp_path, "c", rates), put(tmp_path, "d", judged_PK=clear)])
    assert only(compared)[1]["meaning"].startswith("B is better than A")
    plain = compare.compare_runs([put(tmp_path, "e", rates), put(tmp_path, "f", rates, seed=5)])
    assert only(plain)[1]["bounds"] is None and "unjudged" not in comparison.format_comparison(plain)


def test_the_problems_that_both_sides_could_judge_are_counted(tmp_path: Path):
    judged_PK = samples(BETTER, 8, 1)
    for sample in judged_PK[0] + judged_PK[1]:
        sample["verdict"] = "error"
    told = comparison.format_comparison(
        compare.compare_runs([put(tmp_path, "a"), put(tmp_path, "b", judged_PK=judged_PK)])
    )
    assert "30 problems, 8 samples of each; with a verdict on both sides: 28 for B" in told


@pytest.mark.parametrize(
    ("damage", "at"),
    [
        (lambda found: found["by_problem"][0].pop("correct"), "by_problem.0.correct"),
        (lambda found: found["by_problem"][0].update(samples=0), "by_problem.0.samples"),
        (lambda found: found["by_problem"][0].update(id=[1]), "by_problem.0.id"),
        (lambda found: found.update(by_problem=[1]), "by_problem.0"),
        (lambda found: found.update(by_problem=[]), "by_problem"),
        (lambda found: found.update(protocol=None), "protocol"),
        (lambda found: found.update(metrics={}), "metrics"),
        (lambda found: found["metrics"]["pass@1"].update(value=7), "metrics.pass@1.value"),
        (lambda found: found["metrics"]["pass@1"].update(value=float("nan")), "metrics.pass@1.value"),
        (lambda found: found.update(tokens={}), "tokens.mean"),
    ],
)
def test_a_damaged_evaluation_is_refused_by_the_place(tmp_path: Path, damage, at: str):
    runs = [put(tmp_path, "a"), put(tmp_path, "b", seed=1)]
    path = next((tmp_path / "b" / "evaluations").glob("*.json"))
    found = json.loads(path.read_text())
    damage(found)
    path.write_text(json.dumps(found))
    with pytest.raises(RecipeError, match=f"is damaged at {re.escape(at)}"):
        compare.compare_runs(runs)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no run directory"),
        ("", "made.json: is damaged"),
        ('{"name": "made", ', "made.json: is damaged"),
        ("[]", "made.json: another version wrote this evaluation: it lacks"),
        ('{"step": 0, "metrics": {"pass@1": 0.5}}', "it lacks name, identity"),
    ],
)
def test_a_run_that_cannot_be_read(tmp_path: Path, content: str | None, told: str):
    first, second = put(tmp_path, "a"), tmp_path / "b"
    if content is not None:
        put_evaluation(second, content, "made")
    for runs in ([first, str(second)], [str(second), first]):
        with pytest.raises(RecipeError, match=re.escape(told)) as refused:
            compare.compare_runs(runs)
        assert str(second) in str(refused.value)


def test_a_run_without_evaluations(tmp_path: Path):
    (tmp_path / "b").mkdir()
    with pytest.raises(RecipeError, match=r"b: holds no evaluations/\*\.json; evaluate it first"):
        compare.compare_runs([put(tmp_path, "a"), str(tmp_path / "b")])


def test_no_benchmark_in_common(tmp_path: Path):
    for name in ("aime", "math"):
        first = put(tmp_path, "a", name=name)
    second = put(tmp_path, "b", name="code")
    with pytest.raises(RecipeError, match=r"no benchmark in common with .*: code against aime, math"):
        compare.compare_runs([first, second])


def test_duplicate_ids_are_refused(tmp_path: Path):
    runs = [put(tmp_path, "a"), put(tmp_path, "b", judged_PK=samples(BASE, 8, problem="the same"))]
    with pytest.raises(RecipeError, match="holds the problem 'the same' twice"):
        compare.compare_runs(runs)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"allow": ["promt"]}, "did you mean 'prompt'"),
        ({"level": 95}, "between 0 and 1"),
        ({"metric": "accuracy"}, "known: pass@<n>, maj@<n>"),
        ({"metric": "pass@32"}, "there are pass@1, maj@8"),
    ],
)
def test_wrong_arguments(pair: list[str], keys: dict, told: str):
    with pytest.raises(RecipeError, match=re.escape(told)):
        compare.compare_runs(pair, **keys)


def test_wrong_runs(pair: list[str]):
    with pytest.raises(RecipeError, match=r"two runs or more; .* RUN_DIR:before and RUN_DIR:after"):
        compare.compare_runs(pair[:1])
    with pytest.raises(RecipeError, match="A and C are the same evaluation"):
        compare.compare_runs([*pair, f"{pair[0]}/../base:made"])
    with pytest.raises(RecipeError, match=r"no evaluation 'mde' .*did you mean 'made'"):
        compare.compare_runs([pair[0], f"{pair[1]}:mde"])


# What is said and written.


def test_the_terminal_shows_a_table_flips_and_what_it_means(pair: list[str]):
    compared = compare.compare_runs(pair)
    benchmark, against = only(compared)
    lines = comparison.format_comparison(compared).split("\n")
    assert lines[0] == f"A  {pair[0]}" and lines[1] == f"B  {pair[1]}"
    assert "Made up: 30 problems, 8 samples of each" in lines
    a, b = (side["figures"]["pass@1"] for side in benchmark["sides"])
    d = against["differences"]["pass@1"]
    row_a = next(line for line in lines if line.startswith("pass@1 "))
    row_b = lines[lines.index(row_a) + 1]
    assert f"A  {100 * a['value']:.1f}% [{100 * a['low']:.1f}, {100 * a['high']:.1f}]" in row_a
    assert f"B  {100 * b['value']:.1f}% [" in row_b
    assert f"+{100 * d['value']:.1f} [{100 * d['low']:.1f}, {100 * d['high']:.1f}]" in row_b
    assert row_b.endswith("p < 0.0001") or "p = " in row_b
    first = against["flips"][0]
    assert f"  {first['problem']} " in comparison.format_comparison(compared)
    shown = [line for line in lines if re.match(r"  made-\d+ ", line)]
    assert len(shown) == min(10, len(against["flips"]))
    if len(against["flips"]) > 10:
        assert f"  and {len(against['flips']) - 10} more" in lines
    assert " ".join(lines[-3:]).endswith(against["meaning"]) and max(map(len, lines)) <= 120


def test_a_corrected_p_stands_beside_the_plain_one(tmp_path: Path):
    shifts = {"a": 0.0, "b": 0.05, "c": 0.05}
    runs = [put(tmp_path, name, [min(1.0, r + x) for r in BASE], seed=ord(name)) for name, x in shifts.items()]
    compared = compare.compare_runs(runs)
    pair = min((pair for pair in compared["benchmarks"][0]["pairs"]), key=lambda pair: pair["p"])
    assert pair["p_holm"] == pytest.approx(min(1.0, 2 * pair["p"]))
    assert f"p = {pair['p']:.2g}, corrected {pair['p_holm']:.2g}" in comparison.format_comparison(compared)


class Tags(html.parser.HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.pieces: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.labels += [value for name, value in attributes if tag == "svg" and name == "aria-label"]

    def handle_data(self, data):
        self.pieces += data.split()


def test_the_page(tmp_path: Path):
    runs = [put(tmp_path, "a", title=f"Made {ATTACK}"), put(tmp_path, "b", BETTER, seed=1, grader=f"v2 {ATTACK}")]
    compared = compare.compare_runs(runs, allow=["grader"])
    _, against = only(compared)
    comparison.write_comparison(compared, tmp_path / "deep" / "page.html")
    page = Tags(tmp_path / "deep" / "page.html")
    text = " ".join(page.pieces)
    assert "script" not in page.tags and text.count(ATTACK) >= 2
    assert "http:" not in (tmp_path / "deep" / "page.html").read_text()
    assert against["meaning"] in text and "Not the same, and allowed" in text
    differences = [row["difference"] for row in against["by_problem"]]
    worse, better = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    assert page.labels[0].startswith("pass@1 of B less that of A, by problem: problems ")
    assert f"worse {worse}, the same {30 - worse - better}, better {better};" in page.labels[0]
    for flip in against["flips"]:
        assert f"{flip['problem']} {100 * flip['before']:.1f}% {100 * flip['after']:.1f}%" in text
    assert not list(tmp_path.rglob("*.partial"))


def test_the_json_is_the_comparison(pair: list[str], tmp_path: Path):
    compared = compare.compare_runs(pair)
    comparison.write_comparison(compared, tmp_path / "kept.json")
    assert json.loads((tmp_path / "kept.json").read_text()) == json.loads(json.dumps(compared))
    assert compare.compare_runs(pair) == compared


def test_another_ending_is_refused(pair: list[str], tmp_path: Path):
    with pytest.raises(RecipeError, match=r"must end in \.json or \.html"):
        comparison.write_comparison(compare.compare_runs(pair), tmp_path / "kept.txt")
    assert not (tmp_path / "kept.txt").exists()
