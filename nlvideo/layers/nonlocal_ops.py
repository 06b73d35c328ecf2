"""The non-local operation, y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j) (Eq. 1), as pure functions.

Each of the paper's pairwise functions f leads to one of three sums over the keys j. Each sum has a "dense" algorithm,
which builds the P x Q matrix of f in the plainest code, and exact ones that never build it:

- ``softmax_aggregate``: f is exp(scale q_i . k_j), Eqs. 2 and 3, and C(x) is sum_j f. "fused" is an attention kernel,
  row blocks, or half of the symmetric matrix.
- ``dot_product_aggregate``: f is q_i . k_j, Eq. 4, and C(x) is Q. "reordered" is q_i (sum_j k_j v_j^T), "fused" is row
  blocks.
- ``concatenation_aggregate``: f is relu(a_i + b_j), Eq. 5, and C(x) is Q. "sorted" is prefix sums over the sorted keys,
  "fused" is row blocks.

"Exact" means the same function: only the order of the sums differs, and with it the rounding. Logits and sums are made
in float32 or wider, also under autocast and for half-precision tensors. The result has the dtype of the values.

Legend of shape suffixes: N batch, P queries, Q keys, D key channels, E value channels.
"""

import torch
import torch.nn.functional as F

from nlvideo.layers.precision import accumulation_dtype, widened, without_autocast
from nlvideo.layers.row_blocks import row_block_sum
from nlvideo.layers.sorted_relu import sorted_relu
from nlvideo.layers.symmetric_softmax import symmetric_softmax
from nlvideo.utils.messages import check_one_of

ALGORITHMS = {
    "softmax": ("dense", "fused"),
    "dot_product": ("dense", "fused", "reordered"),
    "concatenation": ("dense", "fused", "sorted"),
}
# So many multiply-adds of a matrix product take as long as the sorted algorithm's work on one number, which waits for
# memory. Measured on one core of a CPU, forward and backward.
SORTED_COST = 150
# Keys of a short row of the matrix, which comes from attention over time or from a tiny map. Such rows are much shorter
# than a value, and there may be thousands of samples of them.
SHORT_ROW = 32
# With fewer positions the symmetric algorithm is slower than row blocks: it has many products, and makes each for all
# samples at once. Attention over time has thousands of small samples.
SYMMETRIC_POSITIONS = 128
# With so many channels of keys and values, or fewer, PyTorch's kernel for the CPU is faster than row blocks. It works
# on the rows of a tile while they are in the fastest cache. With more channels the products take most of the time.
# Zeros make keys and values equally wide, as the kernel needs. Measured with PyTorch 2.14, 196 to 3136 keys, forward
# and backward.
THIN, THIN_EQUAL = 32, 128


def softmax_aggregate(
    query_NPD: torch.Tensor, key_NQD: torch.Tensor, value_NQE: torch.Tensor, *, scale: float, algorithm: str = "auto"
) -> torch.Tensor:
    """y_i = sum_j softmax_j(scale q_i . k_j) v_j: the (embedded) Gaussian form, Eqs. 2 and 3.

    Args:
        query_NPD: (N, P, D).
        key_NQD: (N, Q, D).
        value_NQE: (N, Q, E).
        scale: factor of the logits: 1 in the paper, D ** -0.5 in the authors' code.
        algorithm: "dense", "fused" or "auto". Where queries and keys are one and the same tensor, as in the Gaussian
            form without pooling, "fused" computes half of the symmetric logits on a CPU.

    Returns:
        (N, P, E).

    Raises:
        ValueError: for shapes that do not fit or another algorithm.
    """
    algorithm = _resolve("softmax", algorithm, query_NPD, key_NQD, value_NQE)
    if algorithm == "dense":
        dtype = accumulation_dtype(query_NPD, key_NQD, value_NQE)
        with without_autocast(query_NPD):
            logits_NPQ = (query_NPD.to(dtype) * scale) @ key_NQD.to(dtype).transpose(1, 2)
            return (logits_NPQ.softmax(dim=2) @ value_NQE.to(dtype)).to(value_NQE.dtype)
    on_cpu = query_NPD.device.type == "cpu"
    if on_cpu and query_NPD is key_NQD and query_NPD.shape[1] >= SYMMETRIC_POSITIONS:
        return symmetric_softmax(query_NPD, value_NQE, scale=scale)
    value_dim = value_NQE.shape[2]
    # The kernels want one dtype. They sum in float32 themselves, so half-precision inputs may stay as they are.
    dtype = torch.promote_types(torch.promote_types(query_NPD.dtype, key_NQD.dtype), value_NQE.dtype)
    if not _has_fused_kernel(query_NPD, key_NQD, value_NQE, dtype):
        return row_block_sum(query_NPD, key_NQD, value_NQE, f="softmax", scale=scale)
    if on_cpu:
        query_NPD, key_NQD, value_NQE = _equally_wide(query_NPD, key_NQD, value_NQE)
    # One head, and contiguous: with channels that are not adjacent in memory PyTorch falls back, silently, to the
    # implementation that builds the matrix.
    query, key, value = (t.to(dtype).contiguous()[:, None] for t in (query_NPD, key_NQD, value_NQE))
    with without_autocast(query):
        out_NPE = F.scaled_dot_product_attention(query, key, value, scale=scale)[:, 0, :, :value_dim]
    return out_NPE.to(value_NQE.dtype)


def dot_product_aggregate(
    query_NPD: torch.Tensor, key_NQD: torch.Tensor, value_NQE: torch.Tensor, *, algorithm: str = "auto"
) -> torch.Tensor:
    """y_i = 1/Q sum_j (q_i . k_j) v_j: the dot-product form, Eq. 4.

    Args:
        query_NPD: (N, P, D).
        key_NQD: (N, Q, D).
        value_NQE: (N, Q, E).
        algorithm: "dense", "fused", "reordered" or "auto".

    Returns:
        (N, P, E).

    Raises:
        ValueError: for shapes that do not fit or another algorithm.
    """
    algorithm = _resolve("dot_product", algorithm, query_NPD, key_NQD, value_NQE)
    # A compiler would make code for each block and one batch size. Where "auto" is "fused" the matrix is small anyway.
    if algorithm == "fused" and not torch.compiler.is_compiling():
        return row_block_sum(query_NPD, key_NQD, value_NQE, f="identity", scale=1 / key_NQD.shape[1])
    query, key, value = widened(query_NPD, key_NQD, value_NQE)
    with without_autocast(query_NPD):
        key = key / key.shape[1]
        if algorithm == "reordered":  # matrix products are associative
            out = query @ (key.transpose(1, 2) @ value)
        else:
            out = (query @ key.transpose(1, 2)) @ value
    return out.to(value_NQE.dtype)


def concatenation_aggregate(
    query_term_NP: torch.Tensor, key_term_NQ: torch.Tensor, value_NQE: torch.Tensor, *, algorithm: str = "auto"
) -> torch.Tensor:
    """y_i = 1/Q sum_j relu(a_i + b_j) v_j: the concatenation form, Eq. 5.

    The paper's w_f . [theta_i, phi_j] is the sum of a term of the query, a_i = w_theta . theta_i, and a term of the
    key, b_j = w_phi . phi_j. These two are the arguments here.

    Args:
        query_term_NP: a, (N, P).
        key_term_NQ: b, (N, Q).
        value_NQE: (N, Q, E).
        algorithm: "dense", "fused", "sorted" or "auto".

    Returns:
        (N, P, E).

    Raises:
        ValueError: for shapes that do not fit or another algorithm.
    """
    algorithm = _resolve("concatenation", algorithm, query_term_NP[..., None], key_term_NQ[..., None], value_NQE)
    if algorithm == "fused" and not torch.compiler.is_compiling():
        # a_i + b_j is (a_i, 1) . (1, b_j): a product of two channels.
        query_NP2 = torch.stack([query_term_NP, torch.ones_like(query_term_NP)], 2)
        key_NQ2 = torch.stack([torch.ones_like(key_term_NQ), key_term_NQ], 2)
        return row_block_sum(query_NP2, key_NQ2, value_NQE, f="relu", scale=1 / key_term_NQ.shape[1])
    with without_autocast(value_NQE):
        if algorithm == "sorted":
            out = sorted_relu(query_term_NP, key_term_NQ, value_NQE)
        else:
            query_NP, key_NQ, value = widened(query_term_NP, key_term_NQ, value_NQE)
            out = F.relu(query_NP[:, :, None] + key_NQ[:, None, :]) @ value
        return (out / key_term_NQ.shape[1]).to(value_NQE.dtype)


def choose_algorithm(form: str, num_queries: int, num_keys: int, key_dim: int, value_dim: int) -> str:
    """The algorithm that "auto" stands for, by multiply-adds with P queries, Q keys, D key and E value channels.

    - "dot_product": "reordered" where it needs fewer multiply-adds, (P + Q) D E against P Q (D + E). With D = E that is
      2 P Q / (P + Q) > D: yes in res3, no in res4 of a 32-frame network; "fused" otherwise.
    - "softmax": "fused", about as fast as "dense" and without its memory.
    - "concatenation": "sorted" where P Q E > c (P + Q) E, "fused" otherwise. Sorting's work on one number costs as much
      as c multiply-adds of a matrix product (``SORTED_COST``).
    - "dense" instead of "fused" and "sorted" where a row of the matrix is short, Q <= 32. Attention over time is such a
      case: it has thousands of samples of a few positions each, and the matrix is smaller than the values.

    Row blocks ("fused") do not keep the matrix: the backward pass makes it again. That costs 7 P Q E multiply-adds
    in place of 6, and nothing more in the concatenation form. Where they are chosen, projections take most of the time.

    No rule depends on the dtype: all sums are made in float32 or wider.

    Args:
        form: "softmax", "dot_product" or "concatenation".
        num_queries: P.
        num_keys: Q.
        key_dim: D.
        value_dim: E.

    Raises:
        ValueError: for another form.
    """
    check_one_of("form", form, ALGORITHMS)
    P, Q, D, E = num_queries, num_keys, key_dim, value_dim
    if form == "dot_product" and P * Q * (D + E) > (P + Q) * D * E:
        return "reordered"
    if Q <= SHORT_ROW:
        return "dense"
    if form in ("softmax", "dot_product"):
        return "fused"
    return "sorted" if P * Q > SORTED_COST * (P + Q) else "fused"


def _resolve(form: str, algorithm: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> str:
    """Check the shapes and the algorithm, and return the algorithm that is meant."""
    shapes = [tuple(t.shape) for t in (query, key, value)]
    if any(len(shape) != 3 for shape in shapes):
        raise ValueError(f"query, key and value must be (batch, positions, channels), got {shapes}")
    # No set of the sizes: an exported batch size cannot be hashed.
    if (
        not shapes[0][0] == shapes[1][0] == shapes[2][0]
        or key.shape[1] != value.shape[1]
        or query.shape[2] != key.shape[2]
    ):
        raise ValueError(f"query (N, P, D), key (N, Q, D) and value (N, Q, E) do not fit: {shapes}")
    if key.shape[1] == 0:
        raise ValueError(f"query, key and value {shapes}: there are no keys")
    if algorithm == "auto":
        return choose_algorithm(form, query.shape[1], key.shape[1], key.shape[2], value.shape[2])
    check_one_of(f"algorithm of {form}", algorithm, ("auto", *ALGORITHMS[form]))
    return algorithm


def _has_fused_kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether to use PyTorch's attention, which keeps no matrix then, for tensors like these in this dtype."""
    half, (D, E) = dtype.itemsize < 4, (key.shape[2], value.shape[2])
    if query.is_cuda:
        # PyTorch chooses among its kernels. One of them takes any number of channels that is a multiple of 8. None has
        # double precision.
        return dtype.itemsize <= 4 and D % 8 == E % 8 == 0
    if query.device.type != "cpu":
        return False
    # Row blocks are as fast and keep less for backward, except for the thin rows of small networks. But they widen
    # tensors of half precision, and a compiled or exported graph would hold each block, for one batch size.
    if D == E:
        return D <= THIN_EQUAL or half or torch.compiler.is_compiling()
    return max(D, E) <= THIN and not half


def _equally_wide(*tensors_NXD: torch.Tensor) -> list[torch.Tensor]:
    """Tensors with zero channels added to all but the widest. This changes no logit and no channel of the result."""
    width = max(tensor.shape[2] for tensor in tensors_NXD)
    return [F.pad(t, (0, width - t.shape[2])) if t.shape[2] < width else t for t in tensors_NXD]
