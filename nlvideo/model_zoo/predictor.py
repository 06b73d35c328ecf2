"""``Predictor``: a trained model that takes videos and returns scores."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from nlvideo.config import CfgNode
from nlvideo.data.dataset_mapper import MAPPER, reading_options
from nlvideo.data.video.base import Video
from nlvideo.data.video.frame_stream import FrameStream, Window, slide
from nlvideo.errors import VideoTooShort
from nlvideo.layers import fuse_for_inference
from nlvideo.model_zoo.trained import get, trained_config

VideoLike = str | os.PathLike | np.ndarray | torch.Tensor | Video


class Predictor:
    """Scores of one video at a time, through the mapper and the views of the test (``TEST``).

    Example:
        >>> predictor = Predictor("quickstart")
        >>> predictor("clip.mp4", top_k=2)
        [('clockwise', 0.98), ('shake', 0.01)]

    Attributes:
        model: in eval mode; see `fuse_for_inference`. TEST.FUSE False keeps every layer as it was trained.
        cfg: frozen; its MODEL.WEIGHTS names the weights.
        classes: names of the classes in the order of the scores; "0", "1", ... where they have no names.
    """

    def __init__(
        self,
        cfg_or_name: CfgNode | str | os.PathLike,
        weights: str | os.PathLike | None = None,
        device: str | None = None,
        opts: Sequence[str] = (),
        plugins: Sequence[str] = (),
        entry: str = "",
    ):
        """Build the model; arguments and errors as for ``nlvideo.model_zoo.get``, and ValueError without weights."""
        cfg = trained_config(cfg_or_name, weights, device, opts, plugins)
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS: got '', allowed for a prediction: a checkpoint of this config's network")
        self.model = fuse_for_inference(get(cfg, entry=entry))
        self.cfg = cfg
        self.classes: list[str] = vars(self.model)["classes"]
        self._mapper = MAPPER.get(self.cfg.DATALOADER.MAPPER, "DATALOADER.MAPPER")(self.cfg, False)

    def __call__(self, video: VideoLike, top_k: int = 5) -> list[tuple[str, float]]:
        """Return the ``top_k`` best (class name, score), the best first; arguments and errors as for `scores`."""
        return self.best(self.scores(video), top_k)

    def best(self, scores: torch.Tensor, top_k: int = 5) -> list[tuple[str, float]]:
        """Return the ``top_k`` best (class name, score) of scores (num_classes,), the best first; 1 or more."""
        if top_k < 1:
            raise ValueError(f"top_k: got {top_k}, allowed: 1 or more")
        values, labels = scores.topk(min(top_k, len(scores)))
        return [(self.classes[label], value) for label, value in zip(labels.tolist(), values.tolist(), strict=True)]

    def scores(self, video: VideoLike, on_views: Callable[[int, int], None] | None = None) -> torch.Tensor:
        """Return the scores of a video, averaged over its views.

        Args:
            video: a file, a folder of frames, or frames as uint8 (T, H, W, 3), RGB; or a ``Video``, such as
                ``open_video(frames, fps=25)``: with INPUT.FPS, frames need their rate.
            on_views: called with (number of views scored, number of all), first with 0 when the video has been read.
                It is never called for a model without a ``backbone``.

        Returns:
            float32 (num_classes,) on the CPU: probabilities that add up to 1. Where MODEL.HEAD.LOSS is "sigmoid", each
            class has a probability of its own.

        Raises:
            VideoDecodeError: the file cannot be read.
            ValueError: an array of another type or shape, or the video is too short and ``INPUT.SHORT_VIDEO`` is
                "error".
        """
        return self._score(self._mapper(_record(video), None), on_views)

    def scores_of_each(self, videos: Iterable[VideoLike]) -> Iterator[torch.Tensor | Exception]:
        """Yield what `scores` gives for each video, or the error it raises, in order.

        While the network works on a video, or the caller on its scores, a thread reads the next one.
        """
        reader = ThreadPoolExecutor(1, "nlvideo-reader")
        samples = (reader.submit(lambda own: self._mapper(_record(own), None), video) for video in videos)
        try:
            sample = next(samples, None)
            while sample is not None:
                following = next(samples, None)
                try:
                    scored: torch.Tensor | Exception = self._score(sample.result())
                except Exception as error:
                    scored = error
                sample = following
                yield scored
        finally:
            reader.shutdown(wait=False, cancel_futures=True)

    def timeline(
        self, path: str | os.PathLike, window_sec: float | None = None, stride_sec: float | None = None
    ) -> list[tuple[float, float, torch.Tensor]]:
        """Return the scores of the windows of a video of any length. The video is decoded once, window by window.

        Args:
            path: a video file.
            window_sec: length of a window; None: the time that a clip covers, ``NUM_FRAMES x FRAME_STRIDE`` frames
                of the video, or of ``INPUT.FPS``.
            stride_sec: from the start of a window to that of the next, at most ``window_sec``; None: ``window_sec``.

        Returns:
            (start_sec, end_sec, scores) for each window. The scores are those that `scores` gives for this part of the
            video. The last window ends with the video and is as long as the others.

        Raises:
            VideoDecodeError: the file cannot be read.
            ValueError: a wrong window or stride.
        """
        with self.open_stream(path) as stream:
            windows = self.score_windows(stream, window_sec, stride_sec)
            return [(window.start_sec, window.end_sec, scores) for window, scores in windows]

    def open_stream(self, path: str | os.PathLike) -> FrameStream:
        """Open a video file for `score_windows`, with the config's limits of size; VideoDecodeError for a bad file."""
        return FrameStream(path, pixels=reading_options(self.cfg)["pixels"])

    def score_windows(
        self, stream: FrameStream, window_sec: float | None = None, stride_sec: float | None = None
    ) -> Iterator[tuple[Window, torch.Tensor]]:
        """Yield (window, scores) of a stream while it is read, even without end; see `timeline`."""
        if window_sec is None:
            window_sec = self.cfg.INPUT.NUM_FRAMES * self.cfg.INPUT.FRAME_STRIDE / (self.cfg.INPUT.FPS or stream.fps)
        num_windows = 0
        for window in slide(stream, window_sec, window_sec if stride_sec is None else stride_sec):
            try:
                record = {"file_name": window, "label": 0, "video_id": stream.path}
                scores = self._score(self._mapper(record, None))
            except VideoTooShort:
                # A gap in the video may leave too few frames. If the first window has too few, all have.
                if num_windows == 0:
                    raise
                continue
            num_windows += 1
            yield window, scores

    @torch.no_grad()
    def _score(self, sample: dict[str, Any], on_views: Callable[[int, int], None] | None = None) -> torch.Tensor:
        backbone = getattr(self.model, "backbone", None)  # another META_ARCHITECTURE may lack it
        if on_views is None or backbone is None:
            return self.model([sample])[0]["scores"]
        done, total = 0, len(sample["video"])

        def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            """Called by torch after each pass."""
            nonlocal done
            done += len(inputs[0])
            on_views(done, total)

        on_views(0, total)
        hook = backbone.register_forward_hook(count)
        try:
            return self.model([sample])[0]["scores"]
        finally:
            hook.remove()


def _record(video: VideoLike) -> dict[str, Any]:
    # The mapper wants a label. 0 is allowed for single and for several labels; no score depends on it.
    if isinstance(video, (str, os.PathLike)):
        path = os.path.abspath(video)
        return {"file_name": path, "label": 0, "video_id": os.path.basename(path)}
    if isinstance(video, Video):
        return {"file_name": video, "label": 0, "video_id": video.path}
    frames = video.cpu().numpy() if isinstance(video, torch.Tensor) else np.asarray(video)
    return {"file_name": frames, "label": 0, "video_id": "<frames>"}
