"""Saving and resuming: file format, atomicity, the tag of the last checkpoint, strictness."""

import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.checkpoint import Checkpointer
from nlvideo.checkpoint import checkpointer as checkpointer_module
from nlvideo.solver import IterationLR, ModelEma, lr_factor


class _Position:
    """A sampler or a hook with a state of plain values."""

    def __init__(self, position=0):
        self.position = position

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class _Run:
    """A whole small training run; its random inputs come from a generator that is part of the state."""

    def __init__(self, folder, seed=0, width=3):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        self.scheduler = IterationLR(self.optimizer, lr_factor("cosine", 10, warmup_iters=3))
        self.scaler = torch.amp.GradScaler("cpu")
        self.ema = ModelEma(self.model, 0.5)
        self.sampler = _Position()
        self.checkpointer = Checkpointer(
            self.model,
            str(folder),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            ema=self.ema,
            sampler=self.sampler,
        )

    def train(self, iterations):
        for _ in range(iterations):
            generator = torch.Generator().manual_seed(self.sampler.position)
            loss = self.model(torch.randn(4, 2, generator=generator)).square().mean()
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.scheduler.step()
            self.ema.update()
            self.sampler.position += 1


def _equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _content(path):
    return torch.load(path, weights_only=True)


def test_resumed_equals_uninterrupted_to_the_bit(tmp_path):
    whole = _Run(tmp_path / "whole")
    whole.train(7)
    first = _Run(tmp_path / "parts")
    first.train(4)
    first.checkpointer.save("model_0000003", iteration=3)
    second = _Run(tmp_path / "parts", seed=99)
    assert second.checkpointer.resume_or_load("", resume=True) == {"iteration": 3}
    second.train(3)
    one, other = whole.checkpointer.save("end"), second.checkpointer.save("end")
    assert _equal(_content(one), _content(other))


def test_the_safe_loader_reads_the_file(tmp_path):
    run = _Run(tmp_path)
    run.train(2)
    path = run.checkpointer.save("m", iteration=1, history={"loss": [0.5, 0.25]})
    content = _content(path)
    assert list(content) == ["model", "optimizer", "scheduler", "scaler", "ema", "sampler", "iteration", "history"]
    assert content["history"] == {"loss": [0.5, 0.25]}
    assert path == str(tmp_path / "m.pth")


def test_a_foreign_object_is_refused_and_nothing_is_written(tmp_path):
    run = _Run(tmp_path / "new")
    with pytest.raises(ValueError, match="checkpoint entry when: got datetime.timedelta"):
        run.checkpointer.save("m", when=__import__("datetime").timedelta())
    assert not (tmp_path / "new").exists()


def test_extra_must_not_hide_a_checkpointable(tmp_path):
    with pytest.raises(ValueError, match=r"extra \['optimizer'\]"):
        _Run(tmp_path).checkpointer.save("m", optimizer=1)


def test_a_checkpointable_has_a_state(tmp_path):
    with pytest.raises(ValueError, match="checkpointable 'timer': float has no state_dict"):
        Checkpointer(nn.Linear(1, 1), str(tmp_path), timer=1.5)


def test_last_checkpoint_follows_saves_but_not_the_best_one(tmp_path):
    checkpointer = _Run(tmp_path).checkpointer
    assert checkpointer.last_checkpoint() is None
    first = checkpointer.save("model_0000001")
    assert checkpointer.last_checkpoint() == first
    checkpointer.save("model_best", tag_last=False)
    assert checkpointer.last_checkpoint() == first
    assert checkpointer.last_checkpoint() != checkpointer.save("model_0000003") == checkpointer.last_checkpoint()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth\n"


def test_a_moved_folder_still_resumes(tmp_path):
    _Run(tmp_path / "here").checkpointer.save("m", iteration=5)
    os.rename(tmp_path / "here", tmp_path / "there")
    assert _Run(tmp_path / "there").checkpointer.resume_or_load("", resume=True) == {"iteration": 5}


def test_a_failed_write_leaves_the_previous_file_intact(tmp_path, monkeypatch):
    run = _Run(tmp_path)
    path = run.checkpointer.save("last", iteration=1)
    before = Path(path).read_bytes()

    def fail(content, file):
        """Write a little, then run out of space."""
        file.write(b"half a checkpoint")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpointer_module.torch, "save", fail)
    run.train(1)
    with pytest.raises(OSError, match="No space left"):
        run.checkpointer.save("last", iteration=2)
    with pytest.raises(OSError, match="No space left"):
        run.checkpointer.save("new", iteration=2)
    assert Path(path).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["last.pth", "last_checkpoint"]
    assert run.checkpointer.last_checkpoint() == path


_KILLED = """
import os, sys, torch
from torch import nn
from nlvideo.checkpoint import Checkpointer
checkpointer = Checkpointer(nn.Linear(2, 2), sys.argv[1])
checkpointer.save("last", iteration=1)
save = torch.save
def die(content, file):
    save(content, file)
    file.flush()
    os.kill(os.getpid(), 9)
torch.save = die
checkpointer.save("last", iteration=2)
"""


def test_a_killed_write_leaves_the_previous_file_intact(tmp_path):
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 1}


def test_resume_without_a_checkpoint_is_a_fresh_start(tmp_path, caplog):
    weights = tmp_path / "start.pth"
    other = nn.Linear(2, 2)
    torch.save(other.state_dict(), weights)
    model = nn.Linear(2, 2)
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        assert Checkpointer(model, str(tmp_path / "out")).resume_or_load(str(weights), resume=True) == {}
    assert torch.equal(model.weight, other.weight)
    assert "Nothing to resume" in caplog.text


def test_without_resume_the_last_checkpoint_is_ignored(tmp_path):
    _Run(tmp_path).checkpointer.save("m", iteration=5)
    run = _Run(tmp_path, seed=1)
    before = run.model[0].weight.clone()
    assert run.checkpointer.resume_or_load("", resume=False) == {}
    assert torch.equal(run.model[0].weight, before)


def test_loading_weights_leaves_the_optimizer_alone(tmp_path):
    trained = _Run(tmp_path)
    trained.train(3)
    path = trained.checkpointer.save("m", iteration=2)
    fresh = _Run(tmp_path / "other", seed=1)
    assert fresh.checkpointer.resume_or_load(path, resume=False) == {}
    assert torch.equal(fresh.model[0].weight, trained.model[0].weight)
    assert fresh.optimizer.state_dict()["state"] == {} and fresh.sampler.position == 0


def test_another_architecture_is_one_clear_error_and_changes_nothing(tmp_path):
    _Run(tmp_path).checkpointer.save("m")
    model = nn.Sequential(nn.Linear(2, 5), nn.Identity(), nn.Linear(5, 1, bias=False), nn.Linear(1, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    text = str(error.value)
    assert "\n" not in text and "m.pth" in text
    assert "only in the model: 3.weight, 3.bias;" in text
    assert "only in the file: 1.weight, 1.bias, 1.running_mean, 1.running_var and 2 more;" in text
    assert "0.weight (file (3, 2), model (5, 2))" in text
    assert _equal(before, dict(model.state_dict()))


def test_another_optimizer_layout_is_a_clear_error(tmp_path):
    _Run(tmp_path).checkpointer.save("m")
    run = _Run(tmp_path)
    optimizer = torch.optim.SGD([run.model[0].weight], lr=1.0)
    with pytest.raises(ValueError, match="cannot resume from .*m.pth: its 'optimizer' does not fit: "):
        Checkpointer(run.model, str(tmp_path), optimizer=optimizer).resume_or_load("", resume=True)


def test_a_missing_checkpointable_is_a_warning(tmp_path, caplog):
    Checkpointer(_Run(tmp_path).model, str(tmp_path)).save("m", iteration=0)
    run = _Run(tmp_path)
    run.sampler.position = 8
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        assert run.checkpointer.resume_or_load("", resume=True) == {"iteration": 0}
    assert run.sampler.position == 8
    assert "holds no 'sampler': it starts new" in caplog.text


def test_a_tag_without_its_file_is_an_error(tmp_path):
    run = _Run(tmp_path)
    os.remove(run.checkpointer.save("m"))
    with pytest.raises(FileNotFoundError, match="no checkpoint .*m.pth"):
        run.checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("broken", ["cut short", "not finite", "gone", "no tensors"])
def test_a_checkpoint_that_cannot_be_resumed_from_names_the_others(tmp_path, broken):
    run = _Run(tmp_path)
    for number in (1, 2):
        os.utime(run.checkpointer.save(f"model_{number}", iteration=number), (number, number))
    torch.save({"weight": torch.ones(2)}, tmp_path / "start.pth")
    (tmp_path / "model_0.pth").write_bytes(b"text")
    path = run.checkpointer.save("model_3", iteration=3)
    content = _content(path)
    content["optimizer"]["state"] = {0: {"momentum_buffer": torch.tensor([1.0, math.nan])}}
    torch.save(content if broken == "not finite" else {"model": {}}, path)
    if broken == "cut short":
        os.truncate(path, os.path.getsize(path) // 2)
    if broken == "gone":
        os.unlink(path)
    other = _Run(tmp_path, seed=1)
    before = other.model[0].weight.clone()
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        other.checkpointer.resume_or_load("", resume=True)
    what = "optimizer.state.0.momentum_buffer is not finite" if broken == "not finite" else "model_3.pth"
    way_out = f"To go on from one of model_2.pth, model_1.pth, write its name into {tmp_path}/last_checkpoint: "
    assert what in str(error.value) and way_out in str(error.value)
    command = str(error.value).split("last_checkpoint: ")[1]
    assert torch.equal(other.model[0].weight, before)
    subprocess.run(command, shell=True, check=True)
    assert other.checkpointer.resume_or_load("", resume=True) == {"iteration": 2}


def test_checkpoints_without_a_tag_are_not_passed_over(tmp_path):
    run = _Run(tmp_path)
    path = run.checkpointer.save("model_0000002", iteration=2)
    os.remove(tmp_path / "last_checkpoint")
    with pytest.raises(ValueError, match="holds checkpoints, but no last_checkpoint.* one of model_0000002.pth, write"):
        run.checkpointer.resume_or_load("", resume=True)
    os.truncate(path, 10)
    with pytest.raises(ValueError, match="no other checkpoint to resume from. A start without --resume moves"):
        run.checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("where", ["model.0.weight", "model.1.running_var", "ema.2.bias", "optimizer.state.0"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, where, value):
    run = _Run(tmp_path)
    run.train(2)
    run.checkpointer.save("model_final", iteration=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kind, _, name = where.partition(".")
    momentum = run.optimizer.state[run.model[0].weight]["momentum_buffer"]
    tensor = momentum if kind == "optimizer" else (run.ema if kind == "ema" else run.model).state_dict()[name]
    tensor.view(-1)[-1] = value
    for name, tag_last in (("model_0000002", True), ("model_final", True), ("model_best", False)):
        with pytest.raises(FloatingPointError, match=rf"{name}.pth is not saved: {where}.* is not finite. The losses"):
            run.checkpointer.save(name, tag_last=tag_last)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_fresh_start_moves_what_is_there_when_it_saves(tmp_path):
    _Run(tmp_path).checkpointer.save("model_final", iteration=5)
    old = (tmp_path / "model_final.pth").read_bytes()
    run = _Run(tmp_path, seed=1)
    run.checkpointer.resume_or_load("", resume=False)
    assert run.checkpointer.last_checkpoint() and not (tmp_path / "earlier_1").exists()
    run.checkpointer.save("model_best", tag_last=False)
    assert (tmp_path / "earlier_1" / "model_final.pth").read_bytes() == old
    # The first that is saved is the one to resume from, whatever it is.
    assert _Run(tmp_path).checkpointer.resume_or_load("", resume=True) == {}
    run.checkpointer.save("model_final", iteration=1)
    assert _Run(tmp_path).checkpointer.resume_or_load("", resume=True) == {"iteration": 1}
    assert sorted(os.listdir(tmp_path)) == ["earlier_1", "last_checkpoint", "model_best.pth", "model_final.pth"]


def test_a_model_with_a_compiled_part_is_resumed_and_loaded(tmp_path):
    def compiled(seed):
        torch.manual_seed(seed)
        # As torch.compile names it.
        part = nn.Module()
        part.add_module("_orig_mod", nn.Linear(2, 2))
        return nn.Sequential(part, nn.Linear(2, 2))

    saved = compiled(0)
    path = Checkpointer(saved, str(tmp_path)).save("model_final")
    for restore in (
        lambda model: Checkpointer(model, "").resume(path),
        lambda model: Checkpointer(model, "").load_weights(path),
    ):
        model = compiled(1)
        restore(model)
        assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    Checkpointer(plain, "").load_weights(path)
    assert torch.equal(plain[0].weight, saved[0]._orig_mod.weight)


def test_an_earlier_run_whose_tag_is_empty_is_set_aside(tmp_path):
    _Run(tmp_path).checkpointer.save("model_final")
    (tmp_path / "last_checkpoint").write_text("\n")
    run = _Run(tmp_path)
    run.checkpointer.resume_or_load("", resume=False)
    run.checkpointer.save("model_final")
    assert sorted(os.listdir(tmp_path / "earlier_1")) == ["last_checkpoint", "model_final.pth"]


def test_a_full_disk_leaves_the_earlier_run_in_place(tmp_path, monkeypatch):
    _Run(tmp_path).checkpointer.save("model_final", iteration=5)

    def fail(content, file):
        """Run out of space."""
        raise OSError("No space left on device")

    run = _Run(tmp_path)
    run.checkpointer.resume_or_load("", resume=False)
    monkeypatch.setattr(checkpointer_module.torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        run.checkpointer.save("model_final", iteration=1)
    assert _Run(tmp_path).checkpointer.resume_or_load("", resume=True) == {"iteration": 5}


def test_only_rank_0_writes_but_every_rank_gives_its_state(tmp_path, monkeypatch):
    asked = []

    class Gathering(_Position):
        """A state that takes all ranks to collect."""

        def state_dict(self):
            asked.append(True)
            return super().state_dict()

    monkeypatch.setattr(checkpointer_module.comm, "is_main_process", lambda: False)
    path = Checkpointer(nn.Linear(1, 1), str(tmp_path), random=Gathering()).save("m")
    assert asked == [True]
    assert not os.path.exists(path)


def test_a_ddp_wrapper_is_looked_through(tmp_path):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Linear(1, 1)
        wrapped = nn.parallel.DistributedDataParallel(model)
        path = Checkpointer(wrapped, str(tmp_path)).save("m")
    finally:
        torch.distributed.destroy_process_group()
    assert list(_content(path)["model"]) == ["weight", "bias"]
