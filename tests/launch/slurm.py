"""A Slurm of the test's own: controller, two nodes and munge on the loopback device, ended with the test."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")

_CONFIGURATION = """
ClusterName=quantctl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=8
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=sched_min_interval=0
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName={second} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no Slurm here; None when there can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    absent = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if absent:
        return f"no Slurm here ({', '.join(absent)} missing): apt-get install --no-install-recommends slurm-wlm munge"
    if os.getuid() != 0:
        return "slurmd needs root to start jobs"
    return None


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Slurm:
    """A running Slurm with two nodes; `environment` makes its commands find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        # names are sorted in node lists: the one that resolves comes first, as node 0
        self.second = f"{self.host}-zz"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self.daemons: list[subprocess.Popen[bytes]] = []

    def _daemon(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}-{len(self.daemons)}.log").open("wb")
        self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def start(self) -> None:
        for name in ("state", f"spool-{self.host}", f"spool-{self.second}"):
            (self.folder / name).mkdir()
        text = _CONFIGURATION.format(
            host=self.host, second=self.second, folder=self.folder, ports=_free_ports(3), user="root"
        )
        (self.folder / "slurm.conf").write_text(text)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{ending}" for option, ending in files.items()]
        self._daemon("munged", "--foreground", "--force", "--num-threads=1", *options)
        self._until((self.folder / "munge.socket").exists, 20)
        self._daemon("slurmctld", "-D", "-i", "-c")
        for node in (self.host, self.second):
            self._daemon("slurmd", "-D", "-N", node)
        self._until(self.idle, 60)

    def stop(self) -> None:
        """Every process ends: jobs first, then the daemons."""
        self.call("scancel", "--user=root", check=False)
        deadline = time.monotonic() + 15
        while self.call("squeue", "-h", check=False) and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def call(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """`scontrol show job`: the fields that tests look at."""
        text = self.call("scontrol", "--oneliner", "show", "job", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def idle(self) -> bool:
        return self.call("sinfo", "-h", "-o", "%T").split() == ["idle"]

    def _until(self, condition, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.1)

    def until(self, condition, seconds: float = 300) -> None:
        """Wait for something that must happen; the limit only keeps a failed test from hanging."""
        self._until(condition, seconds)

    def logs(self) -> str:
        texts = [f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in self.folder.glob("*.log")]
        return "\n".join(texts)
