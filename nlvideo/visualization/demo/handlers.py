"""What happens when a visitor uses the page: from what was dropped or clicked to what is shown. Nothing of Gradio here.

Every mistake becomes a message: whatever is dropped, the page goes on.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from nlvideo.data import VideoDecodeError
from nlvideo.utils.console import format_seconds
from nlvideo.visualization import draw_film_strip, heated_frames
from nlvideo.visualization.demo.html import frames_html, message_html, strip_html, timeline_html
from nlvideo.visualization.demo.limits import Limits, VideoFacts, check_upload
from nlvideo.visualization.demo.moments import Inspector, Moment
from nlvideo.visualization.demo.uploads import UploadFolder

logger = logging.getLogger(__name__)

# The model serves one visitor at a time. A video that takes longer than this shows the moments it has by then, seconds.
PATIENCE_SEC = 60.0

FAILED = "Something went wrong with this video; the log of the server says what."
EXPIRED = "This video is no longer in memory: drop it again."


@dataclass(frozen=True)
class Shown:
    """What one visitor looks at; kept in memory until they leave or do nothing for a while.

    Attributes:
        facts: of the video.
        moments: its clips.
        index: the moment that is shown.
        block: short name of the non-local block that is shown; "" in a network without any.
        position: (t, y, x) in that moment's clip.
    """

    facts: VideoFacts
    moments: Sequence[Moment] = ()
    index: int = 0
    block: str = ""
    position: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class View:
    """What the page shows next.

    Attributes:
        message: HTML of the line below the drop area.
        scores: of the video's best classes; None hides them.
        timeline: HTML; None hides it.
        frames: HTML of the frames to click on; None hides the attention.
        strip: HTML of the film strip.
        shown: what the next click refers to.
        done: nothing follows.
        keep: leave all but the message as it is.
    """

    message: str
    scores: dict[str, float] | None = None
    timeline: str | None = None
    frames: str | None = None
    strip: str | None = None
    shown: Shown | None = None
    done: bool = True
    keep: bool = False


@dataclass
class Demo:
    """The page without its looks.

    Attributes:
        inspector: the model.
        uploads: where uploads arrive, and are deleted.
        limits: of an upload.
        examples: videos to click on, which stay.
        about_examples: a line on what they show; may be empty.
    """

    inspector: Inspector
    uploads: UploadFolder
    limits: Limits = field(default_factory=Limits)
    examples: Sequence[Path] = ()
    about_examples: str = ""

    def open_upload(self, path: str) -> Iterator[View]:
        """Yield views while an uploaded video is looked at; the file is deleted at the end, or if that fails."""
        yield from self._open(self.uploads.deleted_afterwards(path))

    def open_example(self, index: int) -> Iterator[View]:
        """Yield views while an example is looked at."""
        if not isinstance(index, int) or not 0 <= index < len(self.examples):
            yield _mistake(f"there is no example {index!r}")
        else:
            yield from self._open(nullcontext(self.examples[index]))

    def choose_moment(self, shown: Shown | None, index: int) -> View:
        """Show another moment of the video, at the place where its clip's response is strongest."""
        if shown is None:
            return _mistake(EXPIRED)
        if not isinstance(index, int) or not 0 <= index < len(shown.moments):
            return _mistake(f"there is no moment {index!r}")
        return self._refresh(self._at_strongest(replace(shown, index=index)))

    def choose_block(self, shown: Shown | None, block: str) -> View:
        """Show the attention of another non-local block at the same position."""
        if shown is None:
            return _mistake(EXPIRED)
        if block not in self.inspector.blocks:
            return _mistake(f"there is no block {block!r}")
        return self._refresh(replace(shown, block=block))

    def choose_position(self, shown: Shown | None, t: int, y: float, x: float) -> View:
        """Show the attention of another position.

        Args:
            shown: what the visitor looks at.
            t: frame of the clip.
            y: how far down that frame, 0 to 1.
            x: how far to its right, 0 to 1.
        """
        if shown is None:
            return _mistake(EXPIRED)
        _, frames, height, width = shown.moments[shown.index].clip.shape
        if not (isinstance(t, int) and 0 <= t < frames and all(isinstance(p, (int, float)) for p in (y, x))):
            return _mistake(f"there is no position {t!r}, {y!r}, {x!r}")
        # A click on the very edge may be a hair outside.
        position = (t, *(min(max(int(p * n), 0), n - 1) for p, n in ((y, height), (x, width))))
        return self._refresh(replace(shown, position=position))

    def _open(self, lent: AbstractContextManager[Path]) -> Iterator[View]:
        try:
            with lent as path:
                yield from self._look_at(path)
        except (ValueError, LookupError, VideoDecodeError) as error:
            # A decoder's error begins with the path on the server, which is not for visitors.
            yield _failed(getattr(error, "reason", None) or str(error))
        except Exception:
            logger.exception("A video could not be shown")
            yield _failed(FAILED)

    def _look_at(self, path: Path) -> Iterator[View]:
        started = time.monotonic()
        yield View(message_html("Reading the video", "busy"), done=False)
        facts = check_upload(path, self.limits)
        scores = dict(self.inspector.predictor(str(path), top_k=5))
        moments, count, message = [], len(self.inspector.windows(facts)), _describe(facts)
        for moment in self.inspector.moments(path, facts):
            if moments and time.monotonic() - started > PATIENCE_SEC:
                message += f"; the first {len(moments)} of {count} moments, as this video takes long to decode"
                break
            text = f"{facts.name}: moment {len(moments) + 1} of {count}"
            yield View(message_html(text, "busy"), scores=scores, done=False)
            moments.append(moment)
        shown = Shown(facts, moments, len(moments) // 2, next(iter(self.inspector.blocks), ""))
        view = self._refresh(self._at_strongest(shown))
        yield replace(view, scores=scores, message=message_html(message), keep=False)

    def _at_strongest(self, shown: Shown) -> Shown:
        if not shown.block:
            return shown
        clip = shown.moments[shown.index].clip
        return replace(shown, position=self.inspector.strongest_position(clip, shown.block))

    def _refresh(self, shown: Shown) -> View:
        """The views of a moment and a position; the classes of the video stay."""
        moment = shown.moments[shown.index]
        message = message_html(_describe(shown.facts))
        timeline = timeline_html(shown.moments, shown.index)
        if not shown.block:
            return View(message, timeline=timeline, shown=shown)
        try:
            maps = self.inspector.attend(moment.clip, shown.block, shown.position)
        except (ValueError, LookupError) as error:
            return View(message_html(str(error), "error"), timeline=timeline, shown=shown)
        frames = heated_frames(maps, 0)
        return View(
            message,
            timeline=timeline,
            frames=frames_html(frames, shown.position, moment.seconds),
            strip=strip_html(draw_film_strip(maps, 0)),
            shown=shown,
        )


def _describe(facts: VideoFacts) -> str:
    frames = f"{facts.num_frames} frame{'s' if facts.num_frames != 1 else ''}"
    return f"{facts.name}: {format_seconds(facts.seconds)}, {frames} of {facts.width} x {facts.height}"


def _failed(text: str) -> View:
    """A video that cannot be shown: what was shown before goes."""
    return View(message_html(text, "error"))


def _mistake(text: str) -> View:
    """A click that cannot be answered: what is shown stays."""
    return View(message_html(text, "error"), keep=True)
