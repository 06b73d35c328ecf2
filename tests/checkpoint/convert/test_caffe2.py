"""The authors' files: every blob has its place, and the converted network computes what theirs computed."""

import hashlib
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nlvideo.checkpoint import Checkpointer
from nlvideo.checkpoint.conversion import convert_checkpoint, write_conversion
from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.caffe2 import _our_name
from nlvideo.checkpoint.weights import fit, flatten
from nlvideo.config import load_cfg
from nlvideo.modeling import META_ARCH, build_model, inflate_2d_weights

# Of lines "blob shape", sorted: the tables of the authors' networks with 3x1x1 kernels, 5 blocks and 400 classes.
DIGESTS = {50: "8cd96e383a05f0e0", 101: "82fc655a3cc850ac"}
COUNTS = {(50, False): 267, (50, True): 327, (101, False): 522, (101, True): 582}


def tensors(arrays):
    """As read from a file."""
    return flatten({"blobs": arrays}, "x.pkl")


def zeros(shapes):
    """Blobs of these shapes which take no memory."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("depth", [50, 101])
def test_the_generated_names_are_those_of_the_authors(authors, depth):
    lines = [f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(authors.blob_shapes(depth).items())]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == DIGESTS[depth]


@pytest.mark.parametrize(("depth", "blocks"), list(COUNTS))
@pytest.mark.parametrize("i3d", [False, True])
def test_every_blob_meets_a_tensor_of_its_shape(authors, tmp_path, depth, blocks, i3d):
    shapes = authors.blob_shapes(depth, i3d=i3d, blocks=blocks)
    converted = convert(zeros(shapes))
    assert len(shapes) == len(converted.mapped) == len(converted.weights) == COUNTS[depth, blocks]
    assert {theirs for theirs, _ in converted.mapped} == set(shapes) and converted.dropped == []
    cfg = load_cfg(None, [word for item in converted.overrides.items() for word in item])
    with torch.device("meta"):
        model = META_ARCH.get("VideoClassifier")(cfg)
    ours = {name: tensor.shape for name, tensor in model.state_dict().items() if "num_batches" not in name}
    assert {name: tensor.shape for name, tensor in converted.weights.items()} == ours


def test_a_training_checkpoint_drops_what_only_training_needs(authors):
    shapes = authors.blob_shapes()
    content = {**zeros(shapes), **authors.training_state(zeros(shapes))}
    content = flatten({"blobs": content | {"lr": np.zeros(1, np.float32)}}, "x.pkl")
    assert len(content) == 539
    converted = convert(content)
    assert len(converted.mapped) == 327 and len(converted.dropped) == 212
    assert ("conv1_w_momentum", "momentum of the optimizer") in converted.dropped
    assert {name for name, why in converted.dropped if why == "state of the training"} == {"lr"}
    assert converted.summary() == (
        "327 tensors taken over, 212 dropped (211 momentum of the optimizer, 1 state of the training)"
    )


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "backbone.stem.conv.weight"),
        ("res_conv1_bn_riv", "backbone.stem.bn.running_var"),
        ("res4_22_branch2b_w", "backbone.res4.22.conv2.weight"),
        ("res2_0_branch1_bn_rm", "backbone.res2.0.shortcut.bn.running_mean"),
        ("res5_2_branch2c_bn_s", "backbone.res5.2.bn3.weight"),
        ("nonlocal_conv4_20_theta_b", "backbone.res4.nl20.theta.bias"),
        ("nonlocal_conv3_1_bn_b", "backbone.res3.nl1.bn.bias"),
        ("pred_b", "head.classifier.bias"),
        ("conv1_w_momentum", None),
        ("res6_0_branch2a_w", None),
        ("t_res2_0_branch2a_w", "backbone.fast.res2.0.conv1.weight"),
        ("t_nonlocal_conv4_1_theta_b", None),
    ],
)
def test_names(blob, name):
    assert _our_name(blob) == name


def _write(path, blobs, wrapped):
    content = {"blobs": blobs} if wrapped else blobs
    path.write_bytes(pickle.dumps(content, protocol=2))
    return str(path)


def _from_written_config(path, out, opts=()):
    """Convert a file, and build the network from what was written alone."""
    config = write_conversion(convert_checkpoint(path, opts=opts), out)
    cfg = load_cfg(config, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    Checkpointer(model, "unused", adapt_weights=inflate_2d_weights, cfg=cfg).load_weights(out)
    return model.eval(), cfg


def _our_logits(model, clip):
    """In float64, so that only a wrong computation can differ."""
    model = model.double()
    x = (clip.double() - model.pixel_mean) / model.pixel_std
    (features,) = model.backbone(x).values()
    return model.head.classifier(features.mean(dim=(2, 3, 4)))


@pytest.mark.parametrize(
    ("i3d", "blocks", "stem", "frames"),
    [
        (False, False, "authors_32x2", 16),
        (False, True, "authors_8x8", 8),
        (True, False, "authors_8x8", 8),
        (True, False, "authors_32x2", 16),
        (True, True, "authors_32x2", 16),
        (True, True, "slowfast_8x8", 8),
        (False, False, "slow", 4),
    ],
)
@pytest.mark.parametrize("affine", [False, True])
@torch.no_grad()
def test_narrow_networks_compute_the_same(authors, tmp_path, i3d, blocks, stem, frames, affine):
    shapes = authors.blob_shapes(i3d=i3d, blocks=blocks, base=8, classes=7, affine=affine, block_norm=not affine)
    blobs = authors.random_blobs(shapes)
    path = _write(tmp_path / "c2_model_iter400000.pkl", {**blobs, **authors.training_state(blobs)}, wrapped=not affine)
    opts = ["MODEL.BACKBONE.STEM", stem]
    # Eight frames of the one and sixteen of the other network leave four in res3: one group.
    opts += ["MODEL.NONLOCAL.TEMPORAL_GROUPS", "1"] if affine and blocks else []
    model, cfg = _from_written_config(path, str(tmp_path / "ours.pth"), opts)
    assert cfg.MODEL.NORM == ("FrozenBN" if affine else "BN") and cfg.MODEL.BACKBONE.WIDTH == 0.125
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.FRAME_STRIDE) == ((32, 2) if stem == "authors_32x2" else (8, 8))
    clip = torch.randint(0, 256, (2, 3, frames, 64, 64), dtype=torch.uint8)
    kind = {"authors_32x2": "32x2", "authors_8x8": "8x8", "slowfast_8x8": "slowfast", "slow": "nopool"}[stem]
    expected = authors.logits(blobs, clip, kind)[:, :, 0]
    assert expected.std() > 0.05
    torch.testing.assert_close(_our_logits(model, clip), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_long_clips_attend_within_groups(authors, tmp_path):
    shapes = authors.blob_shapes(blocks=True, base=8, classes=7, affine=True, block_norm=False)
    blobs = authors.random_blobs(shapes)
    path = _write(tmp_path / "i3d_nonlocal_32x4_I3D_pretrain_400k.pkl", blobs, wrapped=False)
    model, cfg = _from_written_config(path, str(tmp_path / "ours.pth"))
    node = cfg.MODEL.NONLOCAL
    assert (node.TEMPORAL_GROUPS, node.TEMPORAL_GROUP_STAGES, node.NORM) == (4, ["res3"], "none")
    assert (cfg.MODEL.BACKBONE.STEM, cfg.INPUT.NUM_FRAMES, cfg.INPUT.FRAME_STRIDE) == ("authors_8x8", 32, 4)
    clip = torch.randint(0, 256, (1, 3, 32, 64, 64), dtype=torch.uint8)
    expected = authors.logits(blobs, clip, "8x8")[:, :, 0]
    torch.testing.assert_close(_our_logits(model, clip), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_full_network_scores_videos_the_same(authors, tmp_path):
    """R50 with five blocks at full width, from bytes to probabilities averaged over positions."""
    blobs = authors.random_blobs(authors.blob_shapes(classes=400))
    path = _write(tmp_path / "i3d_nonlocal_8x8_IN_pretrain_400k.pkl", blobs, wrapped=True)
    model, cfg = _from_written_config(path, str(tmp_path / "ours.pth"), ["INPUT.CROP_SIZE", "64"])
    assert (cfg.MODEL.BACKBONE.STEM, cfg.INPUT.NUM_FRAMES) == ("authors_8x8", 8)
    clip = torch.randint(0, 256, (1, 3, 8, 64, 96), dtype=torch.uint8)
    expected = authors.logits(blobs, clip, "8x8", window=2)
    assert expected.shape == (1, 400, 2) and expected.std() > 0.05
    (result,) = model([{"video": clip, "video_id": "a"}])
    scores = expected.softmax(dim=1).mean(dim=2)[0].float()
    torch.testing.assert_close(result["scores"], scores, rtol=1e-2, atol=1e-5)
    # Fifty layers of rounding are left out of the comparison of logits.
    (features,) = model.double().backbone((clip.double() - 114.75) / 57.375).values()
    positions = F.avg_pool3d(features, (4, 2, 2), stride=1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.head.classifier(positions).transpose(1, 2), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_c2d_of_pyslowfasts_table(authors, tmp_path):
    """Its name says the stem and the clip: time is never pooled."""
    blobs = authors.random_blobs(authors.blob_shapes(base=8, blocks=False, i3d=False, classes=7))
    path = _write(tmp_path / "C2D_NOPOOL_8x8_R50.pkl", blobs, wrapped=True)
    model, cfg = _from_written_config(path, str(tmp_path / "ours.pth"))
    assert (cfg.MODEL.BACKBONE.STEM, cfg.INPUT.NUM_FRAMES, cfg.INPUT.FRAME_STRIDE) == ("slow", 8, 8)
    clip = torch.randint(0, 256, (1, 3, 8, 64, 64), dtype=torch.uint8)
    expected = authors.logits(blobs, clip, "nopool")[:, :, 0]
    torch.testing.assert_close(_our_logits(model, clip), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_stem_matters(authors, tmp_path):
    """The other stem takes the same weights and computes something else: why the config must say which."""
    blobs = authors.random_blobs(authors.blob_shapes(base=8, blocks=False, classes=7))
    path = _write(tmp_path / "a.pkl", blobs, wrapped=True)
    model, _ = _from_written_config(path, str(tmp_path / "ours.pth"), ["MODEL.BACKBONE.STEM", "authors_32x2"])
    clip = torch.randint(0, 256, (1, 3, 16, 64, 64), dtype=torch.uint8)
    assert not torch.allclose(_our_logits(model, clip), authors.logits(blobs, clip, "8x8")[:, :, 0], atol=1e-2)


def test_an_image_network_of_the_authors(authors):
    """Their ImageNet files: the same names, kernels without a time axis, statistics kept; no channel is turned."""
    shapes = {n: s[:2] + s[3:] if len(s) == 5 else s for n, s in authors.blob_shapes(blocks=False, i3d=False).items()}
    content = tensors({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert recognise(content) == "caffe2"
    content["conv1_w"] = torch.rand(64, 3, 7, 7)
    converted = convert(content)
    assert "MODEL.BACKBONE.TEMPORAL" not in converted.overrides and converted.undecided == {}
    assert converted.overrides["MODEL.BACKBONE.STRIDE_IN_1X1"] is False
    assert converted.weights["backbone.stem.conv.weight"] is content["conv1_w"]


def test_a_convolutional_classifier_becomes_a_matrix(authors):
    content = zeros(authors.blob_shapes(base=8, classes=7))
    content["pred_w"] = torch.arange(7 * 256.0).view(7, 256, 1, 1, 1)
    weight = convert(content).weights["head.classifier.weight"]
    assert weight.shape == (7, 256) and torch.equal(weight.flatten(), torch.arange(7 * 256.0))


def test_without_a_classifier(authors):
    content = {name: tensor for name, tensor in zeros(authors.blob_shapes(base=8)).items() if "pred" not in name}
    assert "MODEL.HEAD.NUM_CLASSES" not in convert(content).overrides


def test_the_scope_of_a_device_is_ignored(authors):
    content = {f"gpu_0/{name}": tensor for name, tensor in zeros(authors.blob_shapes(base=8)).items()}
    assert recognise(content) == "caffe2" and len(convert(content).weights) == 327


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {f"t_{name}": t for name, t in c.items()}, "cannot express t_nonlocal_conv3_1_theta_w"),
        (
            lambda c: {"conv1_gn_s": torch.zeros(8)},
            r"caffe2: cannot express conv1_gn_s \(8,\): our ResNets have no such layer",
        ),
        (lambda c: {"res4_6_branch2a_w": torch.zeros(256, 8, 1, 1, 1)}, r"a ResNet of \[3, 4, 7, 3\] bottlenecks"),
        (lambda c: {"res2_0_branch2b_w": torch.zeros(8, 2, 1, 3, 3)}, r"grouped convolutions \(ResNeXt\) in res2"),
        (lambda c: {"res2_1_branch2b_w": torch.zeros(8, 8, 3, 3, 3)}, "temporal kernels in .* res2.1.conv2, "),
        (lambda c: {"nonlocal_conv3_1_g_w": torch.zeros(8, 64, 1, 1, 1)}, "8 inner channels of 64, allowed: half"),
    ],
)
def test_networks_that_ours_cannot_express(authors, change, message):
    content = zeros(authors.blob_shapes(base=8))
    with pytest.raises(ValueError, match=message) as error:
        convert({**content, **change(content)}, "caffe2")
    assert "\n" not in str(error.value)


def test_slow_networks_of_pyslowfast(authors):
    """Kernels of three frames in all of res4 and res5, and one frame in the first."""
    shapes = authors.blob_shapes(base=8, blocks=False, i3d=False)
    slow = {n: (*s[:2], 3, 1, 1) if re.match(r"res[45]_\d_branch2a_w", n) else s for n, s in shapes.items()}
    converted = convert(zeros(slow))
    assert converted.undecided == {} and converted.overrides["MODEL.BACKBONE.STEM"] == "slow"
    with torch.device("meta"):
        words = [word for item in converted.overrides.items() for word in item]
        model = META_ARCH.get("VideoClassifier")(load_cfg(None, words))
    fit(model.state_dict(), converted.weights, "slow.pkl", "backbone")


def blob_of(name):
    """What PySlowFast's own files in Caffe2 call a tensor of its SlowFast."""
    rules = [
        (r"s1_fuse\.", "t_pool1_subsample_"), (r"s2_fuse\.", "t_res2_2_branch2c_bn_subsample_"),
        (r"s3_fuse\.", "t_res3_3_branch2c_bn_subsample_"), (r"s4_fuse\.", "t_res4_5_branch2c_bn_subsample_"),
        (r"conv_f2s\.weight", "w"), (r"s\d\.pathway1_", "t_"), (r"s\d\.pathway0_", ""), ("stem.conv.weight", "conv1_w"),
        (r"stem\.bn\.", "res_conv1_bn_"), (r"\.branch1", "_branch1"), (r"\.branch2\.", "_branch2"),
        ("head.projection.weight", "pred_w"), ("head.projection.bias", "pred_b"), (r"bn[._]weight", "bn_s"),
        (r"bn[._]bias", "bn_b"), (r"bn[._]running_mean", "bn_rm"), (r"bn[._]running_var", "bn_riv"),
        (r"\.weight", "_w"),
    ]  # fmt: skip
    stage = re.match(r"s(\d)\.pathway", name)
    for pattern, blob in rules:
        name = re.sub(pattern, blob, name)
    return re.sub(r"^(t_)?res(?=\d+_branch)", rf"\1res{stage[1]}_", name) if stage else name


def test_the_slowfast_of_pyslowfasts_table(peers, tmp_path):
    """Its blobs are those tensors of its own network, and the name of the file says the rest."""
    state = peers.fill(peers.table("pyslowfast_slowfast_4x16"))
    blobs = {blob_of(key): tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    names = ["t_conv1_w", "t_res_conv1_bn_s", "res2_0_branch1_w", "t_res4_5_branch2c_bn_riv", "t_pool1_subsample_bn_rm",
             "t_res3_3_branch2c_bn_subsample_w", "t_res4_5_branch2c_bn_subsample_bn_b"]  # fmt: skip
    assert recognise(blobs) == "caffe2" and set(names) <= set(blobs)
    expected = convert(state).weights
    converted = convert(blobs)
    assert all(torch.equal(expected[name], tensor) for name, tensor in converted.weights.items())
    assert {name for name in expected if "tracked" not in name} == set(converted.weights)
    path = _write(tmp_path / "SLOWFAST_4x16_R50.pkl", {name: np.asarray(blob) for name, blob in blobs.items()}, True)
    conversion = convert_checkpoint(path)
    assert conversion.cfg.MODEL.BACKBONE.ARGS == [["alpha", 8], ["lateral_kernel", 5]]
    assert (conversion.converted.dataset, len(conversion.converted.classes)) == ("kinetics400", 400)


def test_other_temporal_kernels_are_refused(authors, tmp_path):
    """A 3x1x1 kernel where our I3D has none."""
    blobs = authors.random_blobs(authors.blob_shapes(base=8, blocks=False))
    blobs["res4_1_branch2a_w"] = np.zeros((32, 128, 3, 1, 1), np.float32)
    path = _write(tmp_path / "slow.pkl", blobs, wrapped=True)
    with pytest.raises(ValueError, match=r"slow.pkl: temporal kernels in .* are none of our styles: c2d, i3d_3x1x1"):
        convert_checkpoint(path, opts=["MODEL.BACKBONE.STEM", "authors_8x8"])


def test_affine_layers_are_norms_that_divide_by_one(authors):
    content = tensors(authors.random_blobs(authors.blob_shapes(base=8, affine=True, block_norm=False)))
    weights = convert(content).weights
    x = torch.randn(2, 8, 1, 3, 3)
    norm = {leaf: weights[f"backbone.stem.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")}
    scale, shift = (content[f"res_conv1_bn_{leaf}"].view(1, -1, 1, 1, 1) for leaf in "sb")
    torch.testing.assert_close(F.batch_norm(x, **norm, eps=1e-5), x * scale + shift, rtol=1e-6, atol=1e-6)
    assert not any(re.search(r"nl\d.bn", name) for name in weights)
