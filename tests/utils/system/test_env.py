"""Seeds and the description of the machine."""

import os
import random
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch

import nlvideo
from nlvideo.utils.system import env
from nlvideo.utils.system.env import collect_env, seed_everything
from nlvideo.utils.system.processes import usable_cpus


@pytest.fixture(autouse=True)
def restore_random_states():
    """Leave the process's generators as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_one_seed_one_stream():
    assert seed_everything(3) == 3
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert not set(draw()) & set(first)


def test_ranks_draw_differently_and_share_the_seed(monkeypatch):
    seed_everything(3)
    first = draw()
    monkeypatch.setattr(env.comm, "get_rank", lambda: 1)
    assert seed_everything(3) == 3
    assert not set(draw()) & set(first)
    monkeypatch.setattr(env.comm, "get_rank", lambda: 0)
    seed_everything(4)
    other = draw()
    monkeypatch.setattr(env.comm, "get_rank", lambda: 1)
    seed_everything(3)
    assert draw() == other


def test_a_negative_seed_is_drawn_and_can_be_repeated():
    seed = seed_everything(-1)
    first = draw()
    assert seed >= 0
    seed_everything(seed)
    assert draw() == first


def test_a_seed_beyond_numpys_range():
    assert seed_everything(2**40) == 2**40


def test_collect_env_names_what_matters():
    text = collect_env()
    for item in ("nlvideo", "python", "torch", "CUDA of torch", "GPUs", "torchvision", "av", "FFmpeg", "CPUs usable"):
        assert item in text
    assert nlvideo.__version__ in text
    assert torch.__version__ in text


def test_the_commit_is_that_of_our_clone(tmp_path, monkeypatch):
    git = shutil.which("git")
    package = tmp_path / "project" / "site-packages" / "nlvideo"
    package.mkdir(parents=True)
    monkeypatch.setattr(env.nlvideo, "__file__", str(package / "__init__.py"))
    # Installed inside of another repository: its commit is none of ours.
    (tmp_path / "project" / ".git").mkdir()
    assert env.environment()["commit"] == env.environment()["repository"] == "none"
    if git is None:
        pytest.skip("git is not installed")
    root = package.parent
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (package / "__init__.py").write_text("")
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "m"], ["tag", "v1"]):
        subprocess.run([git, "-C", str(root), *command], check=True)
    commit = env.environment()["commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit) and env.environment()["repository"] == str(root.resolve())
    (package / "__init__.py").write_text("changed")
    assert env.environment()["commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert env.environment()["commit"] == "unknown"


def test_missing_packages_are_said_to_be_missing():
    assert env._version("no-such-package-anywhere") == "missing"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity on this system")
def test_usable_cpus_follow_the_affinity():
    assert usable_cpus() == len(os.sched_getaffinity(0)) >= 1
