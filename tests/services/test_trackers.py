"""W&B and MLflow in their offline and local modes: what a run and its resumption leave there."""

import json
import struct
import time

import pytest
import yaml

from nlvideo.engine.trainer import DefaultTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def train(tiny_cfg, tmp_path):
    """``train(writer, iterations, resume) -> lines of metrics.json``."""

    def run(writer, iterations, resume=False):
        cfg = tiny_cfg("WRITERS", f"[JSONWriter, {writer}]", "SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", "[1]")
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume)
        trainer.train()
        return [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]

    return run


def parts(data):
    """What a file of W&B has after its header of 7 bytes: parts in blocks of 32 KiB, each after 7 bytes."""
    place = 7
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        yield data[place + 7 : place + 7 + length], kind in (1, 4)  # whole, or the last part
        place += 7 + length


def records(path):
    """The records of a file of W&B, whose own process may write the last of them after the end of the run."""
    from wandb.proto.wandb_internal_pb2 import Record

    end = time.monotonic() + 60
    kinds = []
    while "exit" not in kinds and time.monotonic() < end:
        found, whole = [], b""
        for part, is_last in parts(path.read_bytes()):
            whole += part
            if is_last:
                found.append(Record.FromString(whole))
                whole = b""
        kinds = [record.WhichOneof("record_type") for record in found]
        time.sleep(0.1)
    return found


def rows_of(path):
    """The values that a file of W&B has, iteration by iteration."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield {name: value for name, value in items.items() if not name.startswith("_")}


class TestWandb:
    """Skipped without the package."""

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch, tmp_path):
        """Nothing leaves the test's folder. The settings of an earlier test end with its session."""
        pytest.importorskip("wandb").teardown()
        monkeypatch.setenv("WANDB_MODE", "offline")
        for name in ("CACHE", "CONFIG", "DATA"):
            monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path))

    def test_a_run_and_its_resumption(self, train, tmp_path):
        train("WandbWriter", 2)
        lines = train("WandbWriter", 3, resume=True)
        files = sorted(
            (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime
        )
        assert len(files) == 2 and files[0].name == files[1].name
        assert [row for file in files for row in rows_of(file)] == lines
        configs = [
            {item.key: json.loads(item.value_json) for item in record.run.config.update}
            for file in files
            for record in records(file)
            if record.WhichOneof("record_type") == "run"
        ]
        assert configs[0]["SOLVER"]["CLIPS_PER_BATCH"] == 4 and "SOLVER" not in configs[-1]

    def test_a_server_that_does_not_answer_costs_a_warning(self, train, monkeypatch, tmp_path, caplog):
        for name, value in {
            "MODE": "online",
            "BASE_URL": "http://127.0.0.1:9",
            "API_KEY": "f" * 40,
            "INIT_TIMEOUT": "2",
        }.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        with caplog.at_level("WARNING", "nlvideo"):
            lines = train("WandbWriter", 2)
        (file,) = (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")
        assert list(rows_of(file)) == lines
        (message,) = [text for text in caplog.messages if text.startswith("WandbWriter: ")]
        assert (
            "`wandb sync` sends them. Training goes on" in message and "\n" not in message and "f" * 40 not in message
        )


class TestMlflow:
    """Skipped without the package."""

    @pytest.fixture(autouse=True)
    def store(self, monkeypatch, tmp_path):
        """A file of SQLite in the test's folder."""
        pytest.importorskip("mlflow")
        pytest.importorskip("sqlalchemy")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    @pytest.mark.parametrize("kind", ["sqlite", "folder"])
    def test_a_run_and_its_resumption(self, train, monkeypatch, tmp_path, kind):
        from mlflow import MlflowClient

        if kind == "folder":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
            monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        train("MLflowWriter", 2)
        lines = train("MLflowWriter", 3, resume=True)
        client = MlflowClient()
        (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
        assert run.info.run_name == "out" and run.info.status == "FINISHED"
        assert run.data.params["SOLVER.CLIPS_PER_BATCH"] == "4" and run.data.params["SOLVER.MAX_ITER"] == "2"
        assert yaml.safe_load(run.data.params["SOLVER.STEPS"]) == [1]
        names = {name for line in lines for name in line} - {"iteration"}
        assert names == run.data.metrics.keys() and "classification/top1" in names
        for name in names:
            history = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
            assert history == [(line["iteration"], line[name]) for line in lines if name in line]

    def test_a_server_that_does_not_answer_costs_a_warning(self, train, monkeypatch, caplog):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "f" * 40)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with caplog.at_level("WARNING", "nlvideo"):
            lines = train("MLflowWriter", 2)
        assert [line["iteration"] for line in lines] == [0, 1]
        (message,) = [text for text in caplog.messages if text.startswith("MLflowWriter: ")]
        assert message.endswith("Training goes on") and "\n" not in message and "f" * 40 not in message

    def test_names_that_mlflow_does_not_take(self, tiny_cfg, tmp_path):
        from mlflow import MlflowClient

        from nlvideo.engine.writers import MLflowWriter

        writer = MLflowWriter(tiny_cfg())
        writer.begin()
        writer.log(0, {"list:/videos//a+b.txt/classification/top1": 1.0})
        assert MlflowClient().get_run(writer.run_id).data.metrics == {"list_/videos/_a_b.txt/classification/top1": 1.0}
