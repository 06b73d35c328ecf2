"""The whole dot-product form with its projections, as one C x C matrix, without theta, phi and g of any position.

With theta(x_i) = W_theta x_i + b_theta and so on, W_z y_i (Eq. 4) is linear in x_i:

    z_i = W_z 1/Q sum_j (theta_i . phi_j) g_j + b_z = A x_i + a
    M = 1/Q sum_j g_j phi_j^T = W_g S W_phi^T + W_g s b_phi^T + b_g (W_phi s)^T + b_g b_phi^T
    A = W_z M W_theta        a = W_z M b_theta + b_z
    S = 1/Q sum_j x_j x_j^T  (C x C)        s = 1/Q sum_j x_j

That is two products with C x C per position instead of five with C x C/2. Backward keeps nothing but x.
Legend of shape suffixes: B sets of positions, P queries, Q keys, C channels, D channels of theta and phi, E of g.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from nlvideo.layers.projection import Linear


def folding_pays(num_queries: int, num_keys: int, channels: int, inner_channels: int) -> bool:
    """Whether the folded form takes fewer multiply-adds than the projections and the reordered product.

    Forward and backward together take (3 P + 2 Q) C^2 + 6 C D (C + D) when folded, and 3 (P + Q) (2 C D + D^2)
    otherwise. With D = C/2 and all positions as keys, folding pays from 1.8 C positions on: in res3 of a network of 32
    frames, and in res4 of one of 128 frames.

    Args:
        num_queries: P, of one set of positions.
        num_keys: Q.
        channels: C, of x.
        inner_channels: D, of theta, phi and g.
    """
    P, Q, C, D = num_queries, num_keys, channels, inner_channels
    return (3 * P + 2 * Q) * C**2 + 6 * C * D * (C + D) < 3 * (P + Q) * (2 * C * D + D**2)


class _Gram(torch.autograd.Function):
    """x^T x, whose backward takes one product, x (dS + dS^T), where that of ``bmm`` takes two."""

    @staticmethod
    def forward(ctx: Any, x_BQC: torch.Tensor) -> torch.Tensor:
        """(B, Q, C) -> (B, C, C)."""
        ctx.save_for_backward(x_BQC)
        return torch.bmm(x_BQC.transpose(1, 2), x_BQC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCC: torch.Tensor) -> torch.Tensor:
        """(B, C, C) -> (B, Q, C)."""
        (x_BQC,) = ctx.saved_tensors
        # Written as columns, so that the gradient of a map is a map without a copy.
        return torch.bmm(grad_BCC + grad_BCC.transpose(1, 2), x_BQC.transpose(1, 2)).transpose(1, 2)


def folded_dot_product(
    x_BPC: torch.Tensor, keys_BQC: torch.Tensor, *, theta: Linear, phi: Linear, g: Linear, out: Linear
) -> torch.Tensor:
    """W_z y_i + b_z for the dot-product form (Eq. 4): (B, P, C).

    Args:
        x_BPC: the queries before theta, (B, P, C).
        keys_BQC: the keys before phi and g, (B, Q, C).
        theta: the embedding of queries, C to D.
        phi: that of keys, C to D.
        g: that of values, C to E.
        out: W_z, E to C.
    """
    gram_BCC = _Gram.apply(keys_BQC) / keys_BQC.shape[1]
    mean_BC = keys_BQC.mean(1)
    # M, with the outer products of the biases.
    value_BE = mean_BC @ g.weight.T
    m_BED = g.weight @ gram_BCC @ phi.weight.T
    m_BED = m_BED + (value_BE + g.bias)[:, :, None] * phi.bias + g.bias[:, None] * (mean_BC @ phi.weight.T)[:, None]
    folded_BCD = out.weight @ m_BED
    a_BCC = folded_BCD @ theta.weight
    bias_BC = folded_BCD @ theta.bias + out.bias
    # Written as columns of a map, which is what the block needs.
    return torch.baddbmm(bias_BC[:, :, None], a_BCC, x_BPC.transpose(1, 2)).transpose(1, 2)
