"""versions.json: the software, the machine and the command line of a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREFIXES = ("MXNET_", "HOROVOD_", "OMP_", "DALI_", "NCCL_", "CUDA_", "KMP_", "GOMP_", "SLURM_")
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # in a variable's name: its value is left out
PATIENCE = 10  # seconds for each program that is asked


def collect(ranks: int) -> Dict[str, Any]:
    """Everything that can be known without a failure; what cannot be known is None. `ranks`: those
    of the run."""
    return dict(
        python=sys.version,
        executable=sys.executable,
        command_line=sys.argv,
        ranks=ranks,
        os=_os_name(),
        kernel=platform.platform(),
        host=platform.node(),
        cpu=_cpu(),
        gpus=_gpus(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        code=_code(ROOT),
        loaded=_loaded(),
        packages=_packages(),
        environment=_environment(os.environ),
    )


def save(path: str, ranks: int) -> None:
    """Writes `collect` to a new file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(collect(ranks), file, indent=1)
        file.write("\n")


def _ask(*command: str) -> Optional[str]:
    """What a program prints, None where it is not there or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None


def _code(folder: str) -> Optional[Dict[str, Any]]:
    """The commit that `folder` is a checkout of, and whether it was changed since (None: could not
    be found out)."""
    if not os.path.exists(os.path.join(folder, ".git")):
        return None  # git would find a repository further up, which is not the code's
    # No optional locks: a look at the status must not get in the way of somebody's work in that
    # checkout.
    git = ("git", "--no-optional-locks", "-C", folder)
    commit, status = _ask(*git, "rev-parse", "HEAD"), _ask(*git, "status", "--porcelain")
    return (
        None
        if commit is None
        else dict(commit=commit, changed=None if status is None else bool(status))
    )


def _packages() -> Dict[str, str]:
    """Every installed package."""
    from importlib.metadata import distributions

    found = {}
    for package in distributions():
        name = package.metadata["Name"]
        if name:
            found.setdefault(name.lower(), package.version)
    return dict(sorted(found.items()))


def _loaded() -> Dict[str, str]:
    """Versions as the loaded modules give them: a container's own builds are not always listed as
    packages."""
    names = ("mxnet", "horovod", "nvidia.dali", "numpy")
    return {
        name: str(getattr(sys.modules[name], "__version__", None))
        for name in names
        if name in sys.modules
    }


def _environment(environ: Mapping[str, str]) -> Dict[str, str]:
    return {
        name: "(left out)" if any(word in name.upper() for word in SECRET) else value
        for name, value in sorted(environ.items())
        if name.startswith(PREFIXES)
    }


def _os_name() -> Optional[str]:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            fields = dict(line.rstrip("\n").split("=", 1) for line in file if "=" in line)
    except OSError:
        return None
    return fields.get("PRETTY_NAME", "").strip('"') or None


def _cpu() -> Dict[str, Any]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return dict(
        model=names[0] if names else platform.processor() or None,
        cores=os.cpu_count(),
        usable_cores=len(os.sched_getaffinity(0)),
    )


def _gpus() -> List[str]:
    """Name, memory and driver of each GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    told = _ask(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
    )
    return told.splitlines() if told else []
