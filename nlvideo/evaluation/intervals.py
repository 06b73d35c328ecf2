"""How sure an accuracy is: its 95 % confidence interval, after the number of videos it was measured on."""

import math

# Metrics that are the share of the videos for which something holds. A mean over classes and the mAP are not.
_SHARES = ("top1", "top5", "accuracy")
# Standard deviations that hold 95 % of a normal distribution.
_Z = 1.959964


def wilson_interval(percent: float, num_videos: int) -> tuple[float, float]:
    """Return the lower and upper end of Wilson's 95 % interval of a share of videos, in percent.

    Where videos like these were drawn again and again, 95 % of the intervals would hold the true share. It also holds
    for few videos and near 0 and 100 %, where the share plus and minus its standard error does not (Wilson, JASA 1927;
    Brown et al., Statistical Science 2001).

    Args:
        percent: the share that was measured, 0 to 100.
        num_videos: how many videos it was measured on, 1 or more.
    """
    share, part = percent / 100, _Z**2 / num_videos
    centre = (share + part / 2) / (1 + part)
    half = _Z / (1 + part) * math.sqrt(share * (1 - share) / num_videos + part / (4 * num_videos))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def with_interval(metric: str, percent: float, num_videos: float | None) -> str:
    """Return a metric as ``71.23 (61.8 to 79.1)``, and without brackets where it has no interval; as `interval_text`."""
    interval = interval_text(metric, percent, num_videos)
    return f"{percent:.2f} ({interval})" if interval else f"{percent:.2f}"


def interval_text(metric: str, percent: float | None, num_videos: float | None) -> str:
    """Return an interval as ``61.8 to 79.1``; empty for a metric that has none, and where a number is missing.

    Args:
        metric: its name, maybe with the task before it: ``classification/top1``.
        percent: its value.
        num_videos: how many videos it was measured on.
    """
    if metric.rpartition("/")[2] not in _SHARES or not num_videos or percent is None or not math.isfinite(percent):
        return ""
    return "{:.1f} to {:.1f}".format(*wilson_interval(percent, int(num_videos)))
