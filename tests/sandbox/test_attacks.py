"""Every attack at every level of isolation: nothing outside is touched, and the verdict is honest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from open_r1.sandbox.cases import Limits, Program
from open_r1.sandbox.local import Sandbox
from open_r1.sandbox.pool import LEVELS, SandboxError, find_isolation
from open_r1.sandbox.runner import Execution

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from attacks import ATTACKS, Attack, Range, allowed, range_at  # noqa: E402


def available(level: str) -> None:
    try:
        find_isolation(level)
    except SandboxError as cause:
        pytest.skip(f"{level}: {cause}")


@pytest.fixture(scope="module", params=LEVELS)
def place(request: pytest.FixtureRequest) -> Iterator[Range]:
    available(request.param)
    with range_at(request.param) as place:
        yield place


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(place: Range, attack: Attack):
    if (attack.language == "cpp" and not shutil.which("g++")) or (
        attack.language == "javascript" and not shutil.which("node")
    ):
        pytest.skip(f"no compiler or interpreter of {attack.language} here")
    outcome, damage = place.run(attack)
    assert not damage
    assert outcome.status in allowed(attack, place.sandbox.level), outcome


def test_there_are_as_many_attacks_as_promised():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 50


class Unconfined(Sandbox):
    """No sandbox at all: what the range must be able to notice."""

    def run(self, program: Program, stdins: list[bytes], limits: Limits) -> Iterator[Execution]:
        for stdin in stdins:
            done = subprocess.run([sys.executable, "-c", program.source], input=stdin, capture_output=True, timeout=20)
            yield Execution("exit", done.returncode, done.stdout)


UNDONE = [
    "read /etc/passwd", "read a world-readable secret", "secrets in the environment",
    "write outside the scratch space", "change files of the host without opening them", "TCP to this machine",
    "UDP to this machine", "abstract unix socket", "listen", "exec from memory", "signal by file owner",
    "files that an earlier run left",
]  # fmt: skip


@pytest.mark.parametrize("name", UNDONE)
def test_the_attacks_succeed_without_a_sandbox(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (attack,) = (attack for attack in ATTACKS if attack.name == name)
    available("namespaces")
    with range_at("namespaces") as place:
        place.sandbox = Unconfined("namespaces")
        _, damage = place.run(attack)
    for folder in ("/tmp", "/dev/shm", "/var/tmp"):
        Path(folder, "open_r1_left").unlink(missing_ok=True)
    assert damage


@pytest.mark.long
@pytest.mark.skipif(os.getuid() != 0, reason="not root: test_attack runs as an ordinary user already")
@pytest.mark.parametrize("level", LEVELS)
def test_attacks_as_an_ordinary_user(level: str):
    available(level)
    python = shutil.which("python3", path="/usr/bin")
    source = HERE.parents[1] / "src"
    done = subprocess.run(
        [python, str(HERE / "attacks.py"), level],
        user=12345, group=12345, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=400,
        env={"PYTHONPATH": str(source), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok ") + 1 >= len(ATTACKS)
