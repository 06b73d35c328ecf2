"""tools/slurm on a cluster of two nodes, both on this machine: jobs that are preempted end as if undisturbed."""

import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# Debian's daemons are not in the path of every user.
PATH = f"{os.environ['PATH']}:/usr/sbin"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
NO_SLURM = not all(shutil.which(name, path=PATH) for name in PROGRAMS)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NO_SLURM, reason="Slurm or munge is not installed")]
CONFIG = "configs/quickstart/instant_test.yaml"
# So many iterations that even on a fast machine a run does not end before what a test does to it: six seconds.
NUM_ITERS = 400
OPTS = [
    "SOLVER.MAX_ITER", f"{NUM_ITERS}", "SOLVER.STEPS", "[200]", "SOLVER.CHECKPOINT_PERIOD", "10",
    "SOLVER.LOG_PERIOD", "10", "MODEL.HEAD.DROPOUT", "0.5",
]  # fmt: skip
# What the script asks for, at the size of the test.
SIZE = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--time=30"]
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/linear
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=300
PartitionName=high Nodes=ALL PriorityTier=2
"""


class Cluster:
    """The commands of a cluster, for jobs that run in this repository."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{PATH}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            # The nodes have no names that the system knows.
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            # Jobs of another cluster on this machine may have the same number.
            "MASTER_PORT": str(random.randrange(10000, 30000)),
        }
        self.daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start the daemons and wait for the nodes."""
        probes = [socket.socket() for _ in range(3)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
        for probe in probes:
            probe.close()
        facts = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": self.folder, "ports": ports}
        (self.folder / "slurm.conf").write_text(CONF.format(**facts))
        # Else slurmd asks for cgroups, which small containers lack. Nothing here uses them.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for name in ("state", "node1", "node2"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        words = [f"--{option}={self.folder / name}" for option, name in munge.items()]
        self._daemon("munged", "--foreground", "--force", *words)
        self.wait_for(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D")
        for name in ("node1", "node2"):
            self._daemon("slurmd", "-D", "-N", name)
        self.wait_for(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False) == "2\n", "nodes")

    def _daemon(self, *words: str) -> None:
        with open(self.folder / "daemons.txt", "a") as out:
            self.daemons.append(subprocess.Popen(words, env=self.environment, stdout=out, stderr=out))

    def stop(self) -> None:
        """End all jobs, then everything that was started for this cluster and still runs."""
        for job in self.run("squeue", "-h", "-o", "%A", check=False).split():
            self.run("scancel", "--signal=KILL", "--full", job, check=False)
            self.run("scancel", job, check=False)
        mine = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        for _ in range(2):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if mine in (folder / "environ").read_bytes().split(b"\0"):
                        os.kill(int(folder.name), signal.SIGKILL)
                except OSError:
                    continue  # it ended, or is another user's
        for daemon in self.daemons:
            daemon.wait()

    def run(self, *words: str, check: bool = True, **variables: str) -> str:
        """What a command prints."""
        done = subprocess.run(words, env=self.environment | variables, cwd=ROOT, capture_output=True, text=True)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def submit(self, folder: Path, script: str, *words: str, options: list[str], **variables: str) -> str:
        """The number of a new job. It prints into out.txt of the folder."""
        folder.mkdir(exist_ok=True)
        out = [] if any(word.startswith("--output") for word in options) else [f"--output={folder / 'out.txt'}"]
        return self.run("sbatch", "--parsable", *options, *out, script, *words, **variables).strip()

    def fact(self, job: str, name: str) -> str:
        """What ``scontrol show job`` says about a job."""
        return re.search(rf"\b{name}=(\S*)", self.run("scontrol", "show", "job", "--oneliner", job))[1]

    def wait_for(self, condition: Callable[[], bool], what: str, *logs: Path) -> None:
        """Wait, at most so long that a slow machine is not a failure."""
        until = time.monotonic() + 400
        while not condition():
            if time.monotonic() > until or any(daemon.poll() is not None for daemon in self.daemons):
                self.fail(f"waited in vain for {what}", *logs)
            time.sleep(0.1)

    def fail(self, what: str, *logs: Path) -> None:
        """Fail with the ends of all logs."""
        files = [*logs, *sorted(self.folder.glob("*.log")), self.folder / "daemons.txt"]
        told = [f"{path}\n{path.read_text()[-3000:]}" for path in files if path.exists()]
        pytest.fail("\n".join([what, self.run("scontrol", "show", "job", check=False), *told]))

    def wait_for_file(self, job: str, path: Path) -> None:
        """Wait until a running job has written a file."""
        out = path.parent / "out.txt"

        def there() -> bool:
            """Fails where the job has ended without it."""
            done = path.exists()
            assert done or self.fact(job, "JobState") in ("PENDING", "RUNNING"), out.read_text()[-4000:]
            return done

        self.wait_for(there, str(path), out)

    def wait_for_restart(self, job: str, out: Path) -> None:
        """Wait until a job is back in the queue, and let it start soon: Slurm would let it wait for two minutes.

        A node refuses a job that starts within the second in which its last start was ended.
        """
        self.wait_for(lambda: self.fact(job, "Restarts") == "1", "a job that is put back", out)
        self.wait_for(lambda: self.fact(job, "JobState") == "PENDING", "a job that waits", out)
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def wait_for_end(self, job: str, out: Path, expected: str = "COMPLETED") -> None:
        """Wait until a job has ended in a state."""
        running = ("PENDING", "RUNNING", "COMPLETING", "SIGNALING", "CONFIGURING")
        self.wait_for(lambda: self.fact(job, "JobState") not in running, "the end of a job", out)
        if (state := self.fact(job, "JobState")) != expected:
            self.fail(f"job {job} ended as {state}", out)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nothing of it is left, also after a failure."""
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run of two ranks without Slurm."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "tools/train_net.py", "--config-file", CONFIG, "--num-gpus", "2", *OPTS]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "OUTPUT_DIR", str(folder)], cwd=ROOT, env=environment, check=True, capture_output=True)
    return _weights(folder)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def _preempt(cluster: Cluster, job: str) -> None:
    # Slurm sends TERM to the ranks alone, and waits for GraceTime.
    cluster.run("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=true")


def _near_limit(cluster: Cluster, job: str) -> None:
    # What Slurm sends for --signal=B:USR1@180.
    cluster.run("scancel", "--batch", "--signal=USR1", job)


@pytest.mark.parametrize(("launch", "disturb"), [("srun", _preempt), ("torchrun", _near_limit)])
def test_a_job_that_is_preempted_ends_as_if_nothing_had_happened(
    launch: str,
    disturb: Callable[[Cluster, str], None],
    cluster: Cluster,
    undisturbed: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    words = ["--config-file", CONFIG, *OPTS, "OUTPUT_DIR", str(tmp_path)]
    job = cluster.submit(tmp_path, "tools/slurm/train.sbatch", *words, options=SIZE, LAUNCH=launch)
    out = tmp_path / "out.txt"
    cluster.wait_for_file(job, tmp_path / "model_0000010.pth")
    disturb(cluster, job)
    cluster.wait_for_restart(job, out)
    cluster.wait_for_end(job, out)
    text = out.read_text()
    assert "back to the queue" in text and f"2 nodes, 1 ranks on each, start 2, in {tmp_path}" in text
    log = (tmp_path / "log.txt").read_text()
    assert log.count("Ranks: 2") == 2 and log.count("Resumed from") == 1
    # The run itself has saved the checkpoint: it goes on after the iteration in which the signal came.
    stopped = re.search(rf"stopped after (\d+) of {NUM_ITERS} iterations", text)[1]
    assert f"Training iterations {stopped} to {NUM_ITERS}" in log
    weights = _weights(tmp_path)
    assert weights and all(torch.equal(value, undisturbed[name]) for name, value in weights.items())


def test_a_task_of_a_grid_goes_back_to_the_queue_alone(cluster: Cluster, tmp_path: Path) -> None:
    """The last task has the number of its array: what is done to it must not reach the others."""
    script = tmp_path / "grid.sbatch"
    text = (ROOT / "tools/slurm/grid.sbatch").read_text()
    for name, value in {"configs": f"({CONFIG})", "seeds": "(3 5)", "folder": str(tmp_path / "grid")}.items():
        text, number = re.subn(rf"^{name}=.*", f"{name}={value}", text, flags=re.MULTILINE)
        assert number == 1
    script.write_text(text)
    options = [*(word for word in SIZE if "nodes" not in word), "--array=0-1", f"--output={tmp_path}/%a.txt"]
    array = cluster.submit(tmp_path, str(script), *OPTS, options=options)
    tasks = [f"{array}_{number}" for number in range(2)]
    runs = [tmp_path / "grid" / "instant_test" / f"seed_{seed}" for seed in (3, 5)]
    cluster.wait_for_file(tasks[1], runs[1] / "model_0000010.pth")
    _near_limit(cluster, tasks[1])
    cluster.wait_for_restart(tasks[1], tmp_path / "1.txt")
    for number, run in enumerate(runs):
        out = tmp_path / f"{number}.txt"
        cluster.wait_for_end(tasks[number], out)
        assert (run / "model_final.pth").exists() and f"SEED: {(3, 5)[number]}\n" in (run / "config.yaml").read_text()
    assert [cluster.fact(task, "Restarts") for task in tasks] == ["0", "1"]


def test_a_job_that_is_cancelled_or_fails_does_not_go_back_to_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    words = ["--config-file", CONFIG, *OPTS, "OUTPUT_DIR", str(tmp_path)]
    job = cluster.submit(tmp_path, "tools/slurm/train.sbatch", *words, options=SIZE)
    cluster.wait_for_file(job, tmp_path / "model_0000010.pth")
    cluster.run("scancel", job)
    wrong = cluster.submit(tmp_path / "wrong", "tools/slurm/train.sbatch", *words, "SOLVER.MAX_ITER", "x", options=SIZE)
    cluster.wait_for_end(job, tmp_path / "out.txt", "CANCELLED")
    cluster.wait_for_end(wrong, tmp_path / "wrong/out.txt", "FAILED")
    assert re.search("^train_net.py: .*SOLVER.MAX_ITER", (tmp_path / "wrong/out.txt").read_text(), re.MULTILINE)
    for name, folder in ((job, tmp_path), (wrong, tmp_path / "wrong")):
        assert cluster.fact(name, "Restarts") == "0" and "back to the queue" not in (folder / "out.txt").read_text()
