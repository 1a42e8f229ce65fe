"""The worker pool: limits that hold in any thread, and what happens when processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from open_r1.system import worker_pool
from open_r1.system.worker_pool import CallFailed, LimitReached, Pool, PoolError


@pytest.fixture(scope="module")
def workers():
    of_two = Pool(workers=2, preload="math")
    yield of_two
    of_two.close()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


def test_nothing_starts_before_the_first_call():
    idle = Pool(workers=1)
    assert idle.list_processes() == {"server": [], "workers": []}
    idle.close()


def test_results_and_exceptions(workers):
    assert workers.call("math:comb", 5, 2) == 10
    with pytest.raises(CallFailed, match="ValueError"):
        workers.call("math:sqrt", -1)
    with pytest.raises(CallFailed, match="ModuleNotFoundError"):
        workers.call("no.such.module:f")
    with pytest.raises(CallFailed, match="SystemExit"):
        workers.call("sys:exit", 1)
    with pytest.raises(CallFailed, match="pickle"):
        workers.call("threading:Lock")
    assert workers.call("math:comb", 5, 2) == 10


def test_cpu_limit_holds_inside_c_code_that_keeps_the_gil_and_in_any_thread(workers):
    def hang(_):
        with pytest.raises(LimitReached, match="CPU"):
            workers.call("math:factorial", 10**8, seconds=0.2)
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(hang, range(4)))
    assert workers.call("math:comb", 5, 2) == 10


def test_the_limit_is_of_cpu_time_not_of_wall_time(workers):
    assert workers.call("time:sleep", 0.6, seconds=0.2) is None


def test_memory_limit(workers):
    with pytest.raises(LimitReached, match="memory"):
        workers.call("builtins:bytes", 1 << 30, memory_mb=128)
    assert workers.call("builtins:len", b"abc") == 3


def test_more_callers_than_workers(workers):
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda n: workers.call("math:factorial", n), range(200)))[:5] == [1, 1, 2, 6, 24]
    assert len(workers.list_processes()["workers"]) <= 2


def test_a_killed_worker_is_replaced(workers):
    workers.call("math:comb", 5, 2)
    before = workers.list_processes()["workers"]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert workers.call("math:comb", 5, 2) == 10
    assert set(workers.list_processes()["workers"]) - set(before)


def test_a_worker_that_dies_twice_is_an_error_not_a_limit(workers):
    with pytest.raises(PoolError, match="exit status 3"):
        workers.call("os:_exit", 3)
    with pytest.raises(PoolError, match="SIGSEGV"):
        workers.call("signal:raise_signal", signal.SIGSEGV)


def test_a_killed_server_takes_its_workers_along_and_is_replaced(workers):
    workers.call("math:comb", 5, 2)
    before = workers.list_processes()
    os.kill(before["server"][0], signal.SIGKILL)
    assert gone(before["workers"])
    assert workers.call("math:comb", 5, 2) == 10
    assert workers.list_processes()["server"] != before["server"]


def test_a_server_killed_during_calls_costs_none_of_them(workers):
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(workers.call, "time:sleep", 0.5) for _ in range(2)]
        time.sleep(0.2)
        os.kill(workers.list_processes()["server"][0], signal.SIGKILL)
        assert [call.result() for call in calls] == [None, None]


def test_a_server_that_cannot_start_is_an_error():
    broken = Pool(workers=1, preload="no.such.module")
    for _ in range(2):
        with pytest.raises(PoolError, match=r"cannot be started.*no.such.module|No module named"):
            broken.call("math:comb", 5, 2)


def test_a_worker_that_hangs_without_computing_is_an_error(workers, monkeypatch):
    monkeypatch.setattr(worker_pool, "WALL_SECONDS", 0.3)
    monkeypatch.setattr(worker_pool, "WALL_FACTOR", 0)
    with pytest.raises(PoolError, match="by the clock"):
        workers.call("time:sleep", 100)
    monkeypatch.undo()
    assert workers.call("math:comb", 5, 2) == 10


def test_workers_are_replaced_after_many_calls(workers, monkeypatch):
    monkeypatch.setattr(worker_pool, "CALLS_PER_WORKER", 3)
    pids = {workers.call("os:getpid") for _ in range(9)}
    assert len(pids) >= 3


def test_a_fork_has_a_pool_of_its_own():
    assert worker_pool.call_in_worker("math:comb", 5, 2) == 10
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if worker_pool.call_in_worker("math:comb", 6, 2) == 15 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert worker_pool.call_in_worker("math:comb", 5, 2) == 10


def test_the_pool_dies_with_its_parent():
    code = (
        "from open_r1.system.worker_pool import Pool; import os, threading;"
        "p = Pool(1, 'math'); p.call('math:comb', 5, 2); print(*sum(p.list_processes().values(), []), flush=True);"
        "threading.Thread(target=p.call, args=('time:sleep', 100)).start(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pids = list(map(int, done.stdout.split()))
    assert done.returncode == -signal.SIGKILL and len(pids) == 2
    assert gone(pids)
