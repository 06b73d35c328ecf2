"""Graphs of exported models: every backbone and pairwise function, in both formats, for any batch."""

from pathlib import Path

import pytest
import torch

from nlvideo.export.export_files import ALGORITHMS, ENTRY, ClipScorer, check_packages, read_export, trace, write_export
from nlvideo.layers import nonlocal_ops
from nlvideo.layers.blocks import Bottleneck3d
from nlvideo.layers.nonlocal_ops import ALGORITHMS as KNOWN
from nlvideo.modeling import NonLocalBlock, PoolLinearHead, VideoClassifier
from nlvideo.modeling.backbone.layout import TEMPORAL_KERNELS
from nlvideo.modeling.backbone.resnet3d import ResNet3d
from nlvideo.modeling.nonlocal_block.block import PAIRWISE

FORMS = dict(zip(("res2", "res3", "res4", "res5"), PAIRWISE))


def make_model(temporal="c2d", depth=10, loss="softmax", average="softmax", forms=None, **block):
    """A small random network with a block of another pairwise function in each stage, none of them the identity."""
    torch.manual_seed(0)
    forms = FORMS if forms is None else forms
    backbone = ResNet3d(
        depth=depth, temporal=temporal, stem="small", width=0.125, zero_init_residual=False,
        nonlocal_places={stage: [0] for stage in forms},
        make_nonlocal=lambda channels, stage: NonLocalBlock(
            channels, pairwise=forms[stage], zero_init=False, init_std=0.1, **block
        ),
    )  # fmt: skip
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, Bottleneck3d):
            # Sixteen of them in a row: their maps would grow until all probabilities are 1.
            torch.nn.init.constant_(module.bn3.weight, 0.1)
    channels = backbone.output_shape()["res5"].channels
    head = PoolLinearHead(in_channels=channels, num_classes=5, loss=loss, window=(4, 2, 2), init_std=0.02)
    return VideoClassifier(
        backbone=backbone, head=head, pixel_mean=[110.0, 115.0, 120.0], pixel_std=[50.0, 55.0, 60.0], average=average
    ).eval()


def clips(count, seed=0):
    """uint8 (count, 3, 4, 64, 64): at test the head sees more positions than its window holds."""
    return torch.randint(0, 256, (count, 3, 4, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(seed))


@torch.no_grad()
def scores(model, batch):
    """What a test makes of clips, each a video of one view."""
    return torch.stack([row["scores"] for row in model([{"video": clip[None], "video_id": ""} for clip in batch])])


def assert_equal_for_any_batch(model, run):
    for count in (1, 3, 4):
        batch = clips(count, seed=count)
        expected = scores(model, batch)
        assert expected.std(dim=1).min() > 1e-3, "scores that say nothing prove nothing"
        torch.testing.assert_close(run(batch), expected, atol=1e-5, rtol=0)


def test_each_pairwise_function_has_an_algorithm_of_its_own():
    assert {form: KNOWN[PAIRWISE[form]] for form in PAIRWISE if ALGORITHMS[form] in KNOWN[PAIRWISE[form]]}.keys() == (
        ALGORITHMS.keys()
    )
    assert ALGORITHMS.keys() == PAIRWISE.keys()


@pytest.mark.parametrize(
    "temporal, options",
    [
        ("c2d", {"attend": "time", "temporal_groups": 2}),
        ("i3d_3x1x1", {"attend": "space", "pool_first": False}),
        ("i3d_3x3x3", {"average": "logits", "subsample": False}),
        ("i3d_3x1x1_all", {"loss": "sigmoid", "average": "logits", "temporal_groups": 2}),
        ("slow", {"depth": 50, "loss": "sigmoid", "forms": {"res4": "embedded_gaussian"}}),
    ],
    ids=str,
)
def test_every_backbone_with_options_of_blocks_and_heads(temporal, options):
    model = make_model(temporal, **options)
    assert_equal_for_any_batch(model, trace(model, clips(2)).module())


def test_the_list_of_backbones_is_complete():
    assert {"c2d", "i3d_3x1x1", "i3d_3x3x3", "i3d_3x1x1_all", "slow"} == set(TEMPORAL_KERNELS)


def test_torch_export_of_all_forms(tmp_path):
    model = make_model()
    program = trace(model, clips(2))
    graphs = [module.graph for module in program.graph_module.modules() if hasattr(module, "graph")]
    nodes = [node for graph in graphs for node in graph.nodes]
    assert len(graphs) > 1 and not any("stack_trace" in node.meta for node in nodes)
    # Fused attention stays one operator.
    assert sum("scaled_dot_product" in str(node.target) for node in nodes) == 1
    write_export(program, str(tmp_path / "m.pt2"), "pt2", {"classes": ["é"]})
    run, recipe = read_export(str(tmp_path / "m.pt2"), "pt2")
    assert recipe == {"classes": ["é"]} and not run(clips(1)).requires_grad
    # Neither the clips that were traced with nor the folders of this machine.
    content = (tmp_path / "m.pt2").read_bytes()
    assert clips(2).numpy().tobytes()[:1000] not in content and str(Path(__file__).parents[2]).encode() not in content
    assert_equal_for_any_batch(model, run)


def onnx_or_skip():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra: export)")


def test_onnx_of_all_forms(tmp_path):
    onnx_or_skip()
    model = make_model("i3d_3x3x3")
    write_export(trace(model, clips(2)), str(tmp_path / "m.onnx"), "onnx", {"classes": ["é"]})
    run, recipe = read_export(str(tmp_path / "m.onnx"), "onnx")
    assert recipe == {"classes": ["é"]}
    assert_equal_for_any_batch(model, run)

    import onnx

    graph = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(graph)
    assert [entry.key for entry in graph.metadata_props] == [ENTRY]
    (taken,), (given,) = graph.graph.input, graph.graph.output
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sizes = [[d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim] for one in (taken, given)]
    assert sizes == [["batch", 3, 4, 64, 64], ["batch", 5]]
    # One file, without lines of our source or the folders of this machine.
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert not any(node.metadata_props for node in graph.graph.node)


def test_the_model_stays_as_it_is():
    model = make_model(forms={"res3": "concatenation"}).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check = nonlocal_ops._resolve
    trace(model, clips(2))
    assert nonlocal_ops._resolve is check
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.backbone.res3.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {block.algorithm for block in model.modules() if isinstance(block, NonLocalBlock)} == {"auto"}


def test_other_models_and_formats_are_refused():
    with pytest.raises(ValueError, match="META_ARCHITECTURE: got 'Linear', allowed for an export: 'VideoClassifier'"):
        ClipScorer(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="format: got 'tflite', allowed: 'pt2', 'onnx'"):
        check_packages("tflite")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"format 'onnx' needs onnx.*: pip install 'nlvideo\[export\]'"):
        check_packages("onnx")
    check_packages("pt2")
