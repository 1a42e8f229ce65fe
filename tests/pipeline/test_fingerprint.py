"""What changes the address of a stage, and what does not."""

from __future__ import annotations

import ast
import importlib
import json
import re

import pytest

from open_r1.config.loading import resolve_recipe
from open_r1.config.schema import TASKS
from open_r1.engines.registry import ENGINES
from open_r1.pipeline import fingerprint
from open_r1.rewards.registry import REWARDS
from open_r1.system import source_digest


@pytest.fixture
def digest(write_recipe):
    def do(task: str = "select", **keys: object) -> str:
        path = write_recipe(task, **keys)
        return fingerprint.fingerprint_stage(*resolve_recipe(path, {}))["digest"]

    return do


def test_keys_of_the_recipe_change_it_but_not_where_and_how_it_is_shown(digest):
    first = digest()
    assert digest() == first and len(first) == 12
    assert digest(output_dir="elsewhere") == first and digest(overwrite=True) == first
    assert digest(seed=1) != first and digest(filters=[{"name": "finished"}]) != first
    sampled = digest("sample", engine={"name": "transformers"})
    assert digest("sample", engine={"name": "transformers", "batch_size": 3}) == sampled
    assert digest("sample", sampling={"n": 3, "max_tokens": 8}, engine={"name": "transformers"}) != sampled


def test_another_file_or_model_is_another_address(digest, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    first = digest(datasets=[str(rows)])
    rows.write_text(json.dumps({"prompt": "a", "completion": "c"}) + "\n")
    second = digest(datasets=[str(rows)])
    assert second != first
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one.jsonl").write_text("1")
    third = digest(datasets=[str(folder)])
    (folder / "two.jsonl").write_text("1")
    assert digest(datasets=[str(folder)]) != third
    gated = digest(contamination={"against": [{"path": str(rows)}]})
    rows.write_text(json.dumps({"prompt": "d"}) + "\n")
    assert digest(contamination={"against": [{"path": str(rows)}]}) != gated


def test_files_are_found_wherever_a_recipe_names_them(digest, tmp_path):
    named = {name: tmp_path / name for name in ("template.jinja", "rows.jsonl", "zero.json")}
    keys = {
        "sft": {"chat_template_path": str(named["template.jinja"]), "deepspeed": str(named["zero.json"])},
        "evaluate": {"completions": str(named["rows.jsonl"])},
    }
    for path in named.values():
        path.write_text("1")
    before = {task: digest(task, **given) for task, given in keys.items()}
    for path, task in zip(named.values(), ("sft", "evaluate", "sft"), strict=True):
        path.write_text("2")
        now = digest(task, **keys[task])
        assert now != before[task], path
        before[task] = now


def test_a_large_file_is_known_by_its_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE", 10)
    monkeypatch.setattr(fingerprint, "END", 4)
    file = tmp_path / "weights"
    told = []
    for content in (b"aaaabbbbcccc", b"aaaabbbbcccd", b"aaaabbbbbcccc", b"xaaabbbbcccc"):
        file.write_bytes(content)
        told.append(fingerprint.digest_path(file))
    assert len(set(told)) == 4


BODY = '''
"""A judge."""
from open_r1.rewards import CORRECT

def judge(completion, solution):
    """Says yes."""
    return CORRECT
'''


@pytest.mark.parametrize(
    "changed, same",
    [
        (BODY.replace("A judge", "Another text").replace("Says yes", "Says yes, always"), True),
        (BODY + "\n# a comment\n", True),
        (BODY.replace("    return", "\n    return"), True),
        (BODY.replace("return CORRECT", "return 1.0"), False),
        (BODY.replace("solution", "answer"), False),
    ],
)
def test_code_counts_and_words_do_not(changed, same, digest, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_judge_of_a_test.py").write_text(BODY)
    importlib.invalidate_caches()
    source_digest.find_source.cache_clear()
    before = digest(rewards=["own_judge_of_a_test:judge"])
    (tmp_path / "own_judge_of_a_test.py").write_text(changed)
    assert (digest(rewards=["own_judge_of_a_test:judge"]) == before) == same


def test_what_one_s_own_module_imports_counts(digest, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_rule_of_a_test.py").write_text("LEAST = 1\n")
    body = BODY.replace("from open_r1", "import json\nimport numpy\nimport own_rule_of_a_test\nfrom open_r1")
    (tmp_path / "own_judge_of_another_test.py").write_text(body)
    importlib.invalidate_caches()
    before = digest(rewards=["own_judge_of_another_test:judge"])
    (tmp_path / "own_rule_of_a_test.py").write_text("LEAST = 22\n")
    assert digest(rewards=["own_judge_of_another_test:judge"]) != before


def test_the_words_of_a_benchmark_count_for_nothing(digest):
    benchmark = {"name": "tiny", "problems": 8, "k": 4}
    first = digest("evaluate", benchmarks=[benchmark])
    assert digest("evaluate", benchmarks=[benchmark | {"title": "Another"}]) == first
    assert digest("evaluate", benchmarks=[benchmark | {"k": 5}]) != first


def test_libraries(write_recipe):
    found = [
        fingerprint.fingerprint_stage(*resolve_recipe(write_recipe(task, **keys), {}))["libraries"]
        for task, keys in (
            ("sample", {"engine": "vllm"}),
            ("select", {"rewards": [{"name": "reward_model", "model": "some/model"}]}),
            ("sft", {"accelerate_config": "zero3", "load_in_4bit": True}),
        )
    ]
    assert "vllm" in found[0] and "torch" in found[1] and {"deepspeed", "bitsandbytes", "python"} <= set(found[2])
    assert "torch" not in fingerprint.fingerprint_stage(*resolve_recipe(write_recipe("select"), {}))["libraries"]
    measured = fingerprint.fingerprint_stage(*resolve_recipe(write_recipe("evaluate", benchmarks=["tiny"]), {}))
    assert "lingua-language-detector" in measured["libraries"], "every evaluation measures the language"


def code(write_recipe, task: str, **keys: object) -> set[str]:
    return {
        name.removeprefix("open_r1.")
        for name in fingerprint.fingerprint_stage(*resolve_recipe(write_recipe(task, **keys), {}))["code"]
    }


def test_a_task_depends_on_what_it_runs_and_on_no_more(write_recipe):
    grpo, sft, selection = (code(write_recipe, task) for task in ("grpo", "sft", "select"))
    assert {
        "grpo", "data.sources", "models", "run.lifecycle", "config.loading", "training.callbacks",
        "training.live_evaluation", "data.contamination", "evaluation.grading", "evaluation.metrics", "prompts",
        "rewards.scoring", "rewards.math.scorers", "rewards.format", "tiny.problems",
    } <= grpo  # fmt: skip
    assert {"sft", "data.sources"} <= sft
    assert not {"grpo", "selection", "training.live_evaluation", "evaluation.grading", "sandbox.pool"} & sft
    assert {
        "selection", "filters.rules", "curation.scoring", "curation.by_prompt", "curation.rejection_sampling",
        "curation.funnel", "data.deduplicate", "data.ngrams", "curation.curriculum",
    } <= selection  # fmt: skip
    assert "grpo" not in selection
    for found in (grpo, sft, selection):
        assert not {name.partition(".")[0] for name in found} & {"report", "estimate", "pipeline", "cli", "launch"}
    assert "rewards.code.scorers" not in grpo
    assert "rewards.code.scorers" in code(write_recipe, "grpo", rewards=["code"])
    engines = [code(write_recipe, "sample", engine=name) for name in ("transformers", "vllm")]
    assert "engines.transformers" in engines[0] and "engines.vllm" in engines[1] - engines[0]
    judged = code(write_recipe, "evaluate", benchmarks=["humaneval"])
    assert {"rewards.code.scorers", "sandbox.guest.zygote", "sandbox.guest.inside", "sandbox.guest.tester"} <= judged


RECIPES = {
    "evaluate": {"benchmarks": ["humaneval", "tiny"]},
    "grpo": {"evaluation": {"datasets": ["open_r1.tiny.problems:problems"]}},
    "select": {"rewards": ["accuracy"]},
    "sft": {},
}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("evaluation/metrics.py", '"mean_length": evaluation', '"length": evaluation', ["evaluate", "grpo"]),
        ("evaluation/metrics.py", "    return evaluation[", "    # A comment.\n    return evaluation[", []),
        (
            "evaluation/metrics.py",
            '    """The figures of an evaluation for summary',
            '    """These are for summary',
            [],
        ),
        ("data/card.py", "def measure_dataset(", "MORE = 1\n\ndef measure_dataset(", RECIPES),
        ("rewards/math/math_verify.py", "\ndef ", "\nMORE = 1\n\ndef ", RECIPES),
        ("sandbox/guest/inside.py", "import io\n", "import io\nMORE = 1\n", ["evaluate"]),
        ("training/live_evaluation.py", "LEVEL = 0.95", "LEVEL = 0.99", ["grpo"]),
        ("templates/r1.jinja", "{", "more{", RECIPES),
        ("report/templates/report.html.jinja", "<", "more<", []),
        ("report/run_report.py", "CONTAMINATED = 10", "CONTAMINATED = 11", []),
        ("report/plots.py", "\ndef ", "\nMORE = 1\n\ndef ", []),
        ("estimate/speed.py", "UTILISATION = ", "UTILISATION = 0.1 * ", []),
    ],
)
def test_code_that_computes_changes_addresses(file, old, new, changed, digest, source, monkeypatch):
    monkeypatch.setattr(fingerprint, "PACKAGE", source)
    before = {task: digest(task, **keys) for task, keys in RECIPES.items()}
    text = (source / file).read_text()
    assert old in text
    (source / file).write_text(text.replace(old, new, 1))
    after = {task: digest(task, **keys) for task, keys in RECIPES.items()}
    assert [task for task in RECIPES if after[task] != before[task]] == list(changed)


def uses_of_presentation(module: str) -> list[int]:
    """Lines of a module that take a value from presentation; a call whose value is only printed takes none."""
    path = source_digest.find_source(module)
    tree = ast.parse(path.read_text())
    base = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    imported, harmless = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            of = ".".join([*(base[: len(base) - node.level + 1] if node.level else []), *filter(None, [node.module])])
            names = [(f"{of}.{alias.name}", alias) for alias in node.names]
        else:
            names = [(alias.name, alias) for alias in node.names] if isinstance(node, ast.Import) else []
        imported |= {a.asname or a.name for name, a in names if re.fullmatch(fingerprint.PRESENTATION, name)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = [node.value]
            if ast.unparse(node.value.func).rpartition(".")[2] in ("print", "say"):
                called = [argument for argument in node.value.args if isinstance(argument, ast.Call)]
            harmless |= {part for call in called for part in ast.walk(call.func)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in imported and node not in harmless
    ]


def test_no_result_takes_a_value_from_presentation():
    """Such a value could change a result at an unchanged address."""
    roots = [f"open_r1.{'selection' if task == 'select' else task}" for task in TASKS]
    roots += [place.partition(":")[0] for place in (*ENGINES.values(), *REWARDS.values())]
    modules = source_digest.digest_modules(roots, fingerprint.PRESENTATION)
    assert {
        f"open_r1.{name}"
        for name in (
            "run.lifecycle",
            "training.live_evaluation",
            "evaluate",
            "training.preflight",
            "evaluation.metrics",
        )
    } <= modules.keys()
    assert not {module: lines for module in modules if (lines := uses_of_presentation(module))}


def test_a_value_taken_from_presentation_is_seen(source):
    path = source / "training" / "live_evaluation.py"
    path.write_text(
        path.read_text().replace("write_json(self.run.dir", "run_report.table(1, 2)\n        write_json(self.run.dir")
    )
    assert not uses_of_presentation("open_r1.training.live_evaluation")
    path.write_text(path.read_text().replace("run_report.table(1, 2)", "summary |= run_report.table(1, 2)"))
    assert len(uses_of_presentation("open_r1.training.live_evaluation")) == 1
