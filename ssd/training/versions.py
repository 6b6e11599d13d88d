"""versions.json: software, machine and command line of a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from typing import Any, Dict, List, Mapping, Optional

from ssd import __version__

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREFIXES = ("MXNET_", "HOROVOD_", "OMP_", "DALI_", "NCCL_", "CUDA_", "KMP_", "GOMP_", "SLURM_")
SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")  # variables with these in their name are left out
PATIENCE = 10  # seconds for each program that is run


def collect(ranks: int) -> Dict[str, Any]:
    """Everything that can be found out; the rest is None. `ranks`: number of ranks of the run."""
    return dict(
        ssd=__version__,
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
        code=code_version(ROOT),
        loaded=_loaded(),
        packages=_packages(),
        environment=_environment(os.environ),
    )


def save(path: str, ranks: int) -> None:
    """Writes the result of `collect` to a new file."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(collect(ranks), file, indent=1)
        file.write("\n")


def _output_of(*command: str) -> Optional[str]:
    """The output of a program; None if it is missing or fails."""
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


def code_version(folder: str) -> Optional[Dict[str, Any]]:
    """The commit that is checked out in `folder`, and whether files were changed (None:
    unknown)."""
    if not os.path.exists(os.path.join(folder, ".git")):
        return None  # git would find some repository above the folder
    # No optional locks: reading the status must not interfere with somebody's work in that
    # checkout.
    git = ("git", "--no-optional-locks", "-C", folder)
    commit, status = (
        _output_of(*git, "rev-parse", "HEAD"),
        _output_of(*git, "status", "--porcelain"),
    )
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
    """Versions of the loaded modules: a container may not list its builds as packages."""
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
    output = _output_of(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
    )
    return output.splitlines() if output else []
