"""Scenes of the "beacon" dataset: what happens in a clip (``sample_scene``) and its pixels (``render``).

A lamp glows in one colour and goes out. Agents of different colours then enter and each performs a different action;
the label is the action of the agent whose colour the lamp showed. Lamp and agents never share a place or a frame.
Everything random is drawn from one generator. Nothing that is drawn depends on which agent has the lamp's colour.
"""

import math
from dataclasses import dataclass

import numpy as np

ACTIONS = ("left", "right", "up", "down", "clockwise", "counter_clockwise", "blink", "shake")

# Far apart in chroma, so that they survive the halved chroma planes of yuv420p.
COLOURS = {
    "red": (235, 40, 40),
    "green": (40, 215, 60),
    "blue": (60, 80, 250),
    "yellow": (240, 225, 50),
    "magenta": (230, 50, 225),
    "cyan": (50, 220, 230),
}

SHAPES = ("disc", "square", "diamond")

# Free pixels (of a 64-pixel frame) between an agent's sweep and the lamp or another agent's sweep.
_MARGIN = 2.0
_MAX_LAYOUTS = 400


@dataclass(frozen=True)
class BeaconSpec:
    """What to generate; two equal specs give the same files.

    Raises:
        ValueError: a value is out of range.
    """

    num_agents: int = 3  #: in each clip; guessing among the actions shown is right once in ``num_agents``
    num_colours: int = 3  #: that lamp and agents are drawn from, at least ``num_agents``
    num_frames: int = 8  #: of a clip
    size: int = 64  #: height and width in pixels
    overlap: bool = False  #: agents enter while the lamp still glows, instead of after it went out
    num_train: int = 4000  #: clips of the training split
    num_val: int = 800  #: clips of the validation split
    seed: int = 0  #: of everything random

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_agents", 1, 3),
            ("num_colours", self.num_agents, len(COLOURS)),
            ("num_frames", 8, 64),
            ("size", 48, 256),
            ("num_train", 1, 10**6),
            ("num_val", 1, 10**6),
            ("seed", 0, 2**32),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"BeaconSpec.{name}: expected {low} to {high}, got {value}")
        if self.size % 2:
            raise ValueError(f"BeaconSpec.size: expected an even number (yuv420p halves the chroma), got {self.size}")


@dataclass(frozen=True)
class Lamp:
    """A disc of ``colour`` that glows in the frames ``0 .. last_frame`` and is dark afterwards (x, y in pixels)."""

    colour: str
    x: float
    y: float
    radius: float
    last_frame: int


@dataclass(frozen=True)
class Agent:
    """A coloured shape; ``track`` holds (x, y) of its centre for each frame, None where it is not to be seen."""

    colour: str
    action: str
    shape: str
    radius: float
    enter_frame: int
    track: tuple[tuple[float, float] | None, ...]

    def boxes(self) -> list[list[float] | None]:
        """Return (x0, y0, x1, y1) in pixels for each frame, None where the agent is not to be seen."""
        r = self.radius
        return [
            None if p is None else [round(v, 2) for v in (p[0] - r, p[1] - r, p[0] + r, p[1] + r)] for p in self.track
        ]


@dataclass(frozen=True)
class Scene:
    """One clip: the agent ``agents[target]`` has the lamp's colour, and its action is the label."""

    num_frames: int
    size: int
    lamp: Lamp
    agents: tuple[Agent, ...]
    target: int

    @property
    def label(self) -> str:
        """The name of the action that answers the clip."""
        return self.agents[self.target].action


def sample_scene(rng: np.random.Generator, label: str, spec: BeaconSpec) -> Scene:
    """Draw a clip whose answer is ``label``.

    The other actions are drawn uniformly from the remaining ones, and colours, entering order and places without regard
    to which agent is the target: given everything but the lamp's colour, each shown action is equally likely.

    Raises:
        ValueError: the agents do not fit into the frame side by side.
    """
    others = rng.choice([a for a in ACTIONS if a != label], spec.num_agents - 1, replace=False)
    actions = [label, *(str(a) for a in others)]
    order = rng.permutation(spec.num_agents)
    actions = [actions[i] for i in order]
    target = int(np.flatnonzero(order == 0)[0])
    colours = [list(COLOURS)[i] for i in rng.permutation(spec.num_colours)[: spec.num_agents]]
    last_frame = int(rng.integers(spec.num_frames // 8, spec.num_frames // 5 + 1))
    for _ in range(_MAX_LAYOUTS):
        if (layout := _sample_layout(rng, actions, last_frame, spec)) is not None:
            break
    else:
        raise ValueError(f"{spec.num_agents} agents do not fit side by side into a frame of {spec.size} pixels")
    (x, y, radius), bodies = layout
    agents = tuple(Agent(colour, action, *body) for colour, action, body in zip(colours, actions, bodies, strict=True))
    return Scene(spec.num_frames, spec.size, Lamp(colours[target], x, y, radius, last_frame), agents, target)


def _sample_layout(rng, actions, last_frame, spec):
    """Place the lamp and the agents at random; None if some sweep found no free place."""
    num_frames, unit = spec.num_frames, spec.size / 64
    radius = rng.uniform(5.0, 7.0) * unit
    lamp_x, lamp_y = rng.uniform(radius + unit, spec.size - radius - unit, 2)
    # The halo is twice as wide as the lamp; agents stay out of it.
    reach = 1.6 * radius
    taken = [(lamp_x - reach, lamp_y - reach, lamp_x + reach, lamp_y + reach)]
    bodies = []
    for action in actions:
        enter = int(rng.integers(0, 2)) if spec.overlap else last_frame + 1 + int(rng.integers(0, num_frames // 8 + 1))
        agent_radius = rng.uniform(5.0, 6.5) * unit
        # A clip of fewer frames shows the same paths, faster.
        offsets, shown = _motion(rng, action, num_frames - enter, unit, pace=16 / num_frames)
        low, high = offsets.min(0) - agent_radius, offsets.max(0) + agent_radius
        place = _free_place(rng, low, high, taken, spec.size, _MARGIN * unit)
        if place is None:
            return None
        taken.append((*(place + low), *(place + high)))
        points = [tuple(float(v) for v in place + o) if s else None for o, s in zip(offsets, shown, strict=True)]
        bodies.append((str(rng.choice(SHAPES)), float(agent_radius), enter, (None,) * enter + tuple(points)))
    return (float(lamp_x), float(lamp_y), float(radius)), bodies


def _motion(rng, action, steps, unit, pace):
    """Return offsets (steps, 2) in pixels from the agent's anchor, and whether it is to be seen in each step."""
    t = np.arange(steps)
    shown = np.ones(steps, bool)
    offsets = np.zeros((steps, 2))
    if action in ("left", "right", "up", "down"):
        direction = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[action]
        offsets = np.outer(t, direction) * rng.uniform(1.6, 2.4) * pace * unit
    elif action in ("clockwise", "counter_clockwise"):
        # y grows downwards, so a growing angle turns clockwise on the screen.
        turn = 1 if action == "clockwise" else -1
        angle = rng.uniform(0, 2 * math.pi) + turn * t * 2 * math.pi * max(1.0, pace**0.5) / rng.uniform(6.5, 9.0)
        offsets = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(6.5, 9.0) * unit
    elif action == "blink":
        on, off = rng.integers(1, 4), rng.integers(1, 3)
        shown = t % (on + off) < on
    elif action == "shake":
        axis = rng.uniform(0, 2 * math.pi)
        swing = np.where(t // rng.integers(1, 3) % 2, 1, -1) * rng.uniform(3.5, 5.5) * unit
        offsets = np.outer(swing, (math.cos(axis), math.sin(axis)))
    return offsets, shown


def _free_place(rng, low, high, taken, size, margin, tries=30):
    """Return an anchor at which the box anchor + (low, high) lies in the frame and apart from those taken, or None."""
    for _ in range(tries):
        room = size - (high - low)
        if (room <= 0).any():
            return None
        anchor = rng.uniform(0, 1, 2) * room - low
        (x0, y0), (x1, y1) = anchor + low - margin, anchor + high + margin
        if all(x1 <= a or x0 >= c or y1 <= b or y0 >= d for a, b, c, d in taken):
            return anchor
    return None


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene on a textured, slightly noisy background; returns uint8 (T, H, W, 3), RGB."""
    size = scene.size
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    frames = np.repeat(_background(rng, size)[None], scene.num_frames, 0)
    lamp = scene.lamp
    distance = np.hypot(x - lamp.x, y - lamp.y)
    body = np.clip(lamp.radius - distance + 0.5, 0, 1)[..., None]
    halo = np.clip(1.6 - distance / lamp.radius, 0, 0.6)[..., None]
    colour = np.array(COLOURS[lamp.colour], np.float32)
    for t in range(scene.num_frames):
        if t <= lamp.last_frame:
            frames[t] += halo * (colour - frames[t])
            # A white ring tells a lamp from an agent in any single frame.
            ring = np.clip(1.5 - np.abs(distance - 0.75 * lamp.radius), 0, 1)[..., None]
            frames[t] += body * (colour - frames[t])
            frames[t] += ring * (255 - frames[t])
        else:
            frames[t] += body * (25 - frames[t])
    for agent in scene.agents:
        shade = np.array(COLOURS[agent.colour], np.float32) * np.float32(rng.uniform(0.8, 1.0))
        for frame, place in zip(frames, agent.track, strict=True):
            if place is not None:
                mask = _silhouette(agent.shape, x - place[0], y - place[1], agent.radius)[..., None]
                frame += mask * (shade - frame)
    frames += 3 * rng.standard_normal(frames.shape, np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _silhouette(shape, dx, dy, radius):
    """Coverage (H, W) in 0..1 of a shape whose box has half the side ``radius``."""
    if shape == "disc":
        distance = np.hypot(dx, dy)
    elif shape == "square":
        # A little smaller, so that no shape has much more area than the others.
        distance = np.maximum(np.abs(dx), np.abs(dy)) + 0.1 * radius
    else:
        distance = (np.abs(dx) + np.abs(dy)) * 0.85
    return np.clip(radius - distance + 0.5, 0, 1)


def _background(rng, size):
    """A smooth, nearly grey texture (H, W, 3) of random mean brightness and contrast."""
    coarse = rng.normal(0, 1, (8, 8, 1)) + rng.normal(0, 0.25, (8, 8, 3))
    steps = np.linspace(0, 7, size)
    low = np.minimum(steps.astype(int), 6)
    part = (steps - low)[:, None, None]
    rows = coarse[low] * (1 - part) + coarse[low + 1] * part
    part = part.reshape(1, -1, 1)
    texture = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return (rng.uniform(60, 130) + rng.uniform(5, 15) * texture).astype(np.float32)
