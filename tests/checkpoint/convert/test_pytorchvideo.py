"""PyTorchVideo's hub ResNets: the converted network computes what its networks compute, stated again on their names."""

import pytest

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.weights import flatten

# Table of names -> whether there is a pool over time after res2.
NETWORKS = {"pytorchvideo_c2d_r50": True, "pytorchvideo_i3d_r50": True, "pytorchvideo_slow_r50": False}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_the_tables_gives_the_same_logits(peers, clip, name):
    state = peers.fill(peers.narrow(peers.table(name)))
    assert recognise(state) == "pytorchvideo"
    converted = convert(state)
    # The numbers of the blocks show the pool: nothing is left open.
    assert converted.undecided == {} and len(converted.mapped) == len(state)
    peers.same(peers.logits(converted, clip), peers.forward("pytorchvideo", state, clip, pool2=NETWORKS[name]))


def trained_by_pyslowfast(peers, text):
    """A file of PySlowFast's around a Slow network of PyTorchVideo."""
    state = peers.zeros(peers.table("pytorchvideo_slow_r50"))
    return flatten({"model_state": {f"model.{key}": value for key, value in state.items()}, "cfg": text}, "x.pyth")


def test_a_network_that_pyslowfast_trained_has_a_prefix_and_a_config(peers):
    text = "{MODEL: {ARCH: slow, HEAD_ACT: sigmoid}, DATA: {NUM_FRAMES: 4, SAMPLING_RATE: 16, TRAIN_CROP_SIZE: 112}}"
    flat = trained_by_pyslowfast(peers, text)
    assert recognise(flat) == "pytorchvideo"
    converted = convert(flat)
    plain = convert(peers.zeros(peers.table("pytorchvideo_slow_r50")))
    assert converted.dropped == [("cfg", "not a tensor")] and converted.weights.keys() == plain.weights.keys()
    assert ("model.blocks.0.conv.weight", "backbone.stem.conv.weight") in converted.mapped
    expected = {"INPUT.NUM_FRAMES": 4, "INPUT.FRAME_STRIDE": 16, "INPUT.CROP_SIZE": 96, "MODEL.HEAD.LOSS": "sigmoid"}
    assert {key: converted.overrides[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {ARCH: c2d}", "pytorchvideo: MODEL.ARCH is 'c2d' (MODEL.BACKBONE.TEMPORAL c2d), but the weights are"),
        ("MODEL: {ARCH: slow, HEAD_ACT: none}", "pytorchvideo: MODEL.HEAD_ACT in the config of the file: got 'none'"),
        ("{MODEL: {ARCH: slow}, DATA: {REVERSE_INPUT_CHANNEL: true}}", "DATA.REVERSE_INPUT_CHANNEL: got True"),
    ],
)
def test_configs_that_ours_cannot_express_are_refused(peers, text, message):
    with pytest.raises(ValueError) as error:
        convert(trained_by_pyslowfast(peers, text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_kernels_decide_between_networks_of_one_architecture(peers):
    """The pool over time shows in the numbers of blocks: a config that says otherwise is of another file."""
    state = peers.zeros(peers.table("pytorchvideo_c2d_r50"))
    with pytest.raises(ValueError, match=r"c2d' \(MODEL.BACKBONE.STEM slow\), but the weights are of 'slowfast_8x8'"):
        convert({**state, "cfg": "MODEL: {ARCH: slow_c2d}"})


SLOWFAST = "pytorchvideo_slowfast_r50"


@pytest.mark.parametrize("alpha", [4, 8])
def test_two_pathways_give_the_same_logits(peers, clip, alpha):
    state = peers.fill(peers.table(SLOWFAST))
    assert recognise(state) == "pytorchvideo"
    converted = convert(state)
    possible = converted.undecided.pop("MODEL.BACKBONE.ARGS")
    assert possible == [[["alpha", n], ["lateral_kernel", 7]] for n in (4, 8)] and not converted.undecided
    assert len(converted.mapped) == len(state)
    converted.overrides["MODEL.BACKBONE.ARGS"] = possible[alpha == 8]
    peers.same(peers.logits(converted, clip), peers.slowfast("pytorchvideo", state, clip, alpha))


def test_two_pathways_that_pyslowfast_trained(peers):
    """Its config says alpha, and only the first 6 blocks of this res4 hold a temporal kernel."""
    shapes = peers.table(SLOWFAST)
    name = "blocks.3.multipathway_blocks.{}.res_blocks.{}"
    for pathway in (0, 1):
        last = {key: shape for key, shape in shapes.items() if key.startswith(name.format(pathway, 5))}
        for block in range(6, 23):
            more = {key.replace("res_blocks.5", f"res_blocks.{block}"): shape for key, shape in last.items()}
            conv_a = f"{name.format(pathway, block)}.branch2.conv_a.weight"
            shapes |= more | {conv_a: (*more[conv_a][:2], 1, 1, 1)}
    text = "{MODEL: {ARCH: slowfast, MODEL_NAME: PTVSlowFast}, SLOWFAST: {ALPHA: 4}, DATA: {NUM_FRAMES: 64}}"
    converted = convert({**{f"model.{key}": value for key, value in peers.zeros(shapes).items()}, "cfg": text})
    args = [["alpha", 4], ["lateral_kernel", 7], ["temporal_blocks", 6]]
    expected = {"MODEL.BACKBONE.ARGS": args, "MODEL.BACKBONE.DEPTH": 101, "INPUT.NUM_FRAMES": 64}
    assert not converted.undecided and {key: converted.overrides[key] for key in expected} == expected
    ours = {key: tuple(tensor.shape) for key, tensor in peers.on_meta(peers.config(converted)).items()}
    assert {key: tuple(tensor.shape) for key, tensor in converted.weights.items()} == ours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.conv.conv_t.weight": (8, 3, 1, 3, 3)}, "X3D"),
        ({"blocks.0.attn.qkv.weight": (8, 8)}, "a vision transformer"),
        ({"blocks.1.res_blocks.0.branch2.norm_b.1.fc1.weight": (8, 8, 1, 1, 1)}, "X3D"),
        ({"blocks.1.res_blocks.0.branch2.conv_b.weight": (8, 1, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res2"),
        ({"blocks.1.res_blocks.3.branch2.conv_a.weight": (8, 32, 1, 1, 1)}, "a ResNet of [4, 4, 6, 3] bottlenecks"),
        ({"blocks.1.res_blocks.0.branch2.conv_a.weight": (8, 8, 3, 1, 1)}, "none of our styles"),
        ({"blocks.0.conv.weight": (8, 1, 1, 7, 7)}, "reads 1 channels, such as optical flow; ours reads RGB"),
    ],
)
def test_networks_that_ours_cannot_express_are_refused(peers, change, message):
    assert message in peers.refusal(peers.narrow(peers.table("pytorchvideo_slow_r50")) | change, "pytorchvideo")
