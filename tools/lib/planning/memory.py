"""Memory of a training step, counted: the step of the trainer runs on tensors without values, on any device.

PyTorch's fake tensors know shape, dtype and device. A mode sees each operation and counts the storages that live. So
everything counts that PyTorch would allocate: what the backward pass needs, also of autograd functions of our own, what
autocast casts, what a recomputation makes again. What libraries allocate by themselves does not count, such as the
workspace of a convolution and the context of a GPU.
"""

import contextlib
import functools
import heapq
import itertools
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nlvideo.config import CfgNode
from nlvideo.config.defaults import _C
from nlvideo.engine import rng
from nlvideo.engine.fine_tuning import FineTuning
from nlvideo.engine.train_loop import SimpleTrainer
from nlvideo.modeling.costs import meta_model
from nlvideo.solver import ModelEma, build_gradient_clipper, build_optimizer


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step of one rank.

    Attributes:
        parameters: weights and buffers, and their moving average where there is one.
        gradients: of all parameters that train.
        optimizer: its state.
        batch: the clips and labels, on the device.
        kept: what the forward pass leaves for the backward pass beside all of these.
        peak: the most that lives at one time, of everything.
        traffic: bytes that all operations of the model read and write, each by itself; not a size but an amount.
    """

    parameters: int
    gradients: int
    optimizer: int
    batch: int
    kept: int
    peak: int
    traffic: int


class LiveBytes(TorchDispatchMode):
    """Counts the storages of one device that live, views of one storage once, and what operations read and write."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.live, self.peak, self.traffic = device, 0, 0, 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and take note of what it gives."""
        out = func(*args, **(kwargs or {}))
        made, given = self._here(out), self._here((args, kwargs))
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._drop, storage.nbytes())
        self.peak = max(self.peak, self.live)
        if not func.is_view and given:  # what makes empty memory is given no tensor
            self.traffic += sum(tensor.nbytes for tensor in (*made, *given))
        return out

    def _here(self, values: Any) -> list[torch.Tensor]:
        return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor) and x.device.type == self.device]

    def _drop(self, size: int) -> None:
        self.live -= size


class _Saved:
    """A tensor that a node of the graph has saved; None when the node has run."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor: torch.Tensor | None = tensor


class Graph:
    """Stands in for PyTorch's engine of backward passes, which needs a real device: the same order, the same memory.

    Inside ``recorded()`` saved tensors are held here. They are freed when their node has run, as the engine does.
    """

    def __init__(self) -> None:
        self._used: list[_Saved] = []

    def recorded(self) -> contextlib.AbstractContextManager:
        """A context for forward passes."""
        return torch.autograd.graph.saved_tensors_hooks(_Saved, self._unpack)

    def _unpack(self, saved: _Saved) -> torch.Tensor:
        self._used.append(saved)
        assert saved.tensor is not None
        return saved.tensor

    @torch.no_grad()
    def backward(self, loss: torch.Tensor) -> None:
        """``loss.backward()``: of the nodes whose gradients are all there, the one that was made last comes first."""
        root: Any = loss.grad_fn
        waits, stack = {root: 0}, [root]
        while stack:
            for node, _ in stack.pop().next_functions:
                if node is not None:
                    if node not in waits:
                        stack.append(node)
                    waits[node] = waits.get(node, 0) + 1
        given: dict[Any, list[torch.Tensor | None]] = {root: [torch.ones_like(loss)]}
        # Nodes of parameters have the highest number: gradients are put in their places at once.
        numbers = itertools.count()
        ready = [(-root._sequence_nr(), next(numbers), root)]
        while ready:
            node = heapq.heappop(ready)[2]
            _pass_on(node, self._run(node, given.pop(node, [None] * len(node._input_metadata))), given)
            for after, _ in node.next_functions:
                if after is not None:
                    waits[after] -= 1
                    if not waits[after]:
                        heapq.heappush(ready, (-after._sequence_nr(), next(numbers), after))

    def _run(self, node: Any, grads: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        # Broadcast and cast as the tensor was, which the engine does between two nodes.
        for i, (grad, meta) in enumerate(zip(grads, node._input_metadata, strict=True)):
            grads[i] = grad if grad is None else grad.sum_to_size(meta.shape).to(meta.dtype)
        del grad
        if hasattr(node, "variable"):
            _accumulate(node.variable, grads[0])
            return []
        results = getattr(node, "apply", node)(*grads)
        for saved in self._used:
            saved.tensor = None
        self._used.clear()
        results = results if isinstance(results, tuple) else (results,)
        if not hasattr(node, "needs_input_grad"):
            return list(results)
        # A function of our own also gives something for arguments that are no tensors, which have no edge.
        wanted = iter([grad for grad, needed in zip(results, node.needs_input_grad, strict=True) if needed])
        return [None if after is None else next(wanted) for after, _ in node.next_functions]


def _pass_on(node: Any, grads: list[torch.Tensor | None], given: dict[Any, list[torch.Tensor | None]]) -> None:
    """Add what a node gives to what the nodes after it are given."""
    for (after, number), grad in zip(node.next_functions, grads, strict=False):
        if after is not None and grad is not None:
            _add(given.setdefault(after, [None] * len(after._input_metadata)), number, grad)


def _add(grads: list[torch.Tensor | None], number: int, grad: torch.Tensor) -> None:
    """Add a gradient to the one that is there: in place where no one else holds that."""
    there = grads[number]
    if there is None:
        grads[number] = grad
    elif sys.getrefcount(there) == 3 and torch._C._storage_Use_Count(there.untyped_storage()._cdata) == 2:
        there += grad
    else:
        grads[number] = there + grad


def _accumulate(leaf: torch.Tensor, grad: torch.Tensor | None) -> None:
    """Make a gradient that of a parameter, in the layout of the parameter."""
    if grad is None:
        return
    if leaf.grad is not None:
        leaf.grad += grad
    elif grad.stride() == leaf.stride():
        leaf.grad = grad
    else:
        leaf.grad = torch.empty_like(leaf).copy_(grad)


@contextlib.contextmanager
def fake_device(graph: Graph) -> Iterator[None]:
    """Tensors without values, also for ``device="cuda"`` where there is no GPU, and training steps of them.

    Every value that is read of them is 1. PyTorch's fused optimizers, which write in place, do nothing.
    """
    with contextlib.ExitStack() as stack:
        for name, value in (("amp.common.amp_definitely_not_available", False), ("is_bf16_supported", True)):
            stack.enter_context(mock.patch(f"torch.cuda.{name}", lambda *_, value=value: value))
        for name, number in (("item", 1.0), ("__float__", 1.0), ("__int__", 1), ("__bool__", True)):
            stack.enter_context(mock.patch.object(torch.Tensor, name, lambda tensor, number=number: number))
        for name in ("_fused_sgd_", "_fused_adamw_"):
            stack.enter_context(mock.patch.object(torch, name, lambda *lists, **settings: None))
        attention = functools.partial(_attention, F.scaled_dot_product_attention)
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        stack.enter_context(mock.patch.multiple(rng, get_rng_state=dict, set_rng_state=lambda state: None))
        stack.enter_context(mock.patch.object(torch.Tensor, "backward", lambda loss: graph.backward(loss)))
        # Recomputation asks whether it is still the same backward pass.
        stack.enter_context(mock.patch.object(torch._C, "_current_graph_task_id", lambda: 0))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def _attention(real: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """PyTorch's attention, with a kernel that keeps no matrix: which one a GPU has cannot be asked without it."""
    if not query.is_cuda:
        return real(query, key, value, **options)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, None, True, scale=options.get("scale"))[0]


def count_step(cfg: CfgNode, device: str, clips: int, passes: int = 1) -> StepMemory:
    """Count the memory of a training step of one rank, from the second step on.

    Args:
        cfg: the config.
        device: "cpu" or "cuda", which need not be there.
        clips: of one pass.
        passes: forward and backward passes of a step (SOLVER.ACCUMULATE).

    Raises:
        KeyError, ValueError: as for `meta_model`; or the model takes something else than clips.
    """
    graph, live = Graph(), LiveBytes(device)
    model, example = meta_model(cfg)
    if hasattr(model, "example_input"):
        name = cfg.MODEL.META_ARCHITECTURE
        raise ValueError(
            f"MODEL.META_ARCHITECTURE: got {name!r}, allowed for a plan: a model of clips and their labels"
        )
    del model.forward  # a training calls the model with a batch
    with fake_device(graph), live:
        _place(model.train(), device)
        ema = ModelEma(model, cfg.SOLVER.EMA.DECAY)
        if cfg.SOLVER.EMA.ENABLED:
            ema.update()
        parameters = live.live
        optimizer = build_optimizer(cfg, model)
        if not optimizer.state:  # made by the first step
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
        states = live.live - parameters
        trainer = SimpleTrainer(
            model, itertools.repeat(_batch(cfg, example, clips, device)), optimizer, clip=build_gradient_clipper(cfg),
            amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
            accumulate=min(2, passes),
        )  # fmt: skip
        freezing = cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.BACKBONE.FREEZE_UNTIL
        trainer.register_hooks([FineTuning(model, lambda model: model, *freezing, cfg.SOLVER.BN_MODE)])
        batch = live.live - parameters - states
        before: list[int] = []
        after: list[int] = []
        model.register_forward_pre_hook(lambda *_: before.append(live.live))
        model.register_forward_hook(lambda *_: after.append(live.live))
        live.traffic = 0
        with graph.recorded():
            trainer.train(0, 1)
        gradients = sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
    return StepMemory(parameters, gradients, states, batch, after[-1] - before[-1], live.peak, live.traffic)


def _place(model: nn.Module, device: str) -> None:
    """Give parameters and buffers, which have no memory, a place on a device that has none either."""
    for part in model.modules():
        places: list[dict[str, Any]] = [part._parameters, part._buffers]
        for tensors in places:
            for name, tensor in tensors.items():
                if tensor is not None:
                    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
                    own = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(empty, tensor.requires_grad) if own else empty


def _batch(cfg: CfgNode, example: torch.Tensor, clips: int, device: str) -> dict[str, Any]:
    """A batch as a loader leaves it: on the device only where clips are mixed there."""
    mix, sigmoid = cfg.SOLVER.MIX, cfg.MODEL.HEAD.LOSS == "sigmoid"
    mixed = bool(mix.PROB and (mix.MIXUP_ALPHA or mix.CUTMIX_ALPHA))
    place = device if mixed else "cpu"
    classes = cfg.MODEL.HEAD.NUM_CLASSES or _C.MODEL.HEAD.NUM_CLASSES
    label = torch.zeros(clips, classes) if sigmoid or mixed else torch.zeros(clips, dtype=torch.int64)
    video = torch.zeros(clips, *example.shape[1:], dtype=torch.uint8)
    return {"video": video.to(place), "label": label.to(place), "video_id": [""] * clips}
