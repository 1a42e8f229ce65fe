"""Memory by what the sharding papers say, recipes that fit, alternatives that do what they say, and refusals."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from open_r1.config.overrides import parse_overrides
from open_r1.errors import RecipeError
from open_r1.estimate import alternatives, command, estimate, memory, speed, workload
from open_r1.estimate.text import format_alternatives
from open_r1.estimate.tracing import Parameters
from open_r1.estimate.workload import Sharding
from open_r1.pipeline import estimates
from open_r1.system import hardware

ZERO_7B = "recipes/Qwen2.5-7B/grpo/r1_zero.yaml"
DISTILL = "recipes/Qwen2.5-14B/sft/distill.yaml"
QLORA = "recipes/Llama-3.3-70B-Instruct/sft/distill_qlora.yaml"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def of(path: str, **changes):
    return estimate.estimate_recipe(workload.load_planned_recipe(path, changes))


# Rajbhandari et al., ZeRO (arXiv 1910.02054), Figure 1: a model of 7.5 billion parameters on 64 GPUs, mixed precision
# with Adam: GB of model state on each.
@pytest.mark.parametrize(
    ("sharding", "gigabytes"),
    [
        (Sharding("zero1", "deepspeed", 1), 31.4),
        (Sharding("zero2", "deepspeed", 2), 16.6),
        (Sharding("zero3", "deepspeed", 3), 1.9),
        (Sharding("fsdp2", "fsdp2"), 1.9),
        (Sharding("ddp", "ddp"), 120.0),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_model_state_is_the_zero_papers(sharding, gigabytes):
    counts = Parameters(total=7_500_000_000, trained=7_500_000_000, linear=0, layer=1, active=0)
    changes = {"gpus": 64, "gradient_accumulation_steps": 1, "accelerate_config": "zero2", "dtype": "float32"}
    work = replace(workload.build_workload(workload.load_planned_recipe(DISTILL, changes)), gpus=64, sharding=sharding)
    state = memory._state(work, counts)
    own = ("weights", "gradients", "float32 copy of the weights", "optimizer")
    assert sum(state.get(name, 0.0) for name in own) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_4_bit_weights_take_what_the_qlora_paper_says():
    """arXiv 2305.14314, section 3: double quantisation brings 0.5 bits a parameter of scales down to 0.127."""
    assert memory.FOUR_BIT[False] * 8 == pytest.approx(4 + 0.5)
    assert memory.FOUR_BIT[True] * 8 == pytest.approx(4 + 0.127, abs=0.002)


def test_an_offloaded_optimizer_lies_in_the_host():
    here, there = of(DISTILL).memory, of(DISTILL, accelerate_config="zero3_offload").memory
    assert there.peak < here.peak - 2 * here.state["optimizer"]
    assert there.host >= here.state["optimizer"] + here.state["float32 copy of the weights"]


def test_vllm_takes_turns_with_training_only_if_it_sleeps():
    asleep, awake = of(ZERO_7B).memory, of(ZERO_7B, vllm_enable_sleep_mode=False).memory
    assert awake.peak - asleep.peak == pytest.approx(min(sum(asleep.step.values()), asleep.generation["vLLM"]))
    served = of(ZERO_7B, vllm_mode="server").memory
    assert "vLLM" not in served.generation and any("server" in note for note in served.notes)


def test_a_vllm_that_cannot_hold_its_weights_does_not_fit():
    short = of("recipes/Qwen2.5-32B/grpo/r1_zero.yaml", vllm_tensor_parallel_size=1)
    assert not short.fits and short.gpu_hours is None


SOME = [
    ZERO_7B, QLORA, "recipes/Llama-3.3-70B-Instruct/sft/distill.yaml", "recipes/Qwen2.5-32B/grpo/r1_zero.yaml",
    "recipes/Qwen2.5-1.5B/grpo/r1_zero.yaml", "recipes/Qwen2.5-7B/dpo/preferences_qlora.yaml",
    "recipes/DeepSeek-R1-Distill-Qwen-32B/evaluate/paper.yaml",
]  # fmt: skip
GPU_RECIPES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.glob("recipes/*/*/*.yaml")
    if path.parts[-3] not in ("tiny", "any") and path.parent.name not in ("select", "mix")
)


def listed() -> dict[str, tuple[str, float]]:
    """Hardware and GiB of each recipe, as recipes/README.md has them."""
    text = (ROOT / "recipes" / "README.md").read_text()
    found = re.findall(r"^\| `([\w./-]+\.yaml)` \| (\d+ x [^|]+) \| (\d+) \|", text, re.MULTILINE)
    return {f"recipes/{path}": (kind.strip(), float(gib)) for path, kind, gib in found}


# All of them take minutes.
@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=() if path in SOME else pytest.mark.long) for path in GPU_RECIPES]
)
def test_a_recipe_fits_the_hardware_that_it_names(path):
    """And its header and recipes/README.md say what the estimator says."""
    taken = of(path)
    assert taken.fits, estimate.format_headline(taken)
    gib = taken.memory.peak / memory.GIB
    head = "".join(line for line in (ROOT / path).read_text().splitlines(keepends=True) if line.startswith("#"))
    (said,) = re.findall(r"estimated: (\d+) GiB", head.replace("\n# ", " "))
    assert float(said) == pytest.approx(gib, rel=0.03, abs=1)
    kind, tabled = listed()[path]
    assert kind.startswith(f"{taken.work.gpus} x {taken.gpu.name}") and tabled == pytest.approx(gib, rel=0.03, abs=1)


def test_every_recipe_for_gpus_is_listed():
    assert set(listed()) == set(GPU_RECIPES)


def test_alternatives_do_what_they_say():
    changes = {"gpus": 1, "accelerate_config": None, "gradient_accumulation_steps": 64}
    base = of(DISTILL, **changes)
    assert not base.fits
    around = command.find_others(DISTILL, changes, base, estimate.Options())
    fits = [other.fits for _, other in around]
    assert fits == sorted(fits, reverse=True) and any(fits) and not all(fits)
    assert all(other.gpu_hours == other.cost for _, other in around if other.gpu_hours is not None)
    alternative, found = next(pair for pair in around if pair[0].title == "QLoRA")
    again = of(DISTILL, **changes | alternative.changes)
    assert again.memory.peak == found.memory.peak < 0.5 * base.memory.peak
    for same in (True, False):
        cost = [other.cost for alternative, other in around if other.fits and alternative.same == same]
        assert cost == sorted(cost)


def test_time_follows_the_length_the_rate_and_the_gpus():
    base = of(ZERO_7B).speed
    options = estimate.Options(mean_tokens=10_000, utilisation=0.7)
    long = estimate.estimate_recipe(workload.load_planned_recipe(ZERO_7B, {}), options).speed
    assert long.tokens > 1.8 * base.tokens and long.seconds["generation"] > base.seconds["generation"]
    short = of(ZERO_7B, gpus=16, gradient_accumulation_steps=32)
    halved = short.speed.seconds["forward and backward"]
    assert halved == pytest.approx(base.seconds["forward and backward"] / 2, rel=1e-6)
    assert (
        estimate.estimate_recipe(workload.load_planned_recipe(ZERO_7B, {}), estimate.Options(price=2.0)).price == 2.0
    )


@pytest.mark.parametrize(
    ("path", "keys", "passes"),
    [
        (ZERO_7B, {}, 2),
        (ZERO_7B, {"beta": 0.0, "sync_ref_model": False}, 1),
        (ZERO_7B, {"vllm_importance_sampling_correction": False}, 1),
        (ZERO_7B, {"use_vllm": False}, 1),
        (ZERO_7B, {"use_vllm": False, "generation_batch_size": 8192}, 2),
        (ZERO_7B, {"use_vllm": False, "num_iterations": 4}, 0.5),
        ("recipes/Qwen2.5-7B/dpo/preferences.yaml", {}, 1),
        (DISTILL, {}, 0),
    ],
)
def test_forward_passes_beside_the_policys_own(path, keys, passes):
    """As trl's GRPOTrainer._generate_and_score_completions takes them, once for each rollout."""
    work = workload.build_workload(workload.load_planned_recipe(path, keys))
    assert speed.extra_passes(work) == passes


def test_a_dense_step_is_six_flops_for_each_parameter_and_token():
    """And two more where activations are computed again (arXiv 2001.08361, 2.1), beside attention."""
    work = workload.build_workload(workload.load_planned_recipe(DISTILL, {}))
    taken = of(DISTILL).speed
    head_and_layers = 14.77e9 - 152_064 * 5120
    attention = 4.5 * speed.attention(work, workload.MEAN_TOKENS["sft"])
    assert taken.flops == pytest.approx(taken.tokens * (8 * head_and_layers + attention), rel=0.01)


@pytest.mark.long
def test_r1_zero_of_v3_takes_about_what_the_paper_tells():
    """101,000 H800 hours (arXiv 2501.12948v2, Table 7), by which no rate was chosen; H200s read faster."""
    stages = {
        stage.name: stage
        for stage in estimates.estimate_stages(ROOT / "recipes/pipelines/r1_deepseek_v3.yaml", {}, estimate.Options())
    }
    hours = stages["zero_short"].estimate.gpu_hours + stages["zero"].estimate.gpu_hours
    assert 50_000 < hours < 200_000
    assert all(stage.estimate.fits for stage in stages.values() if stage.estimate is not None)
    told = estimates.format_estimates(list(stages.values()))
    assert "together" in told and "NO" not in told


def test_a_pipeline_is_estimated_stage_by_stage():
    stages = estimates.estimate_stages(ROOT / "recipes/pipelines/cold_start_tiny.yaml", {}, estimate.Options())
    taken = {stage.name: stage.estimate for stage in stages}
    assert taken["base"].work.config.num_hidden_layers == taken["zero"].work.config.num_hidden_layers
    assert taken["base"].memory.peak > 0 and stages[0].seeds > 1
    assert "CPU" in estimates.format_estimates(stages)


@pytest.mark.parametrize(
    ("words", "told"),
    [("8xH100", (8, "H100")), ("h200", (None, "H200")), ("16", (16, None)), ("4x a100-80gb", (4, "A100"))],
)
def test_hardware_is_read(words, told):
    assert hardware.parse_gpus(words) == told


@pytest.mark.parametrize(
    ("words", "told"), [("0xH100", "a number and a kind"), ("8xH1000", "no GPU is named"), ("", "a")]
)
def test_hardware_that_is_none(words, told):
    with pytest.raises(RecipeError, match=told):
        hardware.parse_gpus(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"rows": -1}, "rows: a number above 0"),
        ({"utilisation": 2}, "utilisation: a share"),
        ({"price": "free"}, "price: a number above 0"),
        ({"gpus": "8xT5"}, "did you mean 'T4'"),
    ],
)
def test_options_that_are_none(words, told):
    with pytest.raises(RecipeError, match=told):
        estimate.parse_options(dict(words))


def test_a_model_whose_shape_is_unknown():
    with pytest.raises(RecipeError, match="shape of no/such-model is not known"):
        of(DISTILL, model_name_or_path="no/such-model")


def test_a_folder_with_a_config_is_enough(tmp_path):
    workload.config_of("Qwen/Qwen2.5-14B").save_pretrained(tmp_path)
    assert of(DISTILL, model_name_or_path=str(tmp_path)).memory.peak == of(DISTILL).memory.peak


def test_the_command():
    words = [
        "recipes/Qwen2.5-0.5B/grpo/gsm8k.yaml",
        "--gpus",
        "2xT4",
        "--price",
        "1.5",
        "--max_completion_length",
        "4096",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "open_r1.cli", "estimate", *words], capture_output=True, text=True, cwd=ROOT
    )
    shown = done.stdout
    assert done.returncode == 0 and shown.startswith("DOES NOT FIT: ") and "2 x T4, ddp" in shown, done.stderr
    for part in ("weights", "optimizer", "activations kept", "GPU-hours", "at 1.5 an hour", "assumed:", "instead"):
        assert part in shown


@pytest.mark.parametrize(
    ("recipe", "told"), [("tiny/grpo/r1_zero.yaml", "on a CPU"), ("tiny/mix/r1_sft.yaml", "runs no model here")]
)
def test_a_recipe_without_a_gpu(recipe, told):
    assert told in "".join(command.report_estimates([f"recipes/{recipe}"]))


def test_several_recipes_are_a_table_and_a_pipeline_goes_alone():
    lines = list(command.report_estimates(["recipes/tiny/grpo/r1_zero.yaml", "recipes/tiny/sft/base.yaml"]))
    assert len(lines) == 3 and all(line.startswith("|") for line in lines)
    with pytest.raises(RecipeError, match="is a pipeline, which is estimated by itself"):
        list(command.report_estimates(["recipes/tiny/grpo/r1_zero.yaml", "recipes/pipelines/r1_tiny.yaml"]))


def test_words_of_an_alternative_can_be_typed():
    base = of(DISTILL)
    found = [(alternative, base) for alternative in alternatives.find_alternatives(base.work)]
    lines = format_alternatives(base, found[:1]).splitlines() + format_alternatives(base, found[-3:]).splitlines()
    typed = [parse_overrides(shlex.split("--" + line.partition("  --")[2])) for line in lines if "  --" in line]
    assert typed == [
        {key: value if value != ["all-linear"] else "all-linear" for key, value in alternative.changes.items()}
        for alternative, _ in (found[0], *found[-3:])
    ]


MEASURED = json.loads((ROOT / "benchmarks" / "results" / "memory_cpu.json").read_text())["cases"]


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case["case"])
def test_the_estimate_stays_near_what_was_measured(case, tmp_path, monkeypatch):
    """Of a run of benchmarks/memory.py, whose trainings are not repeated here."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import memory as benchmark

    path = benchmark.recipe(tmp_path, benchmark.CPU_CASES[case["case"]], gpu=False)
    tensors, _ = benchmark.estimated(path, None)
    assert tensors == pytest.approx(case["bytes"], rel=0.06)
