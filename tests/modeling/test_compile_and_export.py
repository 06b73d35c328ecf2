"""torch.compile without a graph break and torch.export, of every form and algorithm and of a whole network."""

import pytest
import torch

from nlvideo.model_zoo import get_config
from nlvideo.modeling import NonLocalBlock, build_model
from nlvideo.modeling.nonlocal_block.block import BLOCK_ALGORITHMS

CASES = [(pairwise, a) for pairwise, algorithms in BLOCK_ALGORITHMS.items() for a in (*algorithms, "auto")]


@pytest.fixture(autouse=True)
def fresh_compiler():
    """One case's graphs are not another's; Dynamo gives up on a function after some recompilations."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make_block(pairwise, algorithm, **options):
    """A block that is not the identity, and a map for it; in float64, where rounding hides nothing."""
    torch.manual_seed(0)
    block = NonLocalBlock(16, pairwise=pairwise, algorithm=algorithm, **options)
    torch.nn.init.ones_(block.bn.weight)
    return block.double(), torch.randn(2, 16, 4, 8, 8, dtype=torch.float64, requires_grad=True)


def value_and_gradients(module, block, x):
    """The output and the gradients of x and the parameters."""
    block.zero_grad()
    out = module(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])]


def assert_close_to(actual, expected):
    """Values and gradients."""
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairwise, algorithm", CASES)
def test_a_block_compiles_into_one_graph(pairwise, algorithm):
    """Forward and backward; the CPU's code generator is left out, so that no compiler is needed."""
    block, x = make_block(pairwise, algorithm)
    expected = value_and_gradients(block, block, x)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert_close_to(value_and_gradients(compiled, block, x), expected)


@pytest.mark.parametrize("pairwise, algorithm", CASES)
def test_a_block_exports(pairwise, algorithm):
    block, x = make_block(pairwise, algorithm)
    block.eval()
    program = torch.export.export(block, (x.detach(),))
    torch.testing.assert_close(program.module()(x.detach()), block(x.detach()))


def test_checkpoints_compile_too():
    block, x = make_block("embedded_gaussian", "auto", checkpoint=True)
    expected = value_and_gradients(block, block, x)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    assert_close_to(value_and_gradients(compiled, block, x), expected)


@pytest.fixture(scope="module")
def network():
    """C2D R50 with five blocks in the paper's places, and a clip; small, for the CPU, but with nothing left out."""
    opts = ["INPUT.NUM_FRAMES", "8", "INPUT.CROP_SIZE", "64", "MODEL.BACKBONE.WIDTH", "0.25", "MODEL.WEIGHTS", "",
            "MODEL.HEAD.NUM_CLASSES", "9"]  # fmt: skip
    torch.manual_seed(0)
    model = build_model(get_config("kinetics/c2d_r50_32x2_nl5", opts))
    for module in model.modules():
        if isinstance(module, NonLocalBlock):
            torch.nn.init.ones_(module.bn.weight)
    assert sum(isinstance(module, NonLocalBlock) for module in model.modules()) == 5
    return model.backbone.eval(), torch.randn(1, 3, 8, 64, 64)


def test_the_network_compiles_into_one_graph(network):
    backbone, clip = network
    with torch.no_grad():
        expected = backbone(clip)
        actual = torch.compile(backbone, backend="aot_eager", fullgraph=True)(clip)
    for name, features in expected.items():
        torch.testing.assert_close(actual[name], features, rtol=1e-4, atol=1e-4)


def test_the_network_exports(network):
    backbone, clip = network
    program = torch.export.export(backbone, (clip,))
    with torch.no_grad():
        for name, features in backbone(clip).items():
            torch.testing.assert_close(program.module()(clip)[name], features, rtol=1e-4, atol=1e-4)
