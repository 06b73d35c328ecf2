#!/usr/bin/env python3
"""Does covering what Grad-CAM points to change the class most? ``python benchmarks/gradcam.py``

On the first clips of beacon's validation split, with the model that comes with the package. ``gradcam.md`` has the
definitions. The figures go to ``benchmarks/results/gradcam/quickstart.json``, the tables to the console.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool3d

from nlvideo import Predictor
from nlvideo.data.datasets.beacon import BeaconSpec, beacon_clip
from nlvideo.visualization import grad_cam

RESULTS = Path(__file__).resolve().parent / "results" / "gradcam"
LAYERS = ("res2", "res3", "res4", "res5")
# Name, first frame, and regions along height and width.
GRIDS = (("quarters, all frames", 0, 2), ("quarters, frames 2 to 7", 2, 2), ("4 x 4, all frames", 0, 4),
         ("4 x 4, frames 2 to 7", 2, 4))  # fmt: skip


def masks_of_grid(video, first: int, side: int) -> torch.Tensor:
    """bool (side * side, T, H, W): the regions of a grid, from a frame on."""
    T, H, W = video.shape[1:]
    masks = torch.zeros(side * side, T, H, W, dtype=torch.bool)
    for region in range(side * side):
        y, x = (region // side) * H // side, (region % side) * W // side
        masks[region, first:, y : y + H // side, x : x + W // side] = True
    return masks


def masks_of_objects(scene) -> torch.Tensor:
    """bool (4, T, H, W): the agent that the class is about, the two others, and the lamp with its halo."""
    yy, xx = torch.meshgrid(torch.arange(scene.size), torch.arange(scene.size), indexing="ij")
    masks = torch.zeros(len(scene.agents) + 1, scene.num_frames, scene.size, scene.size, dtype=torch.bool)
    order = [scene.target, *(k for k in range(len(scene.agents)) if k != scene.target)]
    for place, k in enumerate(order):
        for t, box in enumerate(scene.agents[k].boxes()):
            if box is not None:
                x0, y0, x1, y1 = box
                masks[place, t] = (xx >= x0 - 1) & (xx <= x1 + 1) & (yy >= y0 - 1) & (yy <= y1 + 1)
    lamp = scene.lamp
    masks[-1, : lamp.last_frame + 1] = (xx - lamp.x) ** 2 + (yy - lamp.y) ** 2 <= (2 * lamp.radius) ** 2
    return masks


@torch.no_grad()
def losses(model, video, target: int, masks) -> dict[str, np.ndarray]:
    """How much of the class's probability and logit is lost where each region has the clip's mean colour."""
    grey = video.float().mean((1, 2, 3), keepdim=True).round().to(torch.uint8)
    clips = torch.stack([video, *(torch.where(mask, grey, video) for mask in masks)])
    logits = model.head.logits(model.backbone((clips.float() - model.pixel_mean) / model.pixel_std)["res5"]).mean(1)
    found = {"probability": logits.softmax(1)[:, target], "logit": logits[:, target]}
    return {name: (values[0] - values[1:]).numpy() for name, values in found.items()}


def measure(num_clips: int) -> dict:
    """Shares in percent, of the clips that the network gets right."""
    predictor = Predictor("quickstart", device="cpu")
    hits: dict[tuple, list[float]] = {}
    lost, right = [], 0
    for index in range(num_clips):
        scene, frames = beacon_clip(BeaconSpec(), "val", index)
        video = torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous()
        maps = {layer: grad_cam(predictor.model, video, layer=layer) for layer in LAYERS}
        target = maps["res5"].target
        if predictor.classes[target] != scene.label:
            continue
        right += 1
        heats = {layer: found.grid.upsample(found.weights[0]) for layer, found in maps.items()}
        for name, first, side in GRIDS:
            lost_in = losses(predictor.model, video, target, masks_of_grid(video, first, side))
            for layer, heat in heats.items():
                hottest = int(adaptive_avg_pool3d(heat[None, first:], (1, side, side)).argmax())
                for score, values in lost_in.items():
                    hits.setdefault((name, score, layer), []).append(values.argmax() == hottest)
        masks = masks_of_objects(scene)
        lost_in = losses(predictor.model, video, target, masks)
        lost.append(lost_in["probability"])
        for layer, heat in heats.items():
            means = [float(heat[mask].mean()) for mask in masks]
            hits.setdefault(("hottest agent", "is the one", layer), []).append(np.argmax(means[:3]) == 0)
            hits.setdefault(("hottest agent", "matters most", layer), []).append(
                np.argmax(means[:3]) == lost_in["probability"][:3].argmax()
            )
            hits.setdefault(("lamp", "is hotter than the agent", layer), []).append(means[3] > means[0])
    percent = {", ".join(key): round(100 * float(np.mean(values))) for key, values in hits.items()}
    agent, *others, lamp = np.mean(lost, axis=0, dtype=float).round(2).tolist()
    most = np.argmax(lost, axis=1)
    return {
        "num_clips": num_clips,
        "num_right": right,
        "percent": percent,
        "probability lost": {"agent": agent, "others": others, "lamp": lamp},
        "most is lost with": {"agent": int((most == 0).sum()), "others": int(((most == 1) | (most == 2)).sum()),
                              "lamp": int((most == 3).sum())},
    }  # fmt: skip


def main() -> None:
    """Measure, write the figures and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--num-clips", type=int, default=200, metavar="N", help="first clips of the split (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    args = parser.parse_args()
    result = measure(args.num_clips)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "quickstart.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
