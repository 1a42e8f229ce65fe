"""The table of claims: what it refuses, how its marks come about, and that its numbers are those of the files."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.simulated import evaluation, put_evaluation, samples
from support.simulated_pipeline import STAGES, TABLE, build

from open_r1.errors import RecipeError
from open_r1.evaluation import over_seeds
from open_r1.evaluation.significance import compute_sign_flip_p
from open_r1.pipeline import claims
from open_r1.pipeline.claim_checks import check_claims

TASKS = {name: task for name, task, _, _ in STAGES}
ABOVE = {"figure": "pass@1", "of": "measured.zero", "above": "measured.base"}


def entries(*shows: dict) -> list[dict]:
    return [{"says": "it is so", "shows": list(shows)}]


def show(pipeline: Path) -> dict:
    """The first comparison of the first claim."""
    return claims.measure_claims(pipeline)["lines"][0]["shows"][0]


def change(pipeline: Path, stage: str, seed: int, name: str = "sums", **changes) -> None:
    """Put other contents into an evaluation of a stage."""
    path = pipeline / f"seed={seed}" / stage / "evaluations" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [((1.0, 2.0, 3.0), -0.4841, 4.4841), ((0.5, 0.5), 0.5, 0.5), ((1.0, 3.0), -10.7062, 14.7062)],
)
def test_the_interval_over_seeds_is_students(values, low, high):
    found = over_seeds.compute_mean(values)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-3)


def test_one_seed_has_no_interval_over_seeds():
    assert over_seeds.compute_mean([0.3]) == {"value": 0.3, "low": None, "high": None}
    assert over_seeds.compute_mean([])["value"] is None


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 647.789), (2, 39.0), (4, 9.60453), (9, 4.02599), (30, 2.07394)])
def test_the_ratio_that_can_be_told_is_that_of_the_f_distribution(freedom, quantile):
    assert over_seeds.compute_detectable_ratio(freedom) ** 2 == pytest.approx(quantile, rel=5e-3)


def test_steps_count_as_far_as_they_are_independent():
    draw = np.random.default_rng(0)
    offsets = [np.tile(draw.normal(size=3), (20, 1)) for _ in range(2)]
    assert over_seeds.estimate_freedom(*offsets) == pytest.approx(2.0, abs=0.5)
    same = np.tile([0.0, 1.0, 5.0], (20, 1))
    assert over_seeds.estimate_freedom(same, 7 * same) == pytest.approx(2.0)
    independent = draw.normal(size=(2, 50, 3))
    assert 5 < over_seeds.estimate_freedom(*independent) < 8
    assert over_seeds.estimate_freedom(independent[0], 100 * independent[1]) == pytest.approx(
        over_seeds.estimate_freedom(*independent)
    )


def test_false_alarms_and_power_of_a_spread():
    draw, told = np.random.default_rng(1), {1: 0, 6: 0}
    for _ in range(300):
        for times in told:
            # Half of the variance is a seed's lead that stays, half is drawn anew at each step.
            a, b = draw.normal(size=(2, 20, 3)) + draw.normal(size=(2, 1, 3))
            ratio = over_seeds.compare_spreads(times * a, b)
            told[times] += not ratio["low"] <= 1 <= ratio["high"]
    assert told[1] <= 0.07 * 300 and told[6] >= 0.85 * 300
    assert over_seeds.compare_spreads(a, np.ones((20, 3))) is None


def test_the_table_of_a_whole_pipeline_is_accepted():
    check_claims(TABLE, TASKS, {"measured.r1": ["sums", "talk"]})
    check_claims(entries({"figure": "maj@16", "of": "zero", "above": "pass@1"}), TASKS, {})
    check_claims(entries({"figure": "metric", "metric": "kl", "of": "zero", "at_most": 0.1}), TASKS, {})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "table: must be a list"),
        ([{"shows": [ABOVE]}], r"table\.0\.says: is missing"),
        ([{"says": 3, "shows": [ABOVE]}], r"table\.0\.says: must be a text"),
        ([{"says": "so", "shown": [ABOVE]}], r"table\.0: unknown key 'shown'; did you mean 'shows'"),
        ([{"says": "so", "shows": []}], r"table\.0\.shows: must be a list"),
        (entries(ABOVE, ABOVE | {"of": "measured.zeros"}), r"table\.0\.shows\.1\.of: .* mean 'measured\.zero'"),
        (entries(ABOVE | {"above": "measured.bse"}), r"shows\.0\.above: .* mean 'measured\.base'"),
        (entries(ABOVE | {"figure": "pass@0"}), r"shows\.0\.figure: 'pass@0' is no figure; did you mean 'pass@"),
        (entries(ABOVE | {"figure": "lenght"}), r"shows\.0\.figure: 'lenght' is no figure"),
        (entries(ABOVE | {"below": "measured.base"}), "above and below cannot stand in one line"),
        (entries(ABOVE | {"over": "measured.base"}), r"shows\.0: unknown key 'over'"),
        (entries(ABOVE | {"by": -0.1}), r"shows\.0\.by: must be a number above 0"),
        (entries(ABOVE | {"metric": "reward"}), r"shows\.0\.metric: belongs to metric and spread, not to pass@1"),
        (entries(ABOVE | {"of": "preferences"}), "preferences is of the task select, which has no pass@1"),
        (entries(ABOVE | {"above": "mean_length"}), "have no unit in common"),
        (entries({"figure": "pass@1", "of": "zero", "by": 0.1}), r"shows\.0\.by: needs one of"),
        (entries({"figure": "pass@1", "of": "zero", "not_below": "base"}), "not_below needs `by`"),
        (entries({"figure": "pass@1", "of": "zero", "at_least": "base"}), r"at_least: must be a number"),
        (entries({"figure": "pass@1", "of": "zero", "at_least": True}), r"at_least: must be a number"),
        (entries({"figure": "funnel", "of": "zero"}), "zero is of the task grpo, which has no funnel"),
        (entries({"figure": "funnel", "of": "preferences", "above": "cold_start_data"}), "is shown, and not compared"),
        (entries({"figure": "spread", "of": "zero", "above": "reasoning"}), r"shows\.0\.metric: name the key"),
        (entries({"figure": "spread", "metric": "reward", "of": "zero", "at_most": 1}), "only compared with another"),
        (entries({"figure": "spread", "metric": "reward", "of": "zero", "above": "base", "by": 1}), "by their ratio"),
        (entries({"figure": "spread", "metric": "reward", "of": "measured.zero"}), "which has no spread; a training"),
        (entries({"figure": "metric", "metric": "kl", "of": "zero", "steps": [5, 1]}), r"shows\.0\.steps: must be"),
        (entries(ABOVE | {"benchmark": "talks"}), r"benchmark: 'talks' is not a benchmark .*did you mean 'talk'"),
    ],
)  # fmt: skip
def test_refused_before_anything_runs(table, message):
    with pytest.raises(RecipeError, match=message):
        check_claims(table, TASKS, {"measured.zero": ["sums", "talk"]})


def test_marks_of_a_whole_pipeline(tmp_path: Path):
    table = claims.write_claims(build(tmp_path))
    assert [line["mark"] for line in table["lines"]] == ["holds", "holds", "disagrees", "holds", "shown"]
    assert {show["rule"] for show in table["lines"][0]["shows"]} == {"seeds"}
    assert table["lines"][3]["shows"][0]["rule"] == "spread" and set(table["rules"]) == {"seeds", "spread"}
    assert table["lines"][4]["shows"][0]["mean"]["selected"] == 200


def test_every_number_can_be_read_again_from_its_file(tmp_path: Path):
    pipeline = build(tmp_path)
    table = claims.write_claims(pipeline)
    assert json.loads((pipeline / "table.json").read_text()) == table
    compared = table["lines"][0]["shows"] + table["lines"][1]["shows"]
    for line in compared:
        for reading in line["values"] + line["than_values"]:
            value = json.loads((pipeline / reading["file"]).read_text())
            for key in reading["key"].split("."):
                value = value[key]
            assert value == reading["value"]
        ours, theirs = ([reading["value"] for reading in line[side]] for side in ("values", "than_values"))
        differences = np.subtract(ours, theirs)
        half = 4.30265 * differences.std(ddof=1) / 3**0.5
        assert line["difference"]["value"] == pytest.approx(differences.mean())
        assert line["difference"]["low"] == pytest.approx(differences.mean() - half, abs=1e-5)


def test_a_spread_can_be_computed_again(tmp_path: Path):
    pipeline = build(tmp_path)
    line = claims.measure_claims(pipeline)["lines"][3]["shows"][0]
    rewards_ST = [
        [row["reward"] for row in map(json.loads, (pipeline / value["file"]).open()) if 1 <= row["step"] <= 20]
        for value in line["values"]
    ]
    assert line["values"][0]["key"] == "reward, steps 1 to 20"
    assert line["mean"]["value"] == pytest.approx(np.std(rewards_ST, axis=0, ddof=1).mean())


@pytest.mark.parametrize(
    ("changes", "mark"),
    [
        ({}, "holds"),
        ({"above": "measured.zero", "of": "measured.base"}, "disagrees"),
        ({"above": "measured.zero"}, "not clear"),
        ({"by": 0.5}, "holds"),
        ({"by": 0.95}, "disagrees"),
        ({"of": "measured.r1", "above": "measured.reasoning"}, "not clear"),
        ({"of": "measured.r1", "above": "measured.reasoning", "by": 0.3}, "disagrees"),
    ],
)
def test_near_misses(tmp_path: Path, changes, mark):
    assert show(build(tmp_path, table=entries(ABOVE | changes)))["mark"] == mark


@pytest.mark.parametrize(
    ("bound", "mark"),
    [({"at_least": 0.6}, "holds"), ({"at_least": 0.95}, "disagrees"), ({"at_most": 0.8}, "not clear"), ({}, "shown")],
)
def test_bounds(tmp_path: Path, bound, mark):
    line = show(build(tmp_path, table=entries({"figure": "pass@1", "of": "measured.zero"} | bound)))
    assert line["mark"] == mark and len(line["values"]) == 3


@pytest.mark.parametrize(
    ("marks", "together"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "not clear"], "not clear"),
        (["missing", "holds", "disagrees", "not clear"], "disagrees"),
        (["missing", "holds"], "missing"),
        (["shown", "holds"], "holds"),
        (["shown"], "shown"),
    ],
)
def test_every_comparison_of_a_claim_must_hold(marks, together):
    assert claims._combine_marks(marks) == together


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.001, 0.5))
def test_opposite_claims_have_opposite_marks(differences, by):
    mean = over_seeds.compute_mean(differences)

    def mark(relation: str, by: float = 0.0) -> str:
        return claims._decide_mark({"relation": relation, "by": by}, mean)

    swapped = {"holds": "disagrees", "disagrees": "holds", "not clear": "not clear"}
    assert mark("below") == swapped[mark("above")]
    # Less than `by` below is what is not below by it.
    assert mark("not_below", by) == swapped[mark("below", by)]
    assert mark("above", by) != "holds" or mark("above") == "holds"
    assert mark("above") != "holds" or mark("not_below", by) == "holds"


def test_a_vote_adds_nothing_to_what_is_always_right(tmp_path: Path):
    pipeline = build(tmp_path, table=entries({"figure": "maj@8", "of": "measured.zero", "above": "pass@1"}))
    assert show(pipeline)["mark"] == "holds"
    for seed in (0, 1, 2):
        put_evaluation(pipeline / f"seed={seed}" / "measured.zero", evaluation(samples([1.0] * 9, 8)), "sums")
    line = show(pipeline)
    assert line["mark"] == "not clear" and line["difference"]["value"] == 0 and line["rule"] == "seeds"


def test_a_single_seed_is_told_by_its_problems(tmp_path: Path):
    pipeline = build(
        tmp_path, seeds=(4,), table=entries(ABOVE, {"figure": "maj@k", "of": "measured.zero", "above": "pass@1"})
    )
    table = claims.measure_claims(pipeline)
    line, voted = table["lines"][0]["shows"]
    rates = [
        {one["id"]: one["pass@1"] for one in json.loads((pipeline / side[0]["file"]).read_text())["by_problem"]}
        for side in (line["values"], line["than_values"])
    ]
    assert line["p"] == compute_sign_flip_p([rates[0][one] - rates[1][one] for one in rates[0]])
    assert (line["rule"], line["mark"]) == ("problems", "holds") and set(table["rules"]) == {"problems"}
    assert voted["rule"] == "problems" and voted["than_mean"]["value"] == line["mean"]["value"]
    spread = {"figure": "spread", "metric": "reward", "of": "zero", "above": "reasoning"}
    once = show(build(tmp_path / "b", seeds=(4,), table=entries(spread)))
    assert once["mark"] == "not clear" and "two seeds" in once["why"]


def test_a_single_seed_of_few_or_unequal_samples_is_not_clear(tmp_path: Path):
    pipeline = build(tmp_path, seeds=(0,), table=entries(ABOVE))
    zero, base = (pipeline / "seed=0" / f"measured.{name}" for name in ("zero", "base"))
    # The signs of five problems all agree in 1 of 16 cases, however large the differences.
    put_evaluation(zero, evaluation(samples([1.0] * 5, 8)), "sums")
    put_evaluation(base, evaluation(samples([0.1, 0.2, 0.3, 0.1, 0.2], 8)), "sums")
    few = show(pipeline)
    assert few["mark"] == "not clear" and few["p"] == 1 / 16 and few["difference"]["low"] > 0.2
    put_evaluation(zero, evaluation(samples([1.0] * 40, 1), ("pass@1",)), "sums")
    put_evaluation(base, evaluation(samples([0.5] * 40, 16)), "sums")
    unequal = show(pipeline)
    assert unequal["mark"] == "not clear" and "unequal" in unequal["why"] and unequal["p"] < 0.001


def test_a_stage_that_is_running_has_no_result_yet(tmp_path: Path):
    pipeline = build(tmp_path, states={"measured.zero": "running", "zero": "running"})
    lines = claims.measure_claims(pipeline)["lines"]
    assert (pipeline / "seed=0/measured.zero/evaluations/sums.json").is_file()
    assert lines[0]["mark"] == lines[3]["mark"] == "missing"
    assert "zero of seed 1 is running" in lines[3]["shows"][0]["missing"]


def test_a_stage_that_seeds_share_is_one_run(tmp_path: Path):
    once = ("measured.base", "measured.zero")
    line = show(build(tmp_path, table=entries(ABOVE), once=once))
    assert len(line["values"]) == 3 and line["rule"] == "problems"
    assert line["mean"]["low"] < line["mean"]["value"], "the interval over its problems"


def test_while_the_pipeline_is_under_way(tmp_path: Path):
    states = {"measured.zero": "waiting", "cold_start_data": "failed"}
    pipeline = build(tmp_path, states=states)
    lines = claims.measure_claims(pipeline)["lines"]
    assert lines[0]["mark"] == "missing" and lines[4]["mark"] == "missing"
    assert "measured.zero of seed 0 is waiting" in lines[0]["shows"][0]["missing"]
    assert "measured.zero of seed 0 is waiting" in claims.format_claims(claims.measure_claims(pipeline))
    (pipeline / "state.json").unlink()
    assert {line["mark"] for line in claims.measure_claims(pipeline)["lines"]} == {"missing"}


def test_seeds_that_are_not_there_are_told(tmp_path: Path):
    pipeline = build(tmp_path, table=entries(ABOVE))
    (pipeline / "seed=1/measured.zero/evaluations/sums.json").unlink()
    line = show(pipeline)
    assert line["mark"] == "holds" and len(line["differences"]) == 2
    assert "seed=1/measured.zero/evaluations/sums.json is not there" in line["told"]


def test_evaluations_of_other_problems_are_not_compared(tmp_path: Path):
    pipeline = build(tmp_path, table=entries(ABOVE))
    change(pipeline, "measured.base", 2, identity="other")
    line = show(pipeline)
    assert line["mark"] == "not clear" and "seed=2/measured.base/evaluations/sums.json asked different" in line["why"]


def test_samples_without_a_verdict_and_damaged_files_are_told(tmp_path: Path):
    pipeline = build(tmp_path, table=entries(ABOVE))
    put_evaluation(pipeline / "seed=0/measured.zero", evaluation(samples([0.8] * 40, 8, doubtful=0.2)), "sums")
    assert "of the samples have no verdict" in show(pipeline)["told"]
    (pipeline / "seed=0/measured.zero/evaluations/sums.json").write_text("{")
    with pytest.raises(RecipeError, match=r"seed=0/measured\.zero/evaluations/sums\.json: is damaged"):
        claims.measure_claims(pipeline)


def test_a_figure_that_no_evaluation_has(tmp_path: Path):
    table = entries(ABOVE | {"figure": "pass@3"}, {"figure": "metric", "metric": "rewrd", "of": "zero"})
    first, second = claims.measure_claims(build(tmp_path, table=table))["lines"][0]["shows"]
    assert first["mark"] == second["mark"] == "missing"
    assert "has no pass@3, only pass@1, maj@8" in first["missing"][0]
    assert "has logged no rewrd; did you mean 'reward'?" in second["missing"][0]


def test_for_a_terminal(tmp_path: Path):
    text = claims.format_claims(claims.measure_claims(build(tmp_path)))
    assert max(map(len, text.splitlines())) <= 120
    assert "the paper says / this run shows (3 seeds)" in text and "AIME 2024 pass@1 15.6 -> 77.9" in text
    assert "disagrees    RL makes answers shorter." in text and "funnel of cold_start_data: sampled 400" in text
    assert claims.format_claims({"lines": []}) == ""
