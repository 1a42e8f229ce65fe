"""Namespaces, Landlock and resource limits, by system call. Standard library only: the zygote imports this."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable

NOBODY = 65534
FIRST_OWN_USER = 2_000_000_000
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 4, 24, 38, 47
SYS_CLONE, SYS_PIVOT_ROOT = {"x86_64": (56, 155), "aarch64": (220, 41)}.get(platform.machine(), (-1, -1))
SYS_LANDLOCK_CREATE, SYS_LANDLOCK_ADD_RULE, SYS_LANDLOCK_RESTRICT = 444, 445, 446
SCRATCH = "/box"
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

libc = ctypes.CDLL(None, use_errno=True)


def check_result(result: int, what: str) -> int:
    """The result of a system call; OSError if it failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [word.encode() if word else None for word in (source, target, kind, data)]
    check_result(libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"mount {source or ''} on {target}")


def drop_root() -> None:
    """Become an unprivileged user if this is root.

    Raises:
        OSError: root cannot change its user here.
    """
    if os.getuid():
        return
    # At the levels landlock and seccomp processes are counted by user, machine-wide: take an unused id.
    for user in (FIRST_OWN_USER + os.getpid(), NOBODY):
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError as refused:
            cause = refused
        else:
            return
    raise OSError(cause.errno, f"root cannot become an unprivileged user: {cause.strerror}")


def enter_namespaces(readable: Iterable[str]) -> None:
    """Leave the host for new namespaces of every kind and a root with nothing but `readable`, read-only.

    It forks: the caller continues as process 1 of a new process namespace, and the old process waits for its end.

    Raises:
        OSError: the kernel or a security module refuses.
    """
    root = os.getuid() == 0
    own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if root:
        # The binds first, as root: `readable` may lie below a directory that only root can enter.
        check_result(libc.unshare(CLONE_NEWNS), "unshare the mount namespace")
        _build_root(readable)
        _become_nobody(own)
        # A process whose user has changed may not write its maps until it is dumpable again.
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    user, group = os.getuid(), os.getgid()
    every = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    check_result(libc.unshare(every), "unshare the user namespace")
    for name, content in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        _write(own, name, content)
    os.close(own)
    if not root:
        _build_root(readable)
    check_result(libc.sethostname(b"sandbox", 7), "sethostname")
    for capability in range(64):  # kernels have about 41; dropped here once for all runs
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    child = os.fork()
    if child:
        os.closerange(3, 4096)
        os.waitpid(child, 0)
        os._exit(0)
    die_with_parent()


def _write(directory: int, name: str, content: str) -> None:
    file = os.open(name, os.O_WRONLY, dir_fd=directory)
    try:
        os.write(file, content.encode())
    finally:
        os.close(file)


def _become_nobody(own: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        # Inside a user namespace that maps a single id, root is an ordinary user of the host already.
        with open(os.open("uid_map", os.O_RDONLY, dir_fd=own)) as file:
            if int(file.read().split()[2]) > NOBODY:
                raise


def _build_root(readable: Iterable[str]) -> None:
    """Make a small read-only tmpfs with binds of `readable` the root, and unmount the host's root."""
    readable = [path for path in dict.fromkeys([*readable, *DEVICES]) if os.path.exists(path)]
    # The mount point hides the files below it, so it must not be above any of `readable`.
    places = [place for place in ("/mnt", "/tmp", "/media", "/srv", "/opt") if os.path.isdir(place)]
    new = next(place for place in places if not any(path.startswith(place + "/") for path in readable))
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("none", new, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    for path in readable:
        _bind_read_only(path, new + path)
    os.mkdir(new + SCRATCH)
    os.mkdir(new + "/old")
    os.chdir(new)
    check_result(libc.syscall(SYS_PIVOT_ROOT, b".", b"old"), "pivot_root")
    os.chdir("/")
    check_result(libc.umount2(b"/old", MNT_DETACH), "umount the host")
    os.rmdir("/old")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _bind_read_only(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.islink(source) and os.path.isdir(source):
        # /lib is a link to usr/lib on most systems; the link is enough if its target is readable too.
        os.symlink(os.readlink(source), target)
        return
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(os.path.realpath(source), target, None, MS_BIND | MS_REC)
    # In a user namespace the flags of the host's mount are locked: they must be repeated.
    flags = os.statvfs(target).f_flag
    kept = flags & (os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    relatime = 1 << 21 if flags & os.ST_RELATIME else 0
    nodev = 0 if source in DEVICES else MS_NODEV
    mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | nodev | kept | relatime)


def mount_scratch(megabytes: int) -> None:
    """Mount a fresh writable directory for this run, and make it the working directory."""
    options = f"size={megabytes}m,nr_inodes=1000,mode=700"
    mount("none", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    os.chdir(SCRATCH)


def drop_capabilities() -> None:
    """Empty all sets of capabilities; none can come back, as `enter_namespaces` has emptied the bounding set."""
    VERSION_3 = 0x20080522
    check_result(libc.capset(struct.pack("II", VERSION_3, 0), bytes(24)), "capset")
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL


def find_landlock_abi() -> int:
    """The kernel's version of Landlock; below 1 it has none."""
    return libc.syscall(SYS_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)


def restrict_by_landlock(readable: Iterable[str], scratch: str | None = None, writes: bool = False) -> None:
    """Allow only to read and execute `readable`, and to read (and if `writes`, write) `scratch`; no TCP, no signals.

    ABI 1 covers files, 4 TCP, 6 signals and abstract sockets; seccomp covers part of what an older one lacks.

    Raises:
        OSError: there is no Landlock.
    """
    abi = find_landlock_abi()
    if abi < 1:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock")
    EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
    REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_FILE = 1 << 4, 1 << 5, 1 << 7, 1 << 8
    BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # kinds of file access that the ABI handles; 16 from ABI 5
    handled = (1 << BITS.get(abi, 16)) - 1
    attributes = [handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0][: 1 if abi < 4 else 2 if abi < 6 else 3]
    packed = struct.pack(f"={len(attributes)}Q", *attributes)
    rules = check_result(
        libc.syscall(SYS_LANDLOCK_CREATE, packed, ctypes.c_size_t(len(packed)), 0), "landlock ruleset"
    )

    def allow(path: str, access: int) -> None:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            access &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
        rule = struct.pack("=Qi", access & handled, file)
        try:
            check_result(libc.syscall(SYS_LANDLOCK_ADD_RULE, rules, 1, rule, 0), f"landlock rule for {path}")
        finally:
            os.close(file)

    for path in [*readable, *DEVICES]:
        if os.path.exists(path):
            allow(path, EXECUTE | READ_FILE | READ_DIR)
    if scratch:
        write = WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_FILE
        allow(scratch, READ_FILE | READ_DIR | (write if writes else 0))
    check_result(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check_result(libc.syscall(SYS_LANDLOCK_RESTRICT, rules, 0), "landlock")
    os.close(rules)


def die_with_parent() -> None:
    """Get SIGKILL when the thread that forked this process ends (a process namespace does the same)."""
    check_result(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent death signal")


def count_processes() -> int:
    """Threads of this user on the whole machine, which RLIMIT_NPROC counts outside a user namespace."""
    user, count = os.getuid(), 0
    if user >= FIRST_OWN_USER:
        return 1  # the zygote; no other process has this user
    with os.scandir("/proc") as entries:
        for entry in entries:
            try:
                if entry.name.isdigit() and entry.stat().st_uid == user:
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
            except OSError:  # ended meanwhile
                continue
    return count


def limit_resources(
    *, seconds: float, memory: int | None, data: int | None, file_bytes: int, processes: int, files: int
) -> None:
    """Set hard limits (bytes, CPU seconds); of `memory` and `data` one may be None."""
    whole = int(seconds) + 1  # the zygote's clock is exact; this limit also covers child processes
    unlimited = resource.RLIM_INFINITY
    for name, value in (
        ("AS", unlimited if memory is None else memory),
        ("DATA", unlimited if data is None else data),
        ("FSIZE", file_bytes),
        ("NOFILE", files),
        ("NPROC", processes),
        ("CORE", 0),
        ("MEMLOCK", 0),
        ("MSGQUEUE", 0),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    # SIGXCPU comes first: it tells a time limit from a kill.
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
