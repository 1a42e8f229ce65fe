"""Imports go down one ranking of wings, rewards stay light, and the command line starts at once."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import open_r1

SOURCE = Path(open_r1.__file__).parent
# From the top down: a wing imports the wings of lower lines only. Wings of one line do not import one another.
RANKING = """
cli
slurm
pipeline
launch
sft grpo rloo dpo reward sample selection mix evaluate
training curation
run
report
evaluation engines estimate
data
models
config
filters tiny
rewards
sandbox benchmarks system
prompts errors
"""
TASKS = next(line.split() for line in RANKING.splitlines() if "grpo" in line)
RANK = {wing: rank for rank, line in enumerate(RANKING.splitlines()) for wing in line.split()}
MODULES = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py")}
GUEST = SOURCE / "sandbox" / "guest"


def imports_of(path: Path, own: bool = True) -> set[str]:
    """What a file imports anywhere in it, but for annotations only.

    Args:
        path: of the file.
        own: modules of this package, as `run.checkpoints`; else those of others, by their first names.
    """
    package = MODULES[path].split(".")[:-1]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        ours = isinstance(node, ast.ImportFrom) and (node.level or node.module.partition(".")[0] == "open_r1")
        if ours and own:
            base = package[: len(package) - node.level + 1] if node.level else []
            base += [part for part in (node.module or "").split(".") if part not in ("", "open_r1")]
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                found.add(inner if {inner, f"{inner}.__init__"} & set(MODULES.values()) else ".".join(base))
        elif isinstance(node, ast.ImportFrom) and not own and not ours:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import) and not own:
            found |= {alias.name.partition(".")[0] for alias in node.names}
    return found - {""}


def test_every_wing_has_a_rank():
    assert {name.partition(".")[0] for name in MODULES.values()} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=MODULES.values())
def test_imports_go_down(path):
    wing = MODULES[path].partition(".")[0]
    others = {name for name in imports_of(path) if name.partition(".")[0] != wing}
    assert not {name for name in others if RANK[name.partition(".")[0]] <= RANK.get(wing, -1)}


def test_a_wing_has_no_circle():
    graph = {MODULES[path].removesuffix(".__init__"): imports_of(path) for path in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


def test_the_sandbox_guest_has_the_standard_library_only():
    beside = {path.stem for path in GUEST.glob("*.py")}
    for path in GUEST.glob("*.py"):
        assert not imports_of(path)
        assert imports_of(path, own=False) <= sys.stdlib_module_names | beside


def test_the_check_sees_imports():
    assert {"run.run", "rewards.scoring", "system.network"} <= imports_of(SOURCE / "training" / "callbacks.py")
    assert {"torch", "json", "tqdm"} <= imports_of(SOURCE / "training" / "callbacks.py", own=False)
    assert "config.recipe" in imports_of(SOURCE / "sft.py")


def test_tasks_can_be_started_by_their_files():
    """`accelerate launch src/open_r1/sft.py` runs a file outside of any package."""
    for task in TASKS:
        assert not re.search(r"^\s*from \.", (SOURCE / f"{task}.py").read_text(), re.MULTILINE)


def test_no_module_hides_one_of_the_standard_library():
    """`accelerate launch src/open_r1/sft.py` puts this package's folder before all others."""
    assert not set(RANK) & sys.stdlib_module_names


def loaded_by(code: str) -> set[str]:
    ask = f"import sys; {code}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_rewards_import_neither_torch_nor_trl():
    heavy = {"torch", "trl", "transformers", "datasets"}
    judged = "r.accuracy('<think>a</think>\\\\boxed{\\\\frac12}', '0.5')"
    code = f"import open_r1.rewards.scoring, open_r1.rewards.math.scorers as r; {judged}"
    assert not heavy & loaded_by(code)


def test_help_imports_nothing_heavy():
    heavy = {"torch", "trl", "transformers", "datasets", "yaml", "pydantic", "matplotlib"}
    code = (
        "import open_r1.cli as c; sys.argv = ['open-r1', '--help']\ntry: c.main()\nexcept SystemExit: pass\nelse: 1/0"
    )
    ask = f"import sys; {code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert "train" in done.stdout and not heavy & set(done.stdout.split())
