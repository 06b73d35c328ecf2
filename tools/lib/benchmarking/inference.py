"""A pass at test of a whole network: how long its variants take, and those of a peer with the same weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from nlvideo.config import load_cfg
from nlvideo.layers import fuse_for_inference
from nlvideo.modeling import build_model, model_costs
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import write_json
from nlvideo.utils.messages import check_one_of

from .peer import pytorchvideo_network
from .timing import PRODUCT_FLOPS, alternate, environment, matrix_product

# What can stand in --variants, alone or joined by "+": overrides of the config.
VARIANTS: dict[str, tuple[str, ...]] = {
    "config": (),
    "norms": ("TEST.FUSE", "False"),
    "amp": ("TEST.AMP", "bfloat16"),
    "contiguous": ("MODEL.CHANNELS_LAST", "False"),
    "dense": ("MODEL.NONLOCAL.ALGORITHM", "dense"),
}
_PRODUCT = "matrix product"


def run(
    config_file: str,
    overrides: Sequence[str] = (),
    json_file: str | None = None,
    *,
    variants: Iterable[str] = ("config", "norms"),
    views: int = 3,
    rounds: int = 7,
    max_seconds: float = float("inf"),
    peer: str | None = None,
) -> str:
    """Measure the pass of the views of one video, of TEST.CROP_SIZE, through the network of a config.

    Args:
        config_file: the YAML file.
        overrides: KEY VALUE pairs.
        json_file: file for all figures.
        variants: names in ``VARIANTS``, joined by "+" where several apply; the first has the weights of all.
        views: of the video; they pass together.
        rounds: passes of each variant.
        max_seconds: no further round begins after it.
        peer: "pytorchvideo": also its network.

    Returns:
        A table.

    Raises:
        ValueError: an option outside of what is allowed.
        ImportError: the peer is not installed.
    """
    if views < 1:
        raise ValueError(f"views: got {views}, allowed: 1 or more")
    # What PyTorchVideo averages.
    common = [*overrides, "TEST.VIEWS_PER_FORWARD", str(views), *(["TEST.AVERAGE", "logits"] if peer else [])]
    networks: dict[str, Any] = {}
    for name in variants:
        for part in name.split("+"):
            check_one_of("variant", part, VARIANTS)
        words = [word for part in name.split("+") for word in VARIANTS[part]]
        networks[name] = build_model(load_cfg(config_file, [*common, *words])).eval()
    first, cfg = next(iter(networks.values())), load_cfg(config_file, common)
    theirs = {peer: pytorchvideo_network(cfg, first)} if peer else {}
    for model in networks.values():
        model.load_state_dict(first.state_dict())
    networks = {name: fuse_for_inference(model) for name, model in networks.items()} | theirs
    side, frames = cfg.TEST.CROP_SIZE or cfg.TEST.SHORT_SIDE, cfg.INPUT.NUM_FRAMES
    clips = torch.randint(0, 256, (views, 3, frames, side, side), dtype=torch.uint8)
    scores = {name: network([{"video": clips, "video_id": ""}])[0]["scores"] for name, network in networks.items()}
    timings = _timings(networks, clips, rounds, max_seconds, first.device)
    flops = 2e9 * views * model_costs(cfg.with_overrides(["INPUT.CROP_SIZE", side]), describe=False)["gmacs"]
    expected, base = next(iter(scores.values())), timings[next(iter(networks))]
    rows = {
        name: {
            "seconds": timings[name].median,
            "ratio": timings[name].ratio_to(base),
            "share_of_product": timings[_PRODUCT].ratio_to(timings[name]) * flops / PRODUCT_FLOPS,
            "largest_difference": float((scores[name] - expected).abs().max()),
            "runs": list(timings[name].seconds),
        }
        for name in networks
    }
    what = f"{views} x {frames}x{side}"
    if json_file:
        options = {"config": config_file, "overrides": list(overrides), "views": what}
        write_json(json_file, {"environment": environment(), **options, "variants": rows})
    return f"{what}\n{_table(rows)}"


@torch.no_grad()
def _timings(
    networks: dict[str, Any], clips: torch.Tensor, rounds: int, max_seconds: float, device: torch.device
) -> dict[str, Any]:
    def case(network: Any) -> Callable[[], Any]:
        return torch.no_grad()(lambda: network([{"video": clips, "video_id": ""}]))

    cases = {name: case(network) for name, network in networks.items()} | {_PRODUCT: matrix_product(str(device))}
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else None
    return alternate(cases, rounds=rounds, max_seconds=max_seconds, synchronize=wait)


def _table(rows: dict[str, dict[str, Any]]) -> str:
    return create_table(
        [
            {
                "variant": name,
                "s": f"{row['seconds']:.3f}",
                "time / first": f"{row['ratio']:.2f}",
                "of the product's rate": f"{row['share_of_product']:.2f}",
                "difference of scores": f"{row['largest_difference']:.1e}",
            }
            for name, row in rows.items()
        ]
    )
