"""The layout of a training on the nodes of a job, the outcome of a start, and the requests to Slurm."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from open_r1.config.loading import resolve_recipe
from open_r1.errors import RecipeError, Unavailable
from open_r1.launch import nodes, process_group
from open_r1.launch.nodes import Allocation, Layout
from open_r1.pipeline import fingerprint
from open_r1.slurm import commands, node, outcome, request, site, status, submit
from open_r1.system import failures, files, locks, network
from open_r1.system.failures import Failure

PARTITION = commands.Partition("gpu", 8, 64, 1000000, 6, None)


def allocation(count: int, gpus: int = 8) -> Allocation:
    return Allocation(Path("start"), count, 0, gpus)


@pytest.mark.parametrize(
    ("where", "processes", "gpus", "server", "expected"),
    [
        (None, 8, 8, 0, Layout([0])),
        (None, 4, 4, 2, Layout([0], 0)),
        (allocation(1), 8, 8, 0, Layout([0])),
        (allocation(4), 32, 32, 0, Layout([0, 1, 2, 3])),
        (allocation(1), 6, 6, 2, Layout([0], 0)),
        (allocation(3), 16, 16, 8, Layout([0, 1], 2)),
        (allocation(2), 8, 8, 4, Layout([0], 1)),
        (allocation(2, 0), 4, 0, 0, Layout([0, 1])),
        (allocation(2, 0), 1, 0, 1, Layout([0], 1)),
    ],
)
def test_layout(where, processes, gpus, server, expected):
    assert nodes.plan_layout(where, processes, gpus, server) == expected


@pytest.mark.parametrize(
    ("where", "processes", "gpus", "server", "message"),
    [
        (allocation(1), 32, 32, 0, "1 node with 8 GPUs each; use sbatch --nodes=4, or --gpus 8"),
        (allocation(4), 8, 8, 0, r"4 nodes with 8 GPUs each; .* --nodes=1, or --gpus 32 .*steps divided by 4"),
        (allocation(2), 12, 12, 0, "every node must use the same number"),
        (allocation(2), 8, 8, 16, "vllm_server_gpus: 16 are more than the 8 GPUs of a node"),
        (allocation(1), 8, 8, 8, "for 8 GPUs and 8 for the vLLM server, and the job has 1 node .* --nodes=2"),
        (allocation(1, 0), 8, 8, 0, "the job has none; add --gpus-per-node"),
        (allocation(2, 0), 3, 0, 0, "processes: 3 on 2 nodes"),
        (allocation(3, 0), 2, 0, 0, "processes: 2 on 3 nodes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(where, processes, gpus, server, message):
    with pytest.raises(RecipeError, match=message):
        nodes.plan_layout(where, processes, gpus, server)


def test_orders_are_read_once_and_in_order(tmp_path):
    nodes.send_order(tmp_path, [1, 2], "run", words=["a"])
    nodes.send_order(tmp_path, [2], "serve", words=["b"])
    assert [one.get("words") for one in nodes.read_orders(tmp_path, 1, 0)] == [["a"], None]
    assert [one.get("kind") for one in nodes.read_orders(tmp_path, 2, 1)] == ["serve"]


def test_a_port_of_the_sites_range_that_is_free(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv(network.PORTS, f"{port}-{port}")
        with pytest.raises(RecipeError, match=rf"OPEN_R1_PORTS: every port of {port}-{port} is taken on "):
            network.find_free_port()
    assert network.find_free_port() == port
    with pytest.raises(RecipeError, match="every port"):
        network.find_free_port()  # handed out, although nobody listens on it yet
    monkeypatch.setenv(network.PORTS, "many")
    with pytest.raises(RecipeError, match="a range of ports such as 20000-20100, got 'many'"):
        network.find_free_port()


def test_an_address_is_one_that_resolves_to_more_than_the_loopback():
    assert network.find_reachable(["no-such-host.invalid", "192.0.2.7"]) == "192.0.2.7"
    with pytest.raises(RecipeError, match=r"can resolve none of no-such-host\.invalid, 127\.0\.0\.2"):
        network.find_reachable(["no-such-host.invalid", "127.0.0.2"])


@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2", "zero3", "cpu"])
def test_every_config_goes_over_several_machines(config):
    """One launcher on each machine, also for DeepSpeed, whose own launcher needs ssh."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    words = process_group.build_command(
        "open_r1.sft", ["--config", "r.yaml"], config, 16, process_group.Place(2, 1, "n1", 20001)
    )
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words[3:]))
    assert (args.num_machines, args.machine_rank, args.num_processes) == (2, 1, 16)
    assert (args.main_process_ip, args.main_process_port) == ("n1", 20001)
    assert args.deepspeed_multinode_launcher == ("standard" if config.startswith("zero") else None)


@pytest.fixture
def start(tmp_path, monkeypatch):
    folder = tmp_path / "7" / "start-0"
    folder.mkdir(parents=True)
    monkeypatch.setenv(network.START, str(folder))
    return folder


CUDA = """CUDA error: uncorrectable ECC error encountered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions."""


def leave(start: Path, **values: object) -> None:
    folder = start / failures.FOLDER
    folder.mkdir(exist_ok=True)
    failure = {"message": "error: no", "node": "n1", "rank": 0, "when": 1.0, "code": 1, "final": False}
    (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(failure | values))


def test_the_earliest_failure_is_the_cause_and_echoes_of_it_are_not(start):
    leave(start, message="RuntimeError: Connection closed by peer [10.0.0.2]", when=1.0)
    leave(start, message="OSError: the disk is on fire", node="n2", rank=9, when=1.5)
    leave(start, message="error: later", when=2.0)
    assert failures.find_first(start).message == "OSError: the disk is on fire"
    code, message = outcome.decide_outcome(start, 143)
    assert code == 1 and message.splitlines()[0].startswith("n2, rank 9, ") and "2 more failed" in message


def test_a_process_leaves_its_first_failure(start, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    failures.record_error(RecipeError("gpus: no"))
    failures.record_error(ValueError("a later one"))
    failure = failures.find_first(start)
    assert (failure.message, failure.rank, failure.code, failure.final) == ("error: gpus: no", 3, 2, True)


@pytest.mark.parametrize(
    ("message", "more", "passing"),
    [
        ("RuntimeError: NCCL error: unhandled system error", {}, True),
        ("error: the process was ended by SIGABRT", {"code": 134}, True),
        ("OSError: seccomp is absent, maxid 3", {}, False),
        ("OSError: [Errno 116] Stale file handle", {}, True),
        ("error: the vLLM server on n2 ended", {"code": Unavailable.CODE}, True),
        ("error: the vLLM server on n2 ended", {"code": 2, "final": True}, False),
        ("torch.OutOfMemoryError: CUDA out of memory", {}, False),
        ("KeyError: 'prompt'", {}, False),
        ("error: gpus: Connection", {"final": True, "code": 2}, False),
    ],
)
def test_only_what_may_pass_is_tried_again(start, message, more, passing):
    leave(start, message=message, **more)
    code, _ = outcome.decide_outcome(start, 1)
    assert (code == outcome.REQUEUE) == passing and (passing or code in (1, 2))


def test_cudas_advice_does_not_hide_its_error(start):
    failures.record_error(RuntimeError(CUDA))
    failure = failures.find_first(start)
    assert failure.message == "RuntimeError: CUDA error: uncorrectable ECC error encountered" and failure.passing
    assert "TORCH_USE_CUDA_DSA" in failure.details


@pytest.mark.parametrize("stopped", [False, True])
def test_a_job_is_started_again_so_often_with_nothing_done_between(tmp_path, stopped):
    codes = []
    for number, step in enumerate((4, 4, 4, 8, 8, 8, 8)):
        start = tmp_path / "job" / f"start-{number}"
        start.mkdir(parents=True)
        if number != 2:  # this one fails while it loads
            (start / "run").write_text(f"{tmp_path / 'run'}\n")
        if stopped:
            (start / "stop").touch()
        leave(start, message="TimeoutError: timed out")
        checkpoint = tmp_path / "run" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "manifest.json").touch()
        code, message = outcome.decide_outcome(start, 1)
        codes.append(code)
        assert (f"starts again: {tmp_path / 'run'} from checkpoint-{step}" in message) == (code == outcome.REQUEUE)
    assert codes == [75] * 6 + [1]


def test_what_srun_stops_after_a_failure_was_not_asked_to_stop(start):
    leave(start, message="KeyError: 'prompt'", node="n2")
    (start / "head.json").write_text('{"code": 143}')
    assert outcome.decide_outcome(start, 143)[0] == 1


def test_what_fails_of_being_stopped_is_no_failure(start):
    leave(start, message="error: the process was ended by SIGTERM")
    (start / "stop").touch()
    assert outcome.decide_outcome(start, 143) == (
        outcome.REQUEUE,
        "it was stopped, and starts again: from the beginning",
    )
    (start / "head.json").write_text('{"code": 0}')
    assert outcome.decide_outcome(start, 143) == (0, "")


def test_a_stop_does_not_hide_what_will_always_fail(start):
    leave(start, message="error: the disk is full", code=2, final=True)
    (start / "stop").touch()
    code, message = outcome.decide_outcome(start, 143)
    assert code == 2 and "the disk is full" in message.splitlines()[0]


def test_a_stop_at_the_end_of_which_a_stage_had_failed_for_good_is_one(start):
    """In a pipeline in one job the other stages continue."""
    leave(start, message="error: datasets: no", code=2, final=True)
    (start / "stop").touch()
    (start / "head.json").write_text('{"code": 143}')
    assert outcome.decide_outcome(start, 143)[0] == outcome.REQUEUE


def test_a_server_that_has_served_begins_anew(tmp_path):
    codes = []
    for number, served in enumerate((True, True, True, True, True, False, False, False, False)):
        start = tmp_path / "job" / f"start-{number}"
        start.mkdir(parents=True)
        (start / "stop").touch()
        if served:
            (start / network.SERVED).touch()
        codes.append(outcome.decide_outcome(start, 143)[0])
    assert codes == [75] * 7 + [1] * 2


def test_what_a_process_has_to_say_goes_before_where_it_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(network.START, str(tmp_path / "file"))
    assert failures.record_error(RecipeError("no folder can be made there")) is None


def test_a_stage_is_not_filled_by_another_recipe_than_was_submitted(write_recipe, monkeypatch):
    recipe = str(write_recipe("sft"))
    digest = fingerprint.fingerprint_stage(*resolve_recipe(Path(recipe), {}))["digest"]
    monkeypatch.setenv(fingerprint.DIGEST, digest)
    where = Allocation(Path("start"), 1, 0, 0)
    assert node._check_recipe(where, recipe, []).name == "run"
    with pytest.raises(RecipeError, match="changed since this was submitted; submit it again"):
        node._check_recipe(where, recipe, ["--learning_rate", "0.123"])


@pytest.mark.parametrize(
    ("asked", "gpus", "server", "expected"),
    [({}, 8, 0, (1, 8)), ({}, 32, 0, (4, 8)), ({}, 12, 0, (2, 6)), ({}, 16, 8, (3, 8)), ({"nodes": "4"}, 8, 0, (4, 2)),
     ({"nodes": "1"}, 6, 2, (1, 8)), ({"nodes": "3"}, 16, 8, (3, 8)), ({"gpus-per-node": "h100:8"}, 2, 0, (1, 8)),
     ({"gpus-per-node": "4"}, 32, 0, (8, 4))],
)  # fmt: skip
def test_the_shape_of_a_request(asked, gpus, server, expected):
    assert request.plan_nodes("r.yaml", gpus, server, PARTITION, asked) == expected


@pytest.mark.parametrize(
    ("task", "keys", "asked", "message"),
    [
        ("sft", {"gpus": 12}, {"gpus-per-node": "8"}, "every node must use the same number"),
        ("grpo", {"gpus": 8, "vllm_mode": "server", "vllm_server_gpus": 8}, {"nodes": "3"}, "use sbatch --nodes=2"),
        ("sample", {"gpus": 16}, {}, "sample runs on one node, and the nodes of gpu have 8 GPUs"),
    ],
)
def test_a_request_that_the_job_would_refuse(write_recipe, task, keys, asked, message):
    with pytest.raises(RecipeError, match=message):
        request.build_request(str(write_recipe(task, **keys)), {}, asked, PARTITION)


def test_what_a_request_takes_of_a_node(write_recipe):
    of = {
        gpus: request.build_request(str(write_recipe("sft", gpus=gpus)), {}, {}, PARTITION).options for gpus in (2, 16)
    }
    assert [of[2][key] for key in ("nodes", "gpus-per-node", "cpus-per-gpu", "mem")] == ["1", "2", "7", "237500M"]
    assert [of[16][key] for key in ("nodes", "gpus-per-node", "cpus-per-gpu", "mem")] == ["2", "8", "7", "0"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gres=gpu:2", "--slurm.gres: the scripts use --gpus-per-node; use --slurm.gpus-per-node"),
        ("gpus=8", "--slurm.gpus: the scripts use --gpus-per-node; use --slurm.gpus-per-node"),
        ("cpus-per-task=4", "--slurm.cpus-per-task: the scripts use --cpus-per-gpu; use --slurm.cpus-per-gpu"),
        ("clusters=other", "set SLURM_CLUSTERS instead"),
    ],
)
def test_options_that_do_not_go_with_the_scripts_are_refused(word, message):
    assert request.split_options(["--slurm.gres=lustre:1"])[0] == {"gres": "lustre:1"}
    with pytest.raises(RecipeError, match=message):
        request.split_options([f"--slurm.{word}"])


@pytest.mark.parametrize(
    ("head", "step", "expected"), [(0, 0, 0), (143, 0, 75), (130, 0, 75), (75, 75, 1), (None, 9, 9)]
)
def test_a_start_without_failures(start, head, step, expected):
    if head is not None:
        (start / "head.json").write_text(json.dumps({"code": head}))
    assert outcome.decide_outcome(start, step)[0] == expected


@pytest.mark.parametrize(
    ("time_limit", "expected"),
    [("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("1-00:00:00", 86400), ("1-2", 93600), ("infinite", None)],
)  # fmt: skip
def test_limits_as_slurm_writes_them(time_limit, expected):
    assert commands.parse_time_limit(time_limit) == expected
    if expected is not None:
        assert commands.parse_time_limit(commands.format_time_limit(expected)) == expected


def test_options_of_sbatch_are_taken_as_they_are_written():
    """YAML would make seconds of a time, which Slurm would read as minutes."""
    words = ["--seed", "7", "--slurm.time", "2:00:00", "--slurm.gpus_per_node=h100:8", "--slurm.exclusive", "--toy"]
    asked, rest = request.split_options(words)
    assert asked == {"time": "2:00:00", "gpus-per-node": "h100:8", "exclusive": None} and rest == [
        "--seed",
        "7",
        "--toy",
    ]


def test_a_partition_is_that_of_its_largest_nodes(monkeypatch):
    output = "gpu*|gpu:a100:8(S:0-1),nvme:1|128|1031000+|4|2-00:00:00\ngpu*|gpu:a100:8|64+|1030000|2|2-00:00:00\n"
    output += "cpu|(null)|64|256000|9|infinite\nmixed|vgpu:4,gpu:2|8|64000|1|30:00\n"
    monkeypatch.setattr(commands, "run_command", lambda *words: output)
    assert commands.find_partition(None) == commands.Partition("gpu", 8, 64, 1030000, 6, 172800)
    assert (commands.find_partition("cpu").gpus, commands.find_partition("cpu").limit) == (0, None)
    assert commands.find_partition("mixed").gpus == 2
    with pytest.raises(RecipeError, match="partition: there is none named 'gpus'; did you mean 'gpu'"):
        commands.find_partition("gpus")


def test_tasks_of_an_array_that_ended_long_ago(monkeypatch):
    """The queue and the controller know the others; only the accounting knows these."""
    output = {
        "squeue": "12|12_6|RUNNING|None|n1|1:30|28:30\n",
        "scontrol": "JobId=14 ArrayJobId=12 ArrayTaskId=5 JobState=COMPLETED Reason=None RunTime=00:00:09 NodeList=n2 "
        "ExitCode=0:0\nJobId=15 ArrayJobId=12 ArrayTaskId=7-9 JobState=PENDING Reason=Priority RunTime=00:00:00 "
        "NodeList=(null) ExitCode=0:0\n",
        "sacct": "12_3|FAILED|n1|00:00:07|2:0\n12_5|COMPLETED|n2|00:00:09|0:0\n12_[7-9]|PENDING||00:00:00|0:0\n",
    }
    monkeypatch.setattr(commands, "run_command", lambda name, *words, check=True: output[name])
    monkeypatch.setattr(commands.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert [(job.id, job.state) for job in commands.list_jobs(["12"])["12"]] == [
        ("12_6", "RUNNING"), ("12_5", "COMPLETED"), ("12_3", "FAILED"),
    ]  # fmt: skip


def test_that_slurm_does_not_answer_is_not_that_it_knows_no_job(monkeypatch):
    said = {"squeue": "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"}

    def fails(words, **kwargs):
        return subprocess.CompletedProcess(words, 1, "", said.get(words[0], "disabled"))

    monkeypatch.setattr(commands.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(commands.subprocess, "run", fails)
    with pytest.raises(RecipeError, match=r"squeue: slurm_load_jobs error: Unable to contact"):
        commands.list_jobs(["12"])
    said["squeue"] = "slurm_load_jobs error: Invalid job id specified"
    assert commands.list_jobs(["12"]) == {}


def test_a_job_that_has_not_begun_its_run(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN_R1_JOBS", str(tmp_path))
    site.find_jobs_folder.cache_clear()
    waits, ended = commands.Job("7", "PENDING", "BeginTime"), commands.Job("8", "FAILED", "", "n1", "0:09", "", "2:0")
    monkeypatch.setattr(commands, "list_jobs", lambda ids: {"7": [waits], "8": [ended]})
    (tmp_path / "8" / "start-0" / failures.FOLDER).mkdir(parents=True)
    leave(tmp_path / "8" / "start-0", message="error: datasets: no")
    assert status.describe_run("7") == "job     7 PENDING (BeginTime)"
    assert status.describe_run("8").startswith("job     8 FAILED 2:0\nerror   n1, ")
    with pytest.raises(RecipeError, match="job 9: Slurm does not know it"):
        status.describe_run("9")
    site.find_jobs_folder.cache_clear()


def test_how_a_run_stands_whose_job_loads_or_trains_another_first(tmp_path, monkeypatch):
    run, base = tmp_path / "run", tmp_path / "base"
    monkeypatch.setenv("OPEN_R1_JOBS", str(tmp_path / "jobs"))
    site.find_jobs_folder.cache_clear()
    runs = commands.Job("8", "RUNNING", "", "n1", "0:09", "59:51")
    assert status._find_state(run, []) == "not begun"
    assert status._find_state(run, [runs]) == "starting"
    run.mkdir()
    files.write_json(run / "status.json", {"state": "interrupted"})
    assert status._find_state(run, []) == "interrupted"
    assert status._find_state(run, [runs]) == "starting", "again, after a requeue"
    start = tmp_path / "jobs" / "8" / "start-1"
    start.mkdir(parents=True)
    (start / network.RUN).write_text(f"{base}\n")
    assert status._find_state(run, [runs]) == f"waits for {base}, which its job trains first"
    files.write_json(run / "status.json", {"state": "running"})
    assert status._find_state(run, []) == "interrupted", "a kill left no other state"
    with (run / locks.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert status._find_state(run, [runs]) == "running"
    files.write_json(run / "status.json", {"state": "failed"})
    assert status._find_state(run, [runs]) == "failed"
    site.find_jobs_folder.cache_clear()


def test_a_job_notes_itself_in_the_run_it_is_for(write_recipe, tmp_path, monkeypatch):
    recipe = str(write_recipe("sft"))
    monkeypatch.setenv(network.JOB_LOG, "job.log")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    for rank, there in ((1, False), (0, True)):
        where = Allocation(tmp_path / "start", 2, rank, 0)
        node.check_node(where, "train", [recipe, "--processes", "2"])
        assert (tmp_path / "run" / network.JOBS).is_file() == there
    assert files.read_json(tmp_path / "run" / network.JOBS) == {"jobs": [{"id": "12", "log": "job.log"}]}


def test_a_stage_that_is_at_work_is_queued(tmp_path, monkeypatch):
    """Its job has replaced the note that was written when it was submitted."""
    monkeypatch.setenv(network.JOB_LOG, "job.log")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    network.write_job_note(tmp_path)
    stage = SimpleNamespace(state="waiting", dir=tmp_path)
    monkeypatch.setattr(commands, "list_jobs", lambda ids: {"12": [commands.Job("12", "RUNNING")]})
    assert submit._find_queued([stage]) == [{"id": "12", "log": "job.log", "dir": str(tmp_path)}]
    monkeypatch.setattr(commands, "list_jobs", lambda ids: {"12": [commands.Job("12", "FAILED")]})
    assert submit._find_queued([stage]) == []


def test_the_lock_of_a_start_on_a_lost_node_is_no_obstacle(tmp_path, monkeypatch):
    with (tmp_path / locks.LOCK).open("w") as left_by_nfs:
        fcntl.flock(left_by_nfs, fcntl.LOCK_EX)
        left_by_nfs.write("job 12 on n1")
        left_by_nfs.flush()
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.setenv("SLURMD_NODENAME", "n2")
        assert locks.find_holder(tmp_path) == "job 12 on n1"
        with pytest.raises(RecipeError, match="another process"):
            locks.lock_directory(tmp_path)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert locks.find_holder(tmp_path) is None
        locks.lock_directory(tmp_path)


def test_a_failure_is_a_line():
    at = time.mktime((2026, 11, 28, 12, 30, 5, 0, 0, -1))
    assert Failure("error: no", "n2", 3, at).line == "n2, rank 3, 12:30:05: error: no"
    assert Failure("error: no", "n2", None, at).line == "n2, 12:30:05: error: no"
