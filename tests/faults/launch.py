"""Real training runs with a fault in them, on one rank or several."""

import os
import re
import subprocess
import sys
import time
import uuid
from typing import List, NamedTuple

from tests.training.tiny import FLAGS, ROOT, horovodrun

WORKER = os.path.join(ROOT, "tests", "faults", "train_worker.py")
# --rank-timeout: short only for the faults that it detects, since on a busy machine healthy ranks
# have to wait too.
RANK_TIMEOUT = {"stop": 5, "hang": 5}


class Result(NamedTuple):
    status: int
    output: str  # of all ranks, and of the launcher
    seconds: float
    survivors: List[int]  # processes of the run that outlived its launcher

    def last_line(self) -> str:
        """The last line for the user from any rank. horovodrun prints its own report after it,
        forwards standard output and the victim's "fault at" through other pipes, perhaps later, and
        its shells report how a rank ended."""
        return [
            line
            for line in self.ranks_output("stderr").splitlines()
            if line.strip()
            and line not in ("Killed", "Terminated")
            and not line.startswith((":::MLLOG", "fault at "))
        ][-1]

    def ranks_output(self, stream: str = "std") -> str:
        """The output of the ranks, without horovodrun's own."""
        lines = [line for line in self.output.splitlines() if re.match(rf"\[\d+\]<{stream}", line)]
        return (
            "\n".join(re.sub(r"^\[\d+\]<std(out|err)>:", "", line) for line in lines) or self.output
        )


def run(fault: str, data, output, *flags, ranks: int = 1, limit: float = 300) -> Result:
    """`train` with FAULT=`fault`. Waits for the launcher, then up to 5 seconds for all processes
    that it has started."""
    token = uuid.uuid4().hex
    start = time.monotonic()
    process = subprocess.run(
        [
            *horovodrun(ranks),
            sys.executable,
            WORKER,
            *FLAGS,
            "--batch-size",
            "2",
            "--data-dir",
            data,
            "--cache-dir",
            os.path.join(os.path.dirname(str(output)), "cache"),
            "--output",
            str(output),
            "--rank-timeout",
            str(RANK_TIMEOUT.get(fault.split(":")[0], 60)),
            *map(str, flags),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
        env=dict(
            os.environ, PYTHONPATH=ROOT, PYTHONWARNINGS="ignore", FAULT=fault, SSD_TEST_TOKEN=token
        ),
    )
    seconds = time.monotonic() - start
    deadline = time.monotonic() + 5
    while processes_with(token) and time.monotonic() < deadline:
        time.sleep(0.05)
    return Result(process.returncode, process.stdout, seconds, processes_with(token))


def processes_with(token: str) -> List[int]:
    """The living processes with this token in their environment."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                held = token.encode() in file.read()
            with open(f"/proc/{entry}/stat") as file:
                alive = file.read().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if held and alive:
            found.append(int(entry))
    return found
