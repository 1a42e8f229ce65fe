"""Evaluation during training: before the first step, every so many steps, and after the last.

Completions come from the transformers engine, verdicts from the accuracy scorer, and the figures are those of an
`evaluate` run.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback
from trl.models import unwrap_model_for_generation

from ..benchmarks import registry
from ..config.recipe import Recipe
from ..data.presenting import load_datasets
from ..engines.registry import Sampling, derive_seed
from ..engines.transformers import LoadedModel
from ..evaluation import grading, metrics
from ..evaluation.grading import Grader
from ..prompts import hash_prompt
from ..report import run_report
from ..rewards.registry import RewardConfig
from ..run.run import Run
from ..system.files import read_json, write_json

SHOWN = 8  # problems whose samples are kept for the report
VERIFIER = RewardConfig("accuracy")
LEVEL = 0.95  # of the intervals


def load_problems(recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of the recipe's `evaluation`; none without one."""
    if recipe.run.evaluation is None:
        return []
    return list(load_datasets(recipe.run.evaluation.datasets, "grpo", recipe.data, recipe.args.seed, [VERIFIER]))


class LiveEvaluation(TrainerCallback):
    """Evaluates a trainer's model on held-out problems before the first step and every `evaluation.every` steps.

    Every completion has a random generator seeded by the recipe's seed and the step, so an evaluation changes nothing
    in the training around it, and gives the same figures on any number of processes. Without problems it does nothing.
    """

    def __init__(self, problems: list[dict[str, Any]], trainer: Trainer, run: Run):
        self.problems = problems
        self.trainer = trainer
        self.run = run
        self.seed = run.recipe.args.seed
        if not problems:
            return
        assert run.recipe.run.evaluation is not None
        self.settings = run.recipe.run.evaluation
        self.max_tokens = self.settings.max_completion_length or run.recipe.args.max_completion_length
        self.ids = list_ids(problems)
        self.grader = Grader(VERIFIER, self.max_tokens)
        self.metrics = [registry.resolve_metric(name, self.settings.k) for name in list_metrics(self.settings.k)]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.problems and self.run.checkpoint is None:
            self.record(0, name="before")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last step is evaluated by `summarize`, on all problems.
        due = self.problems and self.settings.every and state.global_step % self.settings.every == 0
        if due and state.global_step < state.max_steps:
            self.record(state.global_step)

    def record(self, step: int, name: str | None = None) -> dict[str, Any]:
        """Evaluate the model in its current state and log the figures.

        Args:
            step: of the training.
            name: evaluates all problems and writes `evaluations/<name>.json`; None evaluates the first `live_rows`.
        """
        judged = self.evaluate(step, None if name else self.settings.live_rows)
        if name and self.run.main:
            folder = self.run.dir / "evaluations"
            folder.mkdir(exist_ok=True)
            write_json(folder / f"{name}.json", {"name": name} | judged)
        logs = {f"evaluation/{key}": figure["value"] for key, figure in metrics.summarize_evaluation(judged).items()}
        logs["evaluation/unknown"] = sum(judged["shares"][kind]["value"] for kind in ("unknown", "error"))
        # `trainer.log` would also close the sums of the training step under way.
        trainer = self.trainer
        known = {key: value for key, value in logs.items() if value is not None}
        due = trainer.control.should_log
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, known)
        # The handler cleared it, and the step's own log is still to come.
        trainer.control.should_log = due
        return judged

    def summarize(self) -> None:
        """Evaluate the trained model, write summary.json, and print the figures before and after."""
        if not self.problems:
            return
        after = self.record(self.trainer.state.global_step, name="after")
        if not self.run.main:
            return
        before = read_json(self.run.dir / "evaluations" / "before.json")
        summary = {
            "seed": self.seed,
            "seconds": round(self.run.story_seconds(), 1),
            "before": metrics.summarize_evaluation(before),
            "after": metrics.summarize_evaluation(after),
        }
        write_json(self.run.dir / "summary.json", summary)
        print(run_report.format_before_after(summary["before"], summary["after"]))

    def evaluate(self, step: int, rows: int | None = None) -> dict[str, Any]:
        """The evaluation of the first `rows` problems (all of them by default)."""
        problems = self.problems[:rows]
        judged_PK, completions_PK = self._sample_and_grade(problems, step)
        settings, recipe = self.settings, self.run.recipe
        figures = metrics.compute_figures(judged_PK, self.metrics, level=LEVEL, seed=self.seed)
        for line, problem in zip(figures["by_problem"], problems, strict=True):
            line["question"] = grading.shorten_question(problem["prompt"])
        return {
            "title": "Held-out problems",
            "step": step,
            "model": str(recipe.run_dir),
            "engine": "transformers",
            "seed": self.seed,
            "identity": grading.digest_problems(
                [name, problem["prompt"], *(problem.get(column) for column in grading.list_columns(VERIFIER))]
                for name, problem in zip(self.ids, problems, strict=False)
            ),
            "protocol": {
                "prompt": recipe.data.prompt,
                "system_prompt": recipe.data.system_prompt,
                "chat_template": recipe.data.chat_template,
                "k": settings.k,
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "top_k": 0,
                "max_tokens": self.max_tokens,
            },
            "departures": {},
            "source": "the recipe's `evaluation`",
            "verifier": VERIFIER.name,
            "grader": self.grader.version,
            "level": LEVEL,
            **figures,
            "examples": [
                grading.pick_example(problem, judged_K, completions_K)
                for problem, judged_K, completions_K in zip(problems[:SHOWN], judged_PK, completions_PK, strict=False)
            ],
        }

    def _sample_and_grade(
        self, problems: list[dict[str, Any]], step: int
    ) -> tuple[list[list[dict[str, Any]]], list[list[str | None]]]:
        """Judged samples and their texts (problems x k); the problems are divided among the processes."""
        state = PartialState()
        mine = list(range(state.process_index, len(problems), state.num_processes))
        sampled_PK = self._sample([problems[i]["prompt"] for i in mine], mine, step)
        found = {}
        for i, sampled_K in zip(mine, sampled_PK, strict=True):
            rows = [
                problems[i]
                | {
                    "row": i,
                    "sample": k,
                    "completion": completion.text,
                    "tokens": completion.tokens,
                    "finish_reason": completion.finish_reason,
                    "refused": completion.refused,
                }
                for k, completion in enumerate(sampled_K)
            ]
            judged = [row | {"problem": self.ids[i]} for row in self.grader.grade(rows)]
            found[i] = judged, [completion.text for completion in sampled_K]
        found = {i: pair for part in gather_object([found]) for i, pair in part.items()}
        judged_PK, completions_PK = zip(*(found[i] for i in range(len(problems))), strict=True)
        return list(judged_PK), list(completions_PK)

    def _sample(self, prompts: list[Any], rows: list[int], step: int) -> list[list[Any]]:
        """`k` completions of each prompt by the model in its current state."""
        sampling = Sampling(
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            max_tokens=self.max_tokens,
            seed=derive_seed(self.seed, step, 0),
        )
        tokenizer = self.trainer.processing_class
        model = self.trainer.model_wrapped
        training = model.training
        model.eval()
        try:
            with (
                torch.no_grad(),
                unwrap_model_for_generation(model, self.trainer.accelerator) as unwrapped,
                closing(LoadedModel(unwrapped, tokenizer, "", self.settings.batch_size)) as engine,
            ):
                return engine.generate(prompts, self.settings.k, sampling, rows)
        finally:
            model.train(training)


def list_ids(problems: list[dict[str, Any]]) -> list[str]:
    """The problems' ids, or hashes of their prompts; a repeated id gets its count: `a`, `a-2`, `a-3`."""
    seen: Counter[str] = Counter()
    ids = []
    for problem in problems:
        name = hash_prompt(problem["prompt"]) if problem.get("id") is None else str(problem["id"])
        seen[name] += 1
        ids.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return ids


def list_metrics(k: int) -> list[str]:
    """Metrics of `k` samples: a vote takes at least two."""
    return ["pass@1", "maj@k"] if k > 1 else ["pass@1"]
