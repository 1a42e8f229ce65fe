"""Every private name exists in the installed libraries, and training does not begin where one is missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
import types

import conftest
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from conftest import ROOT, TASKS
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from trl.trainer.utils import RepeatSampler

from open_r1.config.loading import load_recipe
from open_r1.errors import RecipeError
from open_r1.system import internals
from open_r1.training.exact_resume import ExactResume

KINDS = {"sft": "SFTTrainer", "dpo": "DPOTrainer", "reward": "RewardTrainer", "grpo": "GRPOTrainer"}
KINDS |= {"rloo": "RLOOTrainer"}


@pytest.fixture
def train(write_recipe, monkeypatch, tmp_path):
    """`train(task, missing)`: begin to train, where `missing(trainer, loader)` takes away what a release lacks."""
    monkeypatch.setitem(conftest.TASKS, "rloo", TASKS["grpo"])
    begin = ExactResume.on_train_begin

    def run(task, missing):
        def without(self, *args, **kwargs):
            missing(self.trainer, kwargs["train_dataloader"])
            begin(self, *args, **kwargs)

        def step(*args, **kwargs):
            raise AssertionError("a step was taken")

        monkeypatch.setattr(ExactResume, "on_train_begin", without)
        monkeypatch.setattr(Trainer, "training_step", step)
        importlib.import_module(f"open_r1.{task}").main(load_recipe(write_recipe(task)))

    return run


@contextlib.contextmanager
def lacking(trainer, name):
    """The trainer as a release makes it that has renamed an attribute."""
    owner = trainer if name in vars(trainer) else next(cls for cls in type(trainer).__mro__ if name in vars(cls))
    value = vars(owner)[name]
    delattr(owner, name)
    try:
        yield
    finally:
        setattr(owner, name, value)


def complaint(kind, name):
    """What the error says: the class, the name, the release that is installed and the one that is expected."""
    library = "transformers" if name in internals.TRAINER_NAMES["Trainer"] else "trl"
    release = re.escape(f"{library} {internals.RELEASES[library]}")
    return f"^{release}: {kind} has no attribute '{name}'.* written for {release}. Install that release"


@pytest.mark.parametrize(("task", "kind"), KINDS.items())
def test_a_trainer_has_every_name_and_does_not_begin_without_one(train, tmp_path, task, kind):
    names = [*internals.TRAINER_NAMES["Trainer"], *internals.TRAINER_NAMES[kind]]
    assert len(names) == {"DPOTrainer": 6, "GRPOTrainer": 10, "RLOOTrainer": 10}.get(kind, 5)
    checked = []

    def each(trainer, loader):
        internals.check_trainer(trainer)
        for name in names:
            with lacking(trainer, name), pytest.raises(RecipeError, match=complaint(kind, name)):
                internals.check_trainer(trainer)
            checked.append(name)
        delattr(trainer, "_total_train_tokens")

    with pytest.raises(RecipeError, match=complaint(kind, "_total_train_tokens")):
        train(task, each)
    assert checked == names
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_training_does_not_begin_where_a_sampler_lacks_its_generator(train):
    def without(trainer, loader):
        del loader.batch_sampler.sampler.generator

    with pytest.raises(RecipeError, match=r"trl 1.16.0: RepeatSampler has no attribute 'generator'"):
        train("grpo", without)


def test_a_renamed_trainer_is_an_error():
    with pytest.raises(RecipeError, match=r"trl 1.16.0: SimpleNamespace is not one of Trainer, SFTTrainer"):
        internals.check_trainer(types.SimpleNamespace())


def test_the_releases_are_those_of_setup():
    pins = (ROOT / "setup.py").read_text()
    for library, release in internals.RELEASES.items():
        assert f'"{library}=={release}"' in pins
        assert importlib.metadata.version(library).partition("+")[0] == release


@pytest.mark.parametrize("name", internals.MODULE_NAMES)
def test_a_name_of_a_module_exists_and_its_absence_is_an_error(name, monkeypatch):
    module = internals.MODULE_NAMES[name]
    internals.load_name(name)
    monkeypatch.delattr(importlib.import_module(module), name)
    library = module.partition(".")[0]
    with pytest.raises(RecipeError, match=rf"^{library} \d\S+: {module} has no attribute '{name}'.* written for"):
        internals.load_name(name)


def test_a_module_that_is_gone_is_an_error(monkeypatch):
    monkeypatch.setitem(internals.MODULE_NAMES, "FakeTensor", "torch._subclasses.moved")
    with pytest.raises(RecipeError, match=r"^torch 2\S+: there is no module 'torch._subclasses.moved'"):
        from open_r1.system.internals import FakeTensor  # noqa: F401


def loader_of(sampler):
    return DataLoader(range(8), batch_sampler=BatchSampler(sampler, 4, drop_last=False))


def test_a_sampler_is_known_or_an_error():
    class Other(Sampler):
        pass

    own = torch.Generator()
    repeated = RepeatSampler(range(8), mini_repeat_count=2, seed=3)
    by_length = LengthGroupedSampler(4, lengths=range(8), generator=own)
    drawn = {repeated: repeated.generator, by_length: own, RandomSampler(range(8), generator=own): own}
    drawn |= {RandomSampler(range(8)): None, RepeatSampler(range(8), mini_repeat_count=2, shuffle=False): None}
    drawn |= {SeedableRandomSampler(range(8)): None, SequentialSampler(range(8)): None}
    for sampler, generator in drawn.items():
        assert internals.sampler_generator(loader_of(sampler)) is generator
    whole = BatchRebalanceSampler(lengths=[1] * 8, effective_batch_size=4, dp_size=1, grad_accum=1)
    shard = BatchSamplerShard(BatchSampler(repeated, 4, drop_last=False), num_processes=2)
    for batches, generator in ((whole, None), (shard, repeated.generator)):
        assert internals.sampler_generator(DataLoader(range(8), batch_sampler=batches)) is generator
    assert internals.sampler_generator(DataLoader(Rows())) is None
    with pytest.raises(RecipeError, match="drawn by the unknown class Other"):
        internals.sampler_generator(loader_of(Other()))


class Rows(IterableDataset):
    def __iter__(self):
        return iter(range(8))


def test_a_checkpoint_that_lacks_a_name_is_an_error(train):
    def resume(trainer, loader):
        state = internals.read_step_state(trainer)
        assert state.keys() == {"_tr_loss", "_globalstep_last_logged", "_metrics", "_total_train_tokens", "_step"}
        del state["_step"]
        internals.restore_step_state(trainer, state)

    with pytest.raises(RecipeError, match="resume: the checkpoint lacks _step, so"):
        train("rloo", resume)
