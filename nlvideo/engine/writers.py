"""The writers of a run, by config: console, files, and services that track runs (Weights & Biases, MLflow)."""

import importlib
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from nlvideo.config import CfgNode
from nlvideo.errors import TrainingInterrupted
from nlvideo.utils import comm
from nlvideo.utils.events import WRITER, ConsoleWriter, EventWriter, IncrementalWriter, JSONWriter, TensorBoardWriter
from nlvideo.utils.files.safe_yaml import parse_yaml

logger = logging.getLogger(__name__)

# How long a service that has failed is left alone: each try may stop the training for seconds.
_RETRY_SECONDS = 300
# Settings of the packages, unless the environment has them: a service that does not answer must not stop a training.
_ENVIRONMENT = {
    "WANDB_CONSOLE": "off", "WANDB_LOGIN_TIMEOUT": "60", "WANDB_INIT_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}  # fmt: skip


def build_writers(cfg: CfgNode) -> list[EventWriter]:
    """Return the writers that ``WRITERS`` names; only rank 0 has any.

    Raises:
        LookupFailed: a name that is not registered, on every rank.
        ImportError: a package is missing; the message has the command that installs it.
    """
    makers = [WRITER.get(name, "WRITERS") for name in cfg.WRITERS]
    return [make(cfg) for make in makers] if comm.is_main_process() else []


@WRITER.register(name="ConsoleWriter")
def _console(cfg: CfgNode) -> EventWriter:
    return ConsoleWriter(cfg.SOLVER.LOG_PERIOD)


@WRITER.register(name="JSONWriter")
def _json(cfg: CfgNode) -> EventWriter:
    return JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))


@WRITER.register(name="TensorBoardWriter")
def _tensorboard(cfg: CfgNode) -> EventWriter:
    return TensorBoardWriter(cfg.OUTPUT_DIR)


class Tracker(IncrementalWriter):
    """Base of writers to a service that tracks runs. When it fails, a warning says so once, and training goes on.

    The run begins with the first values. A resumed run goes on in the one that its checkpoint names.
    """

    package = ""  #: what is imported, and the extra that installs it

    def __init__(self, cfg: CfgNode):
        """Import the package; ImportError, with the command that installs it, where it is missing."""
        super().__init__()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            importlib.import_module(self.package)
        except ImportError as error:
            what = f"WRITERS: {type(self).__name__} needs {self.package} ({error})"
            raise ImportError(f"{what}: pip install 'nlvideo[{self.package}]'") from None
        self.cfg = cfg
        self.run_id = ""
        self._rows: deque[tuple[int, dict[str, float]]] = deque()
        self._has_begun = self._has_warned = False
        self._next_try = 0.0

    @property
    def run_name(self) -> str:
        """The name of the output folder."""
        return os.path.basename(os.path.abspath(self.cfg.OUTPUT_DIR))

    def begin(self) -> None:
        """Begin a run, with the config, and set ``run_id``; or go on in the run ``run_id`` of an earlier process."""
        raise NotImplementedError

    def log(self, iteration: int, scalars: dict[str, float]) -> None:
        """Send the values of one iteration."""
        raise NotImplementedError

    def end(self, failed: bool) -> None:
        """End the run."""
        raise NotImplementedError

    def write(self) -> None:
        """Send the new values, and those that waited."""
        self._rows += self.new_rows()
        self._send()

    def close(self) -> None:
        """End the run."""
        self._next_try = 0.0
        # Training calls this also after an error.
        error = sys.exc_info()[1]
        # A run that was stopped is to be resumed.
        failed = error is not None and not isinstance(error, TrainingInterrupted)
        self._send()
        if self._has_begun:
            self._try(lambda: self.end(failed))

    def state_dict(self) -> dict[str, Any]:
        """Return the run to go on in; it begins here, if no value was written yet."""
        self._send()
        return {"run": self.run_id} if self.run_id else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in that run."""
        self.run_id = state_dict["run"]

    def _send(self) -> None:
        if time.monotonic() >= self._next_try:
            self._try(self._send_all)

    def _send_all(self) -> None:
        if not self._has_begun:
            self.begin()
            self._has_begun = True
        while self._rows:
            self.log(*self._rows[0])
            self._rows.popleft()

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever a service does
            self._next_try = time.monotonic() + _RETRY_SECONDS
            self.warn(f"{error}; its values wait, and the next try is in {_RETRY_SECONDS // 60} minutes or at the end")

    def warn(self, text: str) -> None:
        """Say once what failed."""
        if not self._has_warned:
            logger.warning("%s: %s. Training goes on", type(self).__name__, " ".join(text.split()))
        self._has_warned = True


@WRITER.register()
class WandbWriter(Tracker):
    """Sends the scalars to Weights & Biases; if it cannot be reached, they go to ``OUTPUT_DIR/wandb`` alone."""

    package = "wandb"

    def begin(self) -> None:
        """See `Tracker`."""
        import wandb

        config = None if self.run_id else parse_yaml(self.cfg.dump())
        run_id = self.run_id or uuid4().hex[:8]
        names = {
            "project": os.environ.get("WANDB_PROJECT", "nlvideo"),
            "name": os.environ.get("WANDB_NAME", self.run_name),
        }
        options: Any = {**names, "dir": self.cfg.OUTPUT_DIR, "id": run_id, "resume": "allow", "config": config}
        try:
            self._run = wandb.init(**options)
        except Exception as error:
            self.warn(f"{error}; the values are in {self.cfg.OUTPUT_DIR}/wandb, and `wandb sync` sends them")
            # Else the id is still in use.
            wandb.teardown()
            self._run = wandb.init(**options, mode="offline")
        self.run_id = run_id
        # Iterations come twice after a resume, and steps of W&B must not.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def log(self, iteration: int, scalars: dict[str, float]) -> None:
        """See `Tracker`."""
        self._run.log({"iteration": iteration, **scalars})

    def end(self, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


@WRITER.register()
class MLflowWriter(Tracker):
    """Sends the scalars to the MLflow server, or the local store, that ``MLFLOW_TRACKING_URI`` names."""

    package = "mlflow"

    def begin(self) -> None:
        """See `Tracker`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        if self.run_id:
            client.update_run(self.run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nlvideo")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        run_id = client.create_run(experiment, run_name=self.run_name).info.run_id
        # Servers of before MLflow 2.11 take no more characters.
        params = [Param(key, str(self.cfg.value_at(key))[:500]) for key in self.cfg.keys_with_path()]
        client.log_batch(run_id, params=params)
        self.run_id = run_id

    def log(self, iteration: int, scalars: dict[str, float]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # MLflow takes no other characters, and no empty parts, in names.
        names = {name: re.sub(r"[^\w/.-]|(?<=/)/", "_", name) for name in scalars}
        self._client.log_batch(
            self.run_id, [Metric(names[name], value, now, iteration) for name, value in scalars.items()]
        )

    def end(self, failed: bool) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")
