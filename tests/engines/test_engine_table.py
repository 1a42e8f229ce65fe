"""The table of engines, what is refused before a model loads, and the seed of a completion."""

from __future__ import annotations

import subprocess
import sys

import pytest

from open_r1.config.schema import EngineConfig
from open_r1.engines import registry
from open_r1.engines.registry import ENGINES, derive_seed
from open_r1.errors import RecipeError


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_where_the_table_says(name):
    engine = registry.find_engine(name)
    assert callable(engine.generate) and callable(engine.close)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("transformer", {}, "did you mean 'transformers'"),
        ("no_such.module:Engine", {}, "cannot be imported"),
        ("open_r1.engines.transformers:Nothing", {}, "cannot be imported"),
        ("transformers", {"batchsize": 4}, "engine.batchsize: .* did you mean 'batch_size'"),
        ("transformers", {"batch_size": 0}, "engine.batch_size: .* got 0"),
        ("transformers", {"batch_size": True}, "engine.batch_size"),
        ("server", {}, "engine.endpoints: missing"),
        ("server", {"endpoints": "localhost:8000"}, "engine.endpoints: .*no http"),
        ("server", {"endpoints": "http://me:secret@host/v1"}, "key_env"),
        ("server", {"endpoints": ["http://h/v1", "http://h/v1/"]}, "listed twice"),
        ("server", {"endpoints": "http://h/v1", "url": "x"}, "engine.url: "),
        ("server", {"endpoints": "http://h/v1", "key_env": "sk-123"}, "key_env: expected the name"),
        ("server", {"endpoints": "http://h/v1", "dialect": "vlm"}, "did you mean 'vllm'"),
        ("server", {"endpoints": "http://h/v1", "extra_body": {"n": 4}}, "engine.extra_body: n"),
        ("server", {"endpoints": "http://h/v1", "timeout": 0}, "engine.timeout"),
    ],
)
def test_what_cannot_work_is_refused_by_name(name, parameters, message):
    with pytest.raises(RecipeError, match=message) as caught:
        registry.check_engine(EngineConfig(name, parameters))
    assert "secret" not in str(caught.value) and "sk-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parameters", "wrong"),
    [
        ("transformers", {"batch_size": 4}, {"batch_sizes": 4}),
        ("open_r1.engines.transformers:Transformers", {}, {"endpoints": "http://a/v1"}),
        ("server", {"endpoints": ["http://a/v1", "http://b/v1"], "concurrency": 3}, {"concurrency": 0}),
    ],
)
def test_what_can_work_is_not(name, parameters, wrong):
    """And a near miss of the same is refused."""
    assert registry.check_engine(EngineConfig(name, parameters)) is None
    with pytest.raises(RecipeError):
        registry.check_engine(EngineConfig(name, parameters | wrong))


def test_checking_loads_no_torch():
    code = (
        "import sys; from open_r1.engines import registry; from open_r1.config.schema import EngineConfig\n"
        "registry.check_engine(EngineConfig('transformers'))\n"
        "registry.check_engine(EngineConfig('server', {'endpoints': 'http://h'}))\n"
        "assert not {'torch', 'trl', 'transformers', 'vllm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_seeds_are_31_bits_and_the_same_for_good():
    assert [derive_seed(0, 0, 0), derive_seed(0, 0, 1), derive_seed(0, 1, 0), derive_seed(1, 0, 0)] == [
        1952781802,
        769533419,
        251012350,
        691751621,
    ]
    seeds = {derive_seed(seed, row, i) for seed in range(3) for row in range(1000) for i in range(4)}
    assert len(seeds) > 11_990 and min(seeds) >= 0 and 2**30 < max(seeds) < 2**31
    assert derive_seed(1, 11, 0) != derive_seed(11, 1, 0) != derive_seed(1, 1, 10)
