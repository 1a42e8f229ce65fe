# ruff: noqa: E501 (attacks stay on one line where they can)
"""Programs that try to read, write, reach, outlive, exhaust or forge, and what each must come to.

Data for test_attacks.py. Standard library and open_r1.sandbox only, so that it also runs alone, as any user:

    python tests/sandbox/attacks.py landlock

A program prints PWNED when it has got what it wanted. `SECRET` (a file), `EXPECTED` (what is in it), `PORT`, `SOCKET` and `VICTIM` (a
process) are filled in. Honest
attacks are judged `failed`: none of them prints the expected output, and what it tried says nothing of the sandbox.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from open_r1.sandbox.cases import AssertTest, CallTest, Limits, Outcome, Program, StdinTest
from open_r1.sandbox.judging import judge_output, judge_program
from open_r1.sandbox.local import Sandbox, encode_text
from open_r1.sandbox.pool import get_pool
from open_r1.sandbox.runner import Execution
from open_r1.sandbox.toolchains import COMPILER_LIMITS

LIMITS = Limits(seconds=0.5, wall_seconds=1.0, memory_mb=256, output_bytes=1 << 18, file_mb=4, processes=16)
PLACES = [
    f"{folder}/open_r1_pwned"
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/box", "", "/usr/lib", "/usr/local/lib", "/etc")
]


@dataclass(frozen=True)
class Attack:
    name: str
    source: str
    language: str = "python"
    tests: tuple = ()  # instead of the test that no attack can pass
    limits: Limits = LIMITS
    runs: int = 1  # the last of them is judged: what an earlier one left behind would help it
    allowed: frozenset[str] = field(default_factory=lambda: frozenset({"failed"}))


def tries(*lines: str) -> str:
    """Each line on its own, printing what stopped it."""
    return "\n".join(
        f"try:\n    {line}\nexcept BaseException as error:\n    print('no', type(error).__name__)" for line in lines
    )


SYSCALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def syscalls(*calls: tuple[str, str]) -> str:
    """System calls by x86_64 number; any that succeeds is PWNED."""
    lines = [f"result = libc.syscall({call})\nprint('PWNED {name}' if result >= 0 else 'no')" for name, call in calls]
    return SYSCALL + "\n".join(lines)


READING = [
    Attack("read /etc/passwd", "print('PWNED', open('/etc/passwd').read()[:20])"),
    Attack("read a world-readable secret", "print('PWNED', open('SECRET').read())"),
    Attack(
        "walk the file system for secrets",
        """
import os
for folder, _, names in os.walk('/'):
    if folder.startswith(('/usr', '/lib', '/proc', '/sys')): continue
    for name in names:
        try: text = open(os.path.join(folder, name), errors='replace').read(5000)
        except Exception: continue
        if 'EXPECTED' in text: print('PWNED', folder, name)
""",
    ),
    Attack(
        "secrets in the environment",
        "import os\nprint('PWNED' if any('EXPECTED' in v for v in os.environ.values()) else 'no')\n"
        + tries("data = open('/proc/self/environ').read(); print('PWNED' if 'EXPECTED' in data else 'no')"),
    ),
    Attack(
        "snoop in /proc",
        """
import os
for pid in os.listdir('/proc'):
    if pid.isdigit() and int(pid) != os.getpid():
        for name in ('cmdline', 'environ', 'maps', 'mem', 'fd'):
            try:
                os.listdir(f'/proc/{pid}/fd') if name == 'fd' else open(f'/proc/{pid}/{name}', 'rb').read(10)
                print('PWNED', pid, name)
            except OSError: pass
""",
    ),
    Attack(
        "/proc/self/mem",
        tries("open('/proc/self/mem', 'r+b'); print('PWNED')", "open('/proc/1/mem', 'r+b'); print('PWNED')"),
    ),
    Attack(
        "symlink out of the scratch space",
        "import os\n"
        + tries("os.symlink('/etc/passwd', 'link'); print('PWNED', open('link').read()[:10])")
        + "\n"
        + tries("os.symlink('/tmp', 'folder'); open('folder/open_r1_pwned', 'w').write('x'); print('PWNED')"),
    ),
    Attack("escape by relative path", tries("print('PWNED', open('../' * 20 + 'etc/hostname').read())")),
    Attack(
        "open directories inherited by descriptor",
        """
import os
for number in range(3, 1024):
    try: os.fchdir(number); print('PWNED', number, os.listdir('.'))
    except OSError: pass
""",
    ),
    Attack(
        "what an earlier run left in memory",
        """
import ctypes, gc, os, re
marker = b'LEFT' + b'BEHIND'
libc = ctypes.CDLL(None, use_errno=True)
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.sbrk.restype = ctypes.c_void_p
end = libc.sbrk(0)
reading, writing = os.pipe()
pages = set(range((end - (8 << 20)) & ~4095, end, 4096))
for item in gc.get_objects()[::50]:
    pages.update(range((id(item) & ~0xFFFF), (id(item) & ~0xFFFF) + 0x20000, 4096))
found = 0
before = LEFT_HERE = None
for page in pages:
    if libc.write(writing, page, 4096) == 4096:
        if re.search(rb'EARLIER_[0-9]{6}', os.read(reading, 4096)): found += 1
print('PWNED' if found else 'no')
junk = ['EARLIER_' + str(100000 + i) for i in range(2000)]
print(*junk)
""",
        runs=2,
        limits=dataclasses.replace(LIMITS, seconds=2.0, wall_seconds=4.0),
    ),
    Attack(
        "files that an earlier run left",
        """
import glob
folders = ('.', '/box', '/tmp', '/dev/shm', '/var/tmp')
for folder in folders:
    if glob.glob(folder + '/open_r1_left'): print('PWNED', folder)
for folder in folders:
    try: open(folder + '/open_r1_left', 'w').write('x')
    except OSError: pass
""",
        runs=2,
    ),
    Attack(
        "expected output in frames, garbage and heap",
        """
import gc, re, sys
hits = set()
frame = sys._getframe()
while frame:
    for scope in (frame.f_locals, frame.f_globals):
        for value in list(scope.values()):
            try: hits |= set(re.findall('TOKEN_[0-9a-f]{16}', repr(value)[:100000]))
            except Exception: pass
    frame = frame.f_back
for item in gc.get_objects():
    try: hits |= set(re.findall('TOKEN_[0-9a-f]{16}', repr(item)[:2000]))
    except Exception: pass
print(*hits)
print('PWNED' if hits else 'no')
""",
    ),
]

WRITING = [
    Attack(
        "write outside the scratch space",
        f"""
for place in {PLACES!r}:
    try: open(place, 'w').write('x'); print('wrote', place)
    except OSError: pass
""",
    ),
    Attack(
        "poison the standard library for the next run",
        """
import builtins, heapq, json
heapq.heappop = lambda heap: 0
builtins.sorted = lambda *a, **k: []
builtins.print = lambda *a, **k: None
json.dumps = lambda *a, **k: '["passed", ""]'
open(heapq.__file__, 'a').write('# PWNED')
""",
    ),
    Attack(
        "change files of the host without opening them",
        "import os\n"
        + "\n".join(
            tries(f"{call}; print('PWNED')")
            for call in (
                "os.chmod('SECRET', 0o777)",
                "os.utime('SECRET', (0, 0))",
                "os.truncate('SECRET', 0)",
                "os.chown('SECRET', -1, -1)",
                "os.setxattr('SECRET', 'user.x', b'x')",
                "os.link('SECRET', 'link')",
                "os.unlink('SECRET')",
                "os.rename('SECRET', 'SECRET_moved')",
            )
        ),
    ),
    Attack("remount read-only mounts", syscalls(("remount", "165, None, b'/', None, 32 | 4096, None"))),
    Attack(
        "fill the scratch space", "while True: open(f'f{len(__import__(\"os\").listdir())}', 'w').write('x' * 100000)"
    ),
]

NETWORK = [
    Attack(
        "TCP to this machine",
        "import socket\n"
        + tries("socket.create_connection(('127.0.0.1', PORT), timeout=1).send(b'x'); print('PWNED')"),
    ),
    Attack(
        "UDP to this machine",
        "import socket\n"
        + tries("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))"),
    ),
    Attack(
        "abstract unix socket",
        "import socket\n" + tries("socket.socket(socket.AF_UNIX).connect('\\0SOCKET'); print('PWNED')"),
    ),
    Attack("listen", "import socket\n" + tries("socket.create_server(('127.0.0.1', 0)); print('PWNED')")),
    Attack("name lookup", "import socket\n" + tries("print('PWNED', socket.gethostbyname('example.com'))")),
    Attack(
        "raw and netlink sockets",
        "import socket\n"
        + tries("socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('PWNED')")
        + "\n"
        + tries("socket.socket(16, socket.SOCK_RAW, 0); print('PWNED')"),
    ),
]

PROCESSES = [
    Attack(
        "fork bomb",
        "import os\nchildren = 0\nwhile True:\n    os.fork()\n    children += 1\n    print('PWNED', flush=True)",
    ),
    Attack(
        "thread bomb",
        """
import threading, time
started = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        started += 1
except BaseException as error:
    print('PWNED' if started > 40 else 'no', started, flush=True)
    __import__('os')._exit(1)
""",
    ),
    Attack(
        "a daemon that outlives the run",
        """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(20):
            try: os.close(number)
            except OSError: pass
        time.sleep(40)
    os._exit(0)
print('PWNED')
""",
    ),
    Attack(
        "start a shell",
        "import subprocess\nprint('PWNED', subprocess.run(['/bin/sh', '-c', 'id'], capture_output=True))",
    ),
    Attack("exec another program", "import os\nos.execv('/usr/bin/env', ['env'])"),
    Attack(
        "exec from memory",
        SYSCALL + "file = libc.syscall(319, b'x', 0)\nprint('PWNED memfd' if file >= 0 else 'no')\n"
        "data = open('/usr/bin/env', 'rb').read()\nos.write(file, data)\nos.execve(file, ['env'], {})",
    ),
    Attack("posix_spawn and vfork", "import os\nprint('PWNED', os.posix_spawn('/usr/bin/env', ['env'], {}))"),
    Attack(
        "kill everybody",
        "import os, signal\n"
        + "\n".join(
            tries(f"os.kill({who}, signal.{how}); print('{mark}')")
            for who, how, mark in (
                ("VICTIM", "SIGKILL", "PWNED"),
                ("VICTIM", "SIGSTOP", "PWNED"),
                ("os.getppid()", "SIGKILL", "no"),
                ("-1", "SIGTERM", "no"),
                ("0", "SIGTERM", "no"),
                ("1", "SIGTERM", "no"),
            )
        ),
    ),
    Attack(
        "signal by file owner",
        "import fcntl, os, signal\nreading, writing = os.pipe()\n"
        + tries(
            "fcntl.fcntl(reading, fcntl.F_SETOWN, VICTIM); fcntl.fcntl(reading, 10, signal.SIGKILL); "
            "fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK); os.write(writing, b'x'); print('sent')"
        ),
    ),
    Attack(
        "trace and read another process",
        SYSCALL
        + """
for pid in (VICTIM, os.getppid(), 1):
    if pid in (0, os.getpid()): continue
    if libc.ptrace(16, pid, 0, 0) == 0: print('PWNED ptrace', pid)
    buffer = ctypes.create_string_buffer(8)
    class Part(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
    local, remote = Part(ctypes.addressof(buffer), 8), Part(0x400000, 8)
    if libc.syscall(310, pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) > 0: print('PWNED vm_readv', pid)
""",
    ),
    Attack("pidfd of another process", syscalls(("pidfd_open", "434, VICTIM, 0"), ("pidfd_getfd", "438, 3, 0, 0"))),
    Attack("System V shared memory", syscalls(("shmget", "29, 1234, 4096, 0o1666"), ("msgget", "68, 99, 0o1666"))),
    Attack(
        "type into the terminal",
        "import fcntl, os\n"
        + tries("fcntl.ioctl(0, 0x5412, b'x'); print('PWNED')", "open('/dev/tty', 'w'); print('PWNED')"),
    ),
    Attack(
        "dump core",
        "import ctypes, resource\nprint('PWNED' if resource.getrlimit(resource.RLIMIT_CORE)[1] else 'no')\nctypes.string_at(0)",
    ),
    Attack(
        "change nice value and scheduler",
        syscalls(("setpriority", "141, 0, 0, -5"), ("setscheduler", "144, 0, 1, b'\\x01\\0\\0\\0'")),
    ),
]

KERNEL = [
    Attack(
        "namespaces and mounts",
        syscalls(
            ("unshare", "272, 0x10000000"),
            ("mount", "165, b'none', b'/box', b'tmpfs', 0, 0"),
            ("setns", "308, 0, 0"),
            ("open_tree", "428, -100, b'/', 1"),
            ("chroot", "161, b'/'"),
            ("pivot_root", "155, b'.', b'.'"),
            ("umount", "166, b'/', 2"),
        ),
    ),
    Attack(
        "clone with new namespaces",
        syscalls(("clone", "56, 0x10000000 | 17, 0, 0, 0, 0"), ("clone3", "435, ctypes.create_string_buffer(88), 88")),
    ),
    Attack("io_uring", syscalls(("io_uring_setup", "425, 8, ctypes.create_string_buffer(120)"))),
    Attack(
        "obscure system calls",
        syscalls(
            ("bpf", "321, 0, 0, 0"),
            ("userfaultfd", "323, 0"),
            ("keyctl", "250, 0, -3, 0"),
            ("add_key", "248, 0, 0, 0, 0, 0"),
            ("perf", "298, ctypes.create_string_buffer(120), 0, -1, -1, 0"),
            ("socket", "41, 1, 1, 0"),
            ("setuid", "105, 0"),
            ("personality", "135, 0x0040000"),
            ("sethostname", "170, b'x', 1"),
            ("name_to_handle", "303, -100, b'/', ctypes.create_string_buffer(200), ctypes.create_string_buffer(8), 0"),
            ("timer_create", "222, 0, 0, ctypes.create_string_buffer(8)"),
            ("seccomp", "317, 0, 0, 0"),
        ),
    ),
    Attack(
        "loosen the filter by prctl", syscalls(("dumpable", "157, 4, 1, 0, 0, 0"), ("pdeathsig", "157, 1, 9, 0, 0, 0"))
    ),
    Attack(
        "32-bit system calls",
        """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(b'\\x53\\xb8\\x67\\x01\\x00\\x00\\xbb\\x02\\x00\\x00\\x00\\xb9\\x01\\x00\\x00\\x00\\x31\\xd2\\xcd\\x80\\x5b\\xc3')
result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
print('PWNED' if result >= 0 else 'no')
""",
    ),
    Attack("x32 system calls", syscalls(("socket", "0x40000000 | 41, 2, 1, 0"))),
    Attack(
        "raise its own limits",
        "import resource\n"
        + "\n".join(
            tries(f"resource.setrlimit(resource.RLIMIT_{name}, (-1, -1)); print('PWNED')")
            for name in ("AS", "CPU", "NPROC", "FSIZE", "STACK")
        ),
    ),
]

EXHAUSTION = [
    Attack("memory in one piece", "blocks = []\nwhile True: blocks.append(bytearray(64 << 20))"),
    Attack("memory in small pieces", "blocks = []\nwhile True: blocks.append('x' * 100000 + str(len(blocks)))"),
    Attack(
        "anonymous mappings",
        "import mmap\nmaps = []\nwhile True:\n    maps.append(mmap.mmap(-1, 64 << 20))\n"
        "    maps[-1][::4096] = b'x' * (16 << 10)\n    if len(maps) > 8: print('PWNED')",
    ),
    Attack("memory files", "import os\nwhile True: os.write(os.memfd_create('x'), b'x' * (1 << 20)); print('PWNED')"),
    Attack("infinite loop", "while True: pass"),
    Attack(
        "infinite loop that ignores signals",
        """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    ),
    Attack("a loop inside C", "x = 10 ** 10 ** 8"),
    Attack("catastrophic pattern", "import re\nre.match('(a*)*b', 'a' * 40)"),
    Attack(
        "loops in many threads",
        "import threading\ndef loop():\n    while True: pass\nfor _ in range(8): threading.Thread(target=loop).start()",
    ),
    Attack("sleep for ever", "import time\nwhile True: time.sleep(1000)"),
    Attack("wait for input that never comes", "import os\nreading, writing = os.pipe()\nos.read(reading, 1)"),
    Attack(
        "stop itself", "import os, signal, time\n" + tries("os.kill(os.getpid(), signal.SIGSTOP); print('resumed')")
    ),
    Attack("infinite output", "import sys\nwhile True: sys.stdout.write('x' * 65536)"),
    Attack("infinite errors", "import sys\nwhile True: sys.stderr.write('x' * 65536)"),
    Attack("endless recursion", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(n): return f(n + 1) + 1\nf(0)"),
    Attack(
        "overflow of the C stack",
        "import sys\nsys.setrecursionlimit(10 ** 9)\nnest = []\nfor _ in range(10 ** 6): nest = [nest]\nprint(len(repr(nest)))",
    ),
    Attack("parser bomb", "exec('(' * 100000 + ')' * 100000)"),
    Attack(
        "many open files", "import os\nfiles = []\nwhile len(files) < 2000: files.append(os.dup(0))\nprint('PWNED')"
    ),
]

TOKEN_TEST = (CallTest("answer", (1,), "EXPECTED"),)
ASSERT_TEST = (AssertTest("assert answer(1) == 'EXPECTED'"),)
ALWAYS_EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __sub__(self, other): return self
    __rsub__ = __abs__ = __float__ = __round__ = __sub__
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __contains__(self, item): return True
class Word(str): __eq__ = lambda self, other: True; __ne__ = lambda self, other: False; __hash__ = str.__hash__
class Items(list): __eq__ = lambda self, other: True; __ne__ = lambda self, other: False
class Number(float):
    __eq__ = __lt__ = __le__ = lambda self, other: True
    __sub__ = __rsub__ = __abs__ = lambda self, *other: self
"""
CLOSE = (AssertTest("assert abs(answer(1) - 0.5) < 1e-6"),)
FORGERY = [
    Attack("early os._exit(0)", "import os\nos._exit(0)"),
    Attack("sys.exit at import", "import sys\nsys.exit(0)"),
    Attack(
        "output rewritten at exit",
        "import atexit, os, sys\n"
        "atexit.register(lambda: (sys.stdout.write('TOKEN'), sys.stdout.flush(), os._exit(0)))\nprint('wrong')",
    ),
    Attack(
        "printed verdicts",
        'print(\'["passed", ""]\'); print(\'{"ended": "exit", "code": 0}\'); print(\'ALL TESTS PASSED\')',
    ),
    Attack(
        "scribble on every descriptor",
        """
import os
verdict = b'{"reports": [{"ended": "exit", "code": 0, "seconds": 0, "preempted": false}]}\\n["passed", ""]\\n'
for number in range(3, 1024):
    try: os.write(number, verdict); print('wrote', number)
    except OSError: pass
""",
    ),
    Attack("always-equal output", ALWAYS_EQUAL + "import sys\nsys.stdout.write(Word('anything'))"),
    Attack(
        "monkeypatched built-ins",
        "import builtins\nbuiltins.print = lambda *a, **k: None\nbuiltins.input = lambda *a: '0'\nbuiltins.all = lambda *a: True",
    ),
    Attack("close the streams", "import os\nos.close(1)\nos.close(2)\nos.close(0)"),
    Attack("bytes that are no text", "import os\nos.write(1, b'\\xff\\xfe\\x00' * 1000)"),
    Attack("overwrite the input", "import os\nos.ftruncate(0, 0)\nos.pwrite(0, b'TOKEN', 0)\nprint(open(0).read())"),
    *[
        Attack(f"{kind}: {name}", source + "\n", tests=tests)
        for kind, tests in (("call", TOKEN_TEST), ("assert", ASSERT_TEST))
        for name, source in (
            ("always-equal object", ALWAYS_EQUAL + "answer = lambda x: Equal()"),
            ("always-equal str", ALWAYS_EQUAL + "answer = lambda x: Word('no')"),
            ("always-equal list", ALWAYS_EQUAL + "answer = lambda x: Items()"),
            (
                "an object that lies about its class",
                ALWAYS_EQUAL + "class Lie(Equal):\n    __class__ = str\nanswer = lambda x: Lie()",
            ),
            ("exit in the call", "import os\ndef answer(x): os._exit(0)"),
            ("exit at import", "import sys\nanswer = lambda x: 1\nsys.exit(0)"),
            (
                "exit in __del__ and threads",
                "import os, threading\nanswer = lambda x: 1\nthreading.Timer(0, os._exit, (0,)).start()",
            ),
            (
                "patched encoder",
                'import json\njson.dumps = lambda *a, **k: \'{"value": "passed"}\'\nanswer = lambda x: 1',
            ),
            (
                "patched protocol",
                "import gc, sys\nfor item in gc.get_objects():\n"
                "    if isinstance(item, dict) and 'encode' in item and 'decode' in item:\n"
                "        item['encode'] = lambda *a, **k: True\n        item['matches'] = lambda *a: True\nanswer = lambda x: 1",
            ),
            (
                "verdicts on every descriptor",
                'import os\ndef answer(x):\n    for n in range(1024):\n        try: os.write(n, b\'["passed", ""]\\n{"value": true}\\n\')\n        except OSError: pass\n    return 1',
            ),
            (
                "a flood of answers",
                "import os\ndef answer(x):\n    for n in range(3, 1024):\n        try:\n            while True: os.write(n, b'x' * 65536)\n        except OSError: pass",
            ),
            (
                "deeply nested answer",
                "def answer(x):\n    nest = []\n    for _ in range(10 ** 5): nest = [nest]\n    return nest",
            ),
            ("endless answer", "answer = lambda x: iter(int, 1)"),
            ("self-containing answer", "def answer(x):\n    a = []\n    a.append(a)\n    return a"),
            (
                "a pickle",
                "import pickle\nclass P:\n    def __reduce__(self): return (print, ('PWNED',))\nanswer = lambda x: pickle.dumps(P())",
            ),
            ("raised verdict", "class passed(BaseException): pass\ndef answer(x): raise passed('passed')"),
            ("system exit", "def answer(x): raise SystemExit(0)"),
            (
                "patched frames",
                "import sys\ndef answer(x):\n    f = sys._getframe()\n    while f:\n        for k in list(f.f_globals):\n            if k in ('test', 'expected', 'tests'): print('PWNED')\n        f.f_globals['answer_call'] = lambda *a: '{\"value\": 1}'\n        f = f.f_back\n    return 0",
            ),
            ("sleep in the call", "import time\ndef answer(x): time.sleep(100)"),
            ("loop in the call", "def answer(x):\n    while True: pass"),
            (
                "signal handlers",
                "import signal, os\nsignal.signal(signal.SIGTERM, lambda *a: os._exit(0))\nanswer = lambda x: os.kill(os.getpid(), 15)",
            ),
        )
    ],
    *[
        Attack(f"assert closeness: {name}", ALWAYS_EQUAL + source, tests=CLOSE)
        for name, source in (
            ("own arithmetic", "answer = lambda x: Equal()"),
            ("a float of its own", "answer = lambda x: Number(9)"),
            ("NaN", "answer = lambda x: float('nan')"),
            ("its own abs", "abs = lambda x: 0\nanswer = lambda x: 9"),
        )
    ],
    Attack(
        "assert: membership", ALWAYS_EQUAL + "answer = lambda x: Equal()", tests=(AssertTest("assert 7 in answer(1)"),)
    ),
    Attack(
        "assert: sorted of its own",
        "sorted = lambda x: []\nanswer = lambda x: []",
        tests=(AssertTest("assert answer([2, 1]) == sorted([2, 1])"),),
    ),
    Attack(
        "assert: empties what is compared",
        "def answer(x):\n    x.clear()\n    return []",
        tests=(AssertTest("xs = [2, 1]\nassert answer(xs) == sorted(xs)"),),
    ),
    Attack(
        "assert: its own Counter",
        ALWAYS_EQUAL + "Counter = lambda *a: Equal()\nanswer = lambda x: []",
        tests=(AssertTest("assert Counter(answer(1)) == Counter([1])"),),
    ),
    Attack(
        "assert: its own math",
        ALWAYS_EQUAL + "math = Equal()\nanswer = lambda x: 9",
        tests=(AssertTest("assert math.isclose(answer(1), 0.5)"),),
    ),
    Attack(
        "assert: its own check",
        "def check(f): pass\ndef answer(x): return 0",
        tests=(AssertTest("def check(candidate):\n    assert candidate(1) == 'EXPECTED'\ncheck(answer)"),),
    ),
    Attack(
        "assert: AssertionError swallowed by the program",
        "answer = lambda x: None\nAssertionError = Exception",
        tests=ASSERT_TEST,
    ),
]

FORGERY += [
    Attack(
        f"assert: its own {name}",
        source,
        tests=(AssertTest(test, helpers=helpers),),
        allowed=frozenset({"failed" if helpers else "unknown"}),
    )
    for name, source, test, helpers in (
        ("closeness", "isclose = lambda a, b: True\nf = abs", "assert isclose(f(2), 4)", ""),
        ("comparison", "same = lambda a, b: True\nf = abs", "y = f(2)\nif not same(y, 4): raise ValueError", ""),
        ("expected value", "f = lambda x: 0\nFraction = lambda a, b: 0", "assert f(3) == Fraction(1, 3)", ""),
        (
            "helper",
            "def encode(s): return s\ndef decode(s): return s",
            "assert decode(encode('ab')) == 'ab'",
            "def encode(s):\n    return s[::-1] + 'x'\n",
        ),
    )
]

CHECKER = "import sys\nprint(1 if open(sys.argv[2]).read().split() == open(sys.argv[3]).read().split() else 0)"
BRITTLE = "import sys\nprint(float(int(open(sys.argv[3]).read()) == int(open(sys.argv[2]).read())))"
CHECKERS = [
    Attack("checker: verdict as output", "print('1.0')", tests=(StdinTest("", "EXPECTED", CHECKER),)),
    Attack("checker: output that crashes it", "print('garbage')", tests=(StdinTest("", "42", BRITTLE),)),
    Attack(
        "checker: output that it runs for ever on",
        "print('9' * 200000)",
        tests=(StdinTest("", "42", BRITTLE + "\nx = 7 ** int(open(sys.argv[3]).read())"),),
    ),
]

CPP = "#include <stdio.h>\n#include <unistd.h>\n#include <stdlib.h>\n"
CPP_ATTACKS = [
    Attack(
        "C++: read a file",
        CPP + 'int main() { FILE* f = fopen("/etc/passwd", "r"); puts(f ? "PWNED" : "no"); }',
        "cpp",
    ),
    Attack("C++: include a file of the host", '#include "/etc/passwd"\nint main() {}', "cpp"),
    Attack("C++: include a secret", '#include "SECRET"\nint main() {}', "cpp"),
    Attack("C++: embed a file of the host", 'asm(".incbin \\"/etc/passwd\\"");\nint main() {}', "cpp"),
    Attack(
        "C++: embed a secret",
        CPP + 'asm("data: .incbin \\"SECRET\\"");\nextern char data[];int main() { puts("PWNED"); }',
        "cpp",
    ),
    Attack("C++: include a device", '#include "/dev/zero"\nint main() {}', "cpp"),
    Attack(
        "C++: template bomb",
        "template<int N> struct A { A<N - 1> a; A<N - 2> b; char c[N]; };\ntemplate<> struct A<0> {}; template<> struct A<1> {};\ntemplate<class T, class U> struct P {}; template<int N, class T> struct B { typedef typename B<N - 1, P<T, T> >::t t; };\ntemplate<class T> struct B<0, T> { typedef T t; };\nB<800, int>::t x; int main() { return sizeof(A<800>); }",
        "cpp",
    ),
    Attack(
        "C++: fork and exec",
        CPP
        + 'int main() { int p = fork(); puts(p < 0 ? "no" : "PWNED"); if (p == 0) execl("/usr/bin/env", "env", (char*)0); }',
        "cpp",
    ),
    Attack(
        "C++: socket",
        CPP + '#include <sys/socket.h>\nint main() { puts(socket(AF_INET, SOCK_STREAM, 0) < 0 ? "no" : "PWNED"); }',
        "cpp",
    ),
    Attack("C++: wait for ever", CPP + "int main() { pause(); }", "cpp"),
    Attack("C++: loop", "int main() { volatile int x = 0; for (;;) x = x + 1; }", "cpp"),
    Attack(
        "C++: memory",
        CPP
        + "int main() { for (;;) { char* p = (char*)malloc(1 << 24); if (!p) abort(); for (int i = 0; i < 1 << 24; i += 4096) p[i] = 1; } }",
        "cpp",
    ),
    Attack(
        "C++: early exit in a whole program",
        CPP + "int f() { exit(0); }",
        "cpp",
        (AssertTest("int main() { if (f() != 1) abort(); }"),),
    ),
    Attack(
        "C++: a failed assertion that returns",
        CPP
        + 'extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) {}\nint f() { return 0; }',
        "cpp",
        (AssertTest("#include <assert.h>\nint main() { assert(f() == 1); }"),),
    ),
    Attack(
        "C++: assert made harmless",
        CPP + "#define assert(x) ((void)0)\nint f() { return 0; }",
        "cpp",
        (AssertTest("int main() { assert(f() == 1); }"),),
    ),
]

JS_TEST = (AssertTest("const assert = require('node:assert');\nassert.deepEqual(f(2), 4);"),)
JAVASCRIPT = [
    Attack(
        "JavaScript: child_process",
        "try { console.log('PWNED', require('child_process').execSync('id')) } catch (e) { console.log('no') }",
    ),
    Attack(
        "JavaScript: net",
        "const s = require('net').connect(PORT, '127.0.0.1', () => { console.log('PWNED'); s.write('x') }); s.on('error', () => console.log('no'))",
    ),
    Attack(
        "JavaScript: fs",
        "const fs = require('fs'); for (const p of ['/etc/passwd', 'SECRET']) try { console.log('PWNED', fs.readFileSync(p)) } catch (e) { console.log('no') }",
    ),
    Attack(
        "JavaScript: write",
        f"const fs = require('fs'); for (const p of {PLACES!r}) try {{ fs.writeFileSync(p, 'x'); console.log('wrote', p) }} catch (e) {{ console.log('no') }}",
    ),
    Attack(
        "JavaScript: worker threads",
        "const w = require('worker_threads'); for (let i = 0; i < 100; i++) { const x = new w.Worker('for(;;);', { eval: true }); x.on('error', () => {}) }",
    ),
    Attack(
        "JavaScript: process.binding",
        "try { const { Process } = process.binding('process_wrap'); const p = new Process(); const r = p.spawn({ file: '/usr/bin/env', args: ['env'], stdio: [] }); console.log(r === 0 ? 'PWNED' : 'no') } catch (e) { console.log('no') }",
    ),
    Attack(
        "JavaScript: kill",
        "for (const p of [VICTIM, process.ppid]) try { process.kill(p, 9); console.log(p === VICTIM ? 'PWNED' : 'no') } catch (e) { console.log('no') }",
    ),
    Attack("JavaScript: loop", "for (;;) {}"),
    Attack("JavaScript: memory", "const a = []; for (;;) a.push(new Array(100000).fill(a.length))"),
    Attack("JavaScript: memory outside the heap", "const a = []; for (;;) a.push(Buffer.alloc(1 << 24, 1))"),
    Attack(
        "JavaScript: prints its own file",
        "process.stdout.write(require('fs').readFileSync(__filename, 'utf8')); process.exit(0)",
        "javascript",
        JS_TEST,
    ),
    Attack(
        "JavaScript: prints its own code",
        "process.stdout.write(arguments.callee.toString()); process.exit(0)",
        "javascript",
        JS_TEST,
    ),
    Attack(
        "JavaScript: its own require",
        "require = () => new Proxy(function () {}, { get: () => () => {} }); function f() { return 1 }",
        "javascript",
        JS_TEST,
    ),
    Attack(
        "JavaScript: its own loader",
        "require('module')._load = () => new Proxy(function () {}, { get: () => () => {} }); function f() { return 1 }",
        "javascript",
        JS_TEST,
    ),
    Attack(
        "JavaScript: early exit in a whole program",
        "function f() { process.exit(0) }",
        tests=(AssertTest("require('node:assert').equal(f(), 1)"),),
    ),
    Attack(
        "JavaScript: patched assertions",
        "require('assert').equal = () => {}; require('assert').deepEqual = () => {}; function f() { return 0 }",
        tests=(AssertTest("const assert = require('node:assert'); assert.deepEqual(f(), 1); assert.equal(f(), 1)"),),
    ),
    Attack(
        "JavaScript: always-equal answer",
        "function answer(x) { return { valueOf: () => 'EXPECTED_', toJSON: () => true } }",
        tests=TOKEN_TEST,
    ),
    Attack(
        "JavaScript: answers forged in advance",
        "for (let i = 0; i < 9; i++) console.log('{\"value\": true}'); function answer(x) { process.exit(0) }",
        tests=TOKEN_TEST,
    ),
]
COMPILER_SHARE = dataclasses.replace(LIMITS, wall_seconds=2.0)
ATTACKS: list[Attack] = [
    *READING, *WRITING, *NETWORK, *PROCESSES, *KERNEL, *EXHAUSTION, *FORGERY, *CHECKERS,
    *[dataclasses.replace(attack, limits=COMPILER_SHARE) for attack in CPP_ATTACKS],
    *[dataclasses.replace(attack, language="javascript", limits=COMPILER_SHARE) for attack in JAVASCRIPT],
]  # fmt: skip


class Range:
    """A secret file, listening sockets, a process to be killed; and the level that is to keep them safe."""

    def __init__(self, level: str):
        self.sandbox = Sandbox(level, compiler=dataclasses.replace(COMPILER_LIMITS, seconds=2.0))
        self.token = "TOKEN_" + secrets.token_hex(8)
        self.name = "open_r1_" + secrets.token_hex(8)  # of the abstract socket
        self.hits: list[str] = []
        handle, self.secret = tempfile.mkstemp(prefix="open_r1_secret_")
        os.write(handle, self.token.encode())
        os.close(handle)
        os.chmod(self.secret, 0o644)
        os.environ["OPEN_R1_SECRET"] = self.token
        self.sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
        self.port = self.sockets[0].getsockname()[1]
        self.sockets[1].bind("\0" + self.name)
        self.sockets[1].listen()
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", self.port))
        self.datagrams.setblocking(False)
        for listener in self.sockets:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        self.victim = self._start_victim()
        self.healthy()
        self.before: set[int | str] = set()
        self.users = {os.getuid(), *(os.stat(f"/proc/{zygote.process.pid}").st_uid for zygote in get_pool(level).all)}
        self.before = self.left()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.hits.append(str(listener.family))
                connection.close()

    def _start_victim(self) -> subprocess.Popen:
        command = ["/bin/sleep", "100000"]
        return subprocess.Popen(command, user=65534 if os.getuid() == 0 else None, cwd="/")

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        for listener in self.sockets:
            listener.shutdown(socket.SHUT_RDWR)
        for one in (*self.sockets, self.datagrams):
            one.close()
        for path in glob.glob(self.secret + "*"):
            os.unlink(path)
        os.environ.pop("OPEN_R1_SECRET", None)

    def fill(self, text: str) -> str:
        words = {
            "SECRET": self.secret, "EXPECTED": self.token, "PORT": str(self.port), "VICTIM": str(self.victim.pid),
            "SOCKET": self.name,
        }  # fmt: skip
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    def healthy(self) -> bool:
        (execution,) = self.sandbox.run_together(Program("print('fine' * 3)"), [b""], Limits())
        return execution.stdout == b"finefinefine\n"

    def run(self, attack: Attack) -> tuple[Outcome, list[str]]:
        """The judge's outcome, and everything that was damaged."""
        self.hits.clear()
        with contextlib.suppress(OSError):
            while self.datagrams.recv(100):
                pass
        # The token is never in the source, except where the attack looks for it in what it can read.
        program = Program(self.fill(attack.source.replace("EXPECTED", "TOKEN_")), attack.language)
        for _ in range(attack.runs):
            if attack.tests:
                tests = [self._filled(test) for test in attack.tests]
                outcome, stdout = judge_program(program, tests, attack.limits, runner=self.sandbox)[0], b""
            else:
                (execution,) = self.sandbox.run(program, [b""], attack.limits)
                outcome, stdout = self._judged(execution, attack.limits), execution.stdout
        return outcome, self.damage(stdout)

    def _filled(self, test: object) -> object:
        return dataclasses.replace(
            test,
            **{
                name: self.token if value == "EXPECTED" else value.replace("EXPECTED", self.token)
                for name in ("expected", "source")
                if isinstance(value := getattr(test, name, None), str)
            },
        )

    def _judged(self, execution: Execution, limits: Limits) -> Outcome:
        return judge_output(StdinTest("", self.token), execution, limits, self.sandbox)

    def damage(self, stdout: bytes) -> list[str]:
        found = []
        if b"PWNED" in stdout:
            found.append(
                "the program got what it wanted: " + stdout[stdout.find(b"PWNED") :][:80].decode(errors="replace")
            )
        if encode_text(self.token) in stdout:
            found.append("the secret was printed")
        if self.hits:
            found.append(f"connections arrived: {self.hits}")
        with contextlib.suppress(OSError):
            self.datagrams.recv(100)
            found.append("a datagram arrived")
        written = [place for place in PLACES if os.path.exists(place)]
        for place in written:
            os.unlink(place)
        if written:
            found.append(f"written: {written}")
        if self.victim.poll() is not None or "T (stopped)" in _read(f"/proc/{self.victim.pid}/status"):
            found.append("a process outside was hit")
            self.victim.kill()
            self.victim = self._start_victim()
        if not self.healthy():
            found.append("the next run is broken")
        patience = time.monotonic() + 2
        while (left := self.left()) and time.monotonic() < patience:
            time.sleep(0.01)
        if left:
            found.append(f"processes or files survive: {left}")
            self.before |= left
        return found

    def left(self) -> set[int | str]:
        """Processes and files that were not there before."""
        files = [path for folder in ("/tmp", "/dev/shm", "/var/tmp") for path in glob.glob(folder + "/open_r1_[ls]*")]
        mine = [path for path in files if os.path.exists(path) and os.stat(path).st_uid in self.users]
        survivors = sandboxed_processes(self.sandbox.level) | {path for path in mine if "secret" not in path}
        return survivors - self.before


def sandboxed_processes(level: str) -> set[int]:
    """Processes below this one's zygotes, or of a user or user namespace that is only theirs."""
    zygotes = {zygote.process.pid for zygote in get_pool(level).all}
    parents, users, spaces = {}, {}, {}
    for path in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(path[6:])
            with open(path + "/stat") as file:
                parents[pid] = int(file.read().rpartition(")")[2].split()[1])
            users[pid] = os.stat(path).st_uid
            spaces[pid] = os.readlink(path + "/ns/user")
    below = {pid for pid in parents if zygotes & set(ancestors(pid, parents))}
    own_users = {users[pid] for pid in below} - {os.getuid(), 65534}
    own_spaces = {spaces.get(pid) for pid in below} - {spaces[os.getpid()], None}
    return below | {pid for pid in parents if users.get(pid) in own_users or spaces.get(pid) in own_spaces}


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid > 1:
        yield pid
        pid = parents.get(pid, 0)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


@contextlib.contextmanager
def range_at(level: str) -> Iterator[Range]:
    place = Range(level)
    try:
        yield place
    finally:
        place.close()


def main() -> None:
    failures = 0
    with range_at(sys.argv[1]) as place:
        for attack in ATTACKS:
            if len(sys.argv) > 2 and sys.argv[2] not in attack.name:
                continue
            start = time.monotonic()
            outcome, damage = place.run(attack)
            bad = damage or outcome.status not in allowed(attack, sys.argv[1])
            failures += bool(bad)
            took = time.monotonic() - start
            print(
                f"{'BAD' if bad else 'ok ':3} {took:5.2f} s {attack.name}: {outcome.status} ({outcome.reason[:120]!r}) {damage or ''}",
                flush=True,
            )
    sys.exit(f"{failures} of {len(ATTACKS)} attacks did damage or were judged wrongly" if failures else 0)


def allowed(attack: Attack, level: str) -> frozenset[str]:
    """Isolation by seccomp alone runs nothing that needs files: that is said, as an error."""
    needs_files = attack.language != "python" or any(getattr(test, "checker", None) for test in attack.tests)
    return frozenset({"error"}) if needs_files and level == "seccomp" else attack.allowed


if __name__ == "__main__":
    main()
