"""Everything that runs on a GPU, on CUDA tensors without values: no tensor is made on another device.

PyTorch's fake tensors know shape, dtype and device. They refuse what a GPU would refuse: an operation on tensors of two
devices. Every value that is read of them is 1. PyTorch's attention kernel, its fused SGD and its engine for backward
passes cannot be faked. The formula, a look at what they get and a walk over the graph stand in for them.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from nlvideo.config import CfgNode
from nlvideo.data.build import build_batch_mixer, build_test_loader, build_train_loader
from nlvideo.data.loaders import TrainLoader
from nlvideo.engine import rng
from nlvideo.engine.hooks import WeightAverage
from nlvideo.engine.linear_probe import fit_classifier
from nlvideo.engine.precise_bn import recompute_bn_stats
from nlvideo.engine.train_loop import SimpleTrainer
from nlvideo.export.features import LayerOutput
from nlvideo.layers import nonlocal_ops
from nlvideo.layers.norm import NORMS
from nlvideo.modeling import HEAD, NonLocalBlock, PoolLinearHead, build_model
from nlvideo.modeling.losses import LOSSES
from nlvideo.modeling.meta_arch import AVERAGES
from nlvideo.modeling.nonlocal_block.block import BLOCK_ALGORITHMS
from nlvideo.solver import ModelEma, build_gradient_clipper, build_optimizer
from nlvideo.utils.events import EventStorage

DTYPES = (None, torch.bfloat16)
FORMS = [(form, algorithm) for form, known in BLOCK_ALGORITHMS.items() for algorithm in ("auto", *known)]
# Keys pooled before and after the embeddings, all positions, and attention over time.
KEYS = {"pooled": {}, "pooled after": {"pool_first": False}, "all": {"subsample": False}, "time": {"attend": "time"}}


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    assert query.dtype == key.dtype == value.dtype and all(t.is_cuda and t.is_contiguous() for t in (query, key, value))
    return (query @ key.transpose(-1, -2) * scale).softmax(-1) @ value


def _fused_sgd(*lists: list[torch.Tensor], found_inf: torch.Tensor | None, **settings: object) -> None:
    assert all(len(tensors) == len(lists[0]) and _devices(tensors) == {"cuda"} for tensors in lists)
    assert found_inf is None or found_inf.is_cuda


@torch.no_grad()
def _backward(loss: torch.Tensor) -> None:
    """``loss.backward()``: each node of the graph is called once all its gradients are there."""
    order, stack = {}, [(loss.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order[node] = [None] * len(node._input_metadata)
        elif node not in order:
            stack += [(node, True), *((after, False) for after, _ in node.next_functions if after is not None)]
    order[loss.grad_fn] = [torch.ones_like(loss)]
    for node in reversed(order):
        # Broadcast and cast as the tensor was, which the engine does between two nodes.
        wanted = zip(order[node], node._input_metadata)
        given = [grad if grad is None else grad.sum_to_size(meta.shape).to(meta.dtype) for grad, meta in wanted]
        if hasattr(node, "variable"):
            before = node.variable.grad
            node.variable.grad = given[0] if before is None else before + given[0]
            continue
        results = getattr(node, "apply", node)(*given)
        for grad, (after, number) in zip(results if isinstance(results, tuple) else [results], node.next_functions):
            if after is not None and grad is not None:
                there = order[after]
                there[number] = grad if there[number] is None else there[number] + grad


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors for ``device="cuda"`` without a GPU, and autocast on them. Tensors from elsewhere stay as they are."""
    with contextlib.ExitStack() as stack:
        for name, value in (("amp.common.amp_definitely_not_available", False), ("is_bf16_supported", True)):
            stack.enter_context(mock.patch(f"torch.cuda.{name}", lambda *_, value=value: value))
        stack.enter_context(mock.patch.object(nonlocal_ops.F, "scaled_dot_product_attention", _attention))
        for name, value in (("item", 1.0), ("__float__", 1.0), ("__int__", 1), ("__bool__", True)):
            stack.enter_context(mock.patch.object(torch.Tensor, name, lambda tensor, value=value: value))
        stack.enter_context(mock.patch.object(torch, "_fused_sgd_", _fused_sgd))
        stack.enter_context(mock.patch.multiple(rng, get_rng_state=dict, set_rng_state=lambda state: None))
        stack.enter_context(mock.patch.object(torch.Tensor, "backward", _backward))
        stack.enter_context(mock.patch.object(FakeTensor, "tolist", lambda tensor: np.ones(tensor.shape).tolist()))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _on_gpu(module: nn.Module) -> nn.Module:
    """Parameters and buffers moved to the GPU, where a registration puts them: whatever else a module holds stays."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                part._parameters[name] = nn.Parameter(_like(tensor), tensor.requires_grad)
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = _like(tensor)
    return module


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def _autocast(dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast("cuda", dtype=dtype, enabled=dtype is not None)


def _devices(tensors: object) -> set[str]:
    return {tensor.device.type for tensor in tensors}


@pytest.fixture
def gpu() -> Iterator[None]:
    """``fake_gpu`` for the whole test."""
    with fake_gpu():
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form, algorithm", FORMS)
def test_blocks(form: str, algorithm: str, dtype: torch.dtype | None, gpu: None) -> None:
    for keys, norm in zip(KEYS, NORMS):
        if algorithm == "folded" and keys == "pooled after":
            continue
        block = _on_gpu(NonLocalBlock(16, pairwise=form, algorithm=algorithm, norm=norm, **KEYS[keys]))
        block.checkpoint = keys == "all"
        x = torch.empty(2, 16, 4, 12, 12, device="cuda", requires_grad=True)
        with _autocast(dtype):
            out = block(x)
        assert out.is_cuda and out.dtype == torch.float32 and out.shape == x.shape
        out.sum().backward()
        assert _devices([x.grad, *(parameter.grad for parameter in block.parameters())]) == {"cuda"}
        with _autocast(dtype):
            assert block.attention(x, [5, (1, 2, 3)]).is_cuda


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dims", [(8, 16), (5, 3)])
@pytest.mark.parametrize("algorithm", nonlocal_ops.ALGORITHMS["softmax"])
def test_softmax_of_any_number_of_channels(algorithm: str, dims: tuple[int, int], half: bool, gpu: None) -> None:
    D, E = dims
    shapes = (2, 200, D), (2, 50, D), (2, 50, E)
    for dtype in (torch.bfloat16, torch.float16) if half else (torch.float32, torch.float64):
        inputs = [torch.empty(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]
        out = nonlocal_ops.softmax_aggregate(*inputs, scale=0.5, algorithm=algorithm)
        out.sum().backward()
        assert out.dtype == dtype and _devices([out, *(tensor.grad for tensor in inputs)]) == {"cuda"}


@pytest.fixture
def model_cfg(tiny_cfg: Callable[..., CfgNode]) -> Callable[..., CfgNode]:
    """``tiny_cfg`` of a small network with non-local blocks."""
    small = "MODEL.BACKBONE.DEPTH", "10", "MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.BLOCKS", "['res3.0']"
    return lambda *opts: tiny_cfg(*small, *map(str, opts))


def _batch(cfg: CfgNode) -> dict:
    frames, size, classes = cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE, cfg.MODEL.HEAD.NUM_CLASSES
    label = torch.zeros(2, classes) if cfg.MODEL.HEAD.LOSS == "sigmoid" else torch.zeros(2, dtype=torch.int64)
    video = torch.zeros(2, 3, frames, size, size, dtype=torch.uint8)
    return {"video": video, "label": label, "video_id": ["a", "b"]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head", HEAD)
@pytest.mark.parametrize("norm", NORMS[:-1])  # a network without norms is no choice of the config
def test_networks(norm: str, head: str, dtype: torch.dtype | None, model_cfg: Callable[..., CfgNode]) -> None:
    for loss, average, depth, channels_last in zip(LOSSES, AVERAGES, (10, 50), (True, False)):
        cfg = model_cfg(
            "MODEL.NORM", norm, "MODEL.HEAD.NAME", head, "MODEL.HEAD.LOSS", loss, "MODEL.HEAD.LABEL_SMOOTHING", 0.1,
            "TEST.AVERAGE", average, "TEST.KEEP_VIEWS", True, "MODEL.BACKBONE.DEPTH", depth,
            "MODEL.CHANNELS_LAST", channels_last,
        )  # fmt: skip
        model, batch = build_model(cfg).train(), _batch(cfg)
        with fake_gpu():
            _check_network(model, batch, dtype)


def _check_network(model: nn.Module, batch: dict, dtype: torch.dtype | None) -> None:
    _on_gpu(model)
    with _autocast(dtype), EventStorage() as storage:
        losses = model(batch)
    assert {name: value.dtype for name, value in losses.items()} == {"loss_cls": torch.float32}
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert _devices([*losses.values(), *gradients, *storage.latest_tensors("cuda").values()]) == {"cuda"}
    with _autocast(dtype), torch.no_grad():
        (result,) = model.eval()([{"video": batch["video"], "video_id": "a"}])
        maps = LayerOutput(model, "res3")(batch["video"])
    assert _devices([result["scores"], result["views"], maps]) == {"cpu"}
    assert result["scores"].shape == (4,) and result["views"].shape == (2, 4)


@pytest.mark.parametrize("amp", ["", "bfloat16", "float16"])
@pytest.mark.parametrize("optimizer, mix", [("SGD", "MIXUP_ALPHA"), ("AdamW", "CUTMIX_ALPHA")])
def test_training(optimizer: str, mix: str, amp: str, model_cfg: Callable[..., CfgNode]) -> None:
    """Real batches, mixed on the GPU; accumulation, clipping, the scaler, the average of the weights, precise BN."""
    cfg = model_cfg(
        "SOLVER.OPTIMIZER", optimizer, f"SOLVER.MIX.{mix}", 0.5, "SOLVER.ACCUMULATE", 2, "SOLVER.EMA.ENABLED", True,
        "SOLVER.CLIP_GRADIENTS.ENABLED", True,
    )  # fmt: skip
    model, loader = build_model(cfg), build_train_loader(cfg)
    loader.mixer = None
    batches = [next(loader) for _ in range(2)]
    with fake_gpu():
        _on_gpu(model)
        data = TrainLoader(itertools.cycle(batches), 8, loader.watch, build_batch_mixer(cfg, 2, seed=0), "cuda")
        clip = build_gradient_clipper(cfg)
        dtype = getattr(torch, amp) if amp else None
        trainer = SimpleTrainer(
            model, data, build_optimizer(cfg, model), amp_dtype=dtype, accumulate=cfg.SOLVER.ACCUMULATE, clip=clip
        )
        assert trainer.scaler.is_enabled() == (amp == "float16")
        ema = ModelEma(model, cfg.SOLVER.EMA.DECAY)
        trainer.register_hooks([WeightAverage(ema)])
        trainer.train(0, 2)
        recompute_bn_stats(model, batches, 2)
        with ema.apply():
            ema.load_state_dict(model.state_dict())
        state = [value for state in trainer.optimizer.state.values() for value in state.values()]
        assert _devices([*model.state_dict().values(), *ema.state_dict().values(), *state]) == {"cuda"}
        assert {"total_loss", "loss_cls", "top1", "grad_norm"} <= trainer.storage.latest().keys()
        assert trainer.storage.smoothed(2)["total_loss"] == (1.0, 1)


def test_a_linear_probe_whose_features_are_on_the_cpu() -> None:
    head = PoolLinearHead(in_channels=4, num_classes=3, class_weights=[1.0, 2.0, 3.0]).train()
    features, labels = torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64)
    with fake_gpu():
        assert fit_classifier(_on_gpu(head), features, labels) == 1


def test_from_videos_to_scores(model_cfg: Callable[..., CfgNode]) -> None:
    cfg = model_cfg()
    model, videos = build_model(cfg).eval(), list(build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    with fake_gpu(), torch.no_grad():
        _on_gpu(model)
        for sample in videos:
            (result,) = model(sample)
            assert result["scores"].shape == (4,) and result["scores"].device.type == "cpu"


@pytest.mark.parametrize("wrong", [
    lambda x: x + torch.arange(x.shape[-1]),
    lambda x: x @ torch.ones(x.shape[-1], 2),
    lambda x: torch.cat([x, torch.zeros(x.shape)]),
    lambda x: torch.where(torch.ones(x.shape) > 0, x, x),
])  # fmt: skip
def test_a_tensor_on_another_device_is_noticed(wrong: Callable[[torch.Tensor], torch.Tensor], gpu: None) -> None:
    with pytest.raises(RuntimeError, match="device"):
        wrong(torch.empty(2, 3, device="cuda"))
