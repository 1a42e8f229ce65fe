"""Useful tokens per second of SFT without padding, and packed, against the padded batches that a user gets by default.

    python benchmarks/packing.py [--data ../shared/data] [--rounds 3] [--only SET] [--output FILE]

The rows have the lengths of R1's real responses (--data, outputs/r1_gsm8k.json and r1_math.json, in tokens of
Qwen2.5), divided by a factor on a CPU, where a small Qwen2 of random weights is trained; on a GPU they are whole, up
to 16,384 tokens, and the model has the shape of Qwen2.5-0.5B, with each kind of attention that is there. One epoch
over the same rows by TRL's trainer:

    padded         batches filled up to their longest row (what TRL does without further keys)
    grouped        the same, `train_sampling_strategy: group_by_length`
    padding-free   a batch's rows end to end, `padding_free: true`
    packed         rows end to end up to `max_length`, `packing: true` (best-fit decreasing); no row is cut

A pack holds about as many rows as a batch of the others does, or more if the longest row is longer. Rounds are
interleaved, in one process; set OMP_NUM_THREADS on a CPU, where seconds are those of the process's own CPU time over
its threads, as others use it too. Printed: medians of useful (non-padding) tokens per second, the share of padding,
and the ratio to padded. Without flash attention the rows end to end are kept apart by a mask over the whole batch,
quadratic in its length: on a CPU two more sets of rows show what that costs where rows are short and many, 64 to a
batch: of 20 to 60 tokens as the miniature has them, and of 128 tokens each, with nothing to gain.

Then, row by row, whether what lies in one pack is kept apart: the largest difference of any token's loss in a pack
from that of the same row alone; beside it that of a padded batch (what arithmetic alone does) and that of the pack
with its boundaries taken away (what contamination would look like).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import record
import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from open_r1.models import byte_tokenizer
from open_r1.system.processes import keep_freed_memory

RESPONSES = {"r1_gsm8k.json": "deepseek-reasoner (question)", "r1_math.json": "deepseek-reasoner (question)"}
SMALL = {
    "model_type": "qwen2", "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768, "initializer_range": 0.1,
}  # fmt: skip
OUTPUT = str(Path(tempfile.gettempdir()) / "open_r1_packing")  # TRL wants one; nothing is kept there
LONGEST = 16384
SCALED_BY = 32  # on a CPU
MODES: dict[str, dict[str, Any]] = {
    "padded": {},
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "padding-free": {"padding_free": True},
    "packed": {"packing": True, "packing_strategy": "bfd"},
}
Rows = list[list[int]]


def response_rows(data: Path, factor: int, vocabulary: int) -> Rows:
    """The responses' token ids, the first 1/factor of each."""
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / "qwen2.5")
    texts = [row[key] for name, key in RESPONSES.items() for row in json.loads((data / "outputs" / name).read_text())]
    rows = [ids[: min(LONGEST, max(8, len(ids) // factor))] for ids in tokenizer(texts)["input_ids"]]
    return [[token % vocabulary for token in ids] for ids in rows]


def short_rows(count: int, vocabulary: int, between: tuple[int, int] = (20, 60)) -> Rows:
    """Rows as long as the miniature's, or of other lengths."""
    draw = random.Random(0)
    return [[draw.randrange(vocabulary) for _ in range(draw.randint(*between))] for _ in range(count)]


def attentions() -> list[str]:
    """What computes attention here, best first."""
    if not torch.cuda.is_available():
        return ["sdpa"]
    flash = importlib.util.find_spec("flash_attn") is not None
    return (["flash_attention_2"] if flash else []) + ["flex_attention", "sdpa"]


def build(shape: dict[str, Any], attention: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**shape, attn_implementation=attention)
    # flash attention wants half precision throughout; the others get it from autocast.
    half = attention.startswith("flash")
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if half else torch.float32)


class Clock(TrainerCallback):
    """Seconds from the first step's begin to the last one's end."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_begin(self, *args: object, **kwargs: object) -> None:
        self.began = self.began or _now()

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.ended = _now()


def _now() -> float:
    """By the clock on a GPU; on a CPU, which others use as well, by what this process has had of it."""
    if not torch.cuda.is_available():
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize()
    return time.perf_counter()


def trainer(shape: dict[str, Any], rows: Rows, attention: str, batch: int, pack: int, mode: str, **keys: Any) -> Any:
    """TRL's trainer in one of the modes, over rows of token ids."""
    gpu = torch.cuda.is_available()
    settings: dict[str, Any] = {
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no", "seed": 0,
        "use_cpu": not gpu, "bf16": gpu, "gradient_checkpointing": gpu, "num_train_epochs": 1,
        "per_device_train_batch_size": 1 if mode == "packed" else batch,
        # Without packing TRL refuses a longest length for rows that it does not pad.
        "max_length": pack if mode == "packed" else None,
    }  # fmt: skip
    args = trl.SFTConfig(output_dir=OUTPUT, **settings | MODES[mode] | keys)
    dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
    made = trl.SFTTrainer(
        model=build(shape, attention), args=args, train_dataset=dataset, processing_class=byte_tokenizer()
    )
    return made


def measure(made: Any) -> dict[str, float]:
    """One training: useful tokens, those that went through the model, and seconds."""
    clock, counted = Clock(), {"useful": 0, "all": 0, "steps": 0}
    collate = made.data_collator

    def counting(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        counted["all"] += batch["input_ids"].numel()
        counted["useful"] += int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum())
        counted["steps"] += 1
        return batch

    made.data_collator = counting
    made.remove_callback(PrinterCallback)
    made.add_callback(clock)
    made.train()
    return counted | {"seconds": clock.ended - clock.began}


def rates(name: str, workload: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Every mode in every round, after a warm-up of two steps each; one that runs out of memory is left out."""
    print(f"\n{name}: {workload['told']}", flush=True)
    arguments = (workload["shape"], workload["rows"], workload["attention"], workload["batch"], workload["pack"])
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    for number in range(rounds + 1):
        for mode in list(found):
            try:
                measured = measure(trainer(*arguments, mode, **({} if number else {"max_steps": 2})))
            except torch.OutOfMemoryError:
                print(f"{mode:14}out of memory", flush=True)
                del found[mode]
                torch.cuda.empty_cache()
                continue
            if number:
                found[mode].append(measured)
    results = {}
    print(f"{'':14}{'steps':>6}{'padding':>9}{'useful tokens/s':>17}{'to padded':>11}")
    per_second = {mode: [one["useful"] / one["seconds"] for one in measured] for mode, measured in found.items()}
    for mode, measured in found.items():
        pairs = zip(per_second[mode], per_second.get("padded", []), strict=False)
        ratios = [a / b for a, b in pairs]
        results[mode] = {
            "useful_tokens_per_second": record.told(per_second[mode]),
            "padding_share": 1 - measured[0]["useful"] / measured[0]["all"],
            "ratio_to_padded": statistics.median(ratios) if ratios else None,
            "useful_tokens": measured[0]["useful"],
            "steps": measured[0]["steps"],
        }
        shown = results[mode]
        ratio = f"{shown['ratio_to_padded']:11.2f}" if ratios else f"{'-':>11}"
        rate = statistics.median(per_second[mode])
        print(f"{mode:14}{shown['steps']:6}{shown['padding_share']:9.1%}{rate:17,.0f}{ratio}", flush=True)
    lengths = sorted(map(len, workload["rows"]))
    return {
        "rows": len(lengths), "median_length": lengths[len(lengths) // 2], "longest": lengths[-1],
        "batch": workload["batch"], "pack": workload["pack"], "attention": workload["attention"],
        "model": workload["shape"], "told": workload["told"], "modes": results,
    }  # fmt: skip


def token_losses(network: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The loss of each token but a batch's first, as rows."""
    device = next(network.parameters()).device
    inputs = {k: v.to(device) if torch.is_tensor(v) else v for k, v in inputs.items() if k != "labels"}
    with torch.no_grad():
        logits = network(**inputs, use_cache=False).logits[:, :-1].float()
    targets = inputs["input_ids"][:, 1:]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").cpu()


def separation(shape: dict[str, Any], rows: Rows, attention: str, pack: int, dtype: torch.dtype) -> dict[str, Any]:
    """The largest difference of a token's loss from its row's alone: packed, padded, and packed without boundaries."""
    made = trainer(shape, rows, attention, 1, pack, "packed", bf16=False)
    network = made.model.to(dtype).eval()
    largest = {"packed": 0.0, "padded": 0.0, "without boundaries": 0.0}
    several = [pack for pack in made.train_dataset if len(pack["seq_lengths"]) > 1]
    for chosen in several[:4]:
        batch = made.data_collator([{key: chosen[key] for key in ("input_ids", "labels", "seq_lengths")}])
        packed = token_losses(network, batch)[0]
        bare = token_losses(network, {"input_ids": batch["input_ids"]})[0]
        ends = [0, *torch.tensor(chosen["seq_lengths"]).cumsum(0).tolist()]
        parts = [chosen["input_ids"][start:end] for start, end in itertools.pairwise(ends)]
        width = max(map(len, parts))
        ids = torch.tensor([[*part, *[0] * (width - len(part))] for part in parts])
        mask = torch.tensor([[1] * len(part) + [0] * (width - len(part)) for part in parts])
        padded = token_losses(network, {"input_ids": ids, "attention_mask": mask})
        for i, (start, part) in enumerate(zip(ends, parts, strict=False)):
            alone = token_losses(network, {"input_ids": torch.tensor([part])})[0]
            inside = slice(start, start + len(part) - 1)
            for name, found in (
                ("packed", packed[inside]),
                ("padded", padded[i, : len(part) - 1]),
                ("without boundaries", bare[inside]),
            ):
                if len(part) > 1:
                    largest[name] = max(largest[name], float((found - alone).abs().max()))
    return {"attention": attention, "dtype": str(dtype).removeprefix("torch."), "packs": len(several[:4])} | largest


def workloads(data: Path) -> dict[str, dict[str, Any]]:
    if torch.cuda.is_available():
        from open_r1.config import architectures

        shape = architectures.find_architecture("Qwen/Qwen2.5-0.5B")
        rows = response_rows(data, 1, shape["vocab_size"])
        told = f"R1's responses, at most {LONGEST:,} tokens, Qwen2.5-0.5B"
        return {f"R1, {attention}": _workload(told, shape, rows, attention, batch=8) for attention in attentions()}
    rows = response_rows(data, SCALED_BY, SMALL["vocab_size"])
    return {
        "R1": _workload(f"R1's responses, lengths divided by {SCALED_BY}", SMALL, rows, "sdpa", batch=8),
        "even": _workload(
            "rows of 128 tokens", SMALL, short_rows(256, SMALL["vocab_size"], (128, 128)), "sdpa", batch=64
        ),
        "short": _workload("rows of 20 to 60 tokens", SMALL, short_rows(512, SMALL["vocab_size"]), "sdpa", batch=64),
    }


def _workload(told: str, shape: dict[str, Any], rows: Rows, attention: str, batch: int) -> dict[str, Any]:
    lengths = [len(row) for row in rows]
    pack = max(max(lengths), batch * sum(lengths) // len(lengths))
    told = f"{told}; {len(rows)} rows, {batch} to a batch, packs of {pack:,} tokens, {attention}"
    return {"told": told, "shape": shape, "rows": rows, "attention": attention, "batch": batch, "pack": pack}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="one set of rows, by its name")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        keep_freed_memory()  # as a run does
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    machine = record.machine() | {"shared": "beside other jobs"}
    print(f"{machine['gpus'] or machine['cpu']}, {machine['threads']} threads, load {machine['load']}")
    found = {k: v for k, v in workloads(arguments.data).items() if arguments.only in (None, k)}
    results = {name: rates(name, workload, arguments.rounds) for name, workload in found.items()}
    print("\nlargest difference of a token's loss from that of its row alone:")
    apart = []
    for workload in {workload["attention"]: workload for workload in found.values()}.values():
        half = workload["attention"].startswith("flash")
        rows = [row[:2048] for row in workload["rows"][:64]]
        pack = min(workload["pack"], 8192)
        dtype = torch.bfloat16 if half else torch.float32
        apart.append(separation(workload["shape"], rows, workload["attention"], pack, dtype))
        print("  ".join(f"{k} {v:.2g}" if isinstance(v, float) else f"{k} {v}" for k, v in apart[-1].items()))
    content = {"machine": machine, "rounds": arguments.rounds, "workloads": results, "separation": apart}
    print(f"\n{record.write('packing', content, arguments.output)}")


if __name__ == "__main__":
    main()
