"""How many rows each step of a selection kept, why it dropped the others, and the first examples of each reason."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]

BANDS = 10  # of the pass rates between never and always
MOST_REASONS = 50  # of a step, counted one by one; a filter that names the case and not the cause must not fill memory
OTHERS = "other reasons"
# Columns of rejected.jsonl after `step` and `reason`; `verdict_reason` is what the judge said.
SHOWN = (
    "prompt", "completion", "prompt_id", "row", "sample", "verdict", "verdict_reason", "scores", "tokens",
    "finish_reason", "pass_rate", "model", "seed", "source", "kind", "solution",
)  # fmt: skip


@dataclass
class Step:
    """The counts of one step; `reasons` sum up to what it dropped."""

    kept: int = 0
    prompts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    @property
    def dropped(self) -> int:
        return self.reasons.total()


class Funnel:
    """Counts the samples of one prompt after another through all steps.

    Args:
        steps: names, in order.
        examples: rejected samples kept for each reason of a step, the first ones.
    """

    def __init__(self, steps: list[str], examples: int):
        self.steps = {name: Step() for name in steps}
        self.examples = examples
        self.verdicts: Counter[str] = Counter()
        self.finish_known = self.truncated = 0
        self.pass_rates: Counter[int | str] = Counter()

    def saw(self, samples: list[Row]) -> None:
        """Count what was read: all samples of one prompt."""
        self.verdicts.update(row["verdict"] for row in samples)
        reasons = [reason for row in samples if (reason := row.get("finish_reason"))]
        self.finish_known += len(reasons)
        self.truncated += reasons.count("length")
        self.pass_rates[band(samples[0]["pass_rate"])] += 1

    def passed(self, name: str, samples: list[Row], reasons: list[str | None]) -> list[Row]:
        """Count one step over samples of one prompt, and return those it keeps.

        Args:
            name: of the step.
            samples: that reached it.
            reasons: why each goes; None keeps it.
        """
        step = self.steps[name]
        kept = [row for row, reason in zip(samples, reasons, strict=True) if reason is None]
        step.kept += len(kept)
        step.prompts += bool(kept)
        if len(kept) < len(samples):
            for row, reason in zip(samples, reasons, strict=True):
                if reason is not None:
                    self._drop(step, row, reason)
        return kept

    def _drop(self, step: Step, row: Row, reason: str) -> None:
        if reason not in step.reasons and len(step.reasons) >= MOST_REASONS:
            reason = OTHERS
        step.reasons[reason] += 1
        if len(step.examples[reason]) < self.examples:
            step.examples[reason].append(row)

    def add(self, later: Funnel) -> None:
        """Add the counts of samples that were read after this funnel's own."""
        for name, step in later.steps.items():
            mine = self.steps[name]
            mine.kept += step.kept
            mine.prompts += step.prompts
            for reason, count in step.reasons.items():
                new = reason not in mine.reasons and len(mine.reasons) >= MOST_REASONS
                known = OTHERS if new else reason
                mine.reasons[known] += count
                room = self.examples - len(mine.examples[known])
                mine.examples[known] += step.examples[reason][: max(0, room)]
        self.verdicts += later.verdicts
        self.pass_rates += later.pass_rates
        self.finish_known += later.finish_known
        self.truncated += later.truncated

    def rejected(self) -> list[Row]:
        """Rows of rejected.jsonl, by step and reason."""
        return [
            {"step": name, "reason": reason} | {key: _shown(row, key) for key in SHOWN}
            for name, step in self.steps.items()
            for reason, _ in step.reasons.most_common()
            for row in step.examples[reason]
        ]

    def as_json(self, output: str, curriculum: dict[str, int] | None) -> dict[str, Any]:
        """What funnel.json holds.

        Args:
            output: `messages` or `pairs`.
            curriculum: prompts of each file, if there are such files.
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

    def end(self) -> str:
        """Which step dropped the last samples of a selection of which nothing is left, and why."""
        name, step = next((name, step) for name, step in self.steps.items() if not step.kept)
        (reason, count), *_ = step.reasons.most_common()
        return f"{name} dropped the last {step.dropped:,} samples, {count:,} of them as `{reason}`"

    def table(self) -> str:
        """The steps for the terminal, each with its most frequent reasons."""
        width = max(len(name) for name in [*self.steps, "step"])
        lines = [f"{'step':<{width}}  {'kept':>10}  {'dropped':>10}  {'prompts':>9}  reasons"]
        for name, step in self.steps.items():
            told = ", ".join(f"{reason} {count:,}" for reason, count in step.reasons.most_common(3))
            more = ", ..." if len(step.reasons) > 3 else ""
            lines.append(
                f"{name:<{width}}  {step.kept:>10,}  {step.dropped:>10,}  {step.prompts:>9,}  {told}{more}".rstrip()
            )
        return "\n".join(lines)


def band(rate: float | None) -> int | str:
    """Where a pass rate lies: never, always, unjudged, or the number of its band, which holds its upper bound."""
    if rate is None:
        return "unjudged"
    if rate in (0, 1):
        return "never" if rate == 0 else "always"
    return min(BANDS, math.ceil(round(rate * BANDS, 9))) - 1


def _shown(row: Row, key: str) -> Any:
    return row.get("reason") if key == "verdict_reason" else row.get(key)
