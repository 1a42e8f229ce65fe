"""`report_to: wandb` without a login: offline, said once, everything in the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from conftest import command


def records(path: Path) -> Iterator[bytes]:
    """Records of an offline run. wandb 0.31 ships no reader; the file is a LevelDB log of protobuf messages:
    a header of 7 bytes, blocks of 32 KiB, chunks of crc (4), length (2), type (1: whole, 2-4: first, middle, last).
    """
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        chunk = content[at + 7 : at + 7 + length]
        at += 7 + length
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):
            yield parts


def test_offline_run_holds_metrics_completions_and_the_recipe(write_recipe, tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    problems = {"path": "open_r1.tiny.problems:problems", "args": {"rows": 4, "split": "test"}}
    recipe = write_recipe("grpo", report_to="wandb", evaluation={"datasets": [problems], "k": 2})
    # A home without a netrc, and no key: nobody is logged in.
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    done = command("train", recipe, HOME=str(tmp_path), fresh=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("logged offline") == 1 and "wandb sync" in done.stdout

    run = next((tmp_path / "run" / "wandb").glob("offline-run-*"))
    history, config, files = [], {}, []
    for raw in records(next(run.glob("*.wandb"))):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(raw)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        elif kind == "config":
            config |= {u.key or u.nested_key[0]: json.loads(u.value_json) for u in record.config.update}
        elif kind == "files":
            files += [f.path for f in record.files.files]
    keys = set().union(*history)
    assert {"train/loss", "train/reward", "train/rewards/accuracy/mean"} <= keys
    assert any("evaluation/pass@1" in key for key in keys)
    assert config["recipe"]["rewards"][0]["name"] == "accuracy"
    assert "recipe.yaml" in files
    tables = [json.loads(path.read_text()) for path in (run / "files" / "media" / "table").glob("completions*.json")]
    assert tables and {"prompt", "completion", "accuracy", "think_format"} <= set(tables[0]["columns"])
