"""Judging a model on held-out problems: pass@1, majority vote, length, format, language.

The judge is the one that trains: the scorers of `rewards`. Nested lists carry their axes: P problems, K samples.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import GenerationConfig, Trainer
from trl.models import unwrap_model_for_generation

from . import models, report
from .configs import Recipe
from .data import load_datasets
from .rewards import RewardConfig
from .rewards.format import think_format
from .rewards.language import language_share
from .rewards.math import accuracy, final_answer, vote_key
from .rewards.verdict import Verdict
from .run import Run, read_json, write_json

SHOWN = 8  # problems whose samples are kept for the report


def load_problems(recipe: Recipe) -> list[dict[str, Any]]:
    """Rows of the recipe's `evaluation`; none without one."""
    if recipe.run.evaluation is None:
        return []
    judged_by = [RewardConfig("accuracy")]
    return list(load_datasets(recipe.run.evaluation.datasets, "grpo", recipe.data, recipe.args.seed, judged_by))


class Evaluator:
    """Judges a trainer's model on the recipe's `evaluation` problems; made once, used at any step.

    Sampling has a random stream of its own, drawn from the recipe's seed and the step, so that an evaluation changes
    nothing in the training around it.
    """

    def __init__(self, problems: list[dict[str, Any]], trainer: Trainer, run: Run):
        recipe = run.recipe
        assert recipe.run.evaluation is not None
        self.settings = recipe.run.evaluation
        self.trainer = trainer
        self.run = run
        self.seed = recipe.args.seed
        self.max_new_tokens = self.settings.max_completion_length or recipe.args.max_completion_length
        self.problems = problems
        self.opener = "<think>" if models.opens_think(problems[0]["prompt"], trainer.processing_class) else ""

    def record(self, step: int, name: str | None = None) -> dict[str, Any]:
        """Judge the model as it is and log the figures.

        Under a name all problems are judged, and kept as `evaluations/<name>.json`; without one the first `live_rows`.
        """
        judged = self.judge(step, None if name else self.settings.live_rows)
        if name and self.run.main:
            folder = self.run.dir / "evaluations"
            folder.mkdir(exist_ok=True)
            write_json(folder / f"{name}.json", judged)
        logs = {f"evaluation/{key}": value for key, value in judged["metrics"].items() if value is not None}
        # Not through `trainer.log`, which would also close the books on the training step under way.
        trainer = self.trainer
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, logs)
        return judged

    def summarize(self) -> None:
        """Judge the trained model, write summary.json, and print before and after."""
        after = self.record(self.trainer.state.global_step, name="after")
        if not self.run.main:
            return
        before = read_json(self.run.dir / "evaluations" / "before.json")
        kept = ("pass@1", f"maj@{self.settings.k}", "mean_length", "format", "language")
        shown = [{key: judged["metrics"][key] for key in kept} for judged in (before, after)]
        summary = {
            "seed": self.seed,
            "seconds": round(self.run.story_seconds(), 1),
            "before": shown[0],
            "after": shown[1],
        }
        write_json(self.run.dir / "summary.json", summary)
        print(report.table(*shown))

    def judge(self, step: int, rows: int | None = None) -> dict[str, Any]:
        """Metrics and a few samples of the first `rows` problems (all of them by default)."""
        problems = self.problems[:rows]
        sampled_PK = self._sample([problem["prompt"] for problem in problems], step)
        judged_PK = [
            [self._judge(text, length, problem) for text, length in sampled_K]
            for problem, sampled_K in zip(problems, sampled_PK, strict=True)
        ]
        samples = [
            {"prompt": _last_text(problem["prompt"]), "solution": problem["solution"], "samples": judged_K[:2]}
            for problem, judged_K in zip(problems[:SHOWN], judged_PK[:SHOWN], strict=True)
        ]
        return {
            "step": step,
            "problems": len(problems),
            "k": self.settings.k,
            "temperature": self.settings.temperature,
            "top_p": self.settings.top_p,
            "metrics": metrics(judged_PK),
            "samples": samples,
        }

    def _judge(self, text: str, length: int, problem: dict[str, Any]) -> dict[str, Any]:
        text = self.opener + text
        verdict = accuracy(text, problem["solution"])
        language = problem.get("language")
        return {
            "completion": text,
            "length": length,
            "answer": final_answer(text),
            "verdict": verdict.outcome,
            "format": think_format(text),
            "language": language_share(text, language) if language else None,
        }

    def _sample(self, prompts: list[Any], step: int) -> list[list[tuple[str, int]]]:
        """`k` completions and their lengths in tokens for each prompt; the prompts are split over the processes."""
        state = PartialState()
        mine = list(range(state.process_index, len(prompts), state.num_processes))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed * 1_000_003 + step * 101 + state.process_index)
            found = dict(zip(mine, self._generate([prompts[i] for i in mine]), strict=True))
        everyone: dict[int, list[tuple[str, int]]] = {}
        for part in gather_object([found]):
            everyone.update(part)
        return [everyone[i] for i in range(len(prompts))]

    @torch.no_grad()
    def _generate(self, prompts: list[Any]) -> list[list[tuple[str, int]]]:
        tokenizer = self.trainer.processing_class
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=True,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=0,
            # Unset, it would be the one the model's own generation_config asks for.
            repetition_penalty=1.0,
            num_return_sequences=self.settings.k,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            disable_compile=True,
        )
        texts = [models.as_text(prompt, tokenizer) for prompt in prompts]
        # Prompts of like length share a batch, so that little is padded.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        per_batch = max(1, self.settings.batch_size // self.settings.k)
        sampled_PK: list[list[tuple[str, int]]] = [[] for _ in texts]
        model = self.trainer.model_wrapped
        training = model.training
        model.eval()
        with unwrap_model_for_generation(model, self.trainer.accelerator) as unwrapped:
            for start in range(0, len(order), per_batch):
                chosen = order[start : start + per_batch]
                inputs = tokenizer(
                    [texts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False
                )
                inputs = {name: inputs[name].to(unwrapped.device) for name in ("input_ids", "attention_mask")}
                generated = unwrapped.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :]
                lengths = _lengths(generated, tokenizer.eos_token_id)
                decoded = [
                    tokenizer.decode(row[:n], skip_special_tokens=True)
                    for row, n in zip(generated, lengths, strict=True)
                ]
                for j, i in enumerate(chosen):
                    span = slice(j * self.settings.k, (j + 1) * self.settings.k)
                    sampled_PK[i] = list(zip(decoded[span], lengths[span], strict=True))
        model.train(training)
        return sampled_PK


def metrics(judged_PK: list[list[dict[str, Any]]]) -> dict[str, float | None]:
    """pass@1, maj@k, mean length (tokens), format and language shares, and the shares without a verdict.

    Samples whose verdict is no evidence are left out of pass@1 and maj@k, and counted in `unknown`.
    """
    samples = [sample for judged_K in judged_PK for sample in judged_K]
    k = len(judged_PK[0])
    scored_PK = [[_score(sample) for sample in judged_K] for judged_K in judged_PK]
    return {
        "pass@1": _mean([_mean(scores_K) for scores_K in scored_PK]),
        f"maj@{k}": _mean([majority(judged_K) for judged_K in judged_PK]),
        "mean_length": _mean([sample["length"] for sample in samples]),
        "format": _mean([sample["format"] for sample in samples]),
        "language": _mean([sample["language"] for sample in samples]),
        "unknown": _mean([float(_score(sample) is None) for sample in samples]),
    }


def majority(judged_K: list[dict[str, Any]]) -> float | None:
    """Expected correctness of the most frequent answer; equal votes share it. None if no sample has a verdict.

    Samples without an answer do not vote; if none votes, the vote is wrong.
    """
    votes: dict[Any, list[float]] = defaultdict(list)
    scored = [sample for sample in judged_K if _score(sample) is not None]
    for sample in scored:
        if sample["answer"]:
            votes[vote_key(sample["answer"])].append(_score(sample) or 0.0)
    if not scored:
        return None
    most = max((len(scores) for scores in votes.values()), default=0)
    return _mean([max(scores) for scores in votes.values() if len(scores) == most]) or 0.0


def _score(sample: dict[str, Any]) -> float | None:
    return Verdict(sample["verdict"]).score


def _mean(values: list[Any]) -> float | None:
    """Mean of the values that are there; None if none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _lengths(generated: torch.Tensor, eos: int) -> list[int]:
    """Tokens of each row up to and including its end token (rows x tokens)."""
    ended = generated == eos
    first = torch.where(ended.any(1), ended.int().argmax(1) + 1, torch.tensor(generated.shape[1], device=ended.device))
    return first.tolist()


def _last_text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
