"""Every row is read, mapped and presented as the recipe says, or the run stops and names it."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from open_r1.config.loading import load_recipe
from open_r1.config.schema import DataConfig, DatasetConfig
from open_r1.data import columns, presenting
from open_r1.data.rows import StoredRows, load_rows
from open_r1.errors import RecipeError
from open_r1.prompts import R1_ZERO
from open_r1.rewards.registry import RewardConfig

ROWS = [{"question": f"q{i}", "answer": f"#### {i}", "level": i, "kind": "ab"[i % 2]} for i in range(6)]
COLUMNS = {"prompt": "question", "solution": "answer"}


def jsonl(path: Path, rows: list = ROWS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(*sources: DatasetConfig, task: str = "grpo", rewards: tuple = (RewardConfig("accuracy"),), **config):
    return presenting.load_datasets(list(sources), task, DataConfig(**config), seed=0, rewards=list(rewards))


def refused(*sources: DatasetConfig, **config) -> str:
    with pytest.raises(RecipeError) as error:
        for _ in load(*sources, **config):
            pass
    return str(error.value)


def test_a_template_joins_columns(tmp_path):
    rows = [
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        {"instruction": "Hi", "input": None, "output": "!"},
    ]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    source = DatasetConfig(path, columns={"solution": "output"}, template={"prompt": "{instruction}\n{input}"})
    assert [row["prompt"][0]["content"] for row in load(source)] == ["Add\n1 and 2", "Hi"]
    wrong = DatasetConfig(path, columns={"solution": "output"}, template={"prompt": "{instructions}"})
    assert "the template '{instructions}' cannot be filled ('instructions'); its columns are" in refused(wrong)


def test_columns_and_extraction(tmp_path):
    source = DatasetConfig(jsonl(tmp_path / "rows.jsonl"), columns=COLUMNS, extract={"solution": "#### (.+)"})
    rows = load(source)
    assert rows[3]["prompt"] == [{"role": "user", "content": "q3"}] and rows[3]["solution"] == "3"
    assert rows[3]["level"] == 3, "columns a scorer may want are kept"


def test_a_column_of_our_name_is_replaced_by_the_mapped_one(tmp_path):
    rows = [{"prompt": "old", "question": "new", "solution": "1"}]
    assert load(DatasetConfig(jsonl(tmp_path / "r.jsonl", rows), columns={"prompt": "question"}))[0]["prompt"] == [
        {"role": "user", "content": "new"}
    ]


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet", "csv", "tsv", "folder", "saved"])
def test_every_local_format(tmp_path, kind):
    rows = datasets.Dataset.from_list(ROWS)
    path = tmp_path / f"rows.{kind}"
    if kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind in ("jsonl", "parquet"):
        jsonl(path) if kind == "jsonl" else rows.to_parquet(path)
    elif kind in ("csv", "tsv"):
        rows.to_pandas().to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    elif kind == "folder":
        path.mkdir()
        jsonl(path / "b.jsonl", ROWS[3:])
        jsonl(path / "a.jsonl", ROWS[:3])
    else:
        rows.save_to_disk(path)
    read = load(DatasetConfig(str(path), columns=COLUMNS))
    assert [row["prompt"][0]["content"] for row in read] == [f"q{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"level": {"min": 2, "max": 4}}, [2, 3, 4]),
        ({"kind": "a"}, [0, 2, 4]),
        ({"level": [1, 5]}, [1, 5]),
        ({"level": {"not": [0, 1]}, "kind": "b"}, [3, 5]),
        ({"answer": {"matches": "[45]$"}}, [4, 5]),
    ],
)
def test_filters(tmp_path, filters, kept):
    # Filters see the source's columns after renaming, so a mapped column goes by our name.
    filters = {{"answer": "solution"}.get(k, k): v for k, v in filters.items()}
    source = DatasetConfig(jsonl(tmp_path / "rows.jsonl"), columns=COLUMNS, filters=filters)
    assert load(source)["level"][:] == kept


def test_first_rows(tmp_path):
    source = DatasetConfig(jsonl(tmp_path / "rows.jsonl"), columns=COLUMNS, rows=2, filters={"kind": "b"})
    assert load(source)["level"][:] == [1, 3]


def test_a_weighted_mixture_sees_every_row_in_its_shares(tmp_path):
    many = [{"prompt": f"m{i}", "solution": i, "only_here": 1} for i in range(300)]
    few = [{"prompt": f"f{i}", "solution": i} for i in range(20)]
    sources = [
        DatasetConfig(jsonl(tmp_path / "many.jsonl", many), weight=0.75),
        DatasetConfig(jsonl(tmp_path / "few.jsonl", few), weight=0.25),
    ]
    prompts = [row["prompt"][0]["content"] for row in load(*sources)]
    assert {p for p in prompts if p[0] == "m"} == {f"m{i}" for i in range(300)}
    assert {p for p in prompts if p[0] == "f"} == {f"f{i}" for i in range(20)}
    assert 0.2 < sum(p[0] == "f" for p in prompts) / len(prompts) < 0.3
    assert prompts == [row["prompt"][0]["content"] for row in load(*sources)], "deterministic"


def test_without_weights_sources_are_concatenated(tmp_path):
    one = DatasetConfig(jsonl(tmp_path / "a.jsonl"), columns=COLUMNS)
    assert len(load(one, one)) == 12


def test_streaming_gives_the_same_rows(tmp_path):
    source = DatasetConfig(jsonl(tmp_path / "rows.jsonl"), columns=COLUMNS, extract={"solution": "#### (.+)"}, rows=4)
    streamed = load(source, streaming=True)
    assert isinstance(streamed, datasets.IterableDataset)
    assert list(streamed) == list(load(source))


def test_a_streamed_mixture_of_files(tmp_path):
    more = [{"question": "other", "answer": "#### 1", "elsewhere": True}]
    sources = [
        DatasetConfig(jsonl(tmp_path / "a.jsonl"), columns=COLUMNS, weight=0.5),
        DatasetConfig(jsonl(tmp_path / "b.jsonl", more), columns=COLUMNS, weight=0.5),
    ]
    rows = list(load(*sources, streaming=True))
    assert {row["prompt"][0]["content"] for row in rows} == {"other", *(f"q{i}" for i in range(6))}
    assert set(rows[0]) == {"prompt", "solution"}


def test_a_folder_keeps_its_splits_apart(tmp_path):
    jsonl(tmp_path / "train.jsonl", ROWS[:4])
    jsonl(tmp_path / "test.jsonl", ROWS[4:])
    for split, levels in (("train", [0, 1, 2, 3]), ("test", [4, 5])):
        assert load(DatasetConfig(str(tmp_path), split=split, columns=COLUMNS))["level"][:] == levels
    assert "validation" in refused(DatasetConfig(str(tmp_path), split="validation", columns=COLUMNS))


def test_a_function_is_a_source():
    rows = load(DatasetConfig("open_r1.tiny.problems:problems", args={"rows": 5, "split": "train"}))
    assert len(rows) == 5 and rows[0]["prompt"][0]["role"] == "user"


def test_prompts(tmp_path):
    source = DatasetConfig(jsonl(tmp_path / "rows.jsonl"), columns=COLUMNS)
    assert load(source, prompt="r1_zero")[0]["prompt"] == R1_ZERO.replace("{question}", "q0")
    assert load(source, prompt="boxed")[0]["prompt"][0]["content"].startswith("q0\nPlease reason step by step")
    with_system = load(source, system_prompt="be kind")[0]["prompt"]
    assert with_system == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q0"}]


def test_sft_layouts(tmp_path):
    pairs = DatasetConfig(jsonl(tmp_path / "pairs.jsonl", [{"prompt": "q", "completion": "a", "extra": 1}]))
    assert load(pairs, task="sft", rewards=())[0] == {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    assert load(pairs, task="sft", rewards=(), prompt="plain")[0] == {"prompt": "q", "completion": "a"}
    talk = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    shared_gpt = DatasetConfig(
        jsonl(tmp_path / "t.jsonl", [{"conversations": talk}]), columns={"messages": "conversations"}
    )
    assert load(shared_gpt, task="sft", rewards=())[0]["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
    ]


def test_dpo_layout(tmp_path):
    row = {"prompt": "q", "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}
    read = load(DatasetConfig(jsonl(tmp_path / "p.jsonl", [row])), task="dpo", rewards=())[0]
    assert read["chosen"] == [{"role": "assistant", "content": "good"}]
    assert read["rejected"] == [{"role": "assistant", "content": "bad"}]


def test_missing_things_are_named(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl")
    assert "there is no file or folder" in refused(DatasetConfig(str(tmp_path / "none.jsonl")))
    assert "column 'qestion' (for 'prompt') is missing; it has question" in refused(
        DatasetConfig(path, columns={"prompt": "qestion"})
    )
    assert "column 'solution' is missing" in refused(DatasetConfig(path, columns={"prompt": "question"}))
    assert "grpo needs the columns prompt" in refused(DatasetConfig(path, columns={"solution": "answer"}))
    assert "is not a file, and cannot be imported" in refused(DatasetConfig("no_module:rows"))
    assert "does not take these args: {'row': 5}" in refused(
        DatasetConfig("open_r1.tiny.problems:problems", args={"row": 5})
    )
    assert "does not match" in refused(DatasetConfig(path, columns=COLUMNS, extract={"solution": "=(.+)"}))
    assert "'atleast' is not one of min, max" in refused(
        DatasetConfig(path, columns=COLUMNS, filters={"level": {"atleast": 1}})
    )


def test_nothing_to_train_on(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert f"{empty} is empty" in refused(DatasetConfig(str(empty)))
    path = jsonl(tmp_path / "rows.jsonl")
    assert "no rows are left after the filters" in refused(DatasetConfig(path, columns=COLUMNS, filters={"level": 99}))
    (tmp_path / "folder").mkdir()
    assert "the folder has no" in refused(DatasetConfig(str(tmp_path / "folder")))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"question": "q", "answer": "#### 4"', "line 4: not valid JSON"),
        ("[1, 2]", "line 4: expected an object, got list"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, told, streaming):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    lines[3] = line
    path.write_text("\n".join(lines) + "\n")
    assert told in refused(DatasetConfig(str(path), columns=COLUMNS), streaming=streaming)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_cell_is_named(tmp_path, value):
    rows = [dict(row) for row in ROWS]
    rows[2]["question"] = value
    message = refused(DatasetConfig(jsonl(tmp_path / "rows.jsonl", rows), columns=COLUMNS))
    assert "row 2: 'prompt' is empty" in message


def test_a_message_without_a_text_is_named(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": None}]}]
    message = refused(DatasetConfig(jsonl(tmp_path / "rows.jsonl", rows)), task="sft", rewards=())
    assert "row 1: a message needs a role and a text" in message


OWN_KINDS = (
    RewardConfig("accuracy", kinds=["math"]),
    RewardConfig("accuracy", label="puzzles", kinds=["logic"]),
    RewardConfig("think_format"),
)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_several_kinds_keep_their_own_columns(tmp_path, streaming):
    math = jsonl(tmp_path / "math.jsonl", [{"prompt": "1+1", "solution": "2", "level": 3}] * 3)
    talk = jsonl(tmp_path / "talk.jsonl", [{"prompt": "hello", "tone": "kind"}] * 3)
    sources = (DatasetConfig(math, kind="math"), DatasetConfig(talk, kind="general"))
    rows = list(load(*sources, rewards=OWN_KINDS, streaming=streaming, prompt="plain"))
    seen = {(row["prompt"], row["kind"], row.get("solution")) for row in rows}
    assert seen == {("1+1", "math", "2"), ("hello", "general", None)} and len(rows) == 6


def test_a_mixed_file_says_each_rows_kind(tmp_path):
    rows = [{"prompt": "1+1", "solution": "2", "kind": "math"}, {"prompt": "hi", "solution": None, "kind": "general"}]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    assert [row["kind"] for row in load(DatasetConfig(path), rewards=OWN_KINDS)] == ["math", "general"]
    rows[0]["solution"] = None
    message = refused(DatasetConfig(jsonl(tmp_path / "bad.jsonl", rows)), rewards=OWN_KINDS)
    assert "row 0: 'solution' is empty" in message


def test_rewards_of_kinds_need_rows_with_a_kind(tmp_path):
    message = refused(
        DatasetConfig(jsonl(tmp_path / "r.jsonl", [{"prompt": "p", "solution": "s"}])), rewards=OWN_KINDS
    )
    assert "add e.g. `kind: math`" in message


def test_columns_of_two_types_cannot_be_mixed(tmp_path):
    one = jsonl(tmp_path / "one.jsonl", [{"prompt": "p", "solution": "2"}])
    two = jsonl(tmp_path / "two.jsonl", [{"prompt": "p", "solution": [1, 2]}])
    assert "cannot be mixed" in refused(DatasetConfig(one), DatasetConfig(two))


def stored(write_recipe, *sources: dict, **keys) -> StoredRows:
    return load_rows(load_recipe(write_recipe("sample", datasets=list(sources), **keys)))


def test_stored_rows_are_the_sources_one_after_another(write_recipe, tmp_path):
    first = {"path": jsonl(tmp_path / "a.jsonl"), "columns": COLUMNS, "extract": {"solution": "#### (.+)"}}
    more = [{"prompt": "p", "solution": "s", "here": [1, 2], "source": "their own"}, {"prompt": "q", "solution": "t"}]
    second = {"path": jsonl(tmp_path / "b.jsonl", more), "kind": "general"}
    rows = stored(write_recipe, first, second)
    assert len(rows) == 8
    found = rows.slice(4, 8)
    assert [row["prompt"] for row in found] == ["q4", "q5", "p", "q"]
    assert [row["solution"] for row in found] == ["4", "5", "s", "t"]
    assert [row["kind"] for row in found] == ["a", "b", "general", "general"]
    assert [row["source"] for row in found] == [first["path"], first["path"], "their own", second["path"]]
    assert [row["here"] for row in found] == [None, None, [1, 2], None] and found[2]["level"] is None
    assert set(found[0]) == set(rows.features)


def test_stored_rows_that_are_left_keep_their_numbers(write_recipe, tmp_path):
    source = {"path": jsonl(tmp_path / "a.jsonl"), "columns": COLUMNS}
    rows = stored(write_recipe, source, source).keep(np.array([0, 2, 3, 7, 11]))
    assert [row["level"] for row in rows.slice(1, 4)] == [2, 3, 1]
    assert rows.numbers(1, 4).tolist() == [2, 3, 7]
    fewer = rows.keep(np.array([1, 4]))
    assert [row["level"] for row in fewer.slice(0, 9)] == [2, 5] and fewer.numbers(0, 9).tolist() == [2, 11]


def test_texts_beside_conversations_become_conversations(write_recipe, tmp_path):
    asked = [{"role": "user", "content": "hello"}]
    one = {"path": jsonl(tmp_path / "a.jsonl", [{"prompt": "text"}])}
    two = {"path": jsonl(tmp_path / "b.jsonl", [{"prompt": asked}])}
    rows = stored(write_recipe, one, two)
    assert [row["prompt"] for row in rows.slice(0, 2)] == [[{"role": "user", "content": "text"}], asked]


def test_conversations_in_sharegpts_keys_are_stored_in_openais(write_recipe, tmp_path):
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}, {"from": "human", "value": "bye"}]
    rows = stored(write_recipe, {"path": jsonl(tmp_path / "a.jsonl", [{"prompt": turns}])})
    assert rows.slice(0, 1)[0]["prompt"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bye"},
    ]


def test_columns_of_two_types_are_named(write_recipe, tmp_path):
    one = {"path": jsonl(tmp_path / "a.jsonl", [{"prompt": "a", "level": 1}])}
    two = {"path": jsonl(tmp_path / "b.jsonl", [{"prompt": "b", "level": "hard"}])}
    with pytest.raises(RecipeError, match=r"datasets.1 .*column 'level' is .*string.* in .*a.jsonl; rename one"):
        stored(write_recipe, one, two)


def test_the_result_of_a_recipe_is_a_source(write_recipe, tmp_path):
    """A recipe names the dataset that it makes, and must have finished."""
    maker = write_recipe("sample", name="maker", output_dir=str(tmp_path / "made"))
    missing = r"maker.yaml has not finished in .*made; run it with: open-r1"
    with pytest.raises(RecipeError, match=missing):
        stored(write_recipe, {"path": str(maker)})
    (tmp_path / "made" / "data").mkdir(parents=True)
    jsonl(tmp_path / "made" / "data" / "rows.jsonl", [{"prompt": "made"}])
    (tmp_path / "made" / "status.json").write_text('{"state": "waiting"}')
    with pytest.raises(RecipeError, match=missing):
        stored(write_recipe, {"path": str(maker)})
    (tmp_path / "made" / "status.json").write_text('{"state": "finished"}')
    assert stored(write_recipe, {"path": str(maker)}).slice(0, 1)[0]["prompt"] == "made"


def test_the_tag_that_a_template_had_opened_is_put_back(write_recipe, tmp_path):
    def completions(rows: list[dict], **source) -> list:
        sources = [{"path": jsonl(tmp_path / "rows.jsonl", rows)} | source]
        stored = load_rows(load_recipe(write_recipe("select", datasets=sources)))
        return [row["completion"] for row in stored.slice(0, len(stored))]

    texts = ["so </think> 3", "<think>so</think> 3", ""]
    rows = [{"prompt": "p", "completion": text} for text in texts]
    assert completions(rows, opens_think=True) == ["<think>\nso </think> 3", texts[1], ""]
    assert completions(rows) == texts
    several = [{"prompt": "p", "completion": ["a </think> 1", None]}]
    assert completions(several, opens_think=True) == [["<think>\na </think> 1", None]]


@pytest.mark.parametrize("value", [5, 2.5, True])
def test_a_value_that_is_no_conversation_is_named(value):
    with pytest.raises(RecipeError, match=r"here, row 3: expected a text or messages, got"):
        columns.parse_messages(value, "here", 3)
