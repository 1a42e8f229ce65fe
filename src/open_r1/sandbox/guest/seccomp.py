"""The list of system calls a program may make, as a seccomp filter. Standard library only: the zygote imports this.

No libseccomp: a classic BPF program of a few hundred instructions is built here from a table. Everything that is not
on the list fails with EPERM; another architecture's calling convention (32-bit, x32) kills.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct

# name: x86_64 number, aarch64 number (- where that architecture never had the call).
TABLE = """
read 0 63            write 1 64             close 3 57             fstat 5 80             poll 7 -
lseek 8 62           mmap 9 222             mprotect 10 226        munmap 11 215          brk 12 214
rt_sigaction 13 134  rt_sigprocmask 14 135  rt_sigreturn 15 139    pread64 17 67          pwrite64 18 68
readv 19 65          writev 20 66           pipe 22 -              select 23 -            sched_yield 24 124
mremap 25 216        msync 26 227           mincore 27 232         madvise 28 233         dup 32 23
dup2 33 -            pause 34 -             nanosleep 35 101       getitimer 36 102       alarm 37 -
setitimer 38 103     getpid 39 172          sendfile 40 71         exit 60 93             wait4 61 260
uname 63 160         flock 73 32            fsync 74 82            fdatasync 75 83
ftruncate 77 46      getcwd 79 17           fchdir 81 50           umask 95 166           gettimeofday 96 169
getrlimit 97 163     getrusage 98 165       sysinfo 99 179         times 100 153          getuid 102 174
getgid 104 176       geteuid 107 175        getegid 108 177        getppid 110 173        getpgrp 111 -
getgroups 115 158    getresuid 118 148      getresgid 120 150      getpgid 121 155        getsid 124 156
capget 125 90        rt_sigpending 127 136  rt_sigtimedwait 128 137  rt_sigsuspend 130 133  sigaltstack 131 132
sched_getparam 143 121  sched_getscheduler 145 120  sched_get_priority_max 146 125  sched_get_priority_min 147 126
arch_prctl 158 -     gettid 186 178         time 201 -             futex 202 98           sched_getaffinity 204 123
set_tid_address 218 96  restart_syscall 219 128  clock_gettime 228 113  clock_getres 229 114
clock_nanosleep 230 115  exit_group 231 94  epoll_wait 232 -       epoll_ctl 233 21       pselect6 270 72
ppoll 271 73         set_robust_list 273 99  get_robust_list 274 100  epoll_pwait 281 22  eventfd2 290 19
epoll_create1 291 20  dup3 292 24           pipe2 293 59           preadv 295 69          pwritev 296 70
getcpu 309 168       getrandom 318 278      membarrier 324 283     copy_file_range 326 285  rseq 334 293
close_range 436 436
"""
# Only where the kernel itself keeps the files apart (namespaces or Landlock). Not the calls that change a file by its
# path without opening it (chmod, truncate, utimensat, setxattr ...): Landlock does not see them.
FILES = """
open 2 -             stat 4 -               lstat 6 -              access 21 -            getdents 78 -
chdir 80 49          rename 82 -            mkdir 83 -             rmdir 84 -             creat 85 -
unlink 87 -          readlink 89 -          statfs 137 43          fstatfs 138 44         getdents64 217 61
openat 257 56        mkdirat 258 34         newfstatat 262 79      unlinkat 263 35        renameat 264 38
readlinkat 267 78    faccessat 269 48       renameat2 316 276      statx 332 291          faccessat2 439 439
"""
# Looked at argument by argument below.
GUARDED = """
ioctl 16 29          clone 56 220           vfork 58 -             execve 59 221          kill 62 129
fcntl 72 25          prctl 157 167          tgkill 234 131         prlimit64 302 261      execveat 322 281
clone3 435 435
"""
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
CLONE_THREAD, AT_EMPTY_PATH = 0x10000, 0x1000
SIGKILL, SIGSTOP = 9, 19
HARMLESS_PRCTL = (15, 16, 23, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ, PR_SET_VMA
# Duplicates, flags, locks, pipe size. Not F_SETOWN and F_SETSIG, which make the kernel signal somebody else.
HARMLESS_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1031, 1032, 1034)
HARMLESS_IOCTL = (0x5450, 0x5451, 0x5421)  # FIONCLEX, FIOCLEX, FIONBIO
X32_BIT = 0x40000000
_OWN_PID = 0x7ABCDEF1  # no pid, and nowhere else in the filter


def numbers(table: str, machine: str) -> dict[str, int]:
    """Name to number of the calls that the machine's architecture has."""
    words = table.split()
    column = {"x86_64": 1, "aarch64": 2}[machine]
    return {words[i]: int(words[i + column]) for i in range(0, len(words), 3) if words[i + column] != "-"}


def argument(index: int, high: bool = False) -> int:
    """Offset of a call's argument (its low 32 bits; both architectures are little-endian)."""
    return 16 + 8 * index + 4 * high


def program(
    own_pid: int, *, files: bool, processes: bool = False, executes: bool = False, machine: str | None = None
) -> list[tuple[int, int, int, int]]:
    """The filter as BPF instructions (code, jump if true, jump if false, operand).

    Args:
        own_pid: the only process that may be signalled.
        files: may open files.
        processes: may start processes (the compiler); otherwise threads only.
        executes: may execute (a compiled program, node).
    """
    machine = machine or platform.machine()
    guarded = numbers(GUARDED, machine)
    allowed = numbers(TABLE, machine) | (numbers(FILES, machine) if files else {})
    code: list[tuple[int, int, int, int]] = []

    def add(operation: int, operand: int, true: int = 0, false: int = 0) -> None:
        code.append((operation, true, false, operand))

    def on(name: str, *body: tuple[int, int, int, int]) -> None:
        """`body` (which must return) for this call."""
        if name in guarded:
            add(EQUAL, guarded[name], 0, len(body))
            code.extend(body)

    def give(answer: int) -> tuple[int, int, int, int]:
        return (RETURN, 0, 0, answer)

    def one_of(index: int, values: tuple[int, ...], code: int) -> list[tuple[int, int, int, int]]:
        """Allowed if the argument is one of these."""
        steps = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
        return [(LOAD, 0, 0, argument(index)), *steps, give(REFUSE | code), give(ALLOW)]

    allow, refuse = give(ALLOW), give(REFUSE | errno.EPERM)
    add(LOAD, ARCHITECTURE)
    add(EQUAL, AUDIT_ARCH[machine], 1, 0)
    add(RETURN, KILL)
    add(LOAD, NUMBER)
    add(AT_LEAST, X32_BIT, 0, 1)
    add(RETURN, KILL)
    for number in allowed.values():
        add(EQUAL, number, 0, 1)
        add(RETURN, ALLOW)
    # glibc then falls back to clone, whose flags a filter can see.
    on("clone3", give(REFUSE | errno.ENOSYS))
    if processes:
        # Whatever an exec'd compiler starts has another pid; it may signal nobody, so own_pid stays as it is.
        on("clone", allow)
        on("vfork", allow)
    else:
        flags = (LOAD, 0, 0, argument(0))
        on("clone", flags, (ANY_BIT, 0, 1, CLONE_THREAD), allow, give(REFUSE | errno.EAGAIN))
        on("vfork", give(REFUSE | errno.EAGAIN))
    if processes or executes:
        on("execve", allow)
        on("execveat", allow)
    # SIGKILL and SIGSTOP are refused even to itself: a killed process then always means somebody outside.
    for name, signal in (("kill", argument(1)), ("tgkill", argument(2))):
        on(
            name,
            (LOAD, 0, 0, argument(0)), (EQUAL, 1, 0, own_pid), refuse,
            (LOAD, 0, 0, signal), (EQUAL, 2, 0, SIGKILL), (EQUAL, 1, 0, SIGSTOP), allow, refuse,
        )  # fmt: skip
    on("prctl", *one_of(0, HARMLESS_PRCTL, errno.EPERM))
    on("fcntl", *one_of(1, HARMLESS_FCNTL, errno.EPERM))
    on("ioctl", *one_of(1, HARMLESS_IOCTL, errno.ENOTTY))
    # Reading limits is harmless (a null pointer for the new ones); setting them is not.
    on(
        "prlimit64",
        (LOAD, 0, 0, argument(2)), (EQUAL, 0, 3, 0), (LOAD, 0, 0, argument(2, high=True)), (EQUAL, 0, 1, 0),
        allow, refuse,
    )  # fmt: skip
    add(RETURN, REFUSE | errno.EPERM)
    return code


@functools.cache
def prepared(*, files: bool, processes: bool = False, executes: bool = False) -> bytes:
    """The packed filter, with `_OWN_PID` for the process's own. Called once before a fork, it is ready in all."""
    code = program(_OWN_PID, files=files, processes=processes, executes=executes)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def install(*, files: bool, processes: bool = False, executes: bool = False) -> None:
    """Put the filter over this process, for good.

    Raises:
        OSError: the kernel does not take it.
    """
    packed = prepared(files=files, processes=processes, executes=executes)
    packed = packed.replace(struct.pack("=I", _OWN_PID), struct.pack("=I", os.getpid()))
    buffer = ctypes.create_string_buffer(packed, len(packed))
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    filter_ = _Filter(len(packed) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(filter_), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter")
