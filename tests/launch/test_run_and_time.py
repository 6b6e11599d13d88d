"""run_and_time.sh with a stand-in for training (fake_training.py): launchers, signals, statuses,
binding of ranks."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from scripts.bind_rank import Unbound, format_list, numactl_arguments, parse_cores, parse_list, plan
from tests.training.tiny import ROOT

SCRIPT = os.path.join(ROOT, "run_and_time.sh")
FAKE = os.path.join(ROOT, "tests/launch/fake_training.py")
LAUNCHERS = (
    "HOROVOD",
    "OMPI",
    "PMI",
    "SLURM",
    "RECIPE",
    "BATCHSIZE",
    "NUMEPOCHS",
    "DATADIR",
    "RUNDIR",
    "EXTRA_PARAMS",
    "SEED",
    "NSOCKET",
    "OMP_",
    "CUDA_VISIBLE",
    "RESUME",
    "CACHE",
    "PRETRAINED",
    "FAKE",
    "BIND",
)


@pytest.fixture
def environment(tmp_path):
    values = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return dict(
        values,
        RECIPE="ssd-resnet34-shapes",
        BATCHSIZE="4",
        NUMEPOCHS="1",
        DATADIR="/a data set",
        RUNDIR=str(tmp_path / "a run"),
        PYTHON=FAKE,
    )


def run(environment, *prefix, arguments=()):
    return subprocess.run(
        [*prefix, SCRIPT, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---- the command, its status, its launchers


def test_every_missing_variable_is_named_in_one_line(environment):
    for name in ("RECIPE", "DATADIR", "RUNDIR"):
        del environment[name]
    result = run(environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("run_and_time.sh: RECIPE DATADIR RUNDIR is not set;")
    assert result.stderr.count("\n") == 1


def test_optional_variables_become_flags(environment):
    result = run(
        dict(
            environment,
            SEED="7",
            CACHEDIR="/c d",
            PRETRAINED_BACKBONE="/w.onnx",
            RESUME="auto",
            CACHE_CLEARED="all of it",
            SUBMISSION_ORG="my org",
            EXTRA_PARAMS="--max-steps 3\n  --no-report",
        ),
        arguments=["--target", "0"],
    )
    assert result.returncode == 0, result.stderr
    assert (
        "--recipe ssd-resnet34-shapes --batch-size 4 --epochs 1 --data-dir /a data set --output "
        f"{environment['RUNDIR']} --seed 7 --pretrained-backbone /w.onnx --cache-dir /c d "
        "--submission-org my org --resume auto --cache-cleared --max-steps 3 --no-report --target "
        "0\n"
    ) in result.stdout


@pytest.mark.parametrize(
    "status, last",
    [
        (3, "run_and_time.sh: training ended with status 3\n"),
        (
            75,
            "run_and_time.sh: stopped by a signal (status 75), with a checkpoint; "
            "RESUME=auto resumes from it\n",
        ),
    ],
)
def test_a_run_that_does_not_end_has_its_status_and_no_result(environment, status, last):
    result = run(dict(environment, FAKE=f"status {status}"))
    assert result.returncode == status
    assert (
        result.stderr == last
        and "RESULT" not in result.stdout
        and "ENDING TIMING RUN AT" in result.stdout
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_reaches_training_and_its_status_comes_back(environment, name):
    """The signal goes to the shell alone, as `docker stop` and mpirun send it."""
    process = subprocess.Popen(
        [SCRIPT],
        env=dict(environment, FAKE="wait"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if "waiting" in line:
            break
    process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=60)
    assert f"got {name}" in stdout and process.returncode == 75
    assert "stopped by a signal (status 75)" in stderr and "RESULT" not in stdout
    assert os.path.exists(os.path.join(environment["RUNDIR"], "checkpoint"))
    resumed = run(dict(environment, FAKE="wait", RESUME="auto"))
    assert (
        resumed.returncode == 0
        and "fake training: resumed" in resumed.stdout
        and "RESULT," in resumed.stdout
    )


def mpirun():
    if not shutil.which("mpirun"):
        pytest.skip("mpirun is not installed")
    # rsh is not there and not needed on one machine; mpirun looks for it all the same.
    return [
        "mpirun",
        "--allow-run-as-root",
        "--bind-to",
        "none",
        "--mca",
        "plm",
        "isolated",
        "-np",
        "2",
    ]


def horovodrun():
    path = os.path.join(os.path.dirname(sys.executable), "horovodrun")
    if not os.path.exists(path):
        pytest.skip("horovodrun is not installed")
    return [path, "--gloo", "-np", "2"]


@pytest.mark.parametrize("launcher", [mpirun, horovodrun])
def test_two_ranks_speak_once(environment, launcher):
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]
    result = run(environment, *launcher())
    assert result.returncode == 0, result.stderr
    for text in (
        "STARTING TIMING RUN AT",
        "RESULT,SINGLE_STAGE_DETECTOR,,",
        "fake training: --recipe",
    ):
        assert result.stdout.count(text) == 1, result.stdout


@pytest.mark.parametrize("launcher", [mpirun, horovodrun])
def test_two_ranks_that_fail(environment, launcher):
    environment["PATH"] = os.path.dirname(sys.executable) + os.pathsep + environment["PATH"]
    result = run(dict(environment, FAKE="status 3"), *launcher())
    assert result.returncode != 0 and "RESULT" not in result.stdout
    assert (result.stdout + result.stderr).count("training ended with status 3") <= 1


# ---- binding: the plan


def topology(sockets, cores, threads, nodes_of_socket=1):
    """`lscpu --parse=CPU,CORE,SOCKET,NODE` of a machine that numbers the second threads after all
    first ones."""
    lines = ["# The following is the parsable format", "# CPU,Core,Socket,Node"]
    for thread in range(threads):
        for core in range(sockets * cores):
            node = core * nodes_of_socket // cores
            lines.append(f"{thread * sockets * cores + core},{core},{core // cores},{node}")
    return "\n".join(lines) + "\n"


def arguments(lscpu, ranks, allowed=None, memory=None, gpu_nodes=None):
    cores = parse_cores(lscpu, None if allowed is None else parse_list(allowed))
    return [" ".join(numactl_arguments(share, memory)) for share in plan(cores, ranks, gpu_nodes)]


def test_four_ranks_on_two_sockets_of_16_cores_with_two_threads():
    assert arguments(topology(2, 16, 2), 4) == [
        "--physcpubind=0-7,32-39 --membind=0",
        "--physcpubind=8-15,40-47 --membind=0",
        "--physcpubind=16-23,48-55 --membind=1",
        "--physcpubind=24-31,56-63 --membind=1",
    ]


def test_eight_ranks_on_eight_nodes():
    assert arguments(topology(2, 32, 1, nodes_of_socket=4), 8) == [
        f"--physcpubind={8 * node}-{8 * node + 7} --membind={node}" for node in range(8)
    ]


def test_three_ranks_on_two_nodes():
    assert arguments(topology(2, 16, 1), 3) == [
        "--physcpubind=0-7 --membind=0",
        "--physcpubind=8-15 --membind=0",
        "--physcpubind=16-31 --membind=1",
    ]


def test_fewer_ranks_than_nodes_get_several_whole_nodes():
    assert arguments(topology(2, 32, 1, nodes_of_socket=4), 2) == [
        "--physcpubind=0-31 --membind=0-3",
        "--physcpubind=32-63 --membind=4-7",
    ]


def test_an_uneven_cpuset_goes_by_cores():
    """Two cores of node 0 and all 16 of node 1: a fourth of node 1 each is more than half of the
    rest."""
    shares = arguments(topology(2, 16, 1), 4, allowed="0-1,16-31")
    assert shares == [
        f"--physcpubind={cpus} --membind=1" for cpus in ("16-19", "20-23", "24-27", "28-31")
    ]
    assert arguments(topology(2, 16, 1), 2, allowed="3,20-22")[0] == "--physcpubind=3 --membind=0"


def test_more_ranks_than_cores_share_the_whole_node():
    assert (
        arguments(topology(2, 1, 1), 4)
        == ["--physcpubind=0 --membind=0"] * 2 + ["--physcpubind=1 --membind=1"] * 2
    )


def test_ranks_go_where_their_gpus_are():
    assert arguments(topology(2, 8, 1), 4, gpu_nodes=[1, 1, 0, 0]) == [
        "--physcpubind=8-11 --membind=1",
        "--physcpubind=12-15 --membind=1",
        "--physcpubind=0-3 --membind=0",
        "--physcpubind=4-7 --membind=0",
    ]
    assert arguments(topology(2, 8, 1), 2, gpu_nodes=[5, 5])[0].endswith("--membind=0"), (
        "no such node"
    )


def test_memory_that_the_cpuset_forbids_is_not_asked_for():
    assert arguments(topology(2, 8, 1), 2, memory={0}) == [
        "--physcpubind=0-7 --membind=0",
        "--physcpubind=8-15",
    ]


def test_nothing_to_bind():
    with pytest.raises(Unbound, match="one NUMA node"):
        arguments(topology(1, 16, 2), 4)
    with pytest.raises(Unbound, match="one NUMA node"):
        arguments(topology(2, 16, 1), 4, allowed="0-15")
    with pytest.raises(Unbound, match="no NUMA nodes"):
        parse_cores("0,0,0,\n1,1,0,\n")


@pytest.mark.parametrize("ranks", range(1, 20))
def test_every_core_is_used_once_where_that_is_possible(ranks):
    shares = plan(parse_cores(topology(2, 16, 2)), ranks)
    used = sorted(cpu for share in shares for _, cpus in share for cpu in cpus)
    assert used == list(range(64)) and all(shares)
    assert ranks == 1 or all(len({node for node, _ in share}) == 1 for share in shares)


def test_lists_of_cpus():
    assert parse_list("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11} and parse_list("") == set()
    assert format_list({11, 0, 1, 2, 8, 10}) == "0-2,8,10-11"


# ---- binding: the script


@pytest.fixture
def two_nodes(environment, tmp_path):
    """A machine whose lscpu tells of two nodes, of CPU 0 and of CPU 1; the rest is real."""
    if not {0, 1} <= os.sched_getaffinity(0) or not shutil.which("numactl"):
        pytest.skip("needs numactl and CPUs 0 and 1")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "lscpu").write_text("#!/bin/sh\ntest $# = 1 && printf '0,0,0,0\\n1,1,1,1\\n'\n")
    (folder / "lscpu").chmod(0o755)
    return dict(environment, PATH=str(folder) + os.pathsep + environment["PATH"])


def fake_numactl(environment, body):
    path = os.path.join(environment["PATH"].split(os.pathsep)[0], "numactl")
    with open(path, "w") as file:
        file.write("#!/bin/bash\n" + body)
    os.chmod(path, 0o755)


def test_one_node_or_no_numactl_is_said_in_one_line(environment, two_nodes, tmp_path):
    fake_numactl(two_nodes, "exit 1\n")
    result = run(dict(two_nodes, OMPI_COMM_WORLD_LOCAL_RANK="0", OMPI_COMM_WORLD_LOCAL_SIZE="2"))
    assert result.returncode == 0
    assert re.findall("^binding: .*", result.stdout, re.M) == [
        "binding: none, numactl --physcpubind=0 --membind=0 is not permitted here"
    ]
    result = run(dict(two_nodes, BIND="no"))
    assert re.findall("^binding: .*", result.stdout, re.M) == ["binding: none, because of BIND=no"]
    (tmp_path / "bin" / "lscpu").write_text("#!/bin/sh\nprintf '0,0,0,0\\n1,1,0,0\\n'\n")
    result = run(two_nodes)
    assert re.findall("^binding: .*", result.stdout, re.M) == [
        "binding: none, all its cores are in one NUMA node"
    ]


def test_each_rank_runs_on_its_cores(two_nodes):
    """Under two launchers' variables; memory cannot be bound to a node that is not there, so cores
    alone."""
    fake_numactl(two_nodes, '[[ $* != *membind* ]] || exit 1\nexec /usr/bin/numactl "$@"\n')
    for rank in ("0", "1"):
        ompi = dict(
            two_nodes,
            OMPI_COMM_WORLD_RANK=rank,
            OMPI_COMM_WORLD_LOCAL_RANK=rank,
            OMPI_COMM_WORLD_LOCAL_SIZE="2",
        )
        slurm = dict(
            two_nodes, SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_STEP_TASKS_PER_NODE="2(x3)"
        )
        for values in (ompi, slurm):
            result = run(values)
            assert (
                f"binding: rank {rank}: numactl --physcpubind={rank}; 1 OpenMP threads\n"
                in result.stdout
            )
            assert ("fake training: affinity 1\n" in result.stdout) == (rank == "0")


def test_cores_and_memory_are_given_to_numactl(two_nodes, tmp_path):
    fake_numactl(
        two_nodes,
        f'echo "$@" >>"{tmp_path}/calls"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    )
    result = run(dict(two_nodes, HOROVOD_RANK="2", HOROVOD_LOCAL_RANK="0", HOROVOD_LOCAL_SIZE="2"))
    assert (result.returncode, result.stdout) == (
        0,
        "binding: rank 2: numactl --physcpubind=0 --membind=0; 1 OpenMP threads\n",
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "--physcpubind=0 --membind=0 true"
    assert calls[1].startswith(f"--physcpubind=0 --membind=0 -- {FAKE} -m ssd train --recipe")


def test_a_rank_that_its_launcher_has_bound_is_left_alone(two_nodes):
    result = run(
        dict(two_nodes, OMPI_COMM_WORLD_LOCAL_RANK="0", OMPI_COMM_WORLD_LOCAL_SIZE="2"),
        sys.executable,
        "-c",
        "import os, subprocess, sys; sys.exit(subprocess.run(['taskset', '-c', '1'] + "
        "sys.argv[1:]).returncode)",
    )
    assert "binding: the launcher has already bound rank 0 to CPUs 1; unchanged\n" in result.stdout
    assert "fake training: affinity 1\n" in result.stdout


def test_a_config_that_describes_another_machine_is_reported(two_nodes):
    fake_numactl(two_nodes, "exit 1\n")
    (lscpu,) = [os.path.join(two_nodes["PATH"].split(os.pathsep)[0], "lscpu")]
    with open(lscpu, "w") as file:
        file.write("#!/bin/sh\nprintf '0,0,0,0\\n1,1,1,1\\n'\n")
    result = run(dict(two_nodes, NSOCKET="2", SOCKETCORES="16", HT="2"))
    assert (
        "binding: the config names 2 x 16 x 2 (sockets, cores of each, threads of each core), this "
        "machine has 2 x 1 x 1; the latter is used\n"
    ) in result.stdout
    assert (
        "the config names" not in run(dict(two_nodes, NSOCKET="2", SOCKETCORES="1", HT="1")).stdout
    )
    assert (
        "the config names" not in run(dict(two_nodes, NSOCKET="0", SOCKETCORES="0", HT="0")).stdout
    )
