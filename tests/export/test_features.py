"""Features of whole datasets: what they are, and that neither kills nor ranks change them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.data.dataset_mapper import MAPPER, VideoMapper
from nlvideo.errors import WorkerDied
from nlvideo.export import extract_features, feature_files, load_features
from nlvideo.export import features as features_module
from nlvideo.modeling import build_model
from nlvideo.utils.files import file_io

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def listed(video_lists: tuple[str, str], tmp_path: Path) -> tuple[str, list[str]]:
    """``list:`` name of five videos and, in the middle, a broken one, all of a class that the model has not; paths."""
    paths = [line.split()[0] for line in Path(video_lists[1].removeprefix("list:")).read_text().splitlines()]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    paths.insert(2, str(tmp_path / "broken.mp4"))
    (tmp_path / "six.txt").write_text("".join(f"{path} 9\n" for path in paths))
    return f"list:{tmp_path / 'six.txt'}", paths


@pytest.fixture
def cfg(tiny_cfg: Callable[..., CfgNode]) -> CfgNode:
    """Two clips of three crops for each video."""
    return tiny_cfg("TEST.NUM_CROPS", "3", "TEST.SHORT_SIDE", "34", "TEST.VIEWS_PER_FORWARD", "8")


@pytest.fixture
def model(cfg: CfgNode) -> nn.Module:
    """A tiny random network."""
    torch.manual_seed(0)
    return build_model(cfg).eval()


@torch.no_grad()
def by_hand(model: nn.Module, cfg: CfgNode, path: str) -> np.ndarray:
    """The maps of res5 for the views of one video, (V, C, T, H, W)."""
    views = MAPPER.get("VideoMapper")(cfg, False)({"file_name": path, "label": 0, "video_id": ""}, None)["video"]
    return model.backbone((views.float() - model.pixel_mean) / model.pixel_std)["res5"].numpy()


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_features_are_those_of_the_test_views(model, cfg, listed, tmp_path):
    name, paths = listed
    maps = [by_hand(model, cfg, path) for path in paths if "broken" not in path]
    pooled = np.stack([m.mean(axis=(0, 2, 3, 4)) for m in maps])
    done = extract_features(model, cfg, name, "res5", str(tmp_path / "mean"), videos_per_shard=4)
    assert (done.num_videos, done.shape, done.num_made, done.num_kept) == (6, (64,), 2, 0)
    found = load_features(str(tmp_path / "mean"))
    np.testing.assert_allclose(found.features, pooled, atol=1e-5)
    assert found.labels == [9] * 5 and found.video_ids == [path for path in paths if "broken" not in path]
    assert list(found.failed) == [paths[2]] and found.failed == done.failed and found.failed[paths[2]]
    assert len(set(map(tuple, found.features.round(4)))) == 5, "equal features prove nothing"

    extract_features(
        model, cfg, name, "res5", str(tmp_path / "all"), pool="none", views="keep", dtype="float16", videos_per_shard=4
    )
    kept = load_features(str(tmp_path / "all"))
    assert kept.features.dtype == np.float16 and kept.features.shape == (5, 6, 64, 2, 1, 1)
    np.testing.assert_allclose(kept.features, np.stack(maps), rtol=2e-3, atol=1e-3)
    assert kept.settings["recipe"]["num_crops"] == 3 and kept.settings["shape"] == [6, 64, 2, 1, 1]


def test_a_killed_worker_is_explained_and_failures_are_said(model, cfg, listed, tmp_path, monkeypatch, caplog):
    name, paths = listed
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 1

    def killed_at_the_last(self, record, rng, call=VideoMapper.__call__):
        """As by a system out of memory."""
        if record["file_name"] == paths[-1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, record, rng)

    monkeypatch.setattr(VideoMapper, "__call__", killed_at_the_last)
    with pytest.raises(WorkerDied, match=f"What it read last: {paths[-1]}"):
        extract_features(model, cfg, name, "res5", str(tmp_path / "out"))
    assert any(str(paths[2]) in text and text.endswith("; it has no features") for text in caplog.messages)


def test_parquet_holds_the_same(model, cfg, listed, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra: parquet)")
    for format in ("npz", "parquet"):
        extract_features(model, cfg, listed[0], "res5", str(tmp_path / format), format=format)
    npz, parquet = (load_features(str(tmp_path / format)) for format in ("npz", "parquet"))
    np.testing.assert_array_equal(npz.features, parquet.features)
    assert (npz.video_ids, npz.labels, npz.failed) == (parquet.video_ids, parquet.labels, parquet.failed)


def test_a_killed_run_continues_to_the_same_files(model, cfg, listed, tmp_path, monkeypatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    extract_features(model, cfg, listed[0], "res5", str(whole), videos_per_shard=2)
    assert set(bytes_of(whole)) == {"features.json", "index.jsonl", *(f"features_0000{k}.npz" for k in range(3))}
    write = feature_files.write_shard
    written = []

    def killed(path, *arguments):
        """The second shard is never written."""
        if len(written) == 1:
            (part / ".features_00001.npz.1.tmp").write_bytes(b"half")
            file_io._sweep.cache_clear()  # as in the process that goes on
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments)

    monkeypatch.setattr(feature_files, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, cfg, listed[0], "res5", str(part), videos_per_shard=2)
    with pytest.raises(ValueError, match="not complete"):
        load_features(str(part))
    monkeypatch.setattr(feature_files, "write_shard", write)
    done = extract_features(model, cfg, listed[0], "res5", str(part), videos_per_shard=2)
    assert (done.num_made, done.num_kept) == (2, 1)
    assert bytes_of(part) == bytes_of(whole)
    done = extract_features(model, cfg, listed[0], "res5", str(part), videos_per_shard=2)
    assert (done.num_made, done.num_kept, len(done.failed)) == (0, 3, 1)


def test_a_folder_takes_features_of_one_kind(model, cfg, tiny_cfg, listed, tmp_path):
    folder = str(tmp_path / "out")
    extract_features(model, cfg, listed[0], "res5", folder)
    for change, message in [
        ({"layer": "res4"}, "another layer: 'backbone.res5', now 'backbone.res4'"),
        ({"pool": "none"}, "another pool: 'avg', now 'none'"),
        ({"cfg": tiny_cfg("TEST.NUM_CROPS", "1", "TEST.SHORT_SIDE", "34")}, "another num_crops: 3, now 1"),
    ]:
        arguments = {"model": model, "cfg": cfg, "dataset": listed[0], "layer": "res5", "output": folder, **change}
        with pytest.raises(ValueError, match=f"output: {folder} holds features of {message}"):
            extract_features(**arguments)
    lowered = cfg.with_overrides(["TEST.AMP", "bfloat16"])
    with pytest.raises(ValueError, match="holds features of another amp: '', now 'bfloat16'; allowed: another folder"):
        extract_features(model, lowered, listed[0], "res5", folder)
    with torch.no_grad():
        model.backbone.stem.conv.weight += 1
    with pytest.raises(ValueError, match="holds features of another model: '"):
        extract_features(model, cfg, listed[0], "res5", folder)


def test_wrong_values(model, cfg, listed, tmp_path):
    folder = str(tmp_path / "out")
    (tmp_path / "file").write_text("")
    for arguments, message in [
        ({"views": "all"}, "views: got 'all', allowed: 'mean', 'keep'"),
        ({"dtype": "int8"}, "dtype: got 'int8', allowed: 'float32', 'float16'"),
        ({"videos_per_shard": -1}, "videos_per_shard: got -1, allowed: 1 or more"),
        ({"output": str(tmp_path / "file" / "out")}, "output: got '.*', allowed: a folder that can be written"),
    ]:
        arguments = {"model": model, "cfg": cfg, "dataset": listed[0], "layer": "res5", "output": folder, **arguments}
        with pytest.raises(ValueError, match=message):
            extract_features(**arguments)
    assert not os.path.exists(folder)


def test_maps_of_whole_frames_must_have_one_size(model, tiny_cfg, make_video, tmp_path):
    for name, width in (("a", 48), ("b", 64)):
        make_video(tmp_path / "videos" / "x" / f"{name}.mp4", width=width)
    cfg = tiny_cfg("TEST.CROP_SIZE", "0")
    name = f"folder:{tmp_path / 'videos'}"
    assert extract_features(model, cfg, name, "res5", str(tmp_path / "pooled")).shape == (64,)
    with pytest.raises(ValueError, match="with TEST.CROP_SIZE 0, use pool 'avg'"):
        extract_features(model, cfg, name, "res5", str(tmp_path / "maps"), pool="none")


def test_the_size_of_shards_bounds_the_memory():
    assert features_module._videos_per_shard((2048,)) == 1000
    assert features_module._videos_per_shard((30, 2048, 16, 8, 8)) == 1
    assert features_module._videos_per_shard((2048, 16, 7, 7)) == 10


TWO_RANKS = """
import json, sys
import torch
from nlvideo.config import load_cfg
from nlvideo.export import extract_features
from nlvideo.engine.launch import launch
from nlvideo.modeling import build_model

def main(opts, dataset, output):
    torch.manual_seed(0)
    cfg = load_cfg(None, opts)
    extract_features(build_model(cfg).eval(), cfg, dataset, "res5", output, videos_per_shard=2)

if __name__ == "__main__":
    launch(main, args=tuple(json.loads(sys.argv[1])), device="cpu")
"""


def test_under_torchrun_each_rank_makes_its_part(model, cfg, tiny_opts, listed, tmp_path):
    extract_features(model, cfg, listed[0], "res5", str(tmp_path / "one"), videos_per_shard=2)
    (tmp_path / "work.py").write_text(TWO_RANKS)
    opts = [*tiny_opts, "TEST.NUM_CROPS", "3", "TEST.SHORT_SIDE", "34", "TEST.VIEWS_PER_FORWARD", "8"]
    arguments = json.dumps([opts, listed[0], str(tmp_path / "two")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "work.py"), arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_features(str(tmp_path / name)) for name in ("one", "two"))
    np.testing.assert_allclose(one.features, two.features, atol=1e-5)
    assert (one.video_ids, one.failed) == (two.video_ids, two.failed)
    assert (tmp_path / "one/index.jsonl").read_text() == (tmp_path / "two/index.jsonl").read_text()
