"""Sampling: every row n times, the same whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import datasets
import pytest
import yaml
from conftest import MODEL, PROBLEMS, ROOT, command, group
from support import warm
from support.standin import servers

from open_r1 import sample
from open_r1.config.loading import load_recipe
from open_r1.data import shards
from open_r1.engines import registry
from open_r1.errors import RecipeError
from open_r1.prompts import hash_prompt
from open_r1.run import exit, job_array, recipe_changes
from open_r1.run.run import Run
from open_r1.system.files import explain_full_disk, read_json, read_status, write_text
from open_r1.system.progress import Progress, format_duration

ROWS = 32


def rows_of(directory) -> list[dict]:
    """The rows; of the model, which each run makes for itself, without the place."""
    rows = [row for batch in shards.read_folder(directory / "data") for row in batch]
    return [row | {"model": row["model"].removeprefix(str(directory))} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted: its recipe and its directory."""
    folder = tmp_path_factory.mktemp("sample")
    path = folder / "recipes" / "small" / "sample" / "recipe.yaml"
    path.parent.mkdir(parents=True)
    content = {
        "random_init": MODEL,
        "tokenizer_name_or_path": "open_r1.tiny.tokenizer:build",
        "datasets": [PROBLEMS],
        "sampling": {"n": 3, "max_tokens": 8},
        "engine": {"name": "transformers", "batch_size": 16},
        "shard_rows": 5,
        "seed": 3,
    }
    path.write_text(yaml.safe_dump(content))
    done = command("train", path, "--output_dir", folder / "whole", fresh=True)
    assert done.returncode == 0, done.stderr
    return path, folder / "whole", done


def test_every_prompt_has_its_n_completions_and_all_its_columns(whole):
    _, directory, done = whole
    rows = rows_of(directory)
    assert [(row["row"], row["sample"]) for row in rows] == [(i, k) for i in range(ROWS) for k in range(3)]
    first = rows[0]
    assert first["prompt"][0]["content"].startswith(("add", "相加")) and first["solution"].isdigit()
    assert first["prompt_id"] == hash_prompt(first["prompt"]) and first["seed"] == registry.derive_seed(3, 0, 0)
    assert len({row["completion"] for row in rows}) > ROWS
    for row in rows:
        assert row["finish_reason"] in ("stop", "length") and 1 <= row["tokens"] <= 8
        assert (row["finish_reason"] == "length") <= (row["tokens"] == 8)
    assert "96 of 96 completions (100%)" in done.stdout and done.stdout.rstrip().endswith(str(directory))


def test_the_summary_counts_what_is_in_the_files(whole):
    _, directory, _ = whole
    summary, rows = read_json(directory / "summary.json"), rows_of(directory)
    assert (summary["prompts"], summary["completions"]) == (ROWS, 3 * ROWS)
    assert summary["tokens"] == sum(row["tokens"] for row in rows)
    assert summary["finish_reasons"]["length"] == sum(row["finish_reason"] == "length" for row in rows)
    histogram = summary["length_histogram"]
    assert sum(histogram["counts"]) == 3 * ROWS
    assert sum(histogram["truncated"]) == summary["finish_reasons"]["length"]
    assert summary["tokens_per_second"] > 0 and len(summary["samples"]) == 5
    assert read_status(directory)["state"] == "finished" and (directory / "report.html").is_file()


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_rows(whole, tmp_path):
    path, directory, _ = whole
    words = ["-m", "open_r1.cli", "train", path, "--output_dir", tmp_path / "run"]
    rng, kills = random.Random(0), 0
    for _ in range(12):
        process = warm.Popen(words, cwd=ROOT, stdout=warm.DEVNULL, stderr=warm.PIPE)
        files = len(list((tmp_path / "run" / "data").glob("*.parquet")))
        # Killed at a random moment once it has begun to write something new, up to four times.
        while process.poll() is None and kills < 4:
            if len(list((tmp_path / "run" / "data").glob("*.parquet"))) > files:
                time.sleep(rng.uniform(0, 0.03))
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        error = process.communicate()[1]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, error
    assert process.returncode == 0 and kills >= 2
    assert rows_of(tmp_path / "run") == rows_of(directory)
    assert not list((tmp_path / "run" / "data").glob(".*"))


def test_the_jobs_of_an_array_make_the_same_rows_with_nothing_but_an_index(whole, tmp_path):
    path, directory, _ = whole
    jobs = []
    for index in (4, 6):
        array = {"ID": index, "MIN": 4, "STEP": 2, "COUNT": 2}
        environment = os.environ | {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in array.items()}
        words = ["-m", "open_r1.cli", "train", path, "--output_dir", tmp_path / "run"]
        jobs.append(warm.Popen(words, cwd=ROOT, env=environment, stdout=warm.PIPE))
    told = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert rows_of(tmp_path / "run") == rows_of(directory)
    assert read_status(tmp_path / "run")["state"] == "finished"
    processes = {json.loads(line)["process"] for line in (tmp_path / "run" / "shards.jsonl").read_text().splitlines()}
    assert len(processes) == 2


def test_the_processes_of_a_launch_make_the_same_rows(whole, tmp_path):
    path, directory, _ = whole
    group("-m", "open_r1.sample", "--config", path, "--output_dir", tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(directory)
    assert read_status(tmp_path / "run")["state"] == "finished"
    logged = [json.loads(line) for line in (tmp_path / "run" / "shards.jsonl").read_text().splitlines()]
    assert len({line["process"] for line in logged}) == 2 and len(logged) == 7


def test_the_first_process_waits_for_the_others_files_without_a_barrier(write_recipe, tmp_path, monkeypatch):
    recipe = load_recipe(write_recipe("sample", parts=2, part=1))
    files = shards.Shards(tmp_path / "data", rows=7, per_shard=1)
    # Of two launches of two processes, 2, 3 and 6 are the second one's.
    for number in (2, 6):
        files.path(number).touch()
    waits = []

    def other_process(seconds: float):
        waits.append(seconds)
        files.path(3).touch()

    monkeypatch.setattr(job_array, "PartialState", lambda: SimpleNamespace(num_processes=2, is_main_process=True))
    monkeypatch.setattr(job_array.time, "sleep", other_process)
    with job_array.claim_finish(Run(recipe, tmp_path), files) as last:
        assert not last
    assert waits == [1] and read_status(tmp_path)["state"] == "waiting"


def test_a_part_alone_waits_for_the_others(whole, tmp_path, write_recipe):
    path, _, _ = whole
    recipe = load_recipe(path, ["--output_dir", str(tmp_path / "run"), "--part", "1", "--parts", "3"])
    sample.main(recipe)
    assert read_status(tmp_path / "run")["state"] == "waiting"
    assert [int(p.name[6:11]) for p in sorted((tmp_path / "run" / "data").iterdir())] == [1, 4]


def test_other_files_and_another_order_of_work_give_the_same_completions(whole, tmp_path):
    path, directory, _ = whole
    sample.main(load_recipe(path, ["--output_dir", str(tmp_path / "run"), "--shard_rows", "9"]))
    assert rows_of(tmp_path / "run") == rows_of(directory)


def test_prompts_that_cannot_be_answered_are_kept_with_the_reason(write_recipe, tmp_path):
    long = " ".join(["add"] * 300)
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": p, "id": i}) + "\n" for i, p in enumerate(["add a 1", "", long])))
    recipe = load_recipe(write_recipe("sample", datasets=[{"path": str(source)}]))
    sample.main(recipe)
    rows = rows_of(tmp_path / "run")
    assert [row["id"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row["finish_reason"] == "refused" for row in rows] == [False, False, True, True, True, True]
    assert rows[2]["refused"] == "the prompt is empty" and "256" in rows[4]["refused"]
    assert rows[2]["completion"] is None and rows[2]["tokens"] == 0
    assert read_json(tmp_path / "run" / "summary.json")["finish_reasons"]["refused"] == 4


@pytest.mark.parametrize("empty", [None, "", []])
def test_a_file_of_refusals_among_answers_is_written(write_recipe, tmp_path, empty):
    """The last file may hold a single row."""
    source = tmp_path / "prompts.jsonl"
    asked = "add a 1" if empty != [] else [{"role": "user", "content": "add a 1"}]
    source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in [empty, asked, empty]))
    path = write_recipe("sample", datasets=[{"path": str(source)}], shard_rows=2)
    sample.main(load_recipe(path))
    reasons = [row["finish_reason"] == "refused" for row in rows_of(tmp_path / "run")]
    assert reasons == [True, True, False, False, True, True]


def test_a_file_of_refusals_is_written_where_an_earlier_start_had_answers(write_recipe, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ["add a 1", "add b 2", ""]))
    path = write_recipe("sample", datasets=[{"path": str(source)}], shard_rows=2)
    sample.main(load_recipe(path, ["--part", "0", "--parts", "2"]))
    sample.main(load_recipe(path, ["--part", "1", "--parts", "2"]))
    assert [row["row"] for row in rows_of(tmp_path / "run")] == [0, 0, 1, 1, 2, 2]


def test_a_signal_does_not_wait_for_a_server(write_recipe, tmp_path):
    asked = threading.Event()

    def never(handler, body, number):
        asked.set()
        time.sleep(60)

    with servers() as start:
        engine = {"name": "server", "endpoints": start(never).url, "model_name": "m"}
        path = write_recipe("sample", engine=engine)
        words = ["-m", "open_r1.cli", "train", path]
        process = warm.Popen(words, cwd=ROOT, stdout=warm.DEVNULL, stderr=warm.PIPE)
        try:
            assert asked.wait(120)
            process.send_signal(signal.SIGTERM)
            error = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM and "stopped; run the same command again to continue" in error
    assert read_status(tmp_path / "run")["state"] == "interrupted"


def interrupted_rows(seed: int):
    def rows():
        yield {"prompt": "add a 1"}
        os.kill(os.getpid(), signal.SIGTERM)
        yield {"prompt": "add a 2"}

    return datasets.Dataset.from_generator(rows, fingerprint=str(time.time_ns()))


def test_a_signal_is_no_failure_of_the_library_that_it_interrupts(write_recipe):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(exit.Interruption):
            sample.main(load_recipe(write_recipe("sample", datasets=[{"path": "test_sample:interrupted_rows"}])))
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_file_of_refusals_only_stops_the_run(write_recipe, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text(json.dumps({"prompt": ""}) + "\n" + json.dumps({"prompt": " ".join(["add"] * 300)}) + "\n")
    recipe = load_recipe(write_recipe("sample", datasets=[{"path": str(source)}]))
    with pytest.raises(RecipeError, match="every prompt of the rows 0 to 1 is refused: the prompt is empty"):
        sample.main(recipe)
    assert not list((tmp_path / "run" / "data").iterdir())


def test_an_engine_that_dies_loses_no_file_that_was_written(write_recipe, tmp_path, monkeypatch):
    recipe = load_recipe(write_recipe("sample"))
    opened = registry.open_engine

    def dying(recipe):
        engine = opened(recipe)
        generate, calls = engine.generate, []

        def twice(*args, **more):
            calls.append(1)
            if len(calls) > 2:
                raise RecipeError("the engine is gone; run the same command again to continue")
            return generate(*args, **more)

        engine.generate = twice
        return engine

    monkeypatch.setattr(registry, "open_engine", dying)
    with pytest.raises(RecipeError, match="the engine is gone"):
        sample.main(recipe)
    assert len(list((tmp_path / "run" / "data").glob("*.parquet"))) == 2
    monkeypatch.setattr(registry, "open_engine", opened)
    sample.main(load_recipe(recipe.path))
    assert [row["row"] for row in rows_of(tmp_path / "run")] == [i for i in range(ROWS) for _ in range(2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": {"n": 0}}, "sampling.n: 1 or more, got 0"),
        ({"sampling": {"n": 4, "temperature": 0.0}}, "at temperature 0 all 4 completions would be the same"),
        ({"sampling": {"top_p": 0.0}}, "sampling.top_p: above 0 and at most 1"),
        ({"sampling": {"maxtokens": 5}}, "sampling: unknown key 'maxtokens'; did you mean 'max_tokens'"),
        ({"part": 3, "parts": 3}, "part: 3 of 3 parts; the first is 0, the last 2"),
        ({"shard_rows": 0}, "shard_rows: a number of rows, 1 or more"),
        ({"evaluation": {"datasets": [PROBLEMS]}}, "evaluation: sample does not train a model"),
        ({"learning_rate": 1e-5}, "unknown key 'learning_rate'"),
        ({"random_init": None}, "model_name_or_path: no model is named"),
    ],
)
def test_bad_values_are_refused_by_name(write_recipe, change, message):
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        load_recipe(write_recipe("sample", **change))


def test_an_engine_name_that_is_not_one(write_recipe):
    with pytest.raises(RecipeError, match=r"transformer.*did you mean 'transformers'"):
        sample.main(load_recipe(write_recipe("sample", engine={"name": "transformer"})))


def test_columns_that_sampling_writes_must_not_be_lost(write_recipe, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text(json.dumps({"prompt": "add a 1", "completion": "1"}) + "\n")
    with pytest.raises(RecipeError, match=r"writes the columns completion, .*source_completion: completion"):
        sample.main(load_recipe(write_recipe("sample", datasets=[{"path": str(source)}])))


def test_progress_says_how_long_it_will_take():
    now, said = [0.0], []
    progress = Progress(1000, said.append, clock=lambda: now[0])
    for now[0] in (5.0, 9.0, 10.0, 15.0, 25.0):
        progress.add(50, 700)
    assert said == [
        "150 of 1,000 completions (15%), 210 tokens/s, about 57 s left",
        "250 of 1,000 completions (25%), 140 tokens/s, about 75 s left",
    ]
    assert [format_duration(s) for s in (12, 600, 9000)] == ["12 s", "10 min", "2.5 h"]


def test_rows_that_change_between_two_starts_are_not_mixed(write_recipe, tmp_path, monkeypatch):
    source = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"add a {i % 5}"}) + "\n" for i in range(20)]
    source.write_text("".join(lines))
    path = write_recipe("sample", datasets=[{"path": str(source)}])
    monkeypatch.setattr(sample, "summarize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sample.main(load_recipe(path))
    source.write_text("".join([*lines, lines[0]]))
    with pytest.raises(RecipeError, match=r"datasets: .*prompts.jsonl changed since .*run was begun; delete it"):
        sample.main(load_recipe(path))


def test_the_engine_may_move_but_not_become_another(write_recipe, tmp_path):
    def recipe(**engine):
        return load_recipe(write_recipe("sample", engine={"name": "server", "endpoints": "http://a/v1"} | engine))

    (tmp_path / "run").mkdir()
    write_text(tmp_path / "run" / "recipe.yaml", yaml.safe_dump(recipe().given))
    assert not recipe_changes.describe_changes(recipe(endpoints=["http://b/v1", "http://c/v1"], concurrency=3))
    assert "model_name" in recipe_changes.describe_changes(recipe(model_name="other"))


def test_a_file_of_a_finished_run_that_is_damaged_is_made_again(whole, tmp_path):
    path, directory, _ = whole
    words = ["train", path, "--output_dir", tmp_path / "run"]
    shutil.copytree(directory, tmp_path / "run")
    broken = tmp_path / "run" / "data" / "train-00002-of-00007.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    done = command(*words)
    assert done.returncode == 0 and "train-00002-of-00007.parquet of" in done.stdout, done.stderr
    assert [(row["row"], row["completion"]) for row in rows_of(tmp_path / "run")] == [
        (row["row"], row["completion"]) for row in rows_of(directory)
    ]
    assert "finished already" in command(*words).stdout


def test_a_part_says_of_how_many(write_recipe):
    with pytest.raises(RecipeError, match=r"parts: part 0 of how many"):
        load_recipe(write_recipe("sample"), ["--part", "0"])


def test_a_full_disk_ends_with_what_it_says_and_nothing_else(write_recipe, tmp_path, monkeypatch, capsys):
    """Not even the status can be written then."""
    recipe = load_recipe(write_recipe("sample"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fails(path, batches, features):
        monkeypatch.setattr("open_r1.system.files.write_json", full)
        with explain_full_disk(path):
            full()

    monkeypatch.setattr(shards, "write_file", fails)
    with pytest.raises(SystemExit) as ended:
        exit.run_guarded(lambda: sample.main(recipe))
    assert ended.value.code == 2 and "error: the disk is full: " in capsys.readouterr().err
