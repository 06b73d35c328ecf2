"""Broken videos, dying workers and signals in runs of the training script, as a user meets them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
INSTANT = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")
NUM_VIDEOS = 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> Path:
    """A folder with a list of 40 videos, two of which are broken: one is no video, one ends in the middle."""
    folder = tmp_path_factory.mktemp("videos")
    whole = Path(make_video(folder / "0.mp4", num_frames=8, height=40))
    for i in range(1, NUM_VIDEOS):
        shutil.copy(whole, folder / f"{i}.mp4")
    (folder / "7.mp4").write_bytes(b"no video at all")
    (folder / "21.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "train.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(NUM_VIDEOS)))
    (folder / "val.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in (0, 1, 7)))
    return folder


def _opts(videos: Path, out: Path, *more: str) -> list[str]:
    data = {split: str([f"list:{videos / f'{split}.txt'}"]) for split in ("train", "val")}
    return ["--config-file", INSTANT, "DATASETS.TRAIN", data["train"], "DATASETS.TEST", data["val"], "OUTPUT_DIR",
            str(out), "SOLVER.CLIPS_PER_BATCH", "8", "SOLVER.STEPS", "[]", *more]  # fmt: skip


def test_a_run_with_broken_videos_ends_and_reports_exactly_those(
    run_tool: Callable, videos: Path, tmp_path: Path
) -> None:
    # Two epochs, so that each broken video is drawn twice.
    more = ["SOLVER.MAX_ITER", "10", "DATALOADER.MAX_FAILED_FRACTION", "0.05", "DATALOADER.NUM_WORKERS", "2"]
    done = run_tool("train_net.py", *_opts(videos, tmp_path, *more))
    content = json.loads((tmp_path / "failed_videos.json").read_text())
    assert content["num_videos"] == NUM_VIDEOS
    reasons = {Path(entry["file_name"]).name: entry["reason"] for entry in content["failed"]}
    assert len(content["failed"]) == 2 and reasons.keys() == {"7.mp4", "21.mp4"} and all(reasons.values())
    log = (tmp_path / "log.txt").read_text()
    assert log.count("Cannot read") == 2
    for name, reason in reasons.items():
        assert log.count(f"Cannot read {videos / name} ({reason}): replaced by another video") == 1
    assert f"2 of 40 training videos could not be read and were replaced; {tmp_path / 'failed_videos.json'}" in log
    # At test nothing is replaced.
    assert log.count(f"{videos / '7.mp4'}: {reasons['7.mp4']}; it counts as wrong") == 1
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert (last["classification/num_videos"], last["classification/num_failed"]) == (3, 1)
    assert "Traceback" not in done.stderr


def test_above_the_budget_the_run_stops_with_the_list(run_tool: Callable, videos: Path, tmp_path: Path) -> None:
    more = ["SOLVER.MAX_ITER", "10", "DATALOADER.MAX_FAILED_FRACTION", "0.03"]
    done = run_tool("train_net.py", *_opts(videos, tmp_path, *more), code=1)
    (line,) = done.stderr.splitlines()[-1:]
    assert "2 of 40 training videos could not be read, more than DATALOADER.MAX_FAILED_FRACTION = 0.03" in line
    assert "7.mp4 (" in line and "21.mp4 (" in line and "Traceback" not in done.stderr
    assert len(json.loads((tmp_path / "failed_videos.json").read_text())["failed"]) == 2
    # Nothing is lost: with a larger budget the run goes on.
    saved = (tmp_path / "last_checkpoint").read_text().strip()
    assert f"The state is saved as {saved.removesuffix('.pth')}; --resume" in line
    more[-1] = "0.05"
    run_tool("train_net.py", *_opts(videos, tmp_path, *more, "--resume"))
    iterations = [json.loads(text)["iteration"] for text in (tmp_path / "metrics.json").read_text().splitlines()]
    assert (tmp_path / "model_final.pth").is_file() and iterations[-1] == 9 and len(set(iterations)) == len(iterations)


KILLER = '''
"""A project whose mapper is killed at one of the videos, as by a system without memory left."""
import os, signal
from nlvideo.data import MAPPER, VideoMapper

@MAPPER.register()
class Killer(VideoMapper):
    def __call__(self, record, rng):
        if self.is_train and record["video_id"] == "12.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(record, rng)
'''


@pytest.mark.parametrize("num_gpus", ["1", "2"])
def test_a_killed_worker_is_one_line_with_the_video(
    run_tool: Callable, videos: Path, tmp_path: Path, num_gpus: str
) -> None:
    plugin = tmp_path / "project" / "killer_of_a_test"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(KILLER)
    more = ["SOLVER.MAX_ITER", "10", "DATALOADER.MAX_FAILED_FRACTION", "0.05", "DATALOADER.NUM_WORKERS", "1",
            "DATALOADER.MAPPER", "Killer", "--plugin", str(plugin), "--num-gpus", num_gpus]  # fmt: skip
    done = run_tool("train_net.py", *_opts(videos, tmp_path / "out", *more), code=1)
    line = done.stderr.splitlines()[-1]
    assert f"What it read last: {videos / '12.mp4'}. Either decoding crashed, or memory ran out" in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_whole_group_saves_a_checkpoint(videos: Path, tmp_path: Path, number: int) -> None:
    """As Ctrl-C in a terminal and as a scheduler's notice: the workers get it, too."""
    more = ["SOLVER.MAX_ITER", "100000", "DATALOADER.MAX_FAILED_FRACTION", "0.1", "DATALOADER.NUM_WORKERS", "2",
            "SOLVER.LOG_PERIOD", "1"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train_net.py"), *_opts(videos, tmp_path / "out", *more)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NLVIDEO_DEBUG": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while "iter: 3" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert error.count("Stopping after this iteration") == 1 and "Traceback" not in error
    iterations = int(error.splitlines()[-1].split("stopped after ")[1].split()[0])
    assert (tmp_path / "out" / f"model_{iterations:07d}.pth").is_file()


def test_a_full_disk_is_one_line_with_the_checkpoint(videos: Path, tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    train = [
        sys.executable,
        str(ROOT / "tools" / "train_net.py"),
        *_opts(videos, tmp_path / "out"),
        "SOLVER.MAX_ITER",
        "3",
    ]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *train, "DATALOADER.MAX_FAILED_FRACTION", "0.1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NLVIDEO_DEBUG": "0"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith(f"train_net.py: [Errno 28] No space left on device: '{tmp_path}/out/model_"), done.stderr
    assert "Traceback" not in done.stderr and done.returncode == 2
