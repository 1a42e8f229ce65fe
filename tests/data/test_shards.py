"""Parquet files that are there whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest

from open_r1.data import shards
from open_r1.data.shards import Shards
from open_r1.errors import RecipeError
from open_r1.system.files import replace_file

FEATURES = datasets.Features({"text": datasets.Value("string"), "count": datasets.Value("int64")})


def rows(first: int, last: int) -> list[dict]:
    return [{"text": str(i), "count": i} for i in range(first, last)]


def test_files_divide_the_rows_and_the_parts_divide_the_files(tmp_path):
    files = Shards(tmp_path / "data", rows=25, per_shard=10)
    assert [list(files.range(k))[::9] for k in range(files.count)] == [[0, 9], [10, 19], [20]]
    assert files.path(2).name == "train-00002-of-00003.parquet"
    assert [files.missing(part, 2) for part in (0, 1)] == [[0, 2], [1]]
    shards.write_file(files.path(1), [rows(10, 20)], FEATURES)
    assert files.missing() == [0, 2] and not files.complete


def test_batches_make_one_file_that_reads_back(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    assert shards.write_file(path, (rows(i, i + 5) for i in (0, 5)), FEATURES) == 10
    assert list(shards.read_folder(tmp_path, batch_rows=4)) == [rows(0, 4), rows(4, 8), rows(8, 10)]
    assert shards.count_rows(tmp_path) == 10
    assert datasets.load_dataset(str(tmp_path), split="train").features == FEATURES


def test_columns_have_their_type_where_every_value_is_none(tmp_path):
    path = tmp_path / "a.parquet"
    shards.write_file(path, [[{"text": None}]], FEATURES)
    assert pyarrow.parquet.read_table(path).schema.field("text").type == "string"


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_that_a_crash_has_cut_is_made_again(tmp_path, kept):
    files = Shards(tmp_path, rows=10, per_shard=10)
    shards.write_file(files.path(0), [rows(0, 10)], FEATURES)
    whole = files.path(0).read_bytes()
    files.path(0).write_bytes(whole[:kept])
    assert files.missing() == [0] and not files.path(0).exists()


def test_a_file_that_the_system_does_not_give_is_not_deleted(tmp_path, monkeypatch):
    files = Shards(tmp_path, rows=10, per_shard=10)
    shards.write_file(files.path(0), [rows(0, 10)], FEATURES)

    def refused(path: Path):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="Too many open files"):
        broken.setattr(pyarrow.parquet, "read_metadata", refused)
        files.missing()
    assert files.missing() == []


def test_what_was_half_written_is_removed_files_and_folders(tmp_path):
    """A model drawn at random is a folder."""
    (tmp_path / ".init-7.partial").mkdir()
    (tmp_path / ".init-7.partial" / "config.json").write_text("{}")
    (tmp_path / ".a.parquet.1234.partial").write_text("PAR")
    shards.remove_partial_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_has_a_name_before_it_is_whole(tmp_path):
    path = tmp_path / "a.parquet"

    def fails():
        yield rows(0, 5)
        assert not path.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards.write_file(path, fails(), FEATURES)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.parquet"
    shards.write_file(path, [rows(0, 3)], FEATURES)
    old = path.read_bytes()

    def full():
        yield rows(0, 1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RecipeError, match=r"the disk is full: .*a.parquet.*run the same command again to continue"):
        shards.write_file(path, full(), FEATURES)
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_a_value_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(RecipeError, match="a value does not fit its column"):
        shards.write_file(tmp_path / "a.parquet", [[{"text": "x", "count": "many"}]], FEATURES)


def test_a_device_that_is_really_full(tmp_path):
    with (
        pytest.raises(RecipeError, match="the disk is full"),
        replace_file(tmp_path / "a.parquet"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
