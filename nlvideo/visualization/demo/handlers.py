"""What happens when a visitor uses the page: from what was dropped or clicked to what is shown. Nothing of Gradio here.

Every mistake becomes a message: whatever is dropped, the page goes on.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from nlvideo.data import VideoDecodeError
from nlvideo.utils.console import format_seconds
from nlvideo.visualization import attend, draw_film_strip, draw_heat_strip, grad_cam, heated_frames
from nlvideo.visualization.attention import AttentionMaps
from nlvideo.visualization.demo.moments import GRAD_CAM, Inspector, Moment
from nlvideo.visualization.demo.uploads import Limits, UploadFolder, VideoFacts, check_upload
from nlvideo.visualization.drawing import QUERY_COLOUR, FrameRows, LineLayer, enlargement
from nlvideo.visualization.gradcam import ClassMaps

logger = logging.getLogger(__name__)

# The model serves one visitor at a time. A video that takes longer than this shows the moments it has by then, seconds.
PATIENCE_SEC = 60.0

FAILED = "Something went wrong with this video; the log of the server says what."
EXPIRED = "This video is no longer in memory: drop it again."
# Size of a frame to click on, pixels, and how many stand in a row.
_SHORT_SIDE, _PER_ROW = 192, 8


@dataclass(frozen=True)
class Shown:
    """What one visitor looks at; kept in memory until they leave or do nothing for a while."""

    facts: VideoFacts
    moments: Sequence[Moment] = ()
    index: int = 0  #: the moment that is shown
    block: str = GRAD_CAM  #: or the short name of the non-local block that is shown
    position: tuple[int, int, int] = (0, 0, 0)  #: (t, y, x) in that moment's clip

    @property
    def moment(self) -> Moment:
        """The moment that is shown."""
        return self.moments[self.index]

    @property
    def rows(self) -> FrameRows:
        """Where the frames of that moment are on the picture to click on."""
        _, T, H, W = self.moment.clip.shape
        per_row = _PER_ROW if T > _PER_ROW else _PER_ROW // 2
        return FrameRows(T, H, W, enlargement(H, W, _SHORT_SIDE), per_row)


@dataclass(frozen=True)
class Answer:
    """What the page shows next.

    Its kind is "result"; "busy": another answer follows; "failed": what was shown is removed; or "mistake": the click
    has no answer, and what is shown stays.
    """

    message: str  #: the line below the drop area, plain text
    kind: str = "result"
    scores: dict[str, float] | None = None  #: of the video's best classes; None hides them
    frames: Image.Image | None = None  #: to click on; None hides the attention
    strip: Image.Image | None = None  #: the film strip
    shown: Shown | None = None  #: what the next click refers to, and the moments of the timeline; None hides it


@dataclass
class Demo:
    """The page without its looks."""

    inspector: Inspector
    uploads: UploadFolder
    limits: Limits = field(default_factory=Limits)
    examples: Sequence[Path] = ()  #: videos to click on, which stay
    about_examples: str = ""  #: a line on what the examples show

    def open_upload(self, path: str) -> Iterator[Answer]:
        """Yield answers while an uploaded video is looked at; the file is deleted at the end, also after an error."""
        yield from self._open(self.uploads.deleted_afterwards(path))

    def open_example(self, index: int) -> Iterator[Answer]:
        """Yield answers while an example is looked at."""
        if not _is_index(index, len(self.examples)):
            yield Answer(f"there is no example {index!r}", "mistake")
        else:
            yield from self._open(nullcontext(self.examples[index]))

    def choose_moment(self, shown: Shown | None, index: int) -> Answer:
        """Show another moment of the video, at the position where the block changes the decision most."""
        if shown is None:
            return Answer(EXPIRED, "mistake")
        if not _is_index(index, len(shown.moments)):
            return Answer(f"there is no moment {index!r}", "mistake")
        return self._refresh(self._at_strongest(replace(shown, index=index)))

    def choose_block(self, shown: Shown | None, block: str) -> Answer:
        """Show the attention of another non-local block at the same position, or Grad-CAM."""
        if shown is None:
            return Answer(EXPIRED, "mistake")
        if block not in self.inspector.methods:
            return Answer(f"there is no block {block!r}", "mistake")
        return self._refresh(replace(shown, block=block))

    def choose_position(self, shown: Shown | None, t: int, y: int, x: int) -> Answer:
        """Show the attention of another position: a frame of the clip, and a pixel of that frame."""
        if shown is None:
            return Answer(EXPIRED, "mistake")
        if not all(map(_is_index, (t, y, x), shown.moment.clip.shape[1:])):
            return Answer(f"there is no position {t!r}, {y!r}, {x!r}", "mistake")
        if shown.block == GRAD_CAM:
            return Answer("Grad-CAM is about the whole clip: there is no position to ask about.", "mistake")
        return self._refresh(replace(shown, position=(t, y, x)))

    def _open(self, lent: AbstractContextManager[Path]) -> Iterator[Answer]:
        try:
            with lent as path:
                yield from self._look_at(path)
        except (ValueError, LookupError, VideoDecodeError) as error:
            # A decoder's error begins with the path on the server, which is not for visitors.
            yield Answer(getattr(error, "reason", None) or str(error), "failed")
        except Exception:
            logger.exception("A video could not be shown")
            yield Answer(FAILED, "failed")

    def _look_at(self, path: Path) -> Iterator[Answer]:
        started = time.monotonic()
        yield Answer("Reading the video", "busy")
        facts = check_upload(path, self.limits)
        scores = dict(self.inspector.predictor(str(path), top_k=5))
        moments: list[Moment] = []
        count, message = len(self.inspector.windows(facts)), _describe(facts)
        for moment in self.inspector.moments(path, facts):
            if moments and time.monotonic() - started > PATIENCE_SEC:
                message += f"; the first {len(moments)} of {count} moments, as this video takes long to decode"
                break
            yield Answer(f"{facts.name}: moment {len(moments) + 1} of {count}", "busy", scores)
            moments.append(moment)
        shown = Shown(facts, moments, len(moments) // 2, self.inspector.methods[0])
        answer = self._refresh(self._at_strongest(shown))
        message += f"; {answer.message}" if answer.kind == "failed" else ""
        yield replace(answer, scores=scores, message=message)

    def _at_strongest(self, shown: Shown) -> Shown:
        if shown.block == GRAD_CAM:
            return shown
        return replace(shown, position=self.inspector.strongest_position(shown.moment.clip, shown.block))

    def _refresh(self, shown: Shown) -> Answer:
        """The pictures of a moment and a position, or of its best class; the classes of the video stay."""
        maps: ClassMaps | AttentionMaps
        model, clip = self.inspector.predictor.model, shown.moment.clip
        try:
            if shown.block == GRAD_CAM:
                maps = grad_cam(model, clip)
                name = self.inspector.predictor.classes[maps.target]
                strip = draw_heat_strip(maps, 0, f"{GRAD_CAM}, {maps.layer}: what speaks for {name}")
            else:
                maps = attend(model, clip, shown.block, [shown.position])
                strip = draw_film_strip(maps, 0)
        except (ValueError, LookupError) as error:
            return Answer(str(error), "failed", shown=shown)
        frames = shown.rows.picture(heated_frames(maps, 0), [f"{second:.2f} s" for second in shown.moment.seconds])
        if shown.block != GRAD_CAM:
            mark = LineLayer(frames.size)
            t, y, x = shown.position
            mark.dot(*shown.rows.point(t, y + 0.5, x + 0.5), 5, QUERY_COLOUR)
            frames = mark.over(frames)
        return Answer(_describe(shown.facts), frames=frames, strip=strip, shown=shown)


def _is_index(value: object, count: int) -> bool:
    """Whether a browser sent a whole number from 0 to ``count - 1``; it may send anything."""
    return isinstance(value, int) and 0 <= value < count


def _describe(facts: VideoFacts) -> str:
    frames = f"{facts.num_frames} frame{'s' if facts.num_frames != 1 else ''}"
    return f"{facts.name}: {format_seconds(facts.seconds)}, {frames} of {facts.width} x {facts.height}"
