"""What all of the engine's tests leave as it was."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def close_log_files() -> Iterator[None]:
    """Take away the handlers that a test's ``default_setup`` has installed."""
    yield
    logger = logging.getLogger("nlvideo")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
