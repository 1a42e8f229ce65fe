"""Evaluation inside a training: held-out problems judged before, every so many steps, and after.

The sampling is the engines', the judge is the one that trains, and the figures are those of an `evaluate` run.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import Trainer
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


class Evaluator:
    """Judges a trainer's model on the recipe's `evaluation` problems; made once, used at any step.

    Every completion has random numbers of its own, from the recipe's seed and the step, so an evaluation changes
    nothing in the training around it, and is the same in however many processes.
    """

    def __init__(self, problems: list[dict[str, Any]], trainer: Trainer, run: Run):
        recipe = run.recipe
        assert recipe.run.evaluation is not None
        self.settings = recipe.run.evaluation
        self.trainer = trainer
        self.run = run
        self.seed = recipe.args.seed
        self.max_tokens = self.settings.max_completion_length or recipe.args.max_completion_length
        self.problems = problems
        self.ids = ids(problems)
        self.grader = Grader(VERIFIER, self.max_tokens)
        self.metrics = [registry.resolve_metric(name, self.settings.k) for name in named(self.settings.k)]

    def record(self, step: int, name: str | None = None) -> dict[str, Any]:
        """Judge the model as it is and log the figures.

        Under a name all problems are judged, and kept as `evaluations/<name>.json`; without one the first `live_rows`.
        """
        judged = self.judge(step, None if name else self.settings.live_rows)
        if name and self.run.main:
            folder = self.run.dir / "evaluations"
            folder.mkdir(exist_ok=True)
            write_json(folder / f"{name}.json", {"name": name} | judged)
        logs = {f"evaluation/{key}": figure["value"] for key, figure in metrics.summarize_evaluation(judged).items()}
        logs["evaluation/unknown"] = sum(judged["shares"][kind]["value"] for kind in ("unknown", "error"))
        # Not through `trainer.log`, which would also close the books on the training step under way.
        trainer = self.trainer
        known = {key: value for key, value in logs.items() if value is not None}
        due = trainer.control.should_log
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, known)
        # The handler takes it for the step's own log, which is still to come.
        trainer.control.should_log = due
        return judged

    def summarize(self) -> None:
        """Judge the trained model, write summary.json, and print before and after."""
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

    def judge(self, step: int, rows: int | None = None) -> dict[str, Any]:
        """The evaluation of the first `rows` problems (all of them by default)."""
        problems = self.problems[:rows]
        judged_PK, completions_PK = self._judged(problems, step)
        settings, recipe = self.settings, self.run.recipe
        told = metrics.compute_figures(judged_PK, self.metrics, level=LEVEL, seed=self.seed)
        for line, problem in zip(told["by_problem"], problems, strict=True):
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
            **told,
            "examples": [
                grading.pick_example(problem, judged_K, completions_K)
                for problem, judged_K, completions_K in zip(problems[:SHOWN], judged_PK, completions_PK, strict=False)
            ],
        }

    def _judged(
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
        everyone: dict[int, Any] = {}
        for part in gather_object([found]):
            everyone.update(part)
        ordered = [everyone[i] for i in range(len(problems))]
        return [judged for judged, _ in ordered], [texts for _, texts in ordered]

    def _sample(self, prompts: list[Any], rows: list[int], step: int) -> list[list[Any]]:
        """`k` completions of each prompt by the model as it is."""
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


def ids(problems: list[dict[str, Any]]) -> list[str]:
    """The problems' own ids, or their prompts' hashes; of what is there several times, all but the first numbered."""
    seen: Counter[str] = Counter()
    named = []
    for problem in problems:
        name = hash_prompt(problem["prompt"]) if problem.get("id") is None else str(problem["id"])
        seen[name] += 1
        named.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return named


def named(k: int) -> list[str]:
    """Metrics of `k` samples: a vote takes at least two."""
    return ["pass@1", "maj@k"] if k > 1 else ["pass@1"]
