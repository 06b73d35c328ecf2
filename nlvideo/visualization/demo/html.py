"""Pieces of the page as HTML. Pictures are in it as data: nothing of a video is written to disk to be shown."""

import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from nlvideo.utils.console import format_seconds
from nlvideo.visualization.demo.moments import Inspector, Moment
from nlvideo.visualization.video_file import data_uri

# Okabe and Ito's colours, which the colour-blind tell apart; black and the yellow that fades on white left out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_OTHER = "#8a8a8a"
# Frames up to this size are small and made of few colours: lossless is smaller, and shows what the network sees.
_LOSSLESS_UP_TO = 112


def message_html(text: str, kind: str = "info") -> str:
    """A line for the user; ``kind`` is "info", "busy" or "error"."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="nl-message nl-{kind}" role="{role}">{escape(text)}</div>'


def note_html(text: str) -> str:
    """A line in small print."""
    return f'<p class="nl-note">{escape(text)}</p>'


def heading_html(name: str, inspector: Inspector) -> str:
    """The heading: which model this is."""
    classes, blocks = inspector.predictor.classes, inspector.blocks
    count = f"{len(classes)} classes" + (f": {', '.join(classes)}" if len(classes) <= 12 else "")
    noun = "non-local blocks" if len(blocks) > 1 else "non-local block"
    where = f"{noun} at {', '.join(blocks)}" if blocks else f"no {noun}"
    return f"<h1>nlvideo: {escape(name)}</h1>" + note_html(f"{count}; {where}.")


def timeline_html(moments: Sequence[Moment], selected: int) -> str:
    """The moments as columns to click on: the height is the score of the best class, the colour says which it is."""
    colours = _colour_of([moment.top[0][0] for moment in moments])
    columns = []
    for index, moment in enumerate(moments):
        name, score = moment.top[0]
        span = f"{moment.start_sec:.1f} to {moment.end_sec:.1f} s"
        says = escape(f"{span}: {name}, {score:.0%}", quote=True)
        columns.append(
            f'<button type="button" class="nl-moment" data-index="{index}" title="{says}" aria-label="{says}"'
            f' aria-pressed="{str(index == selected).lower()}">'
            f'<span style="height:{max(2, round(100 * score))}%;background:{colours[name]}"></span></button>'
        )
    key = "".join(f'<li><i style="background:{colour}"></i>{escape(name)}</li>' for name, colour in colours.items())
    end = format_seconds(moments[-1].end_sec)
    return (
        "<h3>Timeline</h3>"
        + note_html("The best class of each moment and its score. Click on one to see its frames below.")
        + f'<div class="nl-timeline">{"".join(columns)}</div>'
        f'<div class="nl-axis"><span>0 s</span><span>{end}</span></div><ul class="nl-key">{key}</ul>'
    )


def _colour_of(names: Sequence[str]) -> dict[str, str]:
    """A colour for each class; those that come up most have colours of their own."""
    by_count = sorted(set(names), key=lambda name: (-names.count(name), names.index(name)))
    return {name: COLOURS[i] if i < len(COLOURS) else _OTHER for i, name in enumerate(by_count)}


def frames_html(frames: np.ndarray, position: tuple[int, int, int], seconds: Sequence[float]) -> str:
    """The frames to click on, with a mark at the position that is shown.

    Args:
        frames: uint8 (T, H, W, 3).
        position: (t, y, x) in frames and pixels.
        seconds: when in the video each frame is.
    """
    height, width = frames.shape[1:3]
    cells = []
    for index, (frame, second) in enumerate(zip(frames, seconds)):
        mark = ""
        if index == position[0]:
            left, top = (100 * (p + 0.5) / n for p, n in ((position[2], width), (position[1], height)))
            mark = f'<i class="nl-mark" style="left:{left:.2f}%;top:{top:.2f}%"></i>'
        cells.append(
            f'<figure><div class="nl-frame"><img data-t="{index}" alt="frame {index}" draggable="false"'
            f' src="{image_uri(frame)}">{mark}</div><figcaption>{second:.2f} s</figcaption></figure>'
        )
    return f'<div class="nl-frames" data-position="{",".join(map(str, position))}">{"".join(cells)}</div>'


def strip_html(strip: Image.Image) -> str:
    """A film strip, as wide as the page lets it be; a narrow page scrolls it."""
    title = "<h3>The positions with the highest weights</h3>"
    return f'{title}<div class="nl-strip"><img alt="film strip with arrows" src="{image_uri(np.asarray(strip))}"></div>'


def examples_html(examples: Sequence[tuple[str, bytes]]) -> str:
    """Clips to click on, (label, MP4), playing all the time."""
    buttons = [
        f'<button type="button" class="nl-example" data-index="{index}" title="{escape(label, quote=True)}">'
        f'<video autoplay loop muted playsinline src="{data_uri("video/mp4", video)}">'
        f"</video><span>{escape(label)}</span></button>"
        for index, (label, video) in enumerate(examples)
    ]
    return f'<div class="nl-examples">{"".join(buttons)}</div>'


def image_uri(image: np.ndarray) -> str:
    """An image, uint8 (H, W, 3), as an address that holds it: PNG where it is small, else JPEG."""
    out = io.BytesIO()
    kind = "png" if max(image.shape[:2]) <= _LOSSLESS_UP_TO else "jpeg"
    Image.fromarray(image).convert("RGB").save(out, kind, quality=88)
    return data_uri(f"image/{kind}", out.getvalue())
