"""What tests run by `warm` is what they would run anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from support import warm

TELL = """
import json, os, random, signal, sys
from pathlib import Path
print(json.dumps({
    "name": __name__, "path": sys.path, "words": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ),
    "session": os.getsid(0) == os.getpid(), "group": os.getpgid(0) == os.getpid(),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
    "blocked": [*signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "files": sorted(file for file in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{file}")),
    "ours": [name for name in sys.modules if name.startswith("open_r1")],
    "read": sys.stdin.read(),
}))
print("and more", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
pytestmark = pytest.mark.skipif(not warm.POSSIBLE, reason="commands are always started anew here")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "own" / "tell.py"
    path.parent.mkdir()
    path.write_text(TELL)
    return path


@pytest.mark.parametrize("kind", ["module", "script", "code"])
@pytest.mark.parametrize("session", [True, False])
@pytest.mark.parametrize("ignored", [True, False])
def test_it_is_as_one_that_is_started_anew(script, tmp_path, kind, session, ignored):
    words = {"module": ["-m", "tell"], "script": ["own/tell.py"], "code": ["-c", TELL]}[kind]
    environment = os.environ | {"PYTHONPATH": str(script.parent), "ONLY": "here"}
    told, before = [], signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
    for fresh in (True, False):
        process = warm.Popen(
            [*words, 7], cwd=tmp_path, env=environment, stdin=warm.PIPE, stdout=warm.PIPE, stderr=warm.PIPE,
            start_new_session=session, fresh=fresh,
        )  # fmt: skip
        out, error = process.communicate("given")
        assert (process.returncode, process.poll(), error) == (7, 7, "and more\n")
        told.append(json.loads(out))
    signal.signal(signal.SIGINT, before)
    assert told[0] == told[1]
    assert told[1]["read"] == "given" and told[1]["environment"]["ONLY"] == "here" and not told[1]["ours"]


def test_it_ends_as_it_is_told_to():
    code = "import signal, time; signal.signal(2, signal.default_int_handler); print(1, flush=True); time.sleep(60)"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        process = warm.Popen(["-c", code], stdout=warm.PIPE)
        assert process.stdout.readline() == "1\n" and process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(20) == -number
        process.send_signal(number)  # to nobody


def test_a_failure_is_told_as_python_tells_it():
    failed = warm.run(["-c", "import atexit; atexit.register(print, 'late'); 1 / 0"])
    assert failed.returncode == 1 and failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert failed.stdout == "late\n"


def test_what_it_says_ends_with_the_last_that_may_say_something():
    code = "import os, time\nif os.fork() == 0: time.sleep(0.3); print('child')"
    began = time.monotonic()
    assert warm.run(["-c", code]).stdout == "child\n" and time.monotonic() - began >= 0.3
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run(["-c", "import time; time.sleep(60)"], timeout=0.1)


def test_two_at_once_have_files_and_random_numbers_of_their_own():
    code = "import numpy, random, tempfile; print(random.random(), numpy.random.random(), input())"
    both = [warm.Popen(["-c", code], stdin=warm.PIPE, stdout=warm.PIPE) for _ in range(2)]
    told = [process.communicate(f"{number}\n")[0].split() for number, process in enumerate(both)]
    assert [words[2] for words in told] == ["0", "1"]
    assert told[0][0] != told[1][0] and told[0][1] != told[1][1]


def test_output_goes_where_it_is_sent(tmp_path):
    with (tmp_path / "both").open("w") as both:
        code = "import sys; print('out', flush=True); print('error', file=sys.stderr)"
        assert warm.Popen(["-c", code], stdout=both.fileno(), stderr=warm.STDOUT).wait() == 0
        both.write("open")
    assert (tmp_path / "both").read_text() == "out\nerror\nopen"
    assert warm.Popen(["-c", code], stdout=warm.DEVNULL, stderr=warm.PIPE).communicate() == (None, "error\n")


def test_the_libraries_are_there():
    assert warm.run(["-c", "import sys; print('torch' in sys.modules, 'trl' in sys.modules)"]).stdout == "True True\n"
