"""What run.sub and run_with_docker.sh do by themselves, without a cluster: checks, and the cause of
a failure."""

import os
import re
import subprocess

import pytest

from tests.training.tiny import ROOT

CONFIG = dict(
    SYSTEM="test",
    NNODES="1",
    WALLTIME="5",
    NEXP="2",
    NGPU="1",
    NSOCKET="0",
    SOCKETCORES="0",
    HT="0",
    RECIPE="ssd-resnet34-shapes",
    BATCHSIZE="4",
    NUMEPOCHS="1",
    EXTRA_PARAMS="--device cpu",
    SUBMISSION_ORG="me",
    SUBMISSION_PLATFORM="none",
    PRETRAINED_DIR="none",
    CONT="ssd",
    SLURM_JOB_ID="7",
)


def script(name):
    with open(os.path.join(ROOT, name)) as file:
        return file.read()


def part(name, begin, end):
    text = script(name)
    return text[text.index(begin) : text.index(end, text.index(begin))]


# ---- checks: of Slurm's programs there is an srun that knows three questions


def refusal(tmp_path, version="slurm 22.05.8", **variables):
    """What run.sub says at last, and its status; its commands beyond the checks find no srun that
    does them."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(f"""#!/bin/sh
case $1 in
    --version) echo '{version}' ;;
    --mpi=list) echo 'MPI plugin types are: none pmix' ;;
    --help) echo '--container-image' ;;
    *) echo "no cluster" >&2; exit 9 ;;
esac
""")
    (tmp_path / "bin" / "srun").chmod(0o755)
    (tmp_path / "data").mkdir()
    environment = dict(
        os.environ,
        **CONFIG,
        DATADIR=str(tmp_path / "data"),
        LOGDIR=str(tmp_path / "logs"),
        PATH=f"{tmp_path}/bin:{os.environ['PATH']}",
    )
    result = subprocess.run(
        ["bash", os.path.join(ROOT, "run.sub")],
        env=dict(environment, **variables),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    "version, old",
    [
        ("slurm 14.11.1", True),
        ("slurm 19.05.7", True),
        ("slurm 20.02.7", True),
        ("slurm-wlm 20.02.0", True),
        ("slurm 20.11.0", False),
        ("slurm 21.08.8-2", False),
        ("slurm 24.05.4", False),
        ("slurm 25.05.0-0rc1", False),
        ("something else", False),
    ],
)
def test_a_slurm_without_steps_side_by_side_is_refused(tmp_path, version, old):
    status, text = refusal(tmp_path, version)
    assert (f"run.sub: this cluster has {version}; 20.11 or newer is needed\n" == text) == old, text
    assert (status == 2) == old


def test_a_heterogeneous_job_is_refused(tmp_path):
    assert refusal(tmp_path, SLURM_HET_SIZE="2") == (
        2,
        "run.sub: job 7 is heterogeneous; all nodes must be alike: use sbatch -N\n",
    )


@pytest.mark.parametrize("name", ["test_7_1.log", "test_7_2.log", "test_7_2.status", "test_7_1"])
def test_what_another_job_of_this_number_has_left_is_not_taken_for_ones_own(tmp_path, name):
    """Of another cluster with the same LOGDIR, or an older job. After a requeue it is one's own."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / name).write_text("0\n")
    assert refusal(tmp_path) == (
        2,
        f"run.sub: LOGDIR={tmp_path}/logs: {name} exists already, from another job of this "
        "number\n",
    )
    assert (
        os.listdir(tmp_path / "logs") == [name] and (tmp_path / "logs" / name).read_text() == "0\n"
    )


def test_after_a_requeue_it_is_ones_own(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "test_7_1.status").write_text("0\n")
    status, text = refusal(tmp_path, SLURM_RESTART_COUNT="1")
    assert status == 1 and "the container could not be created" in text


@pytest.mark.parametrize(
    "given, taken",
    [
        ("ssd", "ssd"),
        ("nvidia/mxnet:1", "nvidia/mxnet:1"),
        ("nvcr.io#nvidia/mxnet:1", "nvcr.io#nvidia/mxnet:1"),
        ("nvcr.io/nvidia/mxnet:1", "nvcr.io#nvidia/mxnet:1"),
        ("localhost:5000/ssd", "localhost:5000#ssd"),
        ("docker://ssd", "ssd"),
        ("docker://nvcr.io/nvidia/mxnet:1", "nvcr.io#nvidia/mxnet:1"),
        ("docker://nvcr.io#nvidia/mxnet:1", "nvcr.io#nvidia/mxnet:1"),
        ("dockerd://ssd", "dockerd://ssd"),
        ("dockerd://registry.example/ssd:1", "dockerd://registry.example/ssd:1"),
    ],
)
def test_names_of_images_as_pyxis_takes_them(tmp_path, given, taken):
    status, text = refusal(tmp_path, CONT=given)
    assert status == 1 and f"container ssd_7 from {taken} on 1 node(s)\n" in text
    assert f"CONT={taken}: the container could not be created" in text
    assert text.count("no cluster\n") == 2, "the keeper's srun, and the container's"
    assert ("Pyxis 0.15 or newer" in text) == given.startswith("dockerd")


@pytest.mark.parametrize("given", ["podman://ssd", "oras://ssd", "docker://", "dockerd://"])
def test_names_of_images_that_no_pyxis_takes(tmp_path, given):
    assert refusal(tmp_path, CONT=given) == (
        2,
        f"run.sub: CONT={given}: Pyxis knows only docker://IMAGE and dockerd://IMAGE\n",
    )


# ---- the cause of a failure, from the lines that are seen in logs

START = """binding: none, all its cores are in one NUMA node
STARTING TIMING RUN AT 2026-11-27 10:00:00 AM
"""
END = """ENDING TIMING RUN AT 2026-11-27 10:00:09 AM
run_and_time.sh: training ended with status 2
"""
SRUN = """srun: error: n1: task 0: Exited with exit code 2
srun: Terminating StepId=12.3
"""
MPIRUN = """--------------------------------------------------------------------------
Primary job  terminated normally, but 1 process returned
a non-zero exit code. Per user-direction, the job has been aborted.
--------------------------------------------------------------------------
--------------------------------------------------------------------------
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[51312,1],0]
  Exit code:    2
--------------------------------------------------------------------------
"""
PYXIS = """slurmstepd: error: pyxis: couldn't start container
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
slurmstepd: error: pyxis: container was not started successfully by another task
slurmstepd: error: spank: required plugin spank_pyxis.so: task_init() failed with rc=-1
slurmstepd: error: Failed to invoke spank plugin stack
srun: error: n2: task 1: Exited with exit code 1
"""
OPEN_MPI = """The application appears to have been direct launched using "srun",
but OMPI was not built with SLURM's PMI support and therefore cannot
execute. There are several options for building PMI support under
SLURM, depending upon the SLURM version you are using:
Please configure as appropriate and try again.
--------------------------------------------------------------------------
*** An error occurred in MPI_Init_thread
*** on a NULL communicator
"""
WRONG = "python -m ssd train: --batch-size 0: a whole number of at least 1 is needed\n"
LOG = ':::MLLOG {"key": "run_stop", "value": null}\n'
CAUSES = [
    (START + WRONG + END + SRUN, WRONG),
    (START + WRONG + END + MPIRUN, WRONG),
    (START + LOG + WRONG + END + LOG + SRUN, WRONG),
    (
        START + "epoch 1 step 1/9  loss 3\n" + WRONG + "[n1:7] a remark of Open MPI\n" + END + SRUN,
        WRONG,
    ),
    (
        START + 'Traceback (most recent call last):\n  File "x.py"\nKeyError: 3\n' + END + SRUN,
        'Traceback (most recent call last):\n  File "x.py"\nKeyError: 3\n',
    ),
    (
        START + END + "slurmstepd: error: Detected 1 oom_kill event in StepId=12.3.\n" + SRUN,
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.3.\n",
    ),
    (
        START + "srun: error: n1: task 0: Segmentation fault\n" + SRUN,
        "srun: error: n1: task 0: Segmentation fault\n",
    ),
    (
        "slurmstepd: error: pyxis: --container-mounts: source path does not exist: /a b\n" + PYXIS,
        "pyxis: --container-mounts: source path does not exist: /a b\n",
    ),
    (
        "pyxis: importing docker image: ssd\n"
        "slurmstepd: error: pyxis: child 15352 failed with error code: 1\n"
        "slurmstepd: error: pyxis: failed to import docker image\n"
        "slurmstepd: error: pyxis: printing enroot log file:\n"
        "slurmstepd: error: pyxis:     [INFO] Fetching image\n"
        "slurmstepd: error: pyxis:     [ERROR] URL https://registry/x returned error code: 404 Not "
        "Found\n" + PYXIS,
        "pyxis: failed to import docker image\npyxis: [INFO] Fetching image\n"
        "pyxis: [ERROR] URL https://registry/x returned error code: 404 Not Found\n",
    ),
    (
        "slurmstepd: error: pyxis: container start failed with error code: 1\n"
        "slurmstepd: error: pyxis: printing enroot log file:\n"
        + 2
        * "slurmstepd: error: pyxis:     [ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with "
        "return code 1\n" + PYXIS,
        "pyxis: [ERROR] /etc/enroot/hooks.d/98-nvidia.sh exited with return code 1\n",
    ),
    (
        START + OPEN_MPI + END + SRUN,
        "but OMPI was not built with SLURM's PMI support and therefore cannot\n",
    ),
    ("", ""),
]


@pytest.mark.parametrize("before", ["", START + "python -m ssd train: of an earlier start\n"])
@pytest.mark.parametrize("number", range(len(CAUSES)))
def test_the_cause_of_a_failure_is_shown_and_not_its_echo(tmp_path, number, before):
    log, expected = CAUSES[number]
    (tmp_path / "a log").write_text(before + log)
    result = subprocess.run(
        [
            "bash",
            "-c",
            part("run.sub", "# begin of cause_of", "# end of cause_of") + '\ncause_of "$1" "$2"',
            "bash",
            tmp_path / "a log",
            str(before.count("\n") + 1),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout, result.stderr) == (expected, "")


def test_both_scripts_show_the_same_cause():
    ends = "cause_of() {", "# end of cause_of"
    assert part("run.sub", *ends) == part("run_with_docker.sh", *ends)


@pytest.mark.parametrize(
    "number, status, reason",
    [
        (0, 2, "the settings or the data are wrong"),
        (4, 1, ""),
        (5, 137, ""),
        (7, 1, "the container does not start"),
        (8, 1, "the container does not start"),
        (9, 1, "the container does not start"),
        (
            10,
            1,
            "the image's MPI does not start with MPI_TYPE=pmi2; try another of none, pmix",
        ),
    ],
)
def test_whether_a_further_trial_would_fail_alike(tmp_path, number, status, reason):
    (tmp_path / "log").write_text(CAUSES[number][0])
    code = "first_line=1 MPI_TYPE=pmi2 types=$'none\\npmix'\n" + part(
        "run.sub", "hopeless() {", "\nworst=0"
    )
    result = subprocess.run(
        ["bash", "-c", code + '\nhopeless "$1" "$2"', "bash", tmp_path / "log", str(status)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout.rstrip("\n"), result.stderr) == (reason, "")


def test_the_keeper_hides_the_users_settings_of_enroot(tmp_path):
    """It asks the node's Enroot, with none of ENROOT_*; where it does not know a container that was
    made, it says so."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "enroot").write_text(f"#!/bin/sh\nenv >>{tmp_path}/environment\n")
    (programs / "scontrol").write_text("#!/bin/sh\n")
    for name in ("enroot", "scontrol"):
        (programs / name).chmod(0o755)
    keeper = re.search(r"^keeper='\n(.*?)'$", script("run.sub"), re.M | re.S).group(1)
    settings = {
        f"ENROOT_{name}_PATH": "/mine"
        for name in ("DATA", "RUNTIME", "CACHE", "TEMP", "LIBRARY", "SYSCONF")
    }
    environment = dict(
        os.environ,
        **settings,
        LD_LIBRARY_PATH="/mine",
        SLURM_JOB_ID="7",
        SLURM_STEP_ID="1",
        SLURMD_NODENAME="n1",
        container="ssd_7",
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    for said, line in (
        ("", ""),
        (
            "made\n",
            "run.sub: container pyxis_ssd_7 may stay on node n1: enroot list does not show it\n",
        ),
    ):
        result = subprocess.run(
            ["bash", "-c", keeper],
            env=environment,
            input=said,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.stdout, result.stderr) == ("", line)
    asked = (tmp_path / "environment").read_text()
    assert "SLURM_JOB_ID=7" in asked and "ENROOT_" not in asked and "LD_LIBRARY_PATH" not in asked
