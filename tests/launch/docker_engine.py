"""A Docker engine of the tests' own: started by hand, in a scratch folder, without a bridge and
without iptables.

And run_with_docker.sh on it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time

import pytest

from tests.training.tiny import ROOT


def missing(reason: str) -> None:
    """Skips the test; fails it where .ci/run has made sure of all that it needs."""
    if os.environ.get("LAUNCH_TESTS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def docker(environment, *arguments, timeout=600):
    return subprocess.run(
        ["docker", *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@contextlib.contextmanager
def engine():
    """Yields the environment in which `docker` talks to the engine; containers, images and
    processes go at the end."""
    if os.getuid() != 0:
        missing("not root: dockerd cannot be started")
    for program in ("dockerd", "docker", "runc", "setpriv"):
        if not shutil.which(program):
            missing(f"{program} is not installed (Debian: apt-get install docker.io)")
    # A short path: a socket's has 107 characters at most.
    folder = tempfile.mkdtemp(prefix="ssd-docker-")
    environment = dict(
        os.environ,
        DOCKER_HOST=f"unix://{folder}/docker.sock",
        DOCKER_CONFIG=folder,
        DOCKER_BUILDKIT="0",
    )
    environment.pop("DOCKER_CONTEXT", None)
    log = os.path.join(folder, "log")
    with open(log, "w") as file:
        # It goes when pytest goes, even by kill -9.
        daemon = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "TERM",
                "dockerd",
                "--data-root",
                f"{folder}/data",
                "--exec-root",
                f"{folder}/exec",
                "--pidfile",
                f"{folder}/pid",
                "--host",
                environment["DOCKER_HOST"],
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                "--ip-masq=false",
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(
            lambda: daemon.poll() is not None or docker(environment, "info").returncode == 0, 60
        )
        if daemon.poll() is not None or docker(environment, "info").returncode != 0:
            with open(log) as file:
                missing(
                    "dockerd does not start here: "
                    + (file.read().splitlines() or ["no output"])[-1]
                )
        yield environment
    finally:
        left = docker(environment, "ps", "--all", "--quiet").stdout.split()
        if left:
            docker(environment, "rm", "--force", *left)
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        for mount in reversed(mounts_below(folder)):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def mounts_below(folder):
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4] for line in file]
    return [point for point in points if point.startswith(folder + "/")]


def wait_for(condition, seconds, what="the condition"):
    """Polls until condition() is true and returns its value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def build(environment, base, clone, tag="ssd"):
    built = docker(
        environment,
        "build",
        "--network=host",
        "--build-arg",
        f"FROM_IMAGE_NAME={base}",
        "-t",
        tag,
        clone,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return built.stdout


def containers(environment):
    return docker(environment, "ps", "--all", "--format", "{{.Names}}").stdout.split()


class Run:
    """run_with_docker.sh, called as a user calls it: a config is sourced, the rest given as
    variables."""

    def __init__(self, environment, **variables):
        self.environment, self.variables = (
            environment,
            {name: str(value) for name, value in variables.items()},
        )
        self.logs = self.variables["LOGDIR"]

    def command(self):
        # After the config: the test's own settings are smaller.
        exports = "".join(f'export {name}="$TEST_{name}"\n' for name in self.variables)
        environment = dict(
            self.environment, **{f"TEST_{name}": value for name, value in self.variables.items()}
        )
        # A pytest that a script started behind ignores SIGINT, and so would what it starts.
        return dict(
            args=[
                "env",
                "--default-signal=INT",
                "bash",
                "-c",
                f". ./config_quickstart.sh\n{exports}exec ./run_with_docker.sh",
            ],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, timeout=600):
        return subprocess.run(timeout=timeout, **self.command())

    def start(self):
        return subprocess.Popen(**self.command())

    def log(self, trial):
        files = glob.glob(os.path.join(glob.escape(self.logs), f"*_{trial}.log"))
        assert len(files) <= 1
        if not files:
            return ""
        with open(files[0]) as file:
            return file.read()
