"""Counts of the rows that each step of a selection kept and dropped, with reasons and examples."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

BANDS = 10  # intervals of the pass rates between never and always
MOST_REASONS = 50  # counted for each step; a filter whose reasons name single cases must not fill the memory
OTHERS = "other reasons"
# Columns of rejected.jsonl after `step` and `reason`; `verdict_reason` is the verdict's own reason.
SHOWN = (
    "prompt", "completion", "prompt_id", "row", "sample", "verdict", "verdict_reason", "scores", "tokens",
    "finish_reason", "pass_rate", "model", "seed", "source", "kind", "solution",
)  # fmt: skip


@dataclass
class Step:
    """The counts of one step: samples and prompts kept, and samples dropped by reason."""

    kept: int = 0
    prompts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    @property
    def dropped(self) -> int:
        return self.reasons.total()


class Funnel:
    """Counts the samples that enter and leave each step, one prompt at a time.

    Args:
        steps: names of the steps, in order.
        examples: number of rejected samples kept for each reason of a step.
    """

    def __init__(self, steps: list[str], examples: int):
        self.steps = {name: Step() for name in steps}
        self.examples = examples
        self.verdicts: Counter[str] = Counter()
        self.finish_known = self.truncated = 0
        self.pass_rates: Counter[int | str] = Counter()

    def count_samples(self, samples: list[Row]) -> None:
        """Count the verdicts, truncations and pass rate of all samples of one prompt."""
        self.verdicts.update(row["verdict"] for row in samples)
        reasons = [reason for row in samples if (reason := row.get("finish_reason"))]
        self.finish_known += len(reasons)
        self.truncated += reasons.count("length")
        self.pass_rates[find_band(samples[0]["pass_rate"])] += 1

    def apply_step(self, name: str, samples: list[Row], reasons: list[str | None]) -> list[Row]:
        """Count one step over the samples of one prompt, and return those it keeps.

        Args:
            name: name of the step.
            samples: samples that reach the step.
            reasons: for each sample why it is dropped, or None to keep it.
        """
        step = self.steps[name]
        kept = [row for row, reason in zip(samples, reasons, strict=True) if reason is None]
        step.kept += len(kept)
        step.prompts += bool(kept)
        if len(kept) < len(samples):
            for row, reason in zip(samples, reasons, strict=True):
                if reason is not None:
                    self._drop(step, reason, 1, [row])
        return kept

    def _drop(self, step: Step, reason: str, count: int, examples: list[Row]) -> None:
        if reason not in step.reasons and len(step.reasons) >= MOST_REASONS:
            reason = OTHERS
        step.reasons[reason] += count
        step.examples[reason] += examples[: self.examples - len(step.examples[reason])]

    def add(self, later: Funnel) -> None:
        """Add the counts of samples that come after this funnel's own."""
        for name, step in later.steps.items():
            mine = self.steps[name]
            mine.kept += step.kept
            mine.prompts += step.prompts
            for reason, count in step.reasons.items():
                self._drop(mine, reason, count, step.examples[reason])
        self.verdicts += later.verdicts
        self.pass_rates += later.pass_rates
        self.finish_known += later.finish_known
        self.truncated += later.truncated

    def rejected(self) -> list[Row]:
        """Rows of rejected.jsonl, by step and reason."""
        columns = {key: "reason" if key == "verdict_reason" else key for key in SHOWN}
        return [
            {"step": name, "reason": reason} | {key: row.get(column) for key, column in columns.items()}
            for name, step in self.steps.items()
            for reason, _ in step.reasons.most_common()
            for row in step.examples[reason]
        ]

    def as_json(self, output: str, curriculum: dict[str, int] | None) -> dict[str, Any]:
        """The contents of funnel.json.

        Args:
            output: `messages` or `pairs`.
            curriculum: number of prompts in each file of the curriculum, if there is one.
        """
        steps, examples, line = [], {}, 0
        for name, step in self.steps.items():
            reasons = dict(step.reasons.most_common())
            counts = {"kept": step.kept, "dropped": step.dropped, "prompts": step.prompts}
            steps.append({"name": name} | counts | {"reasons": reasons})
            for reason in reasons:
                count = len(step.examples[reason])
                if count:
                    examples.setdefault(name, {})[reason] = list(range(line, line + count))
                line += count
        return {
            "output": output,
            "steps": steps,
            "verdicts": dict(self.verdicts.most_common()),
            "truncated": {
                "samples": self.truncated,
                "known": self.finish_known,
                "share": self.truncated / self.finish_known if self.finish_known else None,
            },
            "pass_rates": {
                "never": self.pass_rates["never"],
                "between": [self.pass_rates[i] for i in range(BANDS)],
                "always": self.pass_rates["always"],
                "unjudged": self.pass_rates["unjudged"],
            },
            "curriculum": curriculum,
            "examples": examples,
        }

    def explain_empty(self) -> str:
        """The step that dropped the last samples of an empty selection, and its most frequent reason."""
        name, step = next((name, step) for name, step in self.steps.items() if not step.kept)
        (reason, count), *_ = step.reasons.most_common()
        return f"{name} dropped the last {step.dropped:,} samples, {count:,} of them as `{reason}`"

    def table(self) -> str:
        """The steps as a table for the terminal, each with its most frequent reasons."""
        width = max(len(name) for name in [*self.steps, "step"])
        lines = [f"{'step':<{width}}  {'kept':>10}  {'dropped':>10}  {'prompts':>9}  reasons"]
        for name, step in self.steps.items():
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in step.reasons.most_common(3))
            more = ", ..." if len(step.reasons) > 3 else ""
            lines.append(
                f"{name:<{width}}  {step.kept:>10,}  {step.dropped:>10,}  {step.prompts:>9,}  {reasons}{more}".rstrip()
            )
        return "\n".join(lines)


def find_band(rate: float | None) -> int | str:
    """The band of a pass rate: `never`, `always`, `unjudged`, or the number of an interval closed above."""
    if rate is None:
        return "unjudged"
    if rate in (0, 1):
        return "never" if rate == 0 else "always"
    return min(BANDS, math.ceil(round(rate * BANDS, 9))) - 1
