"""The page of a pipeline: what it shows of one that ended, of one that failed, and of one that has hardly begun."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pages import ATTACK, PNG, Page
from support.simulated_pipeline import STAGES, build

from open_r1.errors import RecipeError
from open_r1.pipeline import claims
from open_r1.report.pages import graph, pipeline


def written(directory: Path) -> Page:
    claims.write_claims(directory)
    return Page(pipeline.write_pipeline_page(directory))


def stage(
    name: str, inputs: list[str] = (), step: str | None = None, task: str = "sft", seed: int = 0, **changes
) -> dict:
    wired = {"model": list(inputs), "data": [], "reward_model": []}
    told = {"name": name, "seed": seed, "title": None, "step": step, "task": task, "inputs": wired}
    return told | {"state": "finished", "seconds": 10.0} | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("finished"))


def test_a_whole_pipeline(finished: Path):
    page = written(finished)
    for shown in (
        "R1, simulated finished · seeds 0, 1, 2 · 11 min 39 s · 2 at a time on 2 cores · peak memory 3.0 GiB",
        "step 2 reasoning RL",
        "✓ holds Pure RL makes a base model solve more",
        "✗ disagrees RL makes answers shorter.",
        "AIME 2024 pass@1 15.6 -> 77.9 (arXiv 2501.12948v2, 2.3)",
        "All models on Sums 40 problems, 8 samples of each",
        "All models on Small talk",
        "mean over 3 seeds; reports of seeds 0 , 1 , 2",
        "Cost",
    ):
        assert shown in page.line, shown
    assert page.text.index("All models on Sums") < page.text.index("All models on Small talk"), (
        "not the recipe's order"
    )
    assert len(page.source) < 3_000_000
    assert (finished / "plots" / "sums.png").read_bytes()[:4] == PNG
    assert not list(finished.glob("*.partial"))


def test_it_loads_nothing_and_links_to_the_stages_own_reports(finished: Path):
    page = written(finished)
    links = [link for link in page.loaded if link != "data:,"]
    assert "seed=1/zero/report.html" in links and "seed=2/cold_start_data/report.html" in links
    assert all((finished / link).is_file() for link in links)
    assert "script" not in page.tags and not re.search(r"https?:", page.source)
    assert page.text.count(ATTACK) >= 16, "an answer of every model to every prompt"


def test_every_plot_has_a_description_and_the_colours_of_the_page(finished: Path):
    page = written(finished)
    assert page.tags.count("svg") == len(page.alts)
    assert any("zero_samples finished after zero; cold_start_data finished" in alt for alt in page.alts)
    assert any("pass@1 of every model: base 1" in alt for alt in page.alts)
    assert any("Total reward (reward) against training steps" in alt for alt in page.alts)
    assert not re.findall(r"#[0-9a-fA-F]{6}", page.source.split("<h2>Stages")[1])


def test_writing_twice_gives_the_same_page(finished: Path):
    assert written(finished).source == written(finished).source


def test_all_models_answer_the_same_prompts(finished: Path):
    page = written(finished)
    for model in ("base", "zero", "reasoning", "r1"):
        assert len(re.findall(rf"by made-evaluate-measured\.{model}-0 ", page.text)) == 2 * pipeline.PROMPTS
    found = {
        stage: json.loads((finished / "seed=0" / stage / "evaluations" / "sums.json").read_text())
        for stage in ("measured.base", "measured.r1")
    }
    chosen = pipeline._choose_problems(list(found.values()))
    rates = [sum(p["correct"] for one in found.values() for p in one["by_problem"] if p["id"] == c) for c in chosen]
    assert rates == sorted(rates) and len(set(chosen)) == pipeline.PROMPTS


def test_problems_that_not_all_were_asked_are_not_shown():
    def asked(*ids: str) -> dict:
        return {"by_problem": [{"id": one, "correct": 1, "evidence": 2} for one in ids]}

    assert sorted(pipeline._choose_problems([asked("a", "b", "c"), asked("c", "b", "d")])) == ["b", "c"]
    assert pipeline._choose_problems([asked("a"), asked("b")]) == []


def test_what_it_took_counts_a_shared_run_once(tmp_path: Path):
    directory = build(tmp_path, states={"base": "cached"})
    costs = pipeline._tabulate_costs(
        directory, pipeline._group_by_name(json.loads((directory / "state.json").read_text())["stages"])
    )
    rows = {row[0]: row[1:] for row in costs}
    assert rows["preference_model"][1:3] == ["1", "37 s"] and rows["base"][1] == "3, 3 cached"
    assert rows["zero_samples"][5:] == ["24,000", "-"], "three runs of 8,000 tokens"
    # 128 completions at each of 60 steps, of 10 tokens and 16 / 60 more at every step.
    generated = 3 * 128 * sum(10 + 16 * step / 60 for step in range(1, 61))
    assert rows["zero"][5:] == [f"{generated:,.0f}", "180,000"]
    assert costs[-1][0] == "all" and costs[-1][2] == "40, 3 cached"


def test_stages_that_turn_out_the_same_are_counted_once(tmp_path: Path):
    directory = build(tmp_path, seeds=(0,))
    stages = pipeline._group_by_name(json.loads((directory / "state.json").read_text())["stages"])
    stages["zero_again"] = [stages["zero"][0] | {"name": "zero_again"}]
    names = [row[0] for row in pipeline._tabulate_costs(directory, stages)]
    assert "zero" in names and "zero_again" not in names


def test_tokens_that_count_from_zero_after_a_resumption():
    rows = [{"step": step, "num_tokens": tokens} for step, tokens in enumerate((10, 20, 30, 10, 20))]
    assert pipeline._count_trained(rows) == 50
    assert pipeline._count_trained([{"step": 1, "loss": 1.0}]) == 0


def test_generated_tokens_count_every_completion_of_every_step(tmp_path: Path):
    recipe = "{per_device_train_batch_size: 4, gradient_accumulation_steps: 2, num_iterations: 2}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    generated = pipeline._count_generated({5: 10.0, 10: 20.0}, tmp_path, {"processes": 3})
    assert generated == 5 * 30 * 4 * 2 * 3 / 2


def test_a_pipeline_in_which_a_stage_failed(tmp_path: Path):
    states = {"aligned": "failed", "r1": "blocked", "measured.r1": "blocked", "reasoning": "interrupted"}
    page = written(build(tmp_path, seeds=(0, 1), states=states))
    assert "aligned of seed 1 failed: RecipeError: it was made to fail" in page.line
    assert "line 39 <script>" in page.text and "line 24 <script>" not in page.text, "the last lines of the log"
    assert "blocked: r1 (seeds 0, 1), measured.r1 (seeds 0, 1)" in page.line
    assert "interrupted: reasoning (seeds 0, 1)" in page.line and "script" not in page.tags
    assert "… missing The last phase brings back the chat." in page.line
    assert "measured.r1" not in page.line.split("All models on Sums")[1].split("All models on Small talk")[0]


def test_a_pipeline_that_has_hardly_begun(tmp_path: Path):
    names = [name for name, *_ in STAGES]
    directory = build(tmp_path, seeds=(0,), states=dict.fromkeys(names, "waiting") | {"base": "running"})
    (directory / "seed=0" / "base" / "metrics.jsonl").write_text("")
    page = Page(pipeline.write_pipeline_page(directory))
    assert "running" in page.text and "waiting" in page.text
    for absent in ("The paper says", "All models on", "Trainings", "Selections", "The same prompts", "Cost"):
        assert absent not in page.text


def test_a_pipeline_of_one_seed(tmp_path: Path):
    page = written(build(tmp_path, seeds=(5,)))
    assert "the 95% interval over problems" in page.line and "t interval of the mean over" not in page.line
    assert "One seed: paired over its problems" in page.line and "seed 5 ·" in page.line


def test_a_directory_that_is_no_pipeline(tmp_path: Path):
    with pytest.raises(RecipeError, match="is not the directory of a pipeline"):
        pipeline.write_pipeline_page(tmp_path)


def test_states_of_the_seeds_in_words_and_colour():
    def node(*states: str) -> graph.Node:
        stages = [stage("zero", seed=seed, state=state) for seed, state in enumerate(states)]
        return graph.draw_graph(stages).nodes[0]

    assert (node("finished", "finished").states, node("finished", "cached").colour) == ("finished", "green")
    mixed = node("cached", "failed", "finished", "finished")
    assert (mixed.states, mixed.colour) == ("1 failed, 2 finished, 1 cached", "orange")
    assert node("running", "waiting").colour == "blue" and node("waiting", "finished").colour == "grey"


def test_evaluations_of_one_stage_are_one_node():
    stages = [stage("base"), stage("zero", ["base"], task="grpo")]
    stages += [stage(f"measured.{name}", [name], task="evaluate") for name in ("base", "zero")]
    found = graph.draw_graph(stages)
    measured = found.nodes[-1]
    assert len(found.nodes) == 3 and measured.inputs == {"base": "model", "zero": "model"}
    assert measured.seconds == "2 × 10 s" and len(found.wires) == 2


@st.composite
def pipelines(draw) -> list[dict]:
    """Stages in an order in which each comes after its inputs, with or without steps, one seed."""
    stages = []
    for i in range(draw(st.integers(1, 30))):
        before = [stage["name"] for stage in stages]
        inputs = draw(st.lists(st.sampled_from(before), max_size=3, unique=True)) if before else []
        stages.append(stage(f"stage_{i}", inputs, draw(st.sampled_from([None, "0", "3a", "4"]))))
    return stages


@given(pipelines())
@settings(max_examples=60, deadline=None)
def test_stages_never_overlap_and_every_wire_ends_at_its_stages(stages):
    found = graph.draw_graph(stages)
    places = {node.name: (node.x, node.y) for node in found.nodes}
    assert len(set(places.values())) == len(stages)
    for x, y in places.values():
        assert graph.LEFT <= x <= found.width - graph.WIDTH and 0 <= y <= found.height - graph.HEIGHT
        near = [
            other for other in places.values() if abs(other[0] - x) < graph.WIDTH and abs(other[1] - y) < graph.HEIGHT
        ]
        assert near == [(x, y)]
    wanted = [(source, node.name) for node in found.nodes for source in node.inputs]
    assert len(found.wires) == len(wanted)
    for (source, target), wire in zip(wanted, found.wires, strict=True):
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", wire["path"])]
        for name, (x, y) in ((source, numbers[:2]), (target, numbers[-2:])):
            assert places[name][0] <= x <= places[name][0] + graph.WIDTH
            assert places[name][1] <= y <= places[name][1] + graph.HEIGHT
