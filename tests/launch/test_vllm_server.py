"""The miniature trains through TRL's own client on the completions of a server that plays vLLM."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from conftest import ROOT, TASKS, path_with
from support import warm
from support.standin import free_port

from open_r1.tiny.tokenizer import build

STANDIN = ROOT / "tests" / "support" / "scripts" / "standin_vllm"
COMMAND = ["-m", "vllm.entrypoints.cli.main", "serve", "miniature", "--host", "127.0.0.1"]
# As TRL wants a server; the last flag is one of the many that are ignored.
FLAGS = ["--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs", "--enforce-eager"]
# TRL asks again after 0, 4, 8, 16 and 32 seconds, and the process takes a few more to end.
NOTICED_AFTER = 80
Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(port, STANDIN_VLLM_DELAY="1")`: a server in a process of its own; all of them are gone in the end."""
    started = []

    def start(port: int, **environment: str) -> subprocess.Popen[str]:
        around = os.environ | {"PYTHONPATH": path_with(STANDIN), "VLLM_SERVER_DEV_MODE": "1"} | environment
        words = [sys.executable, *COMMAND, "--port", str(port), *FLAGS]
        started.append(subprocess.Popen(words, env=around, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def get(port: int, path: str) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return json.load(answer)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            get(port, "/health")
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def train(recipe: Path, port: int) -> subprocess.Popen[str]:
    """Begin a training, started anew: TRL decides when it is imported whether vLLM is there."""
    words = ["-m", "open_r1.cli", "train", recipe, "--use_vllm", "true", "--vllm_mode", "server"]
    words += ["--vllm_server_host", "127.0.0.1", "--vllm_server_port", port]
    around = os.environ | {"PYTHONPATH": path_with(STANDIN)}
    return warm.Popen(words, cwd=ROOT, env=around, stdout=warm.DEVNULL, stderr=warm.PIPE, fresh=True)


def recorded(run: Path) -> list[dict]:
    files = sorted((run / "completions").glob("*.parquet"))
    return [row for path in files for row in pyarrow.parquet.read_table(path).to_pylist()]


def test_the_miniature_trains_on_what_the_server_says(write_recipe, tmp_path, serve):
    port = free_port()
    server = serve(port)
    training = train(write_recipe("grpo"), port)
    try:
        said = training.communicate(timeout=120)[1]
    finally:
        training.kill()
    assert training.returncode == 0, said
    assert get(port, "/standin/updates") == {"updates": 2}  # before the completions of each step
    completion = runpy.run_path(str(STANDIN / "vllm" / "entrypoints" / "cli" / "main.py"))["completion"]
    tokenizer, places = build(), Counter()
    rows = recorded(tmp_path / "run")
    assert len(rows) == 2 * TASKS["grpo"]["per_device_train_batch_size"]
    for row in rows:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        made = completion(ids, places[tuple(ids)], TASKS["grpo"]["max_completion_length"])
        assert row["completion"][0]["content"] == tokenizer.decode(made, skip_special_tokens=True)
        places[tuple(ids)] += 1
    shown = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["completions/clipped_ratio"] < 1 for row in shown if "reward" in row)  # some have no end
    assert "logprobs-mode" not in (tmp_path / "run" / "library.log").read_text()
    server.send_signal(signal.SIGTERM)
    assert server.communicate(timeout=10)[1] == "standin vllm: 2 requests for completions\n"
    assert server.returncode == 0


@pytest.mark.long
def test_a_server_that_dies_ends_the_training(write_recipe, tmp_path, serve):
    port = free_port()
    server = serve(port, STANDIN_VLLM_DIES_AFTER="1")
    training = train(write_recipe("grpo"), port)
    try:
        assert server.communicate(timeout=120)[1] == "standin vllm: dying as asked\n"
        assert server.returncode == 1
        assert training.poll() is None
        said = training.communicate(timeout=NOTICED_AFTER)[1]
    finally:
        training.kill()
    assert training.returncode == 1
    assert "Connection refused" in said
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_the_port_opens_late_and_only_once(serve):
    port, began = free_port(), time.monotonic()
    first = serve(port, STANDIN_VLLM_DELAY="1")
    wait_for(port)
    assert time.monotonic() - began > 1
    second = serve(port)
    assert "Address already in use" in second.communicate(timeout=10)[1]
    assert second.returncode == 1
    assert get(port, "/get_world_size") == {"world_size": 1}
    assert first.poll() is None


@pytest.mark.parametrize(("mode", "code"), [("0", 404), ("1", 400)])
def test_weights_are_taken_as_vllm_takes_them(serve, mode, code):
    """Not without its development endpoints, and not before there is a group to send them in."""
    port = free_port()
    serve(port, VLLM_SERVER_DEV_MODE=mode)
    wait_for(port)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/start_weight_update", data=b"{}", timeout=5)
    assert refused.value.code == code
    refused.value.close()
