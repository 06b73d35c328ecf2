"""What all of the engine's tests leave as it was."""

import pytest


@pytest.fixture(autouse=True)
def clean(close_log_files: None) -> None:
    """Take away the handlers of each test."""
