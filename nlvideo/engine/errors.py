"""How a run can end early, without importing torch: scripts turn these into one line and an exit code."""


class TrainingInterrupted(Exception):
    """The loop ended early because it was asked to; the state is saved."""


class TooManyFailedVideos(RuntimeError):
    """More training videos than the run allows could not be read."""


class UnexpectedResults(Exception):
    """The results are not those of ``TEST.EXPECTED_RESULTS``."""


class RankFailed(RuntimeError):
    """A spawned rank ended with an error, and the other ranks were ended too.

    Attributes:
        exit_code: what the script should end with.
        trace: the traceback in that rank; empty for an error that its message explains.
    """

    def __init__(self, message: str, exit_code: int, trace: str):
        super().__init__(message, exit_code, trace)
        self.exit_code = exit_code
        self.trace = trace

    def __str__(self) -> str:
        return self.args[0]
