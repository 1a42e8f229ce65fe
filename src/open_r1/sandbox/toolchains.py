"""Compilers and interpreters: their paths, the host's files that they need, and their commands."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Any

from .cases import Language, Level, Limits

# Folders of shared libraries; on merged systems some are links to others.
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
SEARCH = "/usr/local/bin:/usr/bin:/bin"
# Generous, because a program reaches the compiler only through its source text.
COMPILER_LIMITS = Limits(seconds=20.0, wall_seconds=60.0, memory_mb=2048, output_bytes=64 << 20, file_mb=64)
FLAGS = ("-std=gnu++17", "-O2", "-pipe")
V8_OVERHEAD_MB = 256  # writable memory of node besides the JavaScript heap


@functools.cache
def find_tool(name: str) -> str | None:
    """Real path of a program on the PATH; None if it is not installed."""
    found = shutil.which(name) or shutil.which(name, path=SEARCH)
    return os.path.realpath(found) if found else None


@functools.cache
def list_files() -> tuple[str, ...]:
    """The host's files that compilers and interpreters other than Python's need."""
    shown = []
    compiler, node = find_tool("g++"), find_tool("node")
    if compiler:
        shown += [compiler, "/usr/include", "/usr/libexec", "/usr/local/include"]
        shown += [path for name in ("as", "ld") if (path := shutil.which(name) or shutil.which(name, path=SEARCH))]
        prefix = os.path.dirname(os.path.dirname(compiler))
        if prefix != "/usr":
            shown += [f"{prefix}/{part}" for part in ("lib", "lib64", "libexec", "include")]
    if node:
        shown.append(node)
    return tuple(path for path in shown if os.path.exists(path))


def explain_missing(language: Language, level: Level) -> str:
    """Why programs in a language cannot run at a level; empty if they can."""
    needed = {"python": (), "cpp": ("g++", "as", "ld"), "javascript": ("node",)}
    if language not in needed:
        return f"programs in {language} cannot be run; languages: {', '.join(needed)}"
    absent = [name for name in needed[language] if not find_tool(name)]
    if absent:
        return f"{', '.join(absent)} is not installed, which programs in {language} need"
    if language != "python" and level == "seccomp":
        return f"programs in {language} need files, which isolation by seccomp alone does not give"
    return ""


def build_compilation() -> dict[str, Any]:
    """The part of a request that compiles C++."""
    command = [find_tool("g++"), *FLAGS, *(["-static"] if links_statically() else []), "program.cpp", "-o", "program"]
    directories = [os.path.dirname(path) for name in ("as", "ld") if (path := shutil.which(name))]
    return {
        "command": command, "source_name": "program.cpp", "binary_name": "program", "writes": True,
        "path": ":".join(dict.fromkeys([*directories, *SEARCH.split(":")])),
    }  # fmt: skip


@functools.cache
def links_statically() -> bool:
    """True if the static libraries are installed; a static program starts faster and needs no files."""
    done = subprocess.run(
        [find_tool("g++"), "-static", "-x", "c++", "-", "-o", "/dev/null"],
        input=b"int main() {}", capture_output=True, timeout=60,
    )  # fmt: skip
    return done.returncode == 0


def build_execution(language: Language, limits: Limits) -> dict[str, Any]:
    """The part of a request that runs a compiled program, or a script by its interpreter."""
    if language == "cpp":
        return {"command": None, "stack_mb": 256}  # deep recursion is no error, as on contest judges
    return {
        "command": [find_tool("node"), f"--max-old-space-size={limits.memory_mb}", "--stack-size=8000", "program.js"],
        "source_name": "program.js",
        "needs_scratch": True,
        "stack_mb": 16,  # also of each thread, all of which count as data
        # V8 reserves address space that it does not use, so only data can be limited.
        "data": (limits.memory_mb + V8_OVERHEAD_MB) << 20,
    }
