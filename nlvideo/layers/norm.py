"""Batch normalisation in the forms the recipes need: per process, over all processes, frozen, or none."""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from nlvideo.utils.messages import check_one_of

# The batch norms of PyTorch, for isinstance and as a type. SyncBatchNorm below is one of them, a frozen one is not.
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

NORMS = ("BN", "SyncBN", "FrozenBN", "none")
# The authors' values. The momentum 0.9 of their Caffe2 is the weight of the old average; PyTorch's 0.1 is that of the
# new batch.
EPS = 1e-5
MOMENTUM = 0.1


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and affine part are constants (Sec. 4.1: the 128-frame recipe).

    It has only buffers, so nothing in it trains, and it is the same in ``train()`` and ``eval()``. It loads the state
    dict of any ``BatchNorm`` of PyTorch.

    Args:
        channels: channels of the input.
        eps: added to the variance.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = EPS):
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # A BN that trains counts its batches. A frozen one does not need the number.
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Channels and eps, for ``print(model)``."""
        return f"{self.channels}, eps={self.eps}"


class SyncBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation with the statistics of the batches of all processes together, on GPUs and on CPUs.

    PyTorch's own class works on GPUs only. On a CPU the sums are reduced here, so that a recipe can be tested on a few
    CPU processes. The batches of the processes may differ in size. With one process it is plain BN.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        if x.is_cuda:
            return super().forward(x)
        world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if not self.training or world_size == 1:
            return nn.BatchNorm3d.forward(self, x)  # all plain BN classes have this forward, for any number of axes
        return self._forward_over_processes(x)

    def _forward_over_processes(self, x: torch.Tensor) -> torch.Tensor:
        # Imported here, because the module warns of deprecations in torch.
        from fvcore.nn.distributed import differentiable_all_reduce

        # `get_norm` makes it so.
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        dtype, x = x.dtype, x.to(self.running_mean.dtype)  # half-precision sums would lose the statistics
        axes = [0, *range(2, x.dim())]
        per_channel = (1, -1) + (1,) * (x.dim() - 2)
        count = differentiable_all_reduce(x.new_tensor([x.numel() / x.shape[1]]))
        mean = differentiable_all_reduce(x.sum(axes)) / count
        # In two passes, because E[x^2] - E[x]^2 loses its digits where the mean is large.
        centred = x - mean.view(per_channel)
        var = differentiable_all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            unbiased_var = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased_var, self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(per_channel) + self.bias.view(per_channel)).to(dtype)


def get_norm(name: str | None, channels: int, *, dim: int = 3) -> nn.Module:
    """A normalisation layer by its config name.

    Args:
        name: "BN", "SyncBN", "FrozenBN", "none" or None (no normalisation).
        channels: channels of the feature map.
        dim: axes of the feature map after (N, C): 1, 2 or 3.

    Raises:
        ValueError: for another name or dim.
    """
    name = "none" if name is None else name
    check_one_of("norm", name, NORMS)
    check_one_of("dim", dim, (1, 2, 3))
    if name == "BN":
        return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim - 1](channels, eps=EPS, momentum=MOMENTUM)
    if name == "SyncBN":
        return SyncBatchNorm(channels, eps=EPS, momentum=MOMENTUM)
    return FrozenBatchNorm(channels) if name == "FrozenBN" else nn.Identity()


def start_at_zero(norm: nn.Module) -> bool:
    """Set the weight of a norm to zero and return True, or return False where it has none that trains.

    A zero in a frozen norm would never change, and would cut off the branch that ends with it.
    """
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, nn.Parameter):
        return False
    nn.init.zeros_(weight)
    return True


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation in a module by a ``FrozenBatchNorm`` with its weights and statistics.

    Sub-modules are replaced in place. Returns the module, or what replaces it where it is a batch normalisation itself.

    Raises:
        ValueError: for a batch normalisation that keeps no running statistics.
    """
    return _replace_norms(module, lambda norm: FrozenBatchNorm(norm.num_features, norm.eps))


def sync_norms(module: nn.Module) -> nn.Module:
    """Replace every batch normalisation in a module by a ``SyncBatchNorm``; otherwise as `freeze_norms`."""
    return _replace_norms(module, lambda norm: SyncBatchNorm(norm.num_features, norm.eps, norm.momentum))


def _replace_norms(module: nn.Module, make: Callable[[BatchNorm], nn.Module]) -> nn.Module:
    if not isinstance(module, BatchNorm):
        for name, child in module.named_children():
            setattr(module, name, _replace_norms(child, make))
        return module
    if not module.track_running_stats:
        raise ValueError(f"cannot replace {module}: it keeps no running statistics (track_running_stats=False)")
    norm = make(module).to(module.running_mean).train(module.training)
    norm.load_state_dict(module.state_dict(), strict=module.affine)
    return norm
