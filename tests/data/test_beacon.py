"""The beacon dataset: what its clips promise, its files, and that the lamp's colour alone points at the label."""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from nlvideo.data.catalog import DatasetCatalog, MetadataCatalog
from nlvideo.data.datasets import beacon
from nlvideo.data.datasets.beacon import beacon_clip, generate_beacon, load_beacon
from nlvideo.data.datasets.beacon_render import ACTIONS, COLOURS, BeaconSpec, render, sample_scene

SMALL = BeaconSpec(num_train=10, num_val=4)
NUM_SCENES = 1600


def draw(seed, label="left", **changes):
    """A scene and its generator, with the default parameters but for ``changes``."""
    rng = np.random.default_rng(seed)
    spec = BeaconSpec(**{"num_colours": 4, "num_frames": 16, **changes})
    return sample_scene(rng, label, spec), rng


@pytest.fixture(scope="module")
def scenes():
    """Scenes with labels in turn, as in a generated split, without their pixels."""
    return [draw(i, ACTIONS[i % len(ACTIONS)])[0] for i in range(NUM_SCENES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small dataset, generated once."""
    return generate_beacon(tmp_path_factory.mktemp("data") / "beacon", SMALL, num_processes=1)


def first_positions(scene):
    """Centre of every agent in the frame in which it enters."""
    return [agent.track[agent.enter_frame] for agent in scene.agents]


def read_frames(path):
    """All frames of a video as one array (T, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def assert_independent(rows, columns, *, what):
    """Fail where a table of two variables differs from independence by more than chance would make it (5 sigma)."""
    table = Counter(zip(rows, columns))
    row_counts, column_counts = Counter(rows), Counter(columns)
    for row in row_counts:
        for column in column_counts:
            share = column_counts[column] / len(columns)
            expected = row_counts[row] * share
            tolerance = 5 * np.sqrt(expected * (1 - share)) + 1
            assert abs(table[row, column] - expected) < tolerance, f"{what}: {column} depends on {row}"


# --- what a clip is -------------------------------------------------------------------------------------------------


def test_label_is_the_action_of_the_agent_with_the_lamps_colour(scenes):
    for i, scene in enumerate(scenes):
        matching = [a for a in scene.agents if a.colour == scene.lamp.colour]
        assert [a.action for a in matching] == [scene.label] == [ACTIONS[i % len(ACTIONS)]]


def test_agents_differ_in_colour_and_action(scenes):
    for scene in scenes:
        assert len({a.colour for a in scene.agents}) == len({a.action for a in scene.agents}) == 3


def test_lamp_and_agents_never_share_a_frame(scenes):
    for scene in scenes:
        for agent in scene.agents:
            seen = [t for t, place in enumerate(agent.track) if place is not None]
            assert len(agent.track) == scene.num_frames
            assert scene.lamp.last_frame < agent.enter_frame == seen[0]
            assert scene.num_frames - agent.enter_frame >= 9


@pytest.mark.parametrize("num_frames, least", [(8, 5), (12, 8), (16, 10), (32, 19)])
def test_every_agent_has_time_to_act(num_frames, least):
    for seed in range(40):
        scene, _ = draw(seed, num_frames=num_frames)
        assert scene.lamp.last_frame >= 1
        assert min(num_frames - agent.enter_frame for agent in scene.agents) >= least


def test_with_overlap_agents_enter_while_the_lamp_glows():
    for seed in range(40):
        scene, _ = draw(seed, overlap=True)
        assert all(agent.enter_frame <= scene.lamp.last_frame for agent in scene.agents)


@pytest.mark.parametrize("size", [48, 64, 128])
def test_agents_stay_in_the_frame_and_out_of_each_others_and_the_lamps_way(size):
    for seed in range(100):
        scene, _ = draw(seed, ACTIONS[seed % len(ACTIONS)], size=size, num_agents=2 if size == 48 else 3)
        sweeps = []
        for agent in scene.agents:
            boxes = np.array([box for box in agent.boxes() if box])
            sweeps.append((*boxes[:, :2].min(0), *boxes[:, 2:].max(0)))
        assert np.min(sweeps) >= -0.01 and np.max(sweeps) <= size + 0.01
        lamp = scene.lamp
        sweeps.append((lamp.x - lamp.radius, lamp.y - lamp.radius, lamp.x + lamp.radius, lamp.y + lamp.radius))
        for i, a in enumerate(sweeps):
            assert all(a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1] for b in sweeps[i + 1 :])


def track_of(action, seed):
    """Array (steps, 2) of the places of the agent with ``action``, and its radius."""
    agent = next(a for a in draw(seed, action)[0].agents if a.action == action)
    return agent, np.array([p for p in agent.track[agent.enter_frame :] if p is not None])


@pytest.mark.parametrize("action, direction", [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))])
def test_straight_actions_move_in_their_direction(action, direction):
    for seed in range(20):
        _, places = track_of(action, seed)
        steps = np.diff(places, axis=0)
        assert (steps @ direction > 1).all() and np.allclose(np.abs(steps).min(1), 0)


@pytest.mark.parametrize("action, sign", [("clockwise", 1), ("counter_clockwise", -1)])
def test_circling_actions_turn_the_way_they_say_on_the_screen(action, sign):
    for seed in range(20):
        _, places = track_of(action, seed)
        steps = np.diff(places, axis=0)
        # Image rows grow downwards: a positive cross product turns clockwise for the viewer.
        turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
        assert (sign * turns > 0).all()


def test_blinking_agents_stay_and_come_and_go():
    for seed in range(20):
        agent, places = track_of("blink", seed)
        changes = np.diff([p is not None for p in agent.track[agent.enter_frame :]])
        assert np.ptp(places, axis=0).max() == 0 and changes.sum() >= 2


def test_shaking_agents_go_back_and_forth_about_their_place():
    for seed in range(20):
        _, places = track_of("shake", seed)
        assert len(np.unique(places.round(6), axis=0)) == 2 and 6.9 < np.linalg.norm(np.ptp(places, axis=0)) < 11.1


def test_only_the_lamp_shows_its_colour_before_it_goes_out_and_is_dark_after():
    for seed in range(10):
        scene, rng = draw(seed)
        frames = render(scene, rng).astype(float)
        colour = np.float32(COLOURS[scene.lamp.colour])
        y, x = int(scene.lamp.y), int(scene.lamp.x)
        assert np.abs(frames[0, y, x] - colour).mean() < 25
        assert frames[scene.lamp.last_frame + 1 :, y, x].max() < 50
        for other in COLOURS.values():
            near = np.abs(frames[: scene.lamp.last_frame + 1] - np.float32(other)).max(-1) < 30
            assert near.any() == (tuple(colour) == other)


# --- nothing but lamp and agent together points at the label --------------------------------------------------------


def test_each_agent_shown_is_the_answer_equally_often(scenes):
    """The entering order, speed of entering, shape, size and height in the frame say nothing of who is asked about."""
    k = 3
    features = {
        "place in the list": lambda s: range(k),
        "entering order": lambda s: np.argsort(np.argsort([a.enter_frame + 1e-3 * i for i, a in enumerate(s.agents)])),
        "size": lambda s: np.argsort(np.argsort([a.radius for a in s.agents])),
        "left to right": lambda s: np.argsort(np.argsort([p[0] for p in first_positions(s)])),
        "top to bottom": lambda s: np.argsort(np.argsort([p[1] for p in first_positions(s)])),
        "nearness to the lamp": lambda s: np.argsort(
            np.argsort([np.hypot(p[0] - s.lamp.x, p[1] - s.lamp.y) for p in first_positions(s)])
        ),
    }
    for name, rank in features.items():
        wins = Counter(int(list(rank(scene))[scene.target]) for scene in scenes)
        for place in range(k):
            assert abs(wins[place] - NUM_SCENES / k) < 5 * np.sqrt(NUM_SCENES * 2 / 9), name


def test_label_is_balanced_and_independent_of_the_lamp(scenes):
    labels = [scene.label for scene in scenes]
    assert set(Counter(labels).values()) == {NUM_SCENES // len(ACTIONS)}
    assert_independent([s.lamp.colour for s in scenes], labels, what="lamp's colour")
    assert_independent([s.lamp.last_frame for s in scenes], labels, what="lamp's last frame")
    assert_independent([(s.lamp.x > 32, s.lamp.y > 32) for s in scenes], labels, what="lamp's place")
    assert_independent([s.lamp.radius > 6 for s in scenes], labels, what="lamp's size")


def test_set_of_actions_tells_no_more_than_one_in_k(scenes):
    """Of two actions shown together, each is the answer as often as the other."""
    wins = Counter()
    for scene in scenes:
        for other in scene.agents:
            if other.action != scene.label:
                wins[scene.label, other.action] += 1
    for a in ACTIONS:
        for b in ACTIONS:
            total = wins[a, b] + wins[b, a]
            assert abs(wins[a, b] - total / 2) <= 5 * np.sqrt(total) / 2


def test_colour_of_an_action_says_nothing_of_the_label(scenes):
    """Which colour performs which action, without the lamp, leaves one in K."""
    rows = [(a.colour, a.action == "left") for s in scenes for a in s.agents]
    assert_independent(rows, [a.colour == s.lamp.colour for s in scenes for a in s.agents], what="coloured action")


def test_brightness_of_a_clip_says_nothing_of_the_label():
    brightness, labels = [], []
    for i in range(160):
        scene, rng = draw(i, ACTIONS[i % len(ACTIONS)])
        brightness.append(render(scene, rng)[::5].mean())
        labels.append(scene.label)
    brightness = np.array(brightness) > np.median(brightness)
    assert_independent(list(brightness), labels, what="brightness")


# --- files ----------------------------------------------------------------------------------------------------------


def test_folder_holds_lists_classes_spec_and_truth(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "classes.txt",
        "spec.json",
        "train.csv",
        "truth.jsonl",
        "val.csv",
        "videos",
    ]
    assert (folder / "classes.txt").read_text().split() == list(ACTIONS)
    rows = [line.split(" ") for line in (folder / "train.csv").read_text().splitlines()]
    assert len(rows) == SMALL.num_train and all((folder / path).is_file() for path, _ in rows)
    assert [int(label) for _, label in rows] == [i % len(ACTIONS) for i in range(SMALL.num_train)]
    assert json.loads((folder / "spec.json").read_text())["num_agents"] == 3


def test_videos_are_yuv420p_h264_that_keep_the_frames(folder):
    for index in range(3):
        path = folder / f"videos/val/{index:05d}.mp4"
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        scene, frames = beacon_clip(SMALL, "val", index)
        decoded = read_frames(path).astype(int)
        assert decoded.shape == frames.shape == (8, 64, 64, 3)
        assert np.abs(decoded - frames).mean() < 12
        # Colours survive the halved chroma: the middle of every agent is nearest to its own colour.
        for agent in scene.agents:
            x, y = agent.track[agent.enter_frame]
            pixel = decoded[agent.enter_frame, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].mean((0, 1))
            nearest = min(COLOURS, key=lambda name: np.abs(pixel - np.array(COLOURS[name])).sum())
            assert nearest == agent.colour


def test_truth_matches_the_pixels(folder):
    for line in (folder / "truth.jsonl").read_text().splitlines():
        truth = json.loads(line)
        frames = read_frames(folder / truth["video"]).astype(int)
        (target,) = [a for a in truth["agents"] if a["target"]]
        assert (target["action"], target["colour"]) == (truth["label"], truth["lamp"]["colour"])
        x, y = (int(v) for v in truth["lamp"]["centre"])
        first, last = truth["lamp"]["frames"]
        assert np.ptp(frames[first : last + 1, y, x], axis=-1).min() > 90
        assert frames[last + 2 :, y, x].max() < 90
        box = target["boxes"][target["enter_frame"]]
        middle = frames[target["enter_frame"], int((box[1] + box[3]) / 2), int((box[0] + box[2]) / 2)]
        assert np.abs(middle - COLOURS[target["colour"]]).mean() < 60


def test_files_do_not_depend_on_the_number_of_processes(tmp_path):
    spec = BeaconSpec(num_train=60, num_val=8)
    one = generate_beacon(tmp_path / "one", spec, num_processes=1)
    two = generate_beacon(tmp_path / "two", spec, num_processes=2)
    names = [p.relative_to(one) for p in sorted(one.rglob("*")) if p.is_file()]
    assert len(names) == 68 + 5
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_seed_changes_the_clips_and_nothing_else():
    a, again, b = (beacon_clip(BeaconSpec(seed=s), "train", 0)[1] for s in (0, 0, 1))
    assert (a == again).all() and (a != b).any()


def test_splits_differ():
    assert (beacon_clip(SMALL, "train", 0)[1] != beacon_clip(SMALL, "val", 0)[1]).any()
    with pytest.raises(ValueError, match="'test'"):
        beacon_clip(SMALL, "test", 0)


def test_existing_folder_is_used_as_it_is(folder):
    before = (folder / "train.csv").stat().st_mtime_ns
    assert generate_beacon(folder, SMALL) == folder
    assert (folder / "train.csv").stat().st_mtime_ns == before


def test_folder_of_another_spec_is_refused_and_left_alone(folder):
    with pytest.raises(ValueError, match="num_agents is 3, not 2"):
        generate_beacon(folder, BeaconSpec(num_agents=2, num_train=10, num_val=4))
    assert generate_beacon(folder, SMALL) == folder


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(ValueError, match="spec.json"):
        generate_beacon(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(root, spec, job):
        """Write one clip, then stop as Ctrl-C does."""
        if job[1] == 1:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(beacon, "_write_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate_beacon(tmp_path / "beacon", SMALL, num_processes=1)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_rests_of_a_killed_run_are_cleared(tmp_path):
    (tmp_path / ".beacon.partial").mkdir()
    (tmp_path / ".beacon.partial" / "rest").write_text("")
    root = generate_beacon(tmp_path / "beacon", SMALL, num_processes=1)
    assert not (root / "rest").exists() and not (tmp_path / ".beacon.partial").exists()


def test_callers_that_start_together_generate_once(tmp_path, monkeypatch):
    written = []
    write_clip = beacon._write_clip
    monkeypatch.setattr(beacon, "_write_clip", lambda *arguments: written.append(1) or write_clip(*arguments))
    # The lock is one of open files, so it holds between threads as it does between ranks.
    with ThreadPoolExecutor(3) as pool:
        roots = list(pool.map(lambda _: generate_beacon(tmp_path / "beacon", SMALL, num_processes=1), range(3)))
    assert roots == [tmp_path / "beacon"] * 3
    assert len(written) == SMALL.num_train + SMALL.num_val


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_agents", 0),
        ("num_agents", 4),
        ("num_colours", 2),
        ("num_colours", 7),
        ("num_frames", 7),
        ("size", 32),
        ("size", 65),
        ("num_train", 0),
        ("num_val", 0),
        ("seed", -1),
    ],
)
def test_impossible_specs_name_the_field_and_the_value(key, value):
    with pytest.raises(ValueError, match=rf"BeaconSpec\.{key}: .*got {value}"):
        BeaconSpec(**{key: value})


@pytest.mark.parametrize("num_agents", [1, 2, 3])
def test_agents_of_every_allowed_number_fit(num_agents):
    for seed in range(30):
        assert len(draw(seed, "clockwise", num_agents=num_agents)[0].agents) == num_agents


# --- names and command line -----------------------------------------------------------------------------------------


def test_splits_are_registered_and_generated_on_first_use(tmp_path, monkeypatch):
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path))
    monkeypatch.setitem(beacon.PRESETS, "beacon", SMALL)
    for split, count in (("train", SMALL.num_train), ("val", SMALL.num_val)):
        records = DatasetCatalog.get(f"beacon_{split}")
        assert len(records) == count
        assert records[1]["label"] == 1 and Path(records[1]["file_name"]).is_file()
        assert Path(records[1]["file_name"]).is_absolute()
        assert len({r["video_id"] for r in records}) == count
        metadata = MetadataCatalog.get(f"beacon_{split}")
        assert (metadata.classes, metadata.evaluator_type) == (list(ACTIONS), "classification")
    assert (tmp_path / "beacon" / "spec.json").is_file()


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'test'"):
        load_beacon("test")


SCRIPT = Path(__file__).parents[2] / "tools" / "prepare_beacon.py"


def test_script_makes_a_folder_and_refuses_a_wrong_value(tmp_path):
    def run(*arguments):
        """Run the script; returns the finished process."""
        environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    done = run("--out", str(tmp_path / "b"), "--train", "2", "--val", "1", "--agents", "2", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "b" / "spec.json").read_text())["num_agents"] == 2
    wrong = run("--out", str(tmp_path / "c"), "--agents", "9")
    assert wrong.returncode == 2 and wrong.stderr.strip().endswith("num_agents: expected 1 to 3, got 9")


def test_script_help_does_not_import_torch():
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['prepare_beacon.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--agents" in done.stdout, done.stderr
