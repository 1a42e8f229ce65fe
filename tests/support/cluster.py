"""A Slurm cluster of several nodes on this one machine: all of it real but the GPUs, and gone when it is closed.

A node is a set of Linux namespaces, so that it has what tells machines apart: a name, an address, a loopback,
processes, and an /etc/hosts of its own; what takes "localhost" for another node fails here too. Files are common to
all, as on a cluster's network disk. The controller, and the commands, are of this machine itself.

A process of its own, the keeper, makes what a dead test run would leave to the machine, and takes it away when the run
says so, or is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # daemons and `ip` are there
MARK = "TEST_CLUSTER"  # in the environment of every process of a cluster, with its directory
NEEDED = (
    "munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo",
    "bash", "hostname", "ip", "mknod", "mount", "unshare",
)  # fmt: skip
SERVICE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
NODE = (*SERVICE, "--net", "--uts")
TRIAL = """
ip link add trial type bridge && ip link add type veth && hostname trial &&
mount -t tmpfs trial /mnt && mknod /mnt/gpu c 1 3
"""
# The first process of a node: as such it adopts and reaps what Slurm leaves, and stays when slurmd ends.
INIT = """
set -e
hostname "$1"
mount --bind "$3" /etc/hosts
ip link set lo up
echo ready
read -r
ip address add "$2/24" dev eth0
ip link set eth0 up
slurmd -D -N "$1" &
sleep infinity &
wait
"""
# The controller listens where this machine's name leads to, which is thus its address in the cluster.
CONTROLLER = """
mount --bind "$1" /etc/hosts && exec slurmctld -D
"""
READY = ("IDLE", "MIXED", "ALLOCATED")  # as opposed to DOWN, IDLE+NOT_RESPONDING
FINAL = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip


@functools.cache
def missing() -> str | None:
    """Why no cluster can be started here; None if one can."""
    absent = [name for name in NEEDED if not shutil.which(name, path=PATH)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    tried = subprocess.run([*NODE, "sh", "-c", TRIAL], env=os.environ | {"PATH": PATH}, capture_output=True, text=True)
    return f"no right to make a node: {tried.stderr.strip()}" if tried.returncode else None


class Cluster:
    """A cluster that is up: its nodes are idle once it is made. `environment` is what commands need to reach it.

    Args:
        directory: where its logs are to lie, in `logs`. All else is in a folder that is deleted with it.
        nodes: their names.
        gpus: of each node; a job is told of them, but nothing is behind them.
        gpu_type: what is to be asked for in `--gres=gpu:TYPE:1`.
        cpus, memory: of each node, the memory in MB, whatever this machine has.
        partitions: all of all nodes, the first one the default; a later one's jobs requeue those of an earlier one.
        slurmd_timeout: seconds of silence after which a node is down, and its jobs lost. To be sure of it Slurm takes
            some ten more; with 3, ten in all.
        settings: of slurm.conf, in place of these or more.
        partition_settings: what a partition's line is to say at its end.
    """

    def __init__(
        self,
        directory: Path,
        nodes: Sequence[str] = ("n1", "n2"),
        gpus: int = 2,
        gpu_type: str | None = None,
        cpus: int = 16,
        memory: int = 64000,
        partitions: Sequence[str] = ("low", "high"),
        slurmd_timeout: int = 10,
        settings: Mapping[str, str] = {},
        partition_settings: Mapping[str, str] = {},
    ):
        self.logs = directory / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._started: list[subprocess.Popen[str]] = []
        self._on: dict[str, subprocess.Popen[str]] = {}
        # In a session of its own an interrupt from the keyboard does not reach it.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], env={"PATH": PATH}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)
        try:
            assert self._keeper.stdout
            made = self._keeper.stdout.readline().split()
            assert made, "the keeper has made nothing"
            self._base, subnet = Path(made[0]), int(made[1])
            self.bridge, self._address = _bridge(subnet), _address(subnet)
            self._addresses = {node: _address(subnet, number) for number, node in enumerate(nodes, 1)}
            self.environment = {
                **{name: value for name, value in os.environ.items() if not _is_slurms(name)},
                "PATH": PATH,
                "SLURM_CONF": str(self._base / "slurm.conf"),
                MARK: str(self._base),
            }
            settings = self._settings(slurmd_timeout) | settings
            node = f"CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory}"
            if gpus:
                self._write_gpus(gpus, gpu_type)
                settings = {"GresTypes": "gpu"} | settings
                node += f" Gres=gpu:{gpu_type}:{gpus}" if gpu_type else f" Gres=gpu:{gpus}"
            self._write_conf(settings, node, {name: partition_settings.get(name, "") for name in partitions})
            self._write_hosts()
            self._start_daemons()
            self._start(dict.fromkeys(nodes, "None"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self, *words: object, cwd: Path | None = None, check: bool = True, timeout: float = 120, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A command, as `srun`, to its end.

        Raises:
            AssertionError: it failed, and that was to be checked.
        """
        done = subprocess.run(
            [str(word) for word in words], cwd=cwd, env=self.environment | environment, timeout=timeout,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def submit(self, *words: object, cwd: Path | None = None, **environment: str) -> str:
        """`sbatch WORDS`: the job's id."""
        return self.run("sbatch", "--parsable", *words, cwd=cwd, **environment).stdout.strip().partition(";")[0]

    def job(self, id: str) -> dict[str, str]:
        """What Slurm knows of a job, finished or not; of the first one, if the id has several."""
        return _fields(self.run("scontrol", "show", "job", "-o", id).stdout.splitlines()[0])

    def wait(self, id: str, *states: str, timeout: float = 120.0) -> dict[str, str]:
        """What Slurm knows of a job once it is in one of the states, which are otherwise those it does not leave.

        Raises:
            AssertionError: it never was.
        """
        fields = dict[str, str]()

        def there() -> bool:
            fields.update(self.job(id))
            return fields["JobState"] in (states or FINAL)

        def state() -> str:
            files = {fields[name]: None for name in ("StdOut", "StdErr") if name in fields}  # often the same
            told = [f"{name}={value}" for name, value in fields.items()]
            return "\n".join(told + [_tail(Path(file)) for file in files])

        _wait(there, f"job {id} is not {' or '.join(states) or 'finished'}", state, timeout, every=0.2)
        return fields

    def power_off(self, node: str) -> None:
        """Cut a node's power: nothing of it runs when this returns, and nobody has been told."""
        unshare = self._on.pop(node)
        # The cable first: the kernel closes the connections of what it kills, and power cuts do not.
        self.run("ip", "link", "delete", self._cable(node))
        os.kill(_child(unshare), signal.SIGKILL)
        unshare.wait()  # it in turn waits for the node's first process, which is gone after all others

    def power_on(self, node: str) -> None:
        """Start a node again, and wait until it can have jobs.

        Slurm takes longer to miss a node than this to start it, and may not notice for a while that the jobs of the
        last twenty seconds are gone if it never was down: wait for them to be PENDING before.
        """
        before = self._nodes()[node]["SlurmdStartTime"]
        # Slurm tells this start from the one before by the second.
        _wait(lambda: time.strftime("%Y-%m-%dT%H:%M:%S") != before, "the clock stands still")
        self._start({node: before})

    def close(self) -> None:
        """End every process of it, and take its network and its folder away."""
        atexit.unregister(self.close)
        if self._keeper.returncode is not None:
            return
        _, error = self._keeper.communicate("\n", timeout=60)
        assert self._keeper.returncode == 0, f"not all of the cluster may be gone: {error}"
        for process in self._started:
            process.wait()

    def _write_conf(self, settings: Mapping[str, str], node: str, partitions: Mapping[str, str]) -> None:
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [f"NodeName={name} NodeAddr={address} {node}" for name, address in self._addresses.items()]
        lines += [
            f"PartitionName={name} Nodes=ALL Default={'YES' if tier == 1 else 'NO'} PriorityTier={tier} "
            f"MaxTime=INFINITE DefaultTime=60 DefMemPerCPU=1000 {more}"
            for tier, (name, more) in enumerate(partitions.items(), 1)
        ]
        (self._base / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _write_gpus(self, gpus: int, gpu_type: str | None) -> None:
        # Slurm counts no GPU without a file, accepts none twice, and sets CUDA_VISIBLE_DEVICES only for devices: each
        # is one more /dev/null.
        for number in range(gpus):
            os.mknod(self._base / f"nvidia{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        kind = f"Type={gpu_type} " if gpu_type else ""
        (self._base / "gres.conf").write_text(f"Name=gpu {kind}File={self._base}/nvidia[0-{gpus - 1}]\n")

    def _write_hosts(self) -> None:
        known = {"localhost": "127.0.0.1", _host(): self._address} | self._addresses
        (self._base / "hosts").write_text("".join(f"{address} {name}\n" for name, address in known.items()))

    def _settings(self, slurmd_timeout: int) -> dict[str, str]:
        return {
            "ClusterName": "test",
            "SlurmctldHost": f"{_host()}({self._address})",
            # At one address only, so that each of several clusters can have the usual port.
            "CommunicationParameters": "NoCtldInAddrAny",
            "SlurmUser": "root",
            # As many seconds, and one, a job that was requeued waits for its next start; less than 5 means 120.
            "AuthInfo": f"socket={self._base}/munge,cred_expire=5",
            "StateSaveLocation": f"{self._base}/state",
            "SlurmdSpoolDir": f"{self._base}/spool-%n",
            "SlurmctldPidFile": f"{self._base}/slurmctld.pid",
            "SlurmdPidFile": f"{self._base}/slurmd-%n.pid",
            "SlurmctldLogFile": f"{self.logs}/slurmctld.log",
            "SlurmdLogFile": f"{self.logs}/slurmd-%n.log",
            "MailProg": "/bin/true",
            "ProctrackType": "proctrack/linuxproc",  # of cgroups a container has none to give
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SlurmdParameters": "config_overrides",  # the sizes of nodes are those written, not this machine's
            "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=50000,bf_interval=1",
            "EnforcePartLimits": "ALL",
            "MinJobAge": "86400",  # for so long one can ask about a finished job
            "MessageTimeout": "5",  # for so long a node that lost power is called, before it is missed
            "KillWait": "10",
            "SlurmctldTimeout": "10",
            "SlurmdTimeout": str(slurmd_timeout),
            "ReturnToService": "2",
            "JobRequeue": "1",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "JobCompType": "jobcomp/filetxt",  # which `sacct -c` reads
            "JobCompLoc": f"{self._base}/jobs.txt",
        }

    def _start_daemons(self) -> None:
        # munged wants its key to be nobody else's, and `--force` if it is root who starts it elsewhere than in /run.
        key = self._base / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        munge = self._base / "munge"
        munged = self._popen(
            "munged", "--foreground", "--force", f"--socket={munge}", f"--key-file={key}", f"--pid-file={munge}.pid",
            f"--seed-file={munge}.seed", name="munged",
        )  # fmt: skip
        _wait(munge.exists, "munged does not answer", self._said("munged"), alive=munged)
        (self._base / "state").mkdir()
        (self._base / "jobs.txt").touch()
        self._controller = self._popen(
            *SERVICE, "bash", "-c", CONTROLLER, "init", self._base / "hosts", name="slurmctld"
        )
        address = self._address, 6817

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(address) == 0

        # A command, or a node, that comes too early tries again only a second later.
        _wait(answers, "slurmctld does not answer", self._said("slurmctld"), alive=self._controller)

    def _start(self, last: Mapping[str, str]) -> None:
        """Start nodes at once, and wait for all; they are given with the time of their last start."""
        for node in last:
            words = ("bash", "-c", INIT, "init", node, self._addresses[node], self._base / "hosts")
            self._on[node] = self._popen(*NODE, *words, name=node, talk=True)
        for node in last:
            unshare = self._on[node]
            assert unshare.stdin and unshare.stdout
            with unshare.stdin, unshare.stdout:
                assert unshare.stdout.readline(), f"{node} does not start\n{self._said(node)()}"
                # Always the same card, as others remember its address.
                self.run(
                    "ip", "link", "add", self._cable(node), "master", self.bridge, "up", "type", "veth",
                    "peer", "name", "eth0", "address", _card(self._addresses[node]), "netns", _child(unshare),
                )  # fmt: skip
                unshare.stdin.write("\n")

        def ready() -> bool:
            nodes = {node: fields for node, fields in self._nodes().items() if node in last}
            started = {node for node, fields in nodes.items() if fields["SlurmdStartTime"] != last[node]}
            return started == set(last) and all(fields["State"] in READY for fields in nodes.values())

        _wait(ready, f"not ready: {', '.join(last)}", self._said("slurmctld", *last), alive=self._controller)

    def _popen(self, *words: object, name: str, talk: bool = False) -> subprocess.Popen[str]:
        """What is to be waited for when the cluster is closed; `talk` if it is to be spoken to."""
        with open(self.logs / f"{name}.err", "a") as said:
            ends = (subprocess.PIPE, subprocess.PIPE) if talk else (subprocess.DEVNULL, said)
            process = subprocess.Popen(
                [str(word) for word in words], env=self.environment, stdin=ends[0], stdout=ends[1], stderr=said,
                text=True, start_new_session=True,
            )  # fmt: skip
        self._started.append(process)
        return process

    def _nodes(self) -> dict[str, dict[str, str]]:
        """What Slurm knows of each node; nothing before the controller answers."""
        lines = self.run("scontrol", "show", "node", "-o", check=False).stdout.splitlines()
        return {fields["NodeName"]: fields for fields in map(_fields, lines) if "NodeName" in fields}

    def _said(self, *names: str) -> Callable[[], str]:
        return lambda: "\n".join(_tail(self.logs / f"{name}.err") for name in names)

    def _cable(self, node: str) -> str:
        """This machine's end of it."""
        return f"{self.bridge}-{self._addresses[node].rpartition('.')[2]}"


def _is_slurms(variable: str) -> bool:
    """True of what would tell a command, or a job, of the cluster that the tests themselves run on."""
    return variable.startswith(("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_"))


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _bridge(subnet: int) -> str:
    return f"slurm{subnet}"


def _address(subnet: int, number: int = 254) -> str:
    """Of a node, or of this machine. The network is one set aside for benchmarks, which nobody's own one is."""
    return f"198.19.{subnet}.{number}"


def _card(address: str) -> str:
    """The hardware's address that belongs to one; 02 is for those which nobody has given out."""
    return ":".join(["02", "00", *(f"{int(byte):02x}" for byte in address.split("."))])


def _child(unshare: subprocess.Popen[str]) -> int:
    """A node's first process, by the number it has outside."""
    return int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text())


def _fields(line: str) -> dict[str, str]:
    """`scontrol show -o` in parts: a value may have spaces, a name begins with a capital letter."""
    _, *parts = re.split(r"(?:^|\s)([A-Z][\w:/]*)=", line)
    return {name: value.strip() for name, value in zip(parts[::2], parts[1::2], strict=True)}


def _tail(path: Path) -> str:
    return f"{path}:\n{path.read_text(errors='replace')[-3000:]}" if path.is_file() else f"{path} is not there"


def _wait(
    true: Callable[[], bool],
    otherwise: str,
    state: Callable[[], str] = str,
    timeout: float = 30.0,
    every: float = 0.02,
    alive: subprocess.Popen[str] | None = None,
) -> None:
    """Wait until something is so.

    Args:
        true: tells whether it is.
        otherwise, state: what to say if it never is.
        timeout, every: in seconds.
        alive: without which it never will be.
    """
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline or (alive and alive.poll() is not None):
            raise AssertionError(f"{otherwise}\n{state()}")
        time.sleep(every)


def _keep() -> None:
    """Make a folder and a network, say which, and take them away, with all that runs there, once told anything."""
    with contextlib.ExitStack() as left:
        # In neither the tests' own folder nor $TMPDIR: a socket's path has at most 107 characters.
        base = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
        left.callback(shutil.rmtree, base)
        os.chmod(base, 0o755)
        # To make a bridge fails if there is one of its name, so its name is also what keeps others from the subnet.
        subnet = next(number for number in range(256) if _make_bridge(number))
        left.callback(_delete_bridge, _bridge(subnet))
        _ip("address", "add", f"{_address(subnet)}/24", "dev", _bridge(subnet))
        left.callback(_end, f"{MARK}={base}".encode())
        print(base, subnet, flush=True)
        sys.stdin.read(1)


def _make_bridge(subnet: int) -> bool:
    # Its own card is given: otherwise it takes the lowest of its nodes', and changes it with them.
    card = _card(_address(subnet))
    done = _ip("link", "add", _bridge(subnet), "address", card, "up", "type", "bridge", check=False)
    if done.returncode and "File exists" not in done.stderr:
        raise OSError(done.stderr)
    return done.returncode == 0


def _delete_bridge(bridge: str) -> None:
    for cable in json.loads(_ip("-json", "link", "show", "master", bridge).stdout or "[]"):
        _ip("link", "delete", cable["ifname"], check=False)  # the kernel may be doing so, as its node is gone
    _ip("link", "delete", bridge)


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=check)


def _end(mark: bytes) -> None:
    """Kill the processes that have the mark, and wait until none has."""
    deadline = time.monotonic() + 30
    while marked := [name for name in os.listdir("/proc") if name.isdigit() and _kill(int(name), mark)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still running: {' '.join(marked)}")
        time.sleep(0.02)


def _kill(pid: int, mark: bytes) -> bool:
    """Kill a process if it has the mark; True if it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Only now, so that what is read and what is killed are one process even if numbers are used again.
        folder = Path("/proc", str(pid))
        if mark not in (folder / "environ").read_bytes().split(b"\0"):
            return False
        # An `unshare` ends by itself, after everything in its namespaces: also what has not the mark.
        if (folder / "comm").read_text() != "unshare\n":
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    _keep()
