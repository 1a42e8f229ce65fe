"""Mixtures: amounts, draws, columns, and the dataset that is left."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from open_r1 import mix
from open_r1.config.loading import load_recipe
from open_r1.config.schema import DatasetConfig
from open_r1.data.rows import load_rows
from open_r1.data.sources import load_source
from open_r1.errors import RecipeError
from open_r1.system import files


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def conversations(path: Path, rows: int, **columns: object) -> str:
    name = path.stem
    return jsonl(path, [{"messages": turns(f"{name} asks {i}", f"{name} says {i}")} | columns for i in range(rows)])


def resolved(tmp_path: Path, *sources: dict, name: str = "mixture", **keys: object):
    path = tmp_path / "recipes" / "small" / "mix" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"datasets": list(sources), "seed": 0, "output_dir": str(tmp_path / name)} | keys
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return load_recipe(path)


def mixed(recipe) -> tuple[list[dict], dict]:
    """Rows and summary of a mixture, without a run around it."""
    folder = recipe.run_dir / "data"
    summary = mix.mix(recipe, load_rows(recipe, recipe.args.keep), folder)
    return datasets.load_dataset(str(folder), split="train").to_list(), summary


def refused(recipe) -> str:
    with pytest.raises(RecipeError) as error:
        mixed(recipe)
    return str(error.value)


def answers(rows: list[dict], of: str = "") -> list[str]:
    said = [row["messages"][-1]["content"] for row in rows]
    return [text for text in said if text.startswith(of)]


SOURCE = DatasetConfig("a.jsonl")


@pytest.mark.parametrize(
    ("sources", "available", "rows", "expected"),
    [
        ([{}, {}], [7, 5], None, [7, 5]),
        ([{"rows": 3}, {}], [7, 5], None, [3, 5]),
        ([{"epochs": 2}, {"epochs": 0.4}], [7, 5], None, [14, 2]),
        ([{"epochs": 2.5}], [10], None, [25]),
        # 3 : 1; the scarcest source decides.
        ([{"weight": 0.75}, {"weight": 0.25}], [600, 150], None, [450, 150]),
        ([{"weight": 0.75}, {"weight": 0.25}], [60, 150], None, [60, 20]),
        ([{"weight": 0.75}, {"weight": 0.25}], [600, 200], 101, [76, 25]),
        ([{"weight": 1 / 3}] * 3, [10, 10, 10], 10, [4, 3, 3]),
        # 0.1 * 30 / 0.1 is 29.999999999999996 / 0.1 in floating point.
        ([{"weight": 0.1}, {"weight": 0.9}], [3, 1000], None, [3, 27]),
        # A weighted source repeats as often as it says, and no oftener.
        ([{"weight": 0.5, "epochs": 2}, {"weight": 0.5}], [10, 30], None, [20, 20]),
        ([{"weight": 0.5, "epochs": 2}, {"weight": 0.5}], [10, 30], 30, [15, 15]),
    ],
)
def test_amounts(sources, available, rows, expected):
    assert mix.compute_sizes([DatasetConfig("a.jsonl", **source) for source in sources], available, rows) == expected


@pytest.mark.parametrize(
    ("sources", "available", "rows", "told"),
    [
        ([{"rows": 8}], [7], None, ["8 rows are asked for, and it has 7", "`epochs: 1.15`"]),
        (
            [{"weight": 0.75}, {"weight": 0.25}],
            [600, 10],
            100,
            ["datasets.1", "25 rows", "it has 10", "to 40 or less"],
        ),
        ([{"weight": 0.5, "epochs": 2}, {"weight": 0.5}], [10, 99], 60, ["30 rows", "20 in 2 epochs", "`epochs: 3`"]),
        ([{"weight": 0.999}, {"weight": 0.001}], [600, 10], 100, ["datasets.1", "none of its 10 rows"]),
        ([{}, {}], [7, 0], None, ["datasets.1", "none of its rows is left: all are repeats or contaminated"]),
        ([{"epochs": 0.01}], [7], None, ["none of its 7 rows"]),
        ([{"rows": 0}], [7], None, ["none of its 7 rows"]),
    ],
)
def test_amounts_that_cannot_be_had(sources, available, rows, told):
    with pytest.raises(RecipeError) as error:
        mix.compute_sizes([DatasetConfig("a.jsonl", **source) for source in sources], available, rows)
    assert all(part in str(error.value) for part in told), error.value


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_shares_are_as_near_as_whole_rows_allow(parts, drawn):
    weights = [part / sum(parts) for part in parts]
    available = [drawn.draw(st.integers(100, 3000)) for _ in parts]
    counts = mix.compute_sizes([DatasetConfig("a.jsonl", weight=w) for w in weights], available, None)
    total = sum(counts)
    assert all(abs(count - total * weight) < 1 for count, weight in zip(counts, weights, strict=True))
    assert all(count <= n for count, n in zip(counts, available, strict=True))
    # One row more would not do: the scarcest source has not that many.
    fits = min(n / weight for n, weight in zip(available, weights, strict=True))
    assert total <= fits + 1e-6 < total + 1


def test_a_draw_takes_every_row_once_an_epoch_in_orders_of_its_own():
    numbers = np.arange(100, 200)
    drawn = mix.draw(numbers, 250, 0, "a")
    first, second, part = drawn[:100], drawn[100:200], drawn[200:]
    assert sorted(first) == sorted(second) == numbers.tolist() and len(set(part)) == 50
    assert not np.array_equal(first, second) and not np.array_equal(first, numbers)
    assert np.array_equal(mix.draw(numbers, 30, 0, "a"), drawn[:30]), "fewer rows are the first of more"
    assert not np.array_equal(mix.draw(numbers, 30, 1, "a"), drawn[:30])
    assert not np.array_equal(mix.draw(numbers, 30, 0, "b"), drawn[:30])
    assert len(mix.draw(numbers, 0, 0, "a")) == 0


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))}


def test_the_same_recipe_gives_the_same_bytes_also_after_a_kill(tmp_path):
    a, b = conversations(tmp_path / "a.jsonl", 105), conversations(tmp_path / "b.jsonl", 45)
    sources = [{"path": a, "weight": 0.7}, {"path": b, "weight": 0.3}]
    one, two = (resolved(tmp_path, *sources, name=name, shard_rows=32) for name in ("one", "two"))
    rows, _ = mixed(one)
    mixed(two)
    before = hashes(one.run_dir / "data")
    assert len(before) == 5 and before == hashes(two.run_dir / "data")
    next((two.run_dir / "data").glob("*-00002-of-*")).unlink()
    (two.run_dir / "data" / "train-00004-of-00005.parquet").write_bytes(b"PAR1 cut")
    (two.run_dir / "data" / ".train-00001-of-00005.parquet.ab.partial").write_bytes(b"half")
    mixed(two)
    assert before == hashes(two.run_dir / "data") and not list((two.run_dir / "data").glob(".*"))
    other, _ = mixed(resolved(tmp_path, *sources, name="other", seed=1))
    assert answers(other) != answers(rows)


def test_a_change_of_one_source_leaves_the_choice_within_the_others(tmp_path):
    a, b = conversations(tmp_path / "a.jsonl", 60), conversations(tmp_path / "b.jsonl", 60)
    c = conversations(tmp_path / "c.jsonl", 10)
    before, _ = mixed(resolved(tmp_path, {"path": a, "rows": 20}, {"path": b, "rows": 30}, name="one"))
    after, _ = mixed(resolved(tmp_path, {"path": c}, {"path": b, "rows": 40}, {"path": a, "rows": 20}, name="two"))
    assert answers(before, "a") == answers(after, "a") and len(answers(before, "a")) == 20
    assert answers(before, "b") == answers(after, "b")[:30]


def test_sources_are_interleaved(tmp_path):
    a, b = conversations(tmp_path / "a.jsonl", 300), conversations(tmp_path / "b.jsonl", 100)
    rows, _ = mixed(resolved(tmp_path, {"path": a}, {"path": b}, shard_rows=100))
    assert sorted(answers(rows, "a")) == sorted(f"a says {i}" for i in range(300))
    quarters = [len(answers(rows[i : i + 100], "b")) for i in range(0, 400, 100)]
    assert sum(quarters) == 100 and all(10 < count < 40 for count in quarters), quarters


def test_epochs_repeat_a_source_whole_before_any_row_comes_again(tmp_path):
    a, b = conversations(tmp_path / "a.jsonl", 20), conversations(tmp_path / "b.jsonl", 30)
    rows, summary = mixed(resolved(tmp_path, {"path": a, "epochs": 2.5}, {"path": b}))
    said = answers(rows, "a")
    assert len(said) == 50 and len(set(said[:20])) == len(set(said[20:40])) == 20
    assert Counter(Counter(said).values()) == {3: 10, 2: 10}
    assert [source["epochs"] for source in summary["sources"]] == [2.5, 1.0]


def test_rows_that_are_left_out_are_never_drawn(tmp_path):
    a, b = conversations(tmp_path / "a.jsonl", 40), conversations(tmp_path / "b.jsonl", 40)
    recipe = resolved(tmp_path, {"path": a, "epochs": 2}, {"path": b, "rows": 29})
    kept = np.array([i for i in range(80) if i % 4 and i != 79])
    summary = mix.mix(recipe, load_rows(recipe).keep(kept), recipe.run_dir / "data")
    rows = datasets.load_dataset(str(recipe.run_dir / "data"), split="train").to_list()
    assert sorted(answers(rows, "a")) == sorted(2 * [f"a says {i}" for i in range(40) if i % 4])
    assert sorted(answers(rows, "b")) == sorted(f"b says {i - 40}" for i in kept if i >= 40)
    assert [source["left_out"] for source in summary["sources"]] == [10, 11]


def test_prompts_and_completions_become_conversations(tmp_path):
    texts = jsonl(tmp_path / "t.jsonl", [{"prompt": "1+1?", "completion": "2", "tokens": 3, "other": [1]}])
    asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    chats = jsonl(tmp_path / "c.jsonl", [{"prompt": asked, "completion": "hello", "model": "m"}])
    whole = jsonl(tmp_path / "w.jsonl", [{"messages": turns("q", "a"), "seed": 7, "prompt_id": "ab"}])
    shape = [{"path": texts, "kind": "math"}, {"path": chats, "license": "mit"}, {"path": whole}]
    rows, _ = mixed(resolved(tmp_path, *shape))
    by_answer = {row["messages"][-1]["content"]: row for row in rows}
    assert by_answer["2"]["messages"] == turns("1+1?", "2")
    assert by_answer["hello"]["messages"] == [*asked, {"role": "assistant", "content": "hello"}]
    assert by_answer["a"]["messages"] == turns("q", "a")
    assert set(rows[0]) == {"messages", "prompt_id", "seed", "model", "tokens", "kind", "source", "license"}
    assert [by_answer[a]["kind"] for a in ("2", "hello", "a")] == ["math", None, None]
    assert by_answer["2"]["tokens"] == 3 and by_answer["a"]["tokens"] is None and by_answer["a"]["seed"] == 7
    assert by_answer["hello"]["license"] == "mit" and by_answer["2"]["license"] is None
    assert by_answer["2"]["source"] == texts


def test_a_sampled_answer_is_mixed_and_not_the_conversation_its_prompt_came_from(tmp_path):
    sampled = {"prompt": "hi", "completion": "sampled", "messages": turns("hi", "the source's")}
    told, _ = mixed(resolved(tmp_path, {"path": jsonl(tmp_path / "s.jsonl", [sampled])}))
    assert answers(told) == ["sampled"]
    chats = {"prompt": "hi", "messages": turns("hi", "its own")}
    told, _ = mixed(resolved(tmp_path, {"path": jsonl(tmp_path / "c.jsonl", [chats])}, name="chats"))
    assert answers(told) == ["its own"]


def test_columns_to_keep(tmp_path):
    a = conversations(tmp_path / "a.jsonl", 3, level=5, license="cc0-1.0", kind="math")
    rows, _ = mixed(resolved(tmp_path, {"path": a, "license": "mit"}, keep=["level"]))
    assert {(row["level"], row["license"], row["kind"]) for row in rows} == {(5, "mit", "math")}
    rows, _ = mixed(resolved(tmp_path, {"path": a}, name="own"))
    assert {row["license"] for row in rows} == {"cc0-1.0"} and "level" not in rows[0]
    assert "'level'" in refused(resolved(tmp_path, {"path": conversations(tmp_path / "b.jsonl", 3)}, keep=["level"]))


def test_preference_pairs_and_prompts(tmp_path):
    pair = {"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 1.0, "chosen_tokens": 4, "junk": 1}
    rows, summary = mixed(resolved(tmp_path, {"path": jsonl(tmp_path / "p.jsonl", [pair] * 3)}))
    assert set(rows[0]) == {*pair, "kind", "source", "license"} - {"junk"}
    assert summary["length_of"] == "prompt and chosen" and summary["total"]["mean"] == 2
    task = {"prompt": "q", "solution": "4", "tests": ["a"]}
    rows, summary = mixed(resolved(tmp_path, {"path": jsonl(tmp_path / "t.jsonl", [task] * 3)}, name="prompts"))
    assert rows[0]["tests"] == ["a"] and rows[0]["prompt"] == "q", "rewards may read any column"
    assert summary["length_of"] == "prompt"


def test_sources_that_do_not_go_together(tmp_path):
    a = conversations(tmp_path / "a.jsonl", 3)
    pairs = jsonl(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    told = refused(resolved(tmp_path, {"path": a}, {"path": pairs}))
    assert "p.jsonl) holds preference pairs" in told and "a.jsonl) conversations" in told
    other = conversations(tmp_path / "o.jsonl", 3, seed="text")
    told = refused(resolved(tmp_path, {"path": conversations(tmp_path / "b.jsonl", 3, seed=1)}, {"path": other}))
    assert "'seed'" in told and "o.jsonl" in told
    assert "needs the columns messages" in refused(
        resolved(tmp_path, {"path": jsonl(tmp_path / "x.jsonl", [{"x": 1}])})
    )


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "q", "completion": None}, "no conversation"),
        ({"prompt": "q", "completion": " "}, "does not end with an answer"),
        ({"messages": turns("q", "a")[:1]}, "does not end with an answer"),
        ({"messages": [{"role": "user"}]}, "needs a role and a text"),
    ],
)
def test_a_row_without_an_answer_is_named(tmp_path, row, told):
    good = {"prompt": "q", "completion": "a"} if "prompt" in row else {"messages": turns("q", "a")}
    path = jsonl(tmp_path / "a.jsonl", [*[good] * 4, row, *[good] * 4])
    message = refused(resolved(tmp_path, {"path": path}))
    assert told in message and "a.jsonl), row 4" in message


@pytest.mark.parametrize(("key", "value"), [("prompt", "boxed"), ("system_prompt", "s"), ("chat_template", "r1")])
def test_a_mix_presents_no_prompts(tmp_path, key, value):
    recipe = resolved(tmp_path, {"path": conversations(tmp_path / "a.jsonl", 3)}, **{key: value})
    with pytest.raises(RecipeError, match=f"^{key}: .*trains on the mixture"):
        mix.main(recipe)
    assert not recipe.run_dir.exists()


def test_a_run(tmp_path, capsys):
    a, b = (
        conversations(tmp_path / "a.jsonl", 30, kind="math"),
        conversations(tmp_path / "b.jsonl", 20, kind="general"),
    )
    tokenizer = {"tokenizer_name_or_path": "open_r1.models:byte_tokenizer"}
    recipe = resolved(tmp_path, {"path": a, "weight": 0.75}, {"path": b, "weight": 0.25}, **tokenizer)
    done = mix.main(recipe)
    told = capsys.readouterr().out
    assert files.is_finished(done.dir)
    assert told.splitlines()[1].split()[:4] == ["a.jsonl", "30", "75.0%", "weight"]
    rows = datasets.load_dataset(str(done.dir / "data"), split="train")
    total = files.read_json(done.dir / "summary.json")["total"]
    lengths = [sum(len(message["content"].encode()) for message in row["messages"]) for row in rows]
    assert len(rows) == 40 == total["samples"] and total["mean"] == round(sum(lengths) / 40, 1)
    # The mixture is a source of training and of further mixtures.
    assert len(load_source(DatasetConfig(str(recipe.path)), seed=0)) == 40


def test_rows_that_repeat_an_earlier_one_are_left_out_before_the_draw(tmp_path):
    """In whichever source and form the earlier one stands; the amounts asked for are still had."""
    a = conversations(tmp_path / "a.jsonl", 9)
    b = [{"prompt": f"A asks  {i}!", "completion": f"b says {i}"} for i in range(12)]
    recipe = resolved(
        tmp_path, {"path": a}, {"path": jsonl(tmp_path / "b.jsonl", b), "rows": 3}, deduplicate={"column": "prompt"}
    )
    done = mix.main(recipe)
    rows = datasets.load_dataset(str(done.dir / "data"), split="train").to_list()
    assert sorted(answers(rows)) == sorted([f"a says {i}" for i in range(9)] + [f"b says {i}" for i in (9, 10, 11)])
    summary = files.read_json(done.dir / "summary.json")
    assert [source["left_out"] for source in summary["sources"]] == [0, 9]
    assert summary["repeated"] == {"exact": 9, "near": 0}
    card = (done.dir / "data" / "README.md").read_text()
    assert "0 of a.jsonl, 9 of b.jsonl rows. 9 of them repeat an earlier row, and 0 are near-duplicates." in card


def test_deduplicate_names_the_source_without_the_column(tmp_path):
    a, b = conversations(tmp_path / "a.jsonl", 3, text="t"), conversations(tmp_path / "b.jsonl", 3)
    recipe = resolved(tmp_path, {"path": a}, {"path": b}, deduplicate={"column": "text"})
    with pytest.raises(RecipeError, match=r"datasets\.1 .*b\.jsonl\) has no 'text'"):
        mix.main(recipe)


PROBLEM = "a train leaves the station at noon and travels north at sixty miles an hour until it stops"


@pytest.mark.parametrize("form", ["messages", "completion"])
def test_contaminated_rows_are_left_out_before_the_draw(tmp_path, form):
    """In every source, also where some hold conversations and others prompts and completions."""
    held_out = jsonl(tmp_path / "held_out.jsonl", [{"prompt": PROBLEM}])
    planted = {"messages": turns(PROBLEM.upper().replace(" ", "  "), "bad")}
    a = jsonl(tmp_path / "a.jsonl", [{"messages": turns(f"q {i}", "good")} for i in range(5)] + [planted])
    pairs = [*((f"r {i}", "good") for i in range(5)), (f"Once {PROBLEM} at last.", "bad")]
    other = {
        "messages": [{"messages": turns(*pair)} for pair in pairs],
        "completion": [dict(zip(("prompt", "completion"), pair, strict=True)) for pair in pairs],
    }[form]
    gate = {"against": [held_out], "action": "drop"}
    sources = [{"path": a, "rows": 5}, {"path": jsonl(tmp_path / "b.jsonl", other), "rows": 5}]
    done = mix.main(resolved(tmp_path, *sources, contamination=gate))
    assert answers(datasets.load_dataset(str(done.dir / "data"), split="train").to_list()) == ["good"] * 10
    assert "By set: held_out.jsonl: 2 10-gram; they were dropped." in (done.dir / "data" / "README.md").read_text()
    with pytest.raises(RecipeError, match="6 rows are asked for, and it has 5"):
        mix.main(resolved(tmp_path, sources[0] | {"rows": 6}, name="more", contamination=gate))
    with pytest.raises(RecipeError, match="contamination: 2 of 12"):
        mix.main(resolved(tmp_path, *sources, name="fail", contamination=gate | {"action": "fail"}))
    assert not (tmp_path / "fail" / "data").exists()
    waived = gate | {"action": "waive", "reason": "to see what they do"}
    done = mix.main(resolved(tmp_path, *[source | {"rows": 6} for source in sources], name="w", contamination=waived))
    assert "they are kept. Reason: to see what they do" in (done.dir / "data" / "README.md").read_text()


def test_real_instructions(tmp_path):
    """Columns of another name, an input that is often empty, and two languages."""
    sources = [
        {
            "path": str(shared("preference", f"alpaca_{language}_demo.json")),
            "template": {"prompt": "{instruction}\n{input}"},
            "columns": {"completion": "output"},
            "weight": 0.5,
            "kind": "general",
            "license": "apache-2.0",
        }
        for language in ("en", "zh")
    ]
    rows, summary = mixed(resolved(tmp_path, *sources, rows=1000))
    stored = [json.loads(Path(source["path"]).read_text()) for source in sources]
    told = {f"{row['instruction']}\n{row['input']}".strip(): row["output"] for rows_ in stored for row in rows_}
    assert len(rows) == 1000 and len({row["messages"][0]["content"] for row in rows}) > 990
    assert all(told[row["messages"][0]["content"]] == row["messages"][1]["content"] for row in rows)
    assert [row["samples"] for row in summary["by_source"]] == [500, 500]
    assert summary["total"]["rounds"] == 1.0 and summary["unit"] == "words"
