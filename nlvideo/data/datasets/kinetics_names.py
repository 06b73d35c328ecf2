"""The names of the 400 classes of Kinetics-400, in the order of the labels."""

import functools


@functools.cache
def kinetics400_classes() -> tuple[str, ...]:
    """Return the names, in alphabetical order, as torchvision's weights have them; docs/weights.md says what has it."""
    # Only now: torchvision takes a second to import.
    from torchvision.models.video import R2Plus1D_18_Weights

    return tuple(R2Plus1D_18_Weights.KINETICS400_V1.meta["categories"])
