"""What changes the digest of a module, and the version of a verifier."""

from __future__ import annotations

import importlib

import pytest

from open_r1.evaluation import grading
from open_r1.rewards import registry
from open_r1.rewards.registry import RewardConfig
from open_r1.system.source_digest import digest_modules, find_libraries, find_source


def test_what_counts_as_an_import():
    math = digest_modules(["open_r1.rewards.math.scorers"])
    assert "open_r1.rewards.math.math_verify" in math, "a worker imports it by the name in pool.py"
    assert not {"open_r1.rewards.registry", "open_r1.rewards.code.scorers"} & math.keys()
    sandbox = digest_modules(["open_r1.sandbox"])
    assert {"open_r1.sandbox.guest.zygote", "open_r1.sandbox.guest.confine"} <= sandbox.keys(), (
        "a program beside zygotes.py"
    )
    assert "open_r1.rewards.code.scorers" not in digest_modules(["open_r1.rewards.registry"]), (
        "a table of names is no import"
    )
    assert "open_r1.run.lifecycle" not in digest_modules(
        ["open_r1.run.lifecycle", "open_r1.errors"], leave_out=r"open_r1\.run"
    )
    assert find_libraries(["open_r1.rewards.math.math_verify", "no_such_module"]).keys() == {
        "math-verify", "no_such_module", "sympy",
    }  # fmt: skip


VERIFIERS = ("accuracy", "code", "language_consistency", "tag_count", "llm_judge")


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("rewards/math.py", "import re\n", "# A comment.\nimport re\n", []),
        ("rewards/math.py", "import re\n", "import re\nMORE = 1\n", ["accuracy"]),
        ("rewards/symbolic.py", "import re\n", "import re\nMORE = 1\n", ["accuracy"]),
        ("rewards/exact/ring.py", "\ndef ", "\nMORE = 1\n\ndef ", ["accuracy"]),
        ("rewards/code.py", "import re\n", "import re\nMORE = 1\n", ["code"]),
        ("sandbox/judging.py", "import re\n", "import re\nMORE = 1\n", ["code"]),
        ("sandbox/tester.py", "import re\n", "import re\nMORE = 1\n", ["code"]),
        ("rewards/format.py", "\ndef ", "\nMORE = 1\n\ndef ", ["language_consistency", "tag_count"]),
        ("prompts.py", "import json\n", "import json\nMORE = 1\n", ["llm_judge"]),
        ("rewards/__init__.py", "REWARDS: ", "MORE = 1\nREWARDS: ", []),
        ("rewards/batch.py", "import json\n", "import json\nMORE = 1\n", VERIFIERS),
        ("metrics.py", "import re\n", "import re\nMORE = 1\n", []),
    ],
)
def test_a_version_changes_with_the_code_of_its_own_verifier_only(file, old, new, changed, source):
    before = {name: registry.version(name) for name in VERIFIERS}
    text = (source / file).read_text()
    assert old in text
    (source / file).write_text(text.replace(old, new, 1))
    registry.version.cache_clear()
    assert [name for name in VERIFIERS if registry.version(name) != before[name]] == list(changed)


def test_a_version_names_the_libraries_that_its_verifier_rests_on():
    libraries = {name: [*registry.list_libraries(name)] for name in VERIFIERS}
    assert libraries["accuracy"] == ["math-verify", "sympy"] and libraries["code"] == libraries["tag_count"] == []
    assert libraries["language_consistency"] == ["lingua-language-detector"]
    assert grading.grader_version(RewardConfig("accuracy", parameters={"a": 1})).startswith("accuracy(a=1) ")
    assert "math-verify" in registry.version("accuracy")


def test_a_user_s_verifier_has_a_version_of_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_rule.py").write_text("import sympy\nRIGHT = 1\n")
    bodies = {
        "own_first": "import own_rule\ndef score(completion):\n    return own_rule.RIGHT\n",
        "own_commented": 'import own_rule\n# more\ndef score(completion):\n    "One."\n    return own_rule.RIGHT\n',
        "own_changed": "import own_rule\ndef score(completion):\n    return 0\n",
    }
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(body)
    importlib.invalidate_caches()
    find_source.cache_clear()
    first, commented, changed = (digest_modules([name])[name] for name in bodies)
    assert first == commented != changed
    before = registry.version("own_first:score")
    assert "sympy" in before
    (tmp_path / "own_rule.py").write_text("import sympy\nRIGHT = 0.5\n")
    registry.version.cache_clear()
    assert registry.version("own_first:score") != before
