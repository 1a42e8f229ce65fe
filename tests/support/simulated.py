"""Evaluations of simulated models, as the task writes them: the figures are those of `metrics`, the verdicts drawn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from open_r1.benchmarks import registry
from open_r1.evaluation import metrics

PROTOCOL = {
    "prompt": "boxed",
    "system_prompt": None,
    "chat_template": None,
    "k": 4,
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 0,
    "max_tokens": 512,
}


def samples(rates_P: list[float], k: int, seed: int = 0, doubtful: float = 0.0, **row: Any) -> list[list[dict]]:
    """`k` judged samples of each problem, right with its rate; wrong ones vote for one of three answers."""
    chance = random.Random(seed)

    def sample(p: int, i: int, rate: float) -> dict:
        verdict = "correct" if chance.random() < rate else "wrong"
        verdict = "unknown" if chance.random() < doubtful else verdict
        answer = "right" if verdict == "correct" else f"wrong {chance.randrange(3)}"
        tokens = min(512, int(chance.lognormvariate(4.5, 0.8)) + 1)
        judged = {"benchmark": "made", "problem": f"made-{p}", "row": p, "sample": i, "tokens": tokens}
        judged |= {"finish_reason": "length" if tokens == 512 else "stop", "verdict": verdict}
        judged |= {"reason": "no gold answer" if verdict == "unknown" else "", "answer": answer, "vote": answer}
        return judged | {"format": float(chance.random() < 0.9), "language": None} | row

    return [[sample(p, i, rate) for i in range(k)] for p, rate in enumerate(rates_P)]


def evaluation(judged_PK: list[list[dict]], names: tuple[str, ...] = ("pass@1", "maj@k"), **changes: Any) -> dict:
    """The content of an `evaluations/<name>.json`; keys of the protocol among `changes` go there."""
    k = max(map(len, judged_PK))
    protocol = PROTOCOL | {"k": k} | {key: changes.pop(key) for key in list(changes) if key in PROTOCOL}
    about = {
        "name": "made",
        "title": "Made up",
        "step": None,
        "model": "org/model",
        "engine": "transformers",
        "seed": 0,
        "identity": "0123456789abcdef",
        "protocol": protocol,
        "departures": {},
        "source": "a simulation",
        "verifier": "accuracy",
        "grader": "v1",
        "level": 0.95,
    }
    examples = [
        {
            "prompt": f"problem {p}",
            "solution": "right",
            "samples": [sample | {"completion": f"I say {sample['answer']}"} for sample in judged_K[:2]],
        }
        for p, judged_K in enumerate(judged_PK[:4])
    ]
    resolved = [registry.resolve_metric(name, k) for name in names]
    return {**about, **metrics.compute_figures(judged_PK, resolved), "examples": examples, **changes}


def put_evaluation(run: Path, found: dict | str, name: str | None = None) -> Path:
    """Write an evaluation into a run directory."""
    path = run / "evaluations" / f"{name or found['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    return path
