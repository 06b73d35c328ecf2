"""MODEL.WEIGHTS of another framework: converted, compared with the config, and loaded whole or not at all."""

import logging
import pickle
import re

import pytest
import torch
import torchvision

from nlvideo.checkpoint import Checkpointer
from nlvideo.checkpoint.convert import Converted, convert
from nlvideo.checkpoint.weights import check_config, find_weights, fit, flatten, identify
from nlvideo.config import load_cfg
from nlvideo.modeling import META_ARCH, inflate_2d_weights

NARROW = ["MODEL.BACKBONE.WIDTH", "0.125", "MODEL.HEAD.NUM_CLASSES", "7", "MODEL.DEVICE", "cpu"]
I3D = ["MODEL.BACKBONE.TEMPORAL", "i3d_3x1x1", "MODEL.BACKBONE.STEM", "authors_8x8"]
BLOCKS = ["MODEL.NONLOCAL.ENABLED", "True"]


def build(*opts):
    """A narrow network on the CPU, and its config."""
    cfg = load_cfg(None, [*NARROW, *opts])
    return META_ARCH.get("VideoClassifier")(cfg), cfg


def load(path, *opts):
    """Load a file into a network of these settings."""
    model, cfg = build(*opts)
    return model, Checkpointer(model, "unused", adapt_weights=inflate_2d_weights, cfg=cfg).load_weights(str(path))


@pytest.fixture(scope="module")
def folder(authors, tmp_path_factory):
    """Narrow files of the authors' networks: I3D without and with blocks, one without norms in them, and of images."""
    folder = tmp_path_factory.mktemp("authors")
    for name, keywords in {
        "baseline": {"blocks": False},
        "blocks": {},
        "affine": {"affine": True, "block_norm": False},
    }.items():
        blobs = authors.random_blobs(authors.blob_shapes(base=8, classes=7, **keywords))
        (folder / f"{name}.pkl").write_bytes(pickle.dumps({"blobs": {**blobs, "lr": 0.1}}, protocol=2))
    shapes = authors.blob_shapes(base=8, classes=10, i3d=False, blocks=False, affine=True)
    images = authors.random_blobs({n: s[:2] + s[3:] if len(s) == 5 else s for n, s in shapes.items()})
    (folder / "msra.pkl").write_bytes(pickle.dumps(images, protocol=2))
    return folder


def test_a_foreign_file_is_converted_and_reported(folder, caplog):
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        model, report = load(folder / "blocks.pkl", *I3D, *BLOCKS)
    assert report.is_complete and len(report.loaded) == 327
    weights = pickle.loads((folder / "blocks.pkl").read_bytes())["blobs"]
    loaded = model.backbone.res4.nl5.theta.weight
    assert torch.equal(loaded, torch.from_numpy(weights["nonlocal_conv4_5_theta_w"]))
    assert "blocks.pkl: weights of caffe2: 327 tensors taken over, 0 dropped" in caplog.text
    assert "does not show its MODEL.BACKBONE.STEM; it is loaded as 'authors_8x8'" in caplog.text


def test_a_baseline_starts_a_network_with_blocks(folder):
    _, report = load(folder / "baseline.pkl", *I3D, *BLOCKS, "MODEL.NONLOCAL.SCALE", "False")
    assert not report.missing and len(report.new_nonlocal) == 65


def test_other_classes_are_skipped(folder):
    _, report = load(folder / "baseline.pkl", *I3D, "MODEL.HEAD.NUM_CLASSES", "5")
    assert set(report.classifier) == {"head.classifier.weight", "head.classifier.bias"} and not report.missing


def test_frozen_and_trained_norms_hold_the_same_numbers(folder):
    for norm in ("BN", "FrozenBN"):
        _, report = load(folder / "affine.pkl", *I3D, *BLOCKS, "MODEL.NONLOCAL.NORM", "none", "MODEL.NORM", norm)
        assert report.is_complete


def check(content, current, cfg, path):
    """Compare a file with a config and with the state dict of its model, as loading does."""
    found = find_weights(content, path, current)
    check_config(found, cfg, path, current)
    fit(current, found.weights, path, "backbone")


CONTRADICTIONS = [
    ("blocks", [*I3D, *BLOCKS, "MODEL.BACKBONE.STRIDE_IN_1X1", "True"],
     "MODEL.BACKBONE.STRIDE_IN_1X1: file False, config True"),
    ("blocks", [*BLOCKS, "MODEL.BACKBONE.TEMPORAL", "i3d_3x1x1"],
     "MODEL.BACKBONE.STEM: file 'authors_32x2' or 'authors_8x8' or 'slowfast_8x8' or 'slow', config 'paper'"),
    ("blocks", [*I3D, *BLOCKS, "MODEL.NONLOCAL.SCALE", "False"], "MODEL.NONLOCAL.SCALE: file True, config False"),
    ("blocks", [*I3D, *BLOCKS, "MODEL.NONLOCAL.POOL_FIRST", "False"],
     "MODEL.NONLOCAL.POOL_FIRST: file True, config False"),
    ("blocks", [*I3D, *BLOCKS, "MODEL.NONLOCAL.PAIRWISE", "dot_product"],
     "MODEL.NONLOCAL.PAIRWISE: file 'embedded_gaussian', config 'dot_product'"),
    ("blocks", [*I3D, *BLOCKS, "MODEL.NONLOCAL.TEMPORAL_GROUPS", "2"],
     "MODEL.NONLOCAL.TEMPORAL_GROUPS: file 1, config 2"),
    ("blocks", [*I3D, *BLOCKS, "MODEL.NONLOCAL.NORM", "none"], "MODEL.NONLOCAL.NORM: file 'same', config 'none'"),
    ("affine", [*I3D, *BLOCKS], "MODEL.NONLOCAL.NORM: file 'none', config 'same'"),
    ("affine", [*I3D, *BLOCKS, "MODEL.NONLOCAL.NORM", "none", "MODEL.NONLOCAL.TEMPORAL_GROUPS", "4"],
     "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES: file ['res3'], config []"),
    ("blocks", I3D, "MODEL.NONLOCAL.ENABLED: file True, config False"),
    ("blocks", [*I3D, *BLOCKS, "MODEL.NONLOCAL.STAGES", "['res4']"],
     "only in the file: backbone.res3.nl1.theta.weight"),
    ("baseline", [*I3D, "MODEL.BACKBONE.DEPTH", "101"], "MODEL.BACKBONE.DEPTH: file 50, config 101"),
    ("baseline", ["MODEL.BACKBONE.STEM", "authors_8x8"], "MODEL.BACKBONE.TEMPORAL: file 'i3d_3x1x1', config 'c2d'"),
    ("baseline", [*I3D, "MODEL.BACKBONE.WIDTH", "0.25"], "MODEL.BACKBONE.WIDTH: file 0.125, config 0.25"),
    ("baseline", [*I3D, "MODEL.PIXEL_MEAN", "[110.0]"],
     "MODEL.PIXEL_MEAN: file [114.75, 114.75, 114.75], config [110.0]"),
    ("msra", [], "MODEL.BACKBONE.STRIDE_IN_1X1: file True, config False"),
    ("msra", ["MODEL.BACKBONE.STRIDE_IN_1X1", "True"], "MODEL.PIXEL_STD: file [1.0, 1.0, 1.0], config [57.375"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "opts", "message"), CONTRADICTIONS)
def test_another_network_is_refused_before_anything_is_loaded(folder, name, opts, message):
    cfg = load_cfg(None, [*NARROW, *opts])
    content = pickle.loads((folder / f"{name}.pkl").read_bytes())
    with torch.device("meta"):
        current = META_ARCH.get("VideoClassifier")(cfg).state_dict()
    expected = f"x.pkl is of another network than the config's: .*{re.escape(message)}"
    with pytest.raises(ValueError, match=expected) as error:
        check(content, current, cfg, "x.pkl")
    assert "\n" not in str(error.value)


def test_one_pixel_value_stands_for_three(folder):
    _, report = load(folder / "baseline.pkl", *I3D, "MODEL.PIXEL_MEAN", "[114.75]", "MODEL.PIXEL_STD", "[57.375]")
    assert report.is_complete


def test_image_networks_start_networks_of_every_kind(folder):
    opts = ["MODEL.BACKBONE.STRIDE_IN_1X1", "True", "MODEL.PIXEL_MEAN", "[122.7717, 115.9465, 102.9801]",
            "MODEL.PIXEL_STD", "[1.0]"]  # fmt: skip
    for temporal in ("c2d", "i3d_3x1x1", "i3d_3x3x3"):
        model, report = load(folder / "msra.pkl", *opts, *BLOCKS, "MODEL.BACKBONE.TEMPORAL", temporal)
        assert not report.missing and not report.mismatched and len(report.classifier) == 2
        blob = pickle.loads((folder / "msra.pkl").read_bytes())["conv1_w"]
        torch.testing.assert_close(model.backbone.stem.conv.weight.sum(2), torch.from_numpy(blob).flip(1))


def test_tolerated_values_are_logged(caplog):
    cfg = load_cfg(None, [])
    converted = Converted({}, {"MODEL.PIXEL_MEAN": [123.0] * 3}, tolerated={"MODEL.PIXEL_MEAN": [[114.75] * 3]})
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        check_config(converted, cfg, "w.pth")
    assert "MODEL.PIXEL_MEAN: file [123.0, 123.0, 123.0], config [114.75, 114.75, 114.75]; training may" in caplog.text
    with pytest.raises(ValueError, match="MODEL.PIXEL_MEAN: file"):
        check_config(converted, load_cfg(None, ["MODEL.PIXEL_MEAN", "[100.0]"]), "w.pth")


@pytest.mark.parametrize("decided", [True, False])
def test_a_setting_that_changes_nothing_is_not_compared(decided):
    """Dot products are not scaled, and what is not pooled is pooled neither before nor after."""
    settings = {"MODEL.NONLOCAL.SCALE": True, "MODEL.NONLOCAL.POOL_FIRST": True}
    both = {"MODEL.NONLOCAL.ENABLED": True, "MODEL.NONLOCAL.SUBSAMPLE": False}
    undecided = {} if decided else {key: [value] for key, value in settings.items()}
    converted = Converted({}, both | (settings if decided else {}), undecided=undecided)
    keys = ("MODEL.NONLOCAL.SUBSAMPLE", "MODEL.NONLOCAL.SCALE", "MODEL.NONLOCAL.POOL_FIRST")
    others = [*BLOCKS, *(word for key in keys for word in (key, "False"))]
    check_config(converted, load_cfg(None, [*others, "MODEL.NONLOCAL.PAIRWISE", "dot_product"]), "w.pth")
    with pytest.raises(ValueError, match="config's: MODEL.NONLOCAL.SCALE: file True, config False$"):
        check_config(converted, load_cfg(None, [*others, "MODEL.NONLOCAL.PAIRWISE", "gaussian"]), "w.pth")


def test_without_a_config_the_settings_are_logged(folder, caplog):
    model, _ = build(*I3D)
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        Checkpointer(model, "unused").load_weights(str(folder / "baseline.pkl"))
    assert "no config to compare its settings with: {'MODEL.PIXEL_MEAN'" in caplog.text


def test_unknown_names_are_refused(tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"blobs": {"fc_w": torch.ones(2, 2).numpy()}}, protocol=2))
    with pytest.raises(ValueError, match="w.pkl: only 0 of the backbone's .* tensors fit. The file has fc_w"):
        load(tmp_path / "w.pkl")


def test_a_gap_is_not_filled_with_random_numbers(folder):
    content = pickle.loads((folder / "baseline.pkl").read_bytes())["blobs"]
    del content["res4_2_branch2b_w"]
    with pytest.raises(ValueError, match="only in the model: backbone.res4.2.conv2.weight"):
        model, cfg = build(*I3D)
        current = model.state_dict()
        check(content, current, cfg, "w.pkl")


def test_a_head_is_absent_as_a_whole_or_not_at_all(folder):
    content = pickle.loads((folder / "baseline.pkl").read_bytes())["blobs"]
    model, cfg = build(*I3D)
    current = model.state_dict()
    del content["pred_b"]
    with pytest.raises(ValueError, match="only in the model: head.classifier.bias$"):
        check(content, current, cfg, "w.pkl")
    del content["pred_w"]
    check(content, current, cfg, "w.pkl")


def test_our_own_files_are_left_alone(folder):
    model, _ = build(*I3D)
    current = model.state_dict()
    found = find_weights({"model": current}, "w.pth", current)
    assert (found.weights, found.source, found.overrides) == (current, "nlvideo", {})
    strange = {"strange.weight": torch.ones(1)}
    assert find_weights(strange, "w.pth", current).weights == strange


def test_a_converted_file_remembers_its_network(folder):
    content = pickle.loads((folder / "baseline.pkl").read_bytes())["blobs"]
    converted = convert({name: torch.as_tensor(value) for name, value in content.items()})
    origin = {"source": "caffe2", "file": "a.pkl", "overrides": {**converted.overrides}, "tolerated": {}}
    origin["overrides"]["MODEL.BACKBONE.STEM"] = "authors_32x2"
    model, cfg = build(*I3D)
    with pytest.raises(ValueError, match="MODEL.BACKBONE.STEM: file 'authors_32x2', config 'authors_8x8'"):
        check({"model": converted.weights, "converted_from": origin}, model.state_dict(), cfg, "w.pth")


WRAPPED = ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "model.{}", "model.module.{}", "model.backbone.{}"]


@pytest.mark.parametrize("form", WRAPPED)
def test_what_trainers_put_before_names_is_gone(form):
    """Of our own names and of another framework's, also with something beside the network."""
    model, _ = build("MODEL.BACKBONE.DEPTH", "18")
    state = model.state_dict()
    wrapped = {form.format(name): tensor for name, tensor in state.items()} | {"n_averaged": torch.tensor(3)}
    found = find_weights({"state_dict": wrapped}, "w.pth", state)
    assert found.weights.keys() - {"n_averaged"} == state.keys() and found.source == "nlvideo"
    images = torchvision.models.resnet18(weights=None, num_classes=2).state_dict()
    wrapped = {form.format(name): tensor for name, tensor in images.items()} | {"criterion": torch.ones(2)}
    source, weights = identify(flatten({"state_dict": wrapped}, "w.pth"), ())
    assert source == "torchvision" and weights.keys() - {"criterion"} == images.keys()


def test_wrappers_of_parts_are_gone():
    names = ["backbone._orig_mod.a", "backbone.res2._checkpoint_wrapped_module.b", "_fsdp_wrapped_module.head.c"]
    flat = flatten({name: torch.ones(1) for name in names}, "w.pth")
    assert list(flat) == ["backbone.a", "backbone.res2.b", "head.c"]


def test_a_prefix_does_not_hide_whose_names_they_are():
    """mmaction2's own names begin with "backbone."; below it they would be unknown."""
    names = {"backbone.conv1.conv.weight": torch.ones(1), "backbone.layer1.0.conv1.conv.weight": torch.ones(1)}
    assert identify(names, ()) == ("mmaction2", names)
    strange = {"model.strange.weight": torch.ones(1)}
    assert identify(strange, ()) == ("", strange)


def test_an_average_that_is_passed_over_is_said_and_can_be_asked_for(tmp_path, caplog):
    model, cfg = build("MODEL.BACKBONE.DEPTH", "18")
    state = model.state_dict()
    average = {f"module.{name}": torch.full_like(tensor, 2) for name, tensor in state.items()}
    content = {"state_dict": state, "ema_state_dict": average | {"steps": torch.tensor(7)}, "epoch": 3}
    torch.save(content, tmp_path / "epoch_1.pth")
    checkpointer = Checkpointer(model, "unused", cfg=cfg)
    checkpointer.load_weights(str(tmp_path / "epoch_1.pth"))
    assert "weights are read from 'state_dict'; others are in ema_state_dict (see --entry)" in caplog.text
    caplog.clear()
    assert checkpointer.load_weights(str(tmp_path / "epoch_1.pth"), entry="ema_state_dict", complete=True).is_complete
    assert model.state_dict()["head.classifier.bias"].eq(2).all() and "--entry" not in caplog.text
    with pytest.raises(ValueError, match="found no weights under 'average'; the file holds state_dict, ema_state_dict"):
        checkpointer.load_weights(str(tmp_path / "epoch_1.pth"), entry="average")


@pytest.mark.parametrize("origin", [3, {}, {"overrides": [], "tolerated": {}}, {"overrides": {}}])
def test_a_damaged_memory_of_the_network_is_one_line(origin):
    model, _ = build("MODEL.BACKBONE.DEPTH", "18")
    content = {"model": model.state_dict(), "converted_from": origin}
    with pytest.raises(ValueError, match="w.pth: its entry 'converted_from' does not say which network was converted"):
        find_weights(content, "w.pth", model.state_dict())


def test_a_small_stem_is_named(tmp_path):
    """Image networks have large first kernels: the key to change is said, with all the others."""
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    message = (
        "MODEL.BACKBONE.DEPTH: file 18, config 10; MODEL.BACKBONE.WIDTH: file 1.0, config 0.125; "
        "MODEL.BACKBONE.STEM: file with a kernel of 7 x 7, config 'small' with one of 3 x 3"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load(tmp_path / "r18.pth", "MODEL.BACKBONE.DEPTH", "10", "MODEL.BACKBONE.STEM", "small")
