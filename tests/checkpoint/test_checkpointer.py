"""Saving and resuming: file format, atomicity, the tag of the last checkpoint, strictness."""

import logging
import os
import subprocess
import sys

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
    before = open(path, "rb").read()

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
    assert open(path, "rb").read() == before
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
    assert "holds no 'sampler': it starts afresh" in caplog.text


def test_a_tag_without_its_file_is_an_error(tmp_path):
    run = _Run(tmp_path)
    os.remove(run.checkpointer.save("m"))
    with pytest.raises(FileNotFoundError, match="no checkpoint .*m.pth"):
        run.checkpointer.resume_or_load("", resume=True)


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
