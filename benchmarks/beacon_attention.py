#!/usr/bin/env python3
"""Do the arrows find the lamp? ``python benchmarks/beacon_attention.py output/trials/beacon/i3d_non_local_seed0 ...``

On the validation clips of beacon that a network gets right: is the lamp among the 20 keys of the highest weights of a
query on the agent of the lamp's colour, and is it for a query on another agent? Arguments are folders of trained runs
(``config.yaml``, ``model_final.pth``); the figures of each go to ``benchmarks/results/beacon_attention``, the table
to the console. ``beacon_attention.md`` has the definitions.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUM_ARROWS = 20
RESULTS = ROOT / "benchmarks/results/beacon_attention"


def lamp_keys(lamp: dict, view, keys) -> set[tuple[int, int, int]]:
    """Keys on the glowing lamp: their windows' centres are in its disc, their frames begin while it glows."""
    _, last_frame = lamp["frames"]
    found = set()
    for t in range(keys.size[0]):
        for h in range(keys.size[1]):
            for w in range(keys.size[2]):
                first, _ = keys.window((t, h, w))
                _, y, x = keys.centre((t, h, w))
                y, x = view.to_file(y, x)
                glows = view.frames[int(first[0])] <= last_frame
                if glows and math.dist((x, y), lamp["centre"]) <= lamp["radius"]:
                    found.add((t, h, w))
    return found


def agent_queries(agent: dict, view) -> list[tuple[int, float, float]]:
    """(t, y, x) of an agent's centre in every frame of the view that shows it."""
    _, _, height, width = view.video.shape
    places = []
    for t, frame in enumerate(view.frames):
        if agent["boxes"][frame] is None:
            continue
        x0, y0, x1, y1 = agent["boxes"][frame]
        y, x = view.to_view((y0 + y1) / 2, (x0 + x1) / 2)
        if 0 <= y < height and 0 <= x < width:
            places.append((t, y, x))
    return places


def chance(num_keys: int, num_lamp: int) -> float:
    """Probability that ``NUM_ARROWS`` different keys drawn at random include one of the lamp's."""
    arrows = min(NUM_ARROWS, num_keys)
    return 1 - math.comb(num_keys - num_lamp, arrows) / math.comb(num_keys, arrows)


def measure_query(row, found, lamp: set) -> dict[str, float]:
    """Of one query: is the lamp among its arrows, and among those above its mean weight; its share of weight."""
    pairs = zip(map(tuple, found.cells.tolist()), found.weights.tolist(), strict=True)
    hits = [weight for cell, weight in pairs if cell in lamp]
    positive = row.clamp(min=0)
    return {
        "arrows": float(bool(hits)),
        "above_mean": float(bool(hits) and hits[0] > float(row.mean())),
        "weight": float(sum(positive[cell] for cell in lamp) / positive.sum().clamp(min=1e-30)),
        "chance": chance(row.numel(), len(lamp)),
    }


def measure_clip(model, view, truth: dict, block: str, into: dict) -> None:
    """Add the figures of every query of a clip, under (lamp's colour, agent's colour)."""
    from nlvideo.visualization import attend, top_keys

    queries = [(agent, place) for agent in truth["agents"] for place in agent_queries(agent, view)]
    if not queries:
        return
    maps = attend(model, view.video, block, [place for _, place in queries])
    lamp = lamp_keys(truth["lamp"], view, maps.keys)
    if not lamp:
        return
    for (agent, _), row, found in zip(queries, maps.weights, top_keys(maps, NUM_ARROWS, share=1.0), strict=True):
        into[truth["lamp"]["colour"], agent["colour"]].append(measure_query(row, found, lamp))


def measure_run(folder: Path, num_clips: int | None) -> dict:
    """Figures of a run, for each of its blocks."""
    import torch
    from tqdm import tqdm

    from nlvideo.checkpoint import load_model_for_test
    from nlvideo.config import load_cfg
    from nlvideo.data.datasets.beacon import ACTIONS, load_beacon
    from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules
    from nlvideo.visualization import load_view
    from nlvideo.visualization.blocks import short_name

    cfg = load_cfg(str(folder / "config.yaml"), ["MODEL.WEIGHTS", str(folder / "model_final.pth")])
    model = load_model_for_test(cfg)
    records = load_beacon("val")[:num_clips]
    root = Path(records[0]["file_name"]).parents[2]
    lines = map(json.loads, (root / "truth.jsonl").read_text().splitlines())
    truths = {Path(truth["video"]).stem: truth for truth in lines if truth["split"] == "val"}
    figures = {short_name(name): defaultdict(list) for name in nonlocal_modules(model)}
    num_right = 0
    for record in tqdm(records, desc=folder.name, unit="clip", disable=None):
        view, truth = load_view(cfg, record["file_name"]), truths[record["video_id"]]
        with torch.no_grad():
            scores = model([{"video": view.video[None], "video_id": record["video_id"]}])[0]["scores"]
        if ACTIONS[int(scores.argmax())] != truth["label"]:
            continue
        num_right += 1
        for block, into in figures.items():
            measure_clip(model, view, truth, block, into)
    node = cfg.MODEL.NONLOCAL
    return {
        "run": folder.name,
        "pairwise": node.PAIRWISE,
        "attend": node.ATTEND,
        "num_clips": len(records),
        "num_right": num_right,
        "blocks": {block: summarise(pairs) for block, pairs in figures.items()},
    }


def summarise(pairs: dict) -> dict:
    """Means over queries, in percent: of the chosen agent, of the others, and for every pair of colours."""
    chosen = [query for (lamp, agent), queries in pairs.items() if lamp == agent for query in queries]
    other = [query for (lamp, agent), queries in pairs.items() if lamp != agent for query in queries]
    colours = {f"{lamp} lamp, {agent} agent": means(queries) for (lamp, agent), queries in sorted(pairs.items())}
    return {"chosen": means(chosen), "other": means(other), "colours": colours}


def means(queries: list[dict]) -> dict[str, float]:
    """Mean of each figure in percent, and the number of queries."""
    keys = queries[0] if queries else ()
    figures = {key: round(100 * sum(query[key] for query in queries) / len(queries), 1) for key in keys}
    return {**figures, "num_queries": len(queries)}


def best_block(result: dict) -> str:
    """The block in which arrows above the mean tell the chosen agent from the others most clearly."""

    def gap(block: str) -> float:
        """Chosen minus other."""
        found = result["blocks"][block]
        return found["chosen"].get("above_mean", 0) - found["other"].get("above_mean", 0)

    return max(result["blocks"], key=gap)


def table(results: list[dict]) -> str:
    """The table in Markdown: each run with its best block."""
    lines = [
        "| run | f | attends in | block | clips right | lamp among the 20, chosen / other agent (chance) "
        "| and above the mean weight | weight on the lamp |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        block = best_block(result)
        chosen, other = (result["blocks"][block][who] for who in ("chosen", "other"))
        if not chosen["num_queries"] or not other["num_queries"]:
            continue
        cells = [f"{chosen[key]:.0f} / {other[key]:.0f} %" for key in ("arrows", "above_mean", "weight")]
        cells[0] += f" ({chosen['chance']:.0f} %)"
        lines.append(
            f"| {result['run']} | {result['pairwise'].replace('_', ' ')} | {result['attend']} | {block} | "
            f"{result['num_right']} of {result['num_clips']} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure runs and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of trained runs, or results (.json)")
    parser.add_argument("--num-clips", type=int, metavar="N", help="only the first N of the validation split")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    args = parser.parse_args()
    results = []
    for run in args.runs:
        if run.suffix == ".json":
            results.append(json.loads(run.read_text()))
            continue
        if not (run / "model_final.pth").is_file():
            sys.exit(f"{run}: no model_final.pth in it")
        results.append(measure_run(run, args.num_clips))
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{run.name}.json").write_text(json.dumps(results[-1], indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
