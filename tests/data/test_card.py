"""The card: figures against a count by hand, a header the hub reads, and the way to it."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard

from open_r1 import models
from open_r1.config.schema import DatasetConfig
from open_r1.data import hub, shards
from open_r1.data.card import _build_header, format_mixture_table, measure_dataset, write_card
from open_r1.data.sources import load_source
from open_r1.errors import RecipeError

TEXT = datasets.Value("string")
INTEGER = datasets.Value("int64")
MESSAGES = datasets.List({"role": TEXT, "content": TEXT})
FEATURES = datasets.Features(
    {"messages": MESSAGES, "kind": TEXT, "language": TEXT, "license": TEXT, "source": TEXT, "tokens": INTEGER}
)


def conversation(i: int) -> list[dict[str, str]]:
    """One round or two, of many lengths, in two scripts."""
    said = "word " * (i % 7 + 1) + ("数学" * (i % 3))
    return [{"role": role, "content": said} for role in ("user", "assistant") * (1 + i % 2)]


def rows(count: int, **columns: object) -> list[dict]:
    return [
        {
            "messages": conversation(i),
            "kind": ("math", "general")[i % 3 == 0],
            "language": ("en", "zh")[i % 5 == 0],
            "license": ("mit", "apache-2.0", None)[i % 3],
            "source": "s",
            "tokens": 10 + i,
        }
        | columns
        for i in range(count)
    ]


def stored(folder: Path, made: list[dict], per_shard: int = 40) -> Path:
    files = shards.Shards(folder, len(made), per_shard)
    for number in files.missing():
        span = files.range(number)
        shards.write_file(files.path(number), [made[span.start : span.stop]], FEATURES)
    return folder


def by_hand(lengths: list[int], rounds: list[int]) -> dict:
    return {
        "samples": len(lengths),
        "rounds": round(sum(rounds) / len(rounds), 2),
        "mean": round(sum(lengths) / len(lengths), 1),
        "min": min(lengths),
        "median": round(float(statistics.median(lengths)), 1),
        "max": max(lengths),
    }


@pytest.mark.parametrize("unit", ["tokenizer", "column", "words"])
def test_figures_are_those_of_a_count_by_hand(tmp_path, unit):
    made = rows(130, **({"tokens": None} if unit == "words" else {}))
    tokenizer = models.byte_tokenizer()
    encode = {"tokenizer": lambda texts: [len(tokenizer.encode(t, add_special_tokens=False)) for t in texts]}.get(unit)
    source_of_row = np.array([i % 4 for i in range(130)])
    measured = measure_dataset(stored(tmp_path / "data", made), source_of_row, encode)

    length = {
        "tokenizer": lambda i: sum(len(message["content"].encode()) for message in made[i]["messages"]),
        "column": lambda i: 10 + i,
        # `word` between spaces is one word, and so is each character of 数学.
        "words": lambda i: len(made[i]["messages"]) * (i % 7 + 1 + 2 * (i % 3)),
    }[unit]

    def expected(numbers: list[int]) -> dict:
        return by_hand([length(i) for i in numbers], [1 + i % 2 for i in numbers])

    assert measured["unit"] == ("words" if unit == "words" else "tokens")
    assert measured["length_of"] == ("the completion" if unit == "column" else "messages")
    assert measured["total"] == expected(list(range(130)))
    for source, figures in enumerate(measured["by_source"]):
        licenses = figures.pop("licenses")
        assert figures == expected(list(range(source, 130, 4))) and licenses == ["apache-2.0", "mit", "unknown"]
    assert measured["by_kind"] == [
        {"kind": kind} | expected([i for i in range(130) if (i % 3 == 0) == (kind == "general")])
        for kind in ("general", "math")
    ]
    assert measured["languages"] == {"en": 104, "zh": 26}


def test_one_row_without_tokens_makes_all_of_them_words(tmp_path):
    made = rows(100)
    made[77]["tokens"] = None
    assert measure_dataset(stored(tmp_path / "data", made))["unit"] == "words"


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value))


def finished(run_dir: Path, task: str, made: list[dict], **recipe: object) -> Path:
    stored(run_dir / "data", made)
    content = {"task": task, "output_dir": str(run_dir), "seed": 7, "datasets": [{"path": "me/rows"}]} | recipe
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(content))
    write_json(run_dir / "environment.json", {"commit": "abc123"})
    return run_dir


def mixture(run_dir: Path, made: list[dict], names: list[str], **recipe: object) -> Path:
    finished(run_dir, "mix", made, **recipe)
    source_of_row = np.array([i % len(names) for i in range(len(made))])
    sources = [{"name": n, "asked": "all", "epochs": 1.0, "available": 9, "left_out": 0} for n in names]
    figures = measure_dataset(run_dir / "data", source_of_row)
    write_json(run_dir / "summary.json", figures | {"sources": sources, "tokenizer": None})
    return run_dir


def test_a_card_the_hub_and_datasets_can_read(tmp_path):
    run_dir = mixture(tmp_path / "runs" / "tiny" / "mix" / "both", rows(130), ["a", "b", "c"], title="Both halves")
    path = write_card(run_dir)
    card = DatasetCard.load(path)
    header = card.data.to_dict()
    assert header["pretty_name"] == "Both halves" and header["language"] == ["en", "zh"]
    assert header["license"] == "other" and header["license_name"] == "mixed"
    assert header["size_categories"] == ["n<1K"] and header["tags"] == ["open-r1", "mix"]
    (line,) = [line for line in card.text.splitlines() if line.startswith("| a |")]
    # Rows 0, 3, 6, ...: all of them under the first licence.
    assert [cell.strip() for cell in line.strip("|").split("|")][1:4] == ["44", "33.8%", "all"] and "mit" in line
    assert "seed 7" in card.text.lower() and "commit abc123" in card.text and str(tmp_path) not in card.text


def test_each_folder_is_loaded_as_itself_beside_its_card(tmp_path):
    """datasets keeps what it has loaded, and would take one folder named `data` for another."""
    for name, count in (("one", 20), ("two", 30)):
        run_dir = mixture(tmp_path / name, rows(count), ["a"])
        write_card(run_dir)
        assert len(datasets.load_dataset(str(run_dir / "data"), split="train")) == count
        assert len(load_source(DatasetConfig(str(run_dir / "data")), seed=0)) == count
    shutil.rmtree(tmp_path / "one")
    write_card(mixture(tmp_path / "one", rows(10), ["a"]))
    assert len(load_source(DatasetConfig(str(tmp_path / "one" / "data")), seed=0)) == 10, "the folder was written anew"


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [(["mit"], "mit"), (["mit", "cc0-1.0"], "other"), ([None], "unknown"), (["mit", None], "other")],
)
def test_one_licence_is_the_mixtures(tmp_path, licenses, expected):
    made = [row | {"license": licenses[i % len(licenses)]} for i, row in enumerate(rows(8))]
    card = DatasetCard.load(write_card(mixture(tmp_path / "run", made, ["a"])))
    assert card.data.license == expected


@pytest.mark.parametrize(
    ("rows", "expected"), [(999, "n<1K"), (1000, "1K<n<10K"), (800_000, "100K<n<1M"), (10**8, "n>10M")]
)
def test_size_categories(rows, expected):
    figures = {"total": {"samples": rows}, "languages": {}, "by_source": []}
    assert _build_header(Path("a/b/c"), {"task": "select"}, figures)["size_categories"] == [expected]


def test_cards_of_samples_and_selections(tmp_path):
    sampled = finished(tmp_path / "sample", "sample", rows(20), model_name_or_path="me/model")
    write_json(
        sampled / "summary.json",
        {
            "prompts": 5,
            "completions": 20,
            "finish_reasons": {"stop": 18, "length": 2},
            "refused": {},
            "model": "me/model",
        },
    )
    text = write_card(sampled).read_text()
    assert "- completions: 20" in text and "- finish reasons: 18 stop, 2 length" in text and "me/model" in text
    selected = finished(tmp_path / "select", "select", rows(6))
    steps = [
        {"name": "sampled", "kept": 20, "dropped": 0, "prompts": 5, "reasons": {}},
        {"name": "correct", "kept": 6, "dropped": 14, "prompts": 4, "reasons": {"wrong": 12, "a|b": 2}},
    ]
    write_json(selected / "summary.json", {"rows": 6})
    write_json(selected / "funnel.json", {"steps": steps})
    text = write_card(selected).read_text()
    assert "| correct | 6 | 14 | wrong 12, a\\|b 2 |" in text


def test_the_chain_of_recipes_behind_a_source(tmp_path, monkeypatch):
    """A mixture of a selection of samples of a hub dataset: each with its rows, seed and commit."""
    monkeypatch.chdir(tmp_path)
    for task, source in (("sample", "me/problems"), ("select", "recipes/m/sample/x.yaml")):
        recipe = Path("recipes/m") / task / "x.yaml"
        recipe.parent.mkdir(parents=True)
        content = {"datasets": [{"path": source, "name": "main"}], "seed": 3, "model_name_or_path": "me/model"}
        recipe.write_text(yaml.safe_dump(content))
        finished(tmp_path / "runs/m" / task / "x", task, rows(12 if task == "sample" else 5), **content)
    names = ["recipes/m/select/x.yaml", "me/talk"]
    run_dir = mixture(tmp_path / "run", rows(9), names, datasets=[{"path": path} for path in names], seed=3)
    text = write_card(run_dir).read_text()
    assert text.rstrip().endswith(
        "- m/select/x: select of 5 rows, seed 3, commit abc123; from\n"
        "  - m/sample/x: sample of 12 rows, by me/model, seed 3, commit abc123; from\n"
        "    - me/problems (main)\n"
        "- me/talk"
    )


def test_the_terminals_table_is_aligned(tmp_path):
    run_dir = mixture(tmp_path / "run", rows(130), ["a long name of a source", "b"])
    lines = format_mixture_table(json.loads((run_dir / "summary.json").read_text())).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "source", "a long name of a source", "b", "of kind general", "of kind math", "total",
    ]  # fmt: skip
    ends = [
        line.index(share) + len(share)
        for line, share in zip(lines, ["share", "50.0%", "50.0%", "33.8%"], strict=False)
    ]
    assert len(set(ends)) == 1 and max(map(len, lines)) < 120


class Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that creating a repository and pushing small files need."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/whoami"):
            signed_in = self.headers.get("authorization") == "Bearer hf_right"
            self.answer(200 if signed_in else 401, {"name": "me"} if signed_in else {"error": "who are you?"})
        elif self.path.startswith("/api/datasets/me/rows?") or self.path == "/api/datasets/me/rows":
            self.answer(200, {"id": "me/rows", "private": self.server.private})
        elif "/tree/main" in self.path:
            there = [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in self.server.there]
            self.answer(200, there)
        else:
            self.answer(404, {"error": self.path})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, body))
        if self.path == "/api/repos/create":
            self.answer(200, {"url": f"http://{self.headers['host']}/datasets/me/rows", "name": "me/rows"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self.answer(
                200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif "/commit/" in self.path and self.server.full:
            self.answer(403, {"error": "storage limit reached"})
        elif "/commit/" in self.path:
            self.answer(
                200,
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": f"http://{self.headers['host']}/datasets/me/rows/commit/1",
                },
            )
        else:
            self.answer(200, {})

    def answer(self, code: int, content: dict | list) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def hub_server(full: bool = False) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.full, server.there, server.private = [], full, [], True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def pushed(folder: Path, port: int, token: str | None) -> str:
    """The result of `hub.push_dataset` in a new process, because the client reads its address and login once."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(folder.parent / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    environment |= {"HF_TOKEN": token} if token else {}
    code = (
        "from pathlib import Path; from open_r1.data import hub; "
        f"print(hub.push_dataset(Path({str(folder)!r}), 'me/rows', True))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    (made / "README.md").write_text("---\nlicense: mit\n---\n")
    (made / "train-00000-of-00001.parquet").write_bytes(b"PAR1 rows PAR1")
    (made / ".train-00000-of-00001.parquet.ab.partial").write_bytes(b"half")
    return made


def test_a_push_creates_the_repository_and_commits_files_and_card(folder):
    with hub_server() as server:
        server.there = ["train-00001-of-00002.parquet", "README.md", "mine/train-0.parquet", "mine.parquet"]
        said = pushed(folder, server.server_port, "hf_right")
    assert said == f"pushed to http://127.0.0.1:{server.server_port}/datasets/me/rows"
    (created,) = [json.loads(body) for path, body in server.asked if path == "/api/repos/create"]
    assert created["type"] == "dataset" and created["visibility"] == "private"
    ((path, body),) = [(path, body) for path, body in server.asked if "/commit/" in path]
    lines = [json.loads(line) for line in body.splitlines()]
    assert path.startswith("/api/datasets/me/rows/commit/main")
    assert sorted(line["value"]["path"] for line in lines if line["key"] == "file") == [
        "README.md", "train-00000-of-00001.parquet",
    ]  # fmt: skip
    # Of a larger dataset that was there before, nothing stays.
    assert [line["value"]["path"] for line in lines if line["key"] == "deletedFile"] == [
        "train-00001-of-00002.parquet"
    ]


@pytest.mark.parametrize(
    ("token", "full", "reason"),
    [
        (None, False, "there is no login"),
        ("hf_wrong", False, "the hub refuses the login"),
        ("hf_right", True, "the hub refused the upload"),
    ],
)
def test_a_push_that_fails_says_how_to_push_later(folder, token, full, reason):
    with hub_server(full) as server:
        said = pushed(folder, server.server_port, token)
    assert reason in said and said.endswith(f"hf upload me/rows {folder} --repo-type dataset --private")


def test_what_is_meant_to_be_private_is_not_pushed_to_a_public_repository(folder):
    with hub_server() as server:
        server.private = False
        said = pushed(folder, server.server_port, "hf_right")
    assert "is public already, so nothing was pushed" in said
    assert not any("/commit/" in path for path, _ in server.asked)


def test_a_hub_out_of_reach_costs_nothing_but_a_line(folder):
    with hub_server() as server:
        port = server.server_port
    assert "the hub cannot be reached" in pushed(folder, port, "hf_right")


def test_check_before_the_run(monkeypatch):
    assert hub.check_push(None) is None
    with pytest.raises(RecipeError, match="hub_dataset_id: 'my rows' is not the name of a repository"):
        hub.check_push("my rows")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert hub.check_push("me/rows").endswith("the dataset will stay in its folder")
