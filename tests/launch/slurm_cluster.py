"""A Slurm of two nodes on this machine, in a scratch folder, with a stand-in for Pyxis and Enroot
(spank/)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "gcc", "unshare")
NODES = ("n1", "n2")


def missing():
    """Why no cluster can be made here, or None."""
    if os.geteuid() != 0:
        return "the cluster of the test runs as root"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if not os.path.exists("/usr/include/slurm/spank.h"):
        absent.append("slurm/spank.h (libslurm-dev)")
    return ", ".join(absent) + " not installed" if absent else None


def until(condition, what, seconds=60):
    """Polls until `condition()` is true and returns that; TimeoutError naming `what`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {seconds} s")


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """slurmctld, munged and one slurmd per node; `stop` ends them and removes the folder.

    Jobs see the files of this machine but for /tmp, which is empty and another one on each node.
    """

    def __init__(self):
        # Not pytest's folder: munge's socket needs a short path whose parents nobody else may write
        # to.
        self.base = tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp")
        os.chmod(self.base, 0o755)
        self.processes = []
        for name in ("bin", "spool", "state", "containers", "registry", "dockerd", "etc"):
            os.mkdir(self.path(name))
        for node in NODES:
            os.mkdir(self.path("containers", node))
        shutil.copy(os.path.join(HERE, "spank", "enroot"), self.path("bin", "enroot"))
        # sbatch takes the caller's environment; nothing of a surrounding job or configuration may
        # leak in.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SBATCH", "PMI", "OMPI", "HOROVOD", "PYTHON"))
        }
        self.environment.update(
            SLURM_CONF=self.path("etc", "slurm.conf"),
            PATH=self.path("bin") + os.pathsep + os.environ["PATH"],
        )

    def path(self, *parts):
        return os.path.join(self.base, *parts)

    def start(self):
        subprocess.run(
            [
                "gcc",
                "-std=gnu11",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-Wno-format-truncation",
                "-fPIC",
                "-shared",
                "-o",
                self.path("bin", "pyxis_stand_in.so"),
                os.path.join(HERE, "spank", "pyxis_stand_in.c"),
            ],
            check=True,
        )
        with open(self.path("etc", "plugstack.conf"), "w") as file:
            file.write(f"required {self.path('bin', 'pyxis_stand_in.so')} {self.base}\n")
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        cpus = os.cpu_count()
        with open(self.path("etc", "gres.conf"), "w") as file:
            file.write("NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero\n")
        lines = [
            f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
# The credential's life: a job that is requeued waits for its end.
AuthInfo=socket={self.path("munge.socket")},cred_expire=5
CredType=cred/munge
StateSaveLocation={self.path("state")}
SlurmdSpoolDir={self.path("spool")}/%n
SlurmctldPidFile={self.path("slurmctld.pid")}
SlurmdPidFile={self.path("slurmd")}.%n.pid
SlurmctldLogFile={self.path("slurmctld.log")}
SlurmdLogFile={self.path("slurmd")}.%n.log
PlugStackConfig={self.path("etc", "plugstack.conf")}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
KillWait=15
"""
        ]
        for node, port in zip(NODES, ports[1:]):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
                "RealMemory=1000 Gres=gpu:2\n"
            )
        lines.append("PartitionName=all Nodes=n[1-2] Default=YES MaxTime=60 State=UP\n")
        with open(self.path("etc", "slurm.conf"), "w") as file:
            file.writelines(lines)
        key = self.path("etc", "munge.key")
        with open(key, "wb") as file:
            file.write(os.urandom(128))
        os.chmod(key, 0o600)
        self._spawn(
            "munged",
            "--foreground",
            "--force",
            "--key-file",
            key,
            "--socket",
            self.path("munge.socket"),
            "--pid-file",
            self.path("munged.pid"),
            "--log-file",
            self.path("munged.log"),
            "--seed-file",
            self.path("munged.seed"),
        )
        until(lambda: os.path.exists(self.path("munge.socket")), "munged's socket")
        self._spawn("slurmctld", "-D", "-c")
        for node in NODES:
            # A /tmp of its own: PMIx keeps a folder per step there, and two nodes of one step would
            # want the same.
            os.mkdir(self.path("tmp-" + node))
            self._spawn(
                "unshare",
                "--mount",
                "--propagation",
                "slave",
                "sh",
                "-c",
                'mount --bind "$1" /tmp && exec slurmd -D -N "$2"',
                "sh",
                self.path("tmp-" + node),
                node,
                STAND_IN_NODE=node,
            )
        until(
            lambda: self.run("sinfo", "-h", "-o", "%t %D").stdout.split() == ["idle", "2"],
            "two idle nodes",
        )
        return self

    def _spawn(self, *command, **variables):
        with open(self.path(command[0] + ".out"), "ab") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=dict(self.environment, **variables),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                )
            )

    def stop(self):
        try:
            for job in self.run("squeue", "-h", "-o", "%i").stdout.split():
                self.run("scancel", "--signal=KILL", "--full", job)
                self.run("scancel", job)
            until(lambda: not self.run("squeue", "-h").stdout, "no job left", 40)
        except TimeoutError as error:
            print(error, file=sys.stderr)
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.base)

    def run(self, *command, **variables):
        return subprocess.run(
            command,
            env=dict(self.environment, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def image(self, name, *folders, **environment):
        """An image file over the folders, the topmost first, with its environment; returns its
        path."""
        path = self.path(name)
        with open(path, "w") as file:
            file.write("lowerdir=" + ":".join(folders) + "\n")
            file.writelines(f"{name}={value}\n" for name, value in environment.items())
        return path

    def submit(self, *arguments, cwd, **variables):
        """`sbatch ARGUMENTS`; returns the Job."""
        result = subprocess.run(
            ["sbatch", "--parsable", "--output", self.path("job-%j.out"), *arguments],
            cwd=cwd,
            env=dict(self.environment, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return Job(self, result.stdout.strip())

    def containers(self):
        return [name for node in NODES for name in os.listdir(self.path("containers", node))]


class Job:
    def __init__(self, cluster, number):
        self.cluster, self.number = cluster, number

    def field(self, name):
        """Of `scontrol show job`: JobState, ExitCode, Restarts, ..."""
        shown = self.cluster.run("scontrol", "show", "job", "-o", self.number).stdout.splitlines()
        own = next((line for line in shown if line.startswith(f"JobId={self.number} ")), "")
        return next(
            (field.split("=", 1)[1] for field in own.split() if field.startswith(name + "=")), ""
        )

    def of_array(self):
        """The jobs of the array of this number, once each has begun. One of them has the array's
        number."""

        def begun():
            shown = self.cluster.run(
                "squeue", "--array", "-h", "-o", "%A %T", "-j", self.number
            ).stdout.split()
            return (
                set(shown[1::2]) == {"RUNNING"}
                and len(set(shown[::2])) == len(shown[::2])
                and shown[::2]
            )

        return [Job(self.cluster, number) for number in until(begun, "the array's jobs")]

    @property
    def output(self):
        try:
            with open(self.cluster.path(f"job-{self.number}.out")) as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def wait(self, seconds=180):
        """Waits for the job's end; returns (state, exit status)."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        state = until(
            lambda: self.field("JobState") in ended and self.field("JobState"),
            f"end of job {self.number}",
            seconds,
        )
        return state, int(self.field("ExitCode").split(":")[0])
