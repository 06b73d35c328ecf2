"""tools/visualize_attention.py as a user runs it."""

import json

import pytest
import torch
from PIL import Image

from nlvideo.checkpoint import Checkpointer
from nlvideo.config import load_cfg
from nlvideo.data import VideoReader
from nlvideo.model_zoo import Predictor
from nlvideo.modeling import build_model

CONFIG = """
DATASETS: {TEST: ["beacon_val"]}
MODEL:
  DEVICE: cpu
  BACKBONE: {DEPTH: 10, WIDTH: 0.125, STEM: small, TEMPORAL: i3d_3x1x1}
  NONLOCAL: {ENABLED: True, BLOCKS: ["res2.0", "res3.0"], PAIRWISE: embedded_gaussian, ZERO_INIT: False, INIT_STD: 0.0}
  HEAD: {NUM_CLASSES: 8}
INPUT: {NUM_FRAMES: 4, FRAME_STRIDE: 2, CROP_SIZE: 32, SHORT_SIDE_RANGE: [32, 32]}
TEST: {SHORT_SIDE: 32, CROP_SIZE: 32, NUM_CLIPS: 2, NUM_CROPS: 3}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Paths of a config and of weights for it."""
    folder = tmp_path_factory.mktemp("model")
    return str(folder / "config.yaml"), save_weights(folder)


def save_weights(folder, *opts):
    """Write weights for the config, with biases that keep the weights of attention above 0; returns their path."""
    (folder / "config.yaml").write_text(CONFIG)
    torch.manual_seed(0)
    network = build_model(load_cfg(str(folder / "config.yaml"), opts))
    for block in (network.backbone.res2.nl0, network.backbone.res3.nl0):
        for conv in (block.theta, block.phi):
            if block.pairwise != "gaussian":
                torch.nn.init.constant_(conv.bias, 3.0)
        if block.pairwise == "concatenation":
            torch.nn.init.constant_(block.concat.weight, 0.5)
    return Checkpointer(network, str(folder)).save("weights")


@pytest.fixture()
def visualize(call_tool, model, make_video, tmp_path):
    """``visualize(*arguments, weights=..., input=...) -> (exit code, output, errors)``, into ``tmp_path / "out"``."""
    video = make_video(tmp_path / "clip.mp4", num_frames=12, height=40, width=56, fps=10)

    def run(*arguments, weights=model[1], input=video):
        given = ("--config-file", model[0], "--weights", weights, "--input", input, "--output", str(tmp_path / "out"))
        return call_tool("visualize_attention", *given, *arguments)

    return run


def test_pictures_of_given_positions(visualize, tmp_path):
    positions = ("--position", "0,3,4", "--position", "3,31,31")
    status, text, _ = visualize(*positions, "--block", "res3.0", "--num-arrows", "5")
    assert status == 0 and "frames 2, 4, 6, 8; predicted: " in text
    out = tmp_path / "out"
    assert f"{out}/query_1.png, .mp4: res3.0 from frame 3, y 31, x 31; " in text
    names = [f"query_{i}.{kind}" for i in (0, 1) for kind in ("mp4", "png")]
    assert sorted(path.name for path in out.iterdir()) == ["attention.json", *names]
    for i in (0, 1):
        with VideoReader(out / f"query_{i}.mp4") as video:
            assert (video.num_frames, video.fps) == (4, 4.0) and min(video.height, video.width) >= 320
        with Image.open(out / f"query_{i}.png") as strip:
            assert strip.size[0] > 2 * 32 * 7
    report = json.loads((out / "attention.json").read_text())
    assert (report["block"], report["pairwise"], report["num_keys"]) == ("res3.0", "embedded_gaussian", 2 * 2 * 2)
    first, second = report["queries"]
    assert first["shown"] == [0, 3, 4] and second["video"][0] == 8
    # From 40 x 56 pixels to 32 x 44, and the 32 in the middle of those.
    assert first["video"][1:] == pytest.approx([3 * 40 / 32, (4 + 6) * 56 / 44], abs=1e-3)
    weights = [key["weight"] for key in first["keys"]]
    assert 1 <= len(weights) <= 5 and weights == sorted(weights, reverse=True)
    assert first["share"] == pytest.approx(sum(weights), abs=1e-3)
    assert f"x 4; {len(weights)} of 8 keys, with {100 * first['share']:.0f} % of the weight" in text


def test_queries_of_its_own_choice(visualize, tmp_path):
    status, text, _ = visualize("--num-queries", "2", "--fps", "2", "--start-sec", "0.4",
                                "TEST.CROP_SIZE", "0", "TEST.NUM_CROPS", "1")  # fmt: skip
    assert status == 0 and text.count("res2.0 from frame") == 2
    # Whole frames now.
    report = json.loads((tmp_path / "out/attention.json").read_text())
    assert report["num_keys"] == 2 * 4 * 5 and len(report["queries"]) == 2
    with VideoReader(tmp_path / "out/query_0.mp4") as video:
        assert video.fps == 2


def test_default_folder(call_tool, model, make_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "my clip.mp4")
    given = ("--config-file", model[0], "--weights", model[1], "--input", "my clip.mp4", "--num-queries", "1")
    assert call_tool("visualize_attention", *given)[0] == 0
    assert (tmp_path / "output/attention/my clip/query_0.png").is_file()


@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("attend", ["space", "time", "spacetime"])
def test_every_form(visualize, tmp_path, pairwise, attend):
    opts = ["MODEL.NONLOCAL.PAIRWISE", pairwise, "MODEL.NONLOCAL.ATTEND", attend]
    status, _, err = visualize("--num-queries", "1", *opts, weights=save_weights(tmp_path, *opts))
    assert status == 0, err
    report = json.loads((tmp_path / "out/attention.json").read_text())
    assert report["pairwise"] == pairwise
    (query,) = report["queries"]
    # An I3D of this stem has 2 frames of 8 x 8 positions after res2.
    allowed = {"space": 16, "time": 2, "spacetime": 20}[attend]
    assert 1 <= len(query["keys"]) <= allowed
    if attend != "spacetime":
        frame = query["shown"][0] // 2
        assert attend == "time" or {key["shown"][0] // 2 for key in query["keys"]} == {frame}
        if attend == "time":
            assert {tuple(key["shown"][1:]) for key in query["keys"]} == {tuple(query["shown"][1:])}


def test_mistakes_are_one_line(visualize, model, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    other = load_cfg(None, ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.WIDTH", "0.25"])
    other_weights = Checkpointer(build_model(other), str(tmp_path)).save("other")
    mistakes = [
        (["--position", "0,32,0"], {}, "position 0,32,0 is outside the clip, allowed: t,y,x with t 0 to 3"),
        (["--block", "res3.1"], {}, "no non-local block 'res3.1' in the network. Allowed: res2.0, res3.0"),
        (
            ["MODEL.NONLOCAL.ENABLED", "False"],
            {},
            "is of another network than the config's: only in the file: backbone.res2.nl0.theta.weight",
        ),
        (
            ["MODEL.NONLOCAL.ENABLED", "False"],
            {"weights": save_baseline(tmp_path)},
            "the network has no non-local block and so no attention: use --method gradcam",
        ),
        (["--layer", "res3"], {}, "--layer: got 'res3', allowed with --method gradcam"),
        (["--class", "1"], {}, "--class: got '1', allowed with --method gradcam"),
        (["--method", "gradcam", "--num-queries", "1"], {}, "--num-queries: got 1, allowed with --method attention"),
        (["--method", "gradcam", "--class", "8"], {}, "class: got 8, allowed: 0 to 7, or a name"),
        (["--method", "gradcam", "--layer", "res9"], {}, "layer: no layer 'res9': did you mean 'res"),
        (["--method", "gradcam", "--layer", "head"], {}, "layer: head gives (1, 8), allowed: a map of the frames"),
        ([], {"weights": other_weights}, "other.pth is of another network than the config's"),
        ([], {"weights": str(tmp_path / "nowhere.pth")}, "nowhere.pth"),
        ([], {"input": str(tmp_path / "text.mp4")}, "text.mp4: "),
        ([], {"input": str(tmp_path / "nowhere.mp4")}, "nowhere.mp4: no such file"),
        (["--num-arrows", "0"], {}, "k: got 0, allowed: 1 or more"),
        (["--num-queries", "0"], {}, "count: got 0, allowed: 1 to 128"),
        (["--output", str(tmp_path / "text.mp4")], {}, "text.mp4', a file, allowed: a folder"),
        (["--fps", "0"], {}, "--fps: got 0, allowed: above 0"),
        (["--start-sec", "5"], {}, "clip.mp4: no frames from 5 s to the end"),
    ]
    for arguments, keywords, message in mistakes:
        status, _, err = visualize(*arguments, **keywords)
        assert status == 2 and message in err and err.count("\n") == 1, (arguments, keywords, err)
        assert not list(tmp_path.glob("out/*"))


def save_baseline(folder):
    """Write weights of the same network without blocks; returns their path."""
    (folder / "config.yaml").write_text(CONFIG)
    baseline = build_model(load_cfg(str(folder / "config.yaml"), ["MODEL.NONLOCAL.ENABLED", "False"]))
    return Checkpointer(baseline, str(folder)).save("baseline")


def test_weights_without_the_block(visualize, tmp_path):
    """A baseline's weights in a network with blocks, which would be the identity: nothing of the block is trained."""
    status, _, err = visualize("MODEL.NONLOCAL.ZERO_INIT", "True", weights=save_baseline(tmp_path))
    assert (
        status == 2
        and "is of another network than the config's: only in the model: backbone.res2.nl0.theta.weight" in err
    ), err


def test_an_untrained_block(visualize, tmp_path):
    weights = save_weights(tmp_path, "MODEL.NONLOCAL.ZERO_INIT", "True")
    for position in ([], ["--position", "0,0,0"]):
        status, _, err = visualize(*position, weights=weights)
        assert status == 2 and "adds nothing to its input: it is untrained, or the weights lack it" in err, err


def test_the_model_that_comes_along_and_flags_in_any_order(call_tool, make_video, tmp_path):
    video = make_video(tmp_path / "clip.mp4", num_frames=9, height=70, width=80)
    given = [
        "TEST.SHORT_SIDE",
        "64",
        "--model",
        "quickstart",
        "--input",
        video,
        "--num-queries",
        "1",
        "--device",
        "cpu",
    ]
    status, text, err = call_tool("visualize_attention", *given, "--output", str(tmp_path / "out"))
    assert status == 0 and "res2.0 from frame" in text, err
    assert json.loads((tmp_path / "out/attention.json").read_text())["num_keys"] == 256
    # The name of a class, not its number.
    assert text.split("predicted: ")[1].split(" (")[0] in Predictor("quickstart", device="cpu").classes


@pytest.mark.parametrize("text", ["1,2", "1,2,3,4", "a,b,c", "-1,2,3", "1.5,2,3", ""])
def test_positions_are_three_whole_numbers(visualize, text):
    status, _, err = visualize(f"--position={text}")
    assert status == 2 and f"got {text!r}, allowed: T,Y,X, three whole numbers from 0" in err


def test_where_a_network_without_blocks_sees_a_class(visualize, tmp_path):
    plain = ("MODEL.NONLOCAL.ENABLED", "False", "--method", "gradcam")
    status, text, err = visualize(*plain, weights=save_baseline(tmp_path))
    out = tmp_path / "out"
    assert status == 0 and "frames 2, 4, 6, 8; predicted: " in text, err
    assert sorted(path.name for path in out.iterdir()) == ["gradcam.json", "gradcam.mp4", "gradcam.png"]
    report = json.loads((out / "gradcam.json").read_text())
    assert text.split("predicted: ")[1].split(" (")[0] == report["name"] and f".mp4: {report['name']} in res5; " in text
    # The stem of this network is small: 32 pixels are one cell of res5, and 2 frames are one.
    assert report["layer"] == "res5" and report["num_cells"] == 2 * 1 * 1 and report["cells"]
    with VideoReader(out / "gradcam.mp4") as video:
        assert (video.num_frames, video.fps) == (4, 4.0) and min(video.height, video.width) >= 320
    with Image.open(out / "gradcam.png") as strip:
        assert strip.size[0] > 2 * 32 * 7
    finer = ("--layer", "res3", "--class", "5", "--fps", "2")
    status, text, err = visualize(*plain, *finer, weights=str(tmp_path / "baseline.pth"))
    report = json.loads((out / "gradcam.json").read_text())
    assert status == 0 and (report["layer"], report["class"], report["num_cells"]) == ("res3", 5, 2 * 4 * 4), err
    cell = report["cells"][0]
    assert cell["weight"] > 0 and len(cell["shown"]) == len(cell["video"]) == 3 and cell["video"][0] in (2, 4, 6, 8)


def test_a_class_by_its_name_and_the_default_folder(call_tool, make_video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "clip.mp4", num_frames=9, height=70, width=80)
    given = ("--model", "quickstart", "--input", "clip.mp4", "--method", "gradcam", "--class", "blink")
    status, text, err = call_tool("visualize_attention", *given, "--device", "cpu")
    assert status == 0 and "blink in res5" in text, err
    assert json.loads((tmp_path / "output/gradcam/clip/gradcam.json").read_text())["name"] == "blink"
