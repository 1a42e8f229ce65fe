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

# Name, x86_64 number, aarch64 number (- if that architecture never had the call).
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
# Allowed by their arguments, below.
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
_OWN_PID = 0x7ABCDEF1  # not a valid pid, and nowhere else in the filter


Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def read_table(table: str, machine: str) -> dict[str, int]:
    """Name to number of the calls that the machine's architecture has."""
    words = table.split()
    column = {"x86_64": 1, "aarch64": 2}[machine]
    return {words[i]: int(words[i + column]) for i in range(0, len(words), 3) if words[i + column] != "-"}


def _load_argument(index: int, high: bool = False) -> Instruction:
    """Load the low (or high) 32 bits of a call's argument; both architectures are little-endian."""
    return (LOAD, 0, 0, 16 + 8 * index + 4 * high)


def _return(answer: int) -> Instruction:
    return (RETURN, 0, 0, answer)


def _allow_values(index: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    """Allow a call if the argument is one of `values`."""
    steps = [(EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_load_argument(index), *steps, _return(REFUSE | error), _return(ALLOW)]


def _guard_calls(own_pid: int, processes: bool, executes: bool) -> dict[str, list[Instruction]]:
    """What decides about each guarded call; calls that are not here are refused."""
    allow, refuse = _return(ALLOW), _return(REFUSE | errno.EPERM)
    # glibc then falls back to clone, whose flags a filter can see.
    guards = {"clone3": [_return(REFUSE | errno.ENOSYS)]}
    if processes:
        # Whatever an exec'd compiler starts has another pid; it may signal nobody, so own_pid stays the same.
        guards |= {"clone": [allow], "vfork": [allow]}
    else:
        again = _return(REFUSE | errno.EAGAIN)
        guards |= {"clone": [_load_argument(0), (ANY_BIT, 0, 1, CLONE_THREAD), allow, again], "vfork": [again]}
    if processes or executes:
        guards |= {"execve": [allow], "execveat": [allow]}
    # SIGKILL and SIGSTOP are refused even to itself: a killed process then always means somebody outside.
    for name, signal in (("kill", 1), ("tgkill", 2)):
        guards[name] = [
            _load_argument(0), (EQUAL, 1, 0, own_pid), refuse,
            _load_argument(signal), (EQUAL, 2, 0, SIGKILL), (EQUAL, 1, 0, SIGSTOP), allow, refuse,
        ]  # fmt: skip
    guards["prctl"] = _allow_values(0, HARMLESS_PRCTL, errno.EPERM)
    guards["fcntl"] = _allow_values(1, HARMLESS_FCNTL, errno.EPERM)
    guards["ioctl"] = _allow_values(1, HARMLESS_IOCTL, errno.ENOTTY)
    # Reading limits is harmless (a null pointer for the new ones); setting them is not.
    guards["prlimit64"] = [
        _load_argument(2), (EQUAL, 0, 3, 0), _load_argument(2, high=True), (EQUAL, 0, 1, 0), allow, refuse,
    ]  # fmt: skip
    return guards


def build_filter(
    own_pid: int, *, files: bool, processes: bool = False, executes: bool = False, machine: str | None = None
) -> list[Instruction]:
    """The filter as BPF instructions.

    Args:
        own_pid: the only process that may be signalled.
        files: may open files.
        processes: may start processes (the compiler); otherwise threads only.
        executes: may execute (a compiled program, node).
        machine: architecture; None for this machine's.
    """
    machine = machine or platform.machine()
    code = [
        (LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, AUDIT_ARCH[machine]), _return(KILL),
        (LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32_BIT), _return(KILL),
    ]  # fmt: skip
    for number in (read_table(TABLE, machine) | (read_table(FILES, machine) if files else {})).values():
        code += [(EQUAL, 0, 1, number), _return(ALLOW)]
    numbers = read_table(GUARDED, machine)
    for name, body in _guard_calls(own_pid, processes, executes).items():
        if name in numbers:
            code += [(EQUAL, 0, len(body), numbers[name]), *body]
    return [*code, _return(REFUSE | errno.EPERM)]


@functools.cache
def pack_filter(*, files: bool, processes: bool = False, executes: bool = False) -> bytes:
    """The packed filter, with `_OWN_PID` for the pid. Called before a fork, it is ready in each child."""
    code = build_filter(_OWN_PID, files=files, processes=processes, executes=executes)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def install(*, files: bool, processes: bool = False, executes: bool = False) -> None:
    """Apply the filter to this process, irrevocably.

    Raises:
        OSError: the kernel refuses it.
    """
    packed = pack_filter(files=files, processes=processes, executes=executes)
    packed = packed.replace(struct.pack("=I", _OWN_PID), struct.pack("=I", os.getpid()))
    buffer = ctypes.create_string_buffer(packed, len(packed))
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    filter_ = _Filter(len(packed) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(filter_), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter")
