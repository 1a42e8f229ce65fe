"""Our defaults of TRL's keys, and the keys that change no result."""

from __future__ import annotations

from typing import Any

# Where TRL's default is not the paper's or does not suit this project; a recipe may override any of them.
COMMON_DEFAULTS: dict[str, Any] = {
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    # Dense models use all their parameters in every pass; recipes of a mixture of experts set it to true.
    "ddp_find_unused_parameters": False,
}
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    # The adapter of a reward model must carry its head, which the base model does not have.
    "reward": {"lora_task_type": "SEQ_CLS", "lora_modules_to_save": ["score"]},
    "grpo": {
        # GRPO as DeepSeekMath eq. 3-4 write it: group-normalised rewards, mean over each completion's tokens, and the
        # plain estimator of the KL to the reference in the loss. R1 eq. 1-3 are on whole outputs instead of tokens.
        "loss_type": "grpo",
        "scale_rewards": "group",
        "beta": 0.001,
        "use_bias_correction_kl": False,
        "num_generations": 16,
        "temperature": 1.0,
        "log_completions": True,
        # TRL's table shows the whole batch at every step; callbacks.CompletionTable a few rows every `print_every`.
        "num_completions_to_print": 0,
    },
    "rloo": {
        # REINFORCE leave-one-out (arXiv 2402.14740), with the group, temperature and KL coefficient of R1-Zero in
        # place of TRL's 2 and 0.05. The KL is part of the reward here, summed over the completion.
        "beta": 0.001,
        "num_generations": 16,
        "temperature": 1.0,
        "log_completions": True,
        "num_completions_to_print": 0,
    },
}
# Keys that change where a run is and how it is shown, but not what it computes: with other values of them the run
# keeps its name and can be resumed.
PRESENTATION_KEYS = {
    "output_dir", "overwrite", "report_to", "run_name", "print_every", "disable_tqdm", "task", "part", "parts",
    "hub_dataset_id", "hub_private", "rejudge", "reference", "report", "gpu_type",
    "vllm_server_gpus", "vllm_server_restart", "vllm_server_base_url", "vllm_server_host", "vllm_server_port",
    "vllm_server_timeout", "vllm_group_port",
}  # fmt: skip
# Parameters of an engine that set where and how fast it works; the others may change its completions.
ENGINE_PRESENTATION_KEYS = {
    "endpoints", "concurrency", "timeout", "patience", "retries", "backoff", "key_env", "max_bytes", "batch_size",
    "tensor_parallel_size", "gpu_memory_utilization",
}  # fmt: skip
# Keys of a selection that do not change its verdicts.
CHOICE_KEYS = {
    "filters", "output", "pairs", "reasoning", "no_reasoning", "simple_prompt_words", "simple_answer_words",
    "curriculum", "deduplicate", "examples",
}  # fmt: skip

# Keys of an evaluation, and of its benchmarks, that do not change its completions.
JUDGING_KEYS = {"metrics", "level"}
BENCHMARK_JUDGING_KEYS = {"metrics", "verifier", "title", "source"}


def select_result_keys(given: dict[str, Any], rejudge: bool = False) -> dict[str, Any]:
    """A recipe's keys without those that do not change the result.

    Args:
        given: the recipe's keys.
        rejudge: leave out the keys that change only how completions are judged and reported, too.
    """
    kept = {key: value for key, value in given.items() if key not in PRESENTATION_KEYS}
    if rejudge:
        kept = {key: value for key, value in kept.items() if key not in JUDGING_KEYS}
        kept["benchmarks"] = [
            {key: value for key, value in benchmark.items() if key not in BENCHMARK_JUDGING_KEYS}
            for benchmark in kept.get("benchmarks", [])
        ]
    if isinstance(kept.get("engine"), dict):
        kept["engine"] = {k: v for k, v in kept["engine"].items() if k not in ENGINE_PRESENTATION_KEYS}
    return kept
