"""Imports go down only, rewards stay light, and the command line starts at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import open_r1

SOURCE = Path(open_r1.__file__).parent
# From the top down; a module may import from lower layers, and within its layer only what stands to its right.
LAYERS = [
    ["cli"],
    ["slurm"],
    ["pipeline", "claims"],
    ["launch", "judge", "compare", "comparable"],
    ["sft", "grpo", "rloo", "dpo", "reward", "sample", "selection", "mix", "evaluate"],
    ["live", "callbacks", "preflight", "reward_model"],
    ["curriculum", "judged", "sift", "funnel", "groups", "contamination", "imported", "held_out", "graded", "sampled"],
    ["estimate"],
    ["run"],
    ["guard", "begun"],
    ["agent", "group", "serving", "nodes"],
    ["report", "pages", "reference", "tables"],
    ["engines", "models", "dataset_card", "hub", "deduplicate", "loaders", "data", "lineage"],
    ["configs", "figures", "drawings", "plots", "shards", "progress", "minhash", "ngrams"],
    ["checks"],
    ["tiny", "filters", "toy", "metrics", "significance", "seeds", "bootstrap", "rewards", "sandbox", "prompts"],
    ["protocol", "hardware", "architectures", "algorithms"],
    ["benchmarks"],
    ["failures"],
    ["system", "directory", "network", "errors", "processes", "quiet"],
]
TASKS = next(layer for layer in LAYERS if "grpo" in layer)  # these never import one another
RANK = {name: (i, j) for i, layer in enumerate(LAYERS) for j, name in enumerate(layer)}


def imported(path: Path) -> set[str]:
    """First-level names of this package that a file imports, anywhere in it but for annotations only."""
    package = ["open_r1", *path.relative_to(SOURCE).parts[:-1]]
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "open_r1" and len(parts) > 1 and parts[1] in RANK:
                found.add(parts[1])
    return found


def own_name(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    modules = {own_name(path) for path in SOURCE.rglob("*.py")} - {"__init__"}
    assert modules == set(RANK)


def test_imports_go_down_only():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        name = own_name(path)
        for other in imported(path) - {name}:
            if name == "__init__" or RANK[other] <= RANK[name] or {name, other} <= set(TASKS):
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert not wrong


def test_the_import_check_sees_relative_and_absolute_imports():
    assert {"run", "configs"} <= imported(SOURCE / "callbacks.py") | imported(SOURCE / "sft.py")
    assert "errors" in imported(SOURCE / "rewards" / "__init__.py")


def test_no_module_hides_one_of_the_standard_library():
    """`accelerate launch src/open_r1/sft.py` puts this package's folder before all others."""
    assert not {own_name(path) for path in SOURCE.glob("*")} & sys.stdlib_module_names


def loaded_by(code: str) -> set[str]:
    ask = f"import sys; {code}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_rewards_import_neither_torch_nor_trl():
    heavy = {"torch", "trl", "transformers", "datasets"}
    judged = "r.accuracy('<think>a</think>\\\\boxed{\\\\frac12}', '0.5')"
    code = f"import open_r1.rewards.batch, open_r1.rewards.math as r; {judged}"
    assert not heavy & loaded_by(code)


def test_help_imports_nothing_heavy():
    heavy = {"torch", "trl", "transformers", "datasets", "yaml", "pydantic", "matplotlib"}
    code = (
        "import open_r1.cli as c; sys.argv = ['open-r1', '--help']\ntry: c.main()\nexcept SystemExit: pass\nelse: 1/0"
    )
    ask = f"import sys; {code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert "train" in done.stdout and not heavy & set(done.stdout.split())
