"""run.sub under a real Slurm of two nodes; Pyxis and Enroot have stand-ins (spank/), training
mostly too."""

import math
import os
import re
import shutil
import subprocess
import tempfile

import pytest

from tests.launch import slurm_cluster
from tests.launch.docker_engine import missing
from tests.training.tiny import FLAGS, ROOT, rows, tiny_data

FAKE = "/workspace/ssd/tests/launch/fake_training.py"
CONFIG = dict(
    SYSTEM="test",
    NNODES="2",
    WALLTIME="5",
    NEXP="1",
    NGPU="1",
    NSOCKET="0",
    SOCKETCORES="0",
    HT="0",
    RECIPE="ssd-resnet34-shapes",
    BATCHSIZE="4",
    NUMEPOCHS="1",
    EXTRA_PARAMS="--device cpu",
    SUBMISSION_ORG="me",
    SUBMISSION_PLATFORM="two nodes of a test",
    PRETRAINED_DIR="none",
)
reason = slurm_cluster.missing()
assert reason is None or os.environ.get("LAUNCH_TESTS") != "required", reason
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


def copy_project(folder):
    os.makedirs(folder)
    for name in ("ssd", "scripts", "tests", "run_and_time.sh"):
        source = os.path.join(ROOT, name)
        if os.path.isdir(source):
            shutil.copytree(
                source, os.path.join(folder, name), ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(source, folder)


@pytest.fixture(scope="module")
def cluster():
    cluster = slurm_cluster.Cluster()
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def image(cluster):
    """The CPU stack of base_image.sh with the project in /workspace/ssd."""
    made = subprocess.run(
        [os.path.join(ROOT, "tests/launch/base_image.sh"), "--rootfs"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if made.returncode == 3:
        missing(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    copy_project(cluster.path("project/workspace/ssd"))
    return cluster.image(
        "ssd.sqsh",
        cluster.path("project"),
        made.stdout.splitlines()[-1],
        OMP_NUM_THREADS="1",
        HOROVOD_CYCLE_TIME="0.1",
        PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )


@pytest.fixture
def settings(cluster, image, request):
    folder = tempfile.mkdtemp(prefix=request.node.originalname, dir=cluster.base)
    data, logs = os.path.join(folder, "a data set"), os.path.join(folder, "my logs")
    os.makedirs(data)
    return dict(CONFIG, CONT=image, DATADIR=data, LOGDIR=logs, PYTHON=FAKE)


def submit(cluster, settings, *arguments):
    return cluster.submit(
        "-N",
        settings.get("NNODES", "2"),
        "-t",
        "5",
        *arguments,
        os.path.join(ROOT, "run.sub"),
        cwd="/",
        **settings,
    )


def log_of(settings, job, trial, kind="log"):
    with open(os.path.join(settings["LOGDIR"], f"test_{job.number}_{trial}.{kind}")) as file:
        return file.read()


def wait_for_trial(settings, job, trial, text="waiting", seconds=60):
    log = os.path.join(settings["LOGDIR"], f"test_{job.number}_{trial}.log")
    slurm_cluster.until(
        lambda: os.path.exists(log) and text in log_of(settings, job, trial),
        f"trial {trial}",
        seconds,
    )


def test_two_trials(cluster, settings):
    """Data, logs and image have blanks in their paths or names; job output, logs, statuses, what
    training was given."""
    job = submit(cluster, dict(settings, NEXP="2", SHOW="HOROVOD_CYCLE_TIME"))
    assert job.wait() == ("COMPLETED", 0), job.output
    assert re.search(
        r"trial 1 of 2: status 0 after \d+ s: .*_1.log\n.*trial 2 of 2: status 0", job.output
    ), job.output
    for trial in (1, 2):
        text = log_of(settings, job, trial)
        lines = text.strip().splitlines()
        assert (
            lines[-1].startswith("RESULT,SINGLE_STAGE_DETECTOR,,")
            and lines[-1].split(",")[4] == "me"
        )
        assert text.count("fake training: --recipe") == 1, "one rank speaks"
        assert (
            f"--data-dir /data --output /results/test_{job.number}_{trial} --cache-dir "
            "/results/cache" in text
        )
        assert "--resume" not in text and "--pretrained-backbone" not in text
        assert "--cache-cleared" in text, "root may drop the file cache"
        assert "environment HOROVOD_CYCLE_TIME=0.1\n" in text, "the image's"
        assert log_of(settings, job, trial, "status") == "0\n"
    assert cluster.containers() == []


def test_an_older_pyxis_and_the_users_own_environment(cluster, settings):
    """Blanks as Pyxis 0.23 wants them, a container of the job's own, of Docker's image. Settings
    that Pyxis hides from Enroot, of modules of the host, and some that are to go over the image's.
    """
    shutil.copy(settings["CONT"], cluster.path("dockerd", "ssd"))
    variables = "OMP_NUM_THREADS HOROVOD_CYCLE_TIME NCCL_DEBUG PYTHONPATH OPAL_PREFIX SEED"
    job = submit(
        cluster,
        dict(
            settings,
            CONT="dockerd://ssd",
            STAND_IN_PYXIS="23",
            STAND_IN_SCOPE="job",
            SHOW=variables,
            ENROOT_DATA_PATH=settings["DATADIR"] + "/mine",
            OMP_NUM_THREADS="7",
            HOROVOD_CYCLE_TIME="3",
            SEED="5",
            NCCL_DEBUG="WARN, all",
            PYTHONPATH="/host",
            OPAL_PREFIX="/host",
        ),
        "--gpus-per-node=2",
    )
    assert job.wait() == ("COMPLETED", 0), job.output + log_of(settings, job, 1)
    assert (
        "environment OMP_NUM_THREADS=7 HOROVOD_CYCLE_TIME=3 NCCL_DEBUG=WARN, all "
        "PYTHONPATH=/workspace/ssd OPAL_PREFIX=None SEED=5\n"
    ) in log_of(settings, job, 1)
    assert "stay" not in job.output and cluster.containers() == []


def test_a_failing_trial_does_not_keep_the_next_from_running(cluster, settings):
    """On the first node, besides, Enroot does not answer when the container is to be removed."""
    with open(cluster.path("enroot-n1"), "w") as file:
        file.write("Could not process\nthe data folder is gone\n")
    job = submit(cluster, dict(settings, NEXP="2", FAKE="status 3 in trial 1"))
    assert job.wait() == ("FAILED", 3), job.output
    assert re.search(
        r"trial 1 of 2: status 3 .*\n    python -m ssd train: the cause\n.*trial 2 of 2: status 0",
        job.output,
    ), job.output
    assert "RESULT" not in log_of(settings, job, 1) and "RESULT" in log_of(settings, job, 2)
    assert "training ended with status 3" in log_of(settings, job, 1)
    assert (log_of(settings, job, 1, "status"), log_of(settings, job, 2, "status")) == (
        "3\n",
        "0\n",
    )
    assert (
        f"run.sub: container pyxis_ssd_{job.number} may stay on node n1: enroot list: the data "
        "folder is gone\n" in job.output
    )
    assert cluster.containers() == [f"pyxis_ssd_{job.number}"]
    os.unlink(cluster.path("enroot-n1"))
    shutil.rmtree(cluster.path("containers", "n1", f"pyxis_ssd_{job.number}"))


def test_where_every_trial_would_fail_alike_the_first_is_the_last(cluster, settings):
    """Three jobs, two of them at once, with one LOGDIR."""
    settings.update(NNODES="1", NEXP="3")
    wrong = submit(cluster, dict(settings, FAKE="status 2"))
    mpi = submit(cluster, dict(settings, FAKE="mpi", MPI_TYPE="pmi2"))
    broken = submit(cluster, dict(settings, STAND_IN_BROKEN="yes"))
    assert wrong.wait() == ("FAILED", 2)
    assert "\n    python -m ssd train: the cause\n" in wrong.output
    assert (
        "no further trial, since each would fail the same way: the settings or the data are wrong\n"
        in wrong.output
    )
    assert mpi.wait() == ("FAILED", 1), mpi.output + log_of(settings, mpi, 1)
    assert re.search(
        "\n    .*PMI support.*\n.* no further trial, .*: the image's MPI does not start with "
        "MPI_TYPE="
        "pmi2; try another of .*pmix",
        mpi.output,
    ), mpi.output + log_of(settings, mpi, 1)
    assert broken.wait()[0] == "FAILED"
    assert re.search(
        r"trial 1 of 3: .*\n    pyxis: \[ERROR\] No space left on the test's device\n"
        ".* no further trial, .*: the container does not start\n",
        broken.output,
    ), broken.output
    for job in (wrong, mpi, broken):
        assert "trial 2 " not in job.output and not os.path.exists(
            os.path.join(settings["LOGDIR"], f"test_{job.number}_1.status")
        ), "trial 1 can be repeated"
    assert cluster.containers() == []


def test_a_signal_to_one_job_of_an_array_saves_requeues_and_resumes_that_one(cluster, settings):
    """USR1 to the script alone, of the job whose number is the array's; both have one LOGDIR. Trial
    1 is not repeated, trial 2 goes on. And sbatch was given a list of variables, which holds for
    srun too."""
    settings.update(NNODES="1", NEXP="2", FAKE="wait in trial 2")
    array = submit(
        cluster, settings, "--array=1-2", "--export=" + ",".join([*settings, "SLURM_CONF", "PATH"])
    )
    job, other = sorted(array.of_array(), key=lambda one: one.number != array.number)
    assert job.number == array.number
    for one in (job, other):
        wait_for_trial(settings, one, 2)
    element = f"{array.number}_{job.field('ArrayTaskId')}"
    assert cluster.run("scancel", "--batch", "--signal=USR1", element).returncode == 0
    assert job.wait() == ("COMPLETED", 0), job.output
    assert job.field("Restarts") == "1" and other.field("Restarts") == "0"
    assert f"trial 2 was stopped by a signal; requeueing job {element}" in job.output
    assert (
        "trial 1 of 2: done before the requeue, status 0" in job.output
        and "cannot" not in job.output
    )
    text = log_of(settings, job, 2)
    assert (
        text.count("got SIGUSR1") == 1
        and "--resume auto" in text
        and "fake training: resumed" in text
    )
    assert text.strip().splitlines()[-1].startswith("RESULT,") and text.count("RESULT") == 1
    assert log_of(settings, job, 1).count("RESULT") == 1
    assert log_of(settings, other, 2).count("waiting") == 1 and "got SIG" not in log_of(
        settings, other, 2
    )
    assert cluster.run("scancel", f"{array.number}_{other.field('ArrayTaskId')}").returncode == 0
    assert other.wait()[0] == "CANCELLED" and "got SIG" in log_of(settings, other, 2)
    slurm_cluster.until(lambda: not cluster.containers(), "containers removed", 40)


@pytest.mark.parametrize(
    "signal, state", [([], "CANCELLED"), (["--batch", "--signal=KILL"], "FAILED")]
)
def test_a_job_that_is_killed_keeps_logs_and_removes_containers(cluster, settings, signal, state):
    """scancel of the whole job; and run.sub alone gone without a word."""
    job = submit(cluster, dict(settings, NEXP="2", FAKE="wait in trial 1"))
    wait_for_trial(settings, job, 1)
    assert len(cluster.containers()) == 2, "one per node"
    assert cluster.run("scancel", *signal, job.number).returncode == 0
    assert job.wait()[0] == state, job.output
    slurm_cluster.until(lambda: not cluster.containers(), "containers removed", 40)
    text = log_of(settings, job, 1)
    assert "waiting" in text and "RESULT" not in text
    if not signal:  # Slurm gives KillWait to a job that is cancelled
        assert "got SIG" in text
        assert os.path.exists(
            os.path.join(settings["LOGDIR"], f"test_{job.number}_1", "checkpoint")
        )
    assert not os.path.exists(os.path.join(settings["LOGDIR"], f"test_{job.number}_2.log")), (
        "no second trial"
    )


MISTAKES = [
    (
        dict.fromkeys(set(CONFIG) - {"PRETRAINED_DIR"}),
        "SYSTEM NNODES WALLTIME NEXP NGPU NSOCKET SOCKETCORES HT RECIPE BATCHSIZE NUMEPOCHS "
        "EXTRA_PARAMS SUBMISSION_ORG "
        r"SUBMISSION_PLATFORM is not set; source a config_\*.sh before sbatch",
    ),
    (dict(HT=None), r"HT is not set; source a config_\*.sh before sbatch"),
    (
        dict(CONT=None, DATADIR=None),
        "CONT DATADIR is not set; give it to sbatch: CONT=... sbatch ... run.sub",
    ),
    (dict(NGPU="four"), "NGPU=four: a whole number of at least 1 is needed"),
    (dict(NNODES="2"), "NNODES=2 in the config, but the job has 1 nodes; give sbatch -N 2"),
    (dict(DATADIR="/no/such/folder"), r"DATADIR=/no/such/folder: no such folder \(node n[12]\)"),
    (dict(DATADIR="/a,b"), "DATADIR=/a,b: Pyxis cannot mount a path with .*"),
    (dict(LOGDIR="/proc/logs"), "LOGDIR=/proc/logs: cannot be created"),
    (dict(LOGDIR="/proc"), r"LOGDIR=/proc: user root cannot write there \(node n[12]\)"),
    (dict(PRETRAINED_DIR="/usr"), "PRETRAINED_DIR=/usr: exactly one file resnet34-.*"),
    (dict(MPI_TYPE="pmix_v9"), "MPI_TYPE=pmix_v9: this cluster has .*pmi2, pmix.*"),
    (dict(NGPU="4", EXTRA_PARAMS="--device gpu"), "NGPU=4: the job sees 0 GPUs; .*"),
    (dict(NGPU="4000"), "NGPU=4000: more ranks than the [0-9]+ CPUs .*"),
    (dict(CONT="/no/such.sqsh"), r"CONT=/no/such.sqsh: no such file \(node n[12]\)"),
    (
        dict(CONT="folder/such.sqsh"),
        "CONT=folder/such.sqsh: the path of a squashfs file must begin with / or ./",
    ),
    (
        dict(CONT="podman://ssd"),
        "CONT=podman://ssd: Pyxis knows only docker://IMAGE and dockerd://IMAGE",
    ),
    (dict(CONT=r"nvcr.io\#nvidia/mxnet"), r"CONT=nvcr.io\\#nvidia/mxnet: contains a backslash; .*"),
]


@pytest.fixture(scope="module")
def refused(cluster, image):
    """(LOGDIR, job) of each of MISTAKES; they run two at once."""
    jobs = []
    for changed, _ in MISTAKES:
        folder = tempfile.mkdtemp(prefix="mistake", dir=cluster.base)
        os.mkdir(os.path.join(folder, "data"))
        values = dict(
            CONFIG,
            NNODES="1",
            CONT=image,
            DATADIR=os.path.join(folder, "data"),
            LOGDIR=folder + "/logs",
        )
        values.update(changed)
        jobs.append(
            (
                values["LOGDIR"] or "",
                cluster.submit(
                    "-N",
                    "1",
                    "-t",
                    "5",
                    os.path.join(ROOT, "run.sub"),
                    cwd="/",
                    **{name: value for name, value in values.items() if value is not None},
                ),
            )
        )
    return jobs


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_a_mistake_is_one_line_before_anything_starts(refused, number):
    changed, line = MISTAKES[number]
    if "4000" in changed.values() and shutil.which("nvidia-smi"):
        pytest.skip("a machine with GPUs")
    logs, job = refused[number]
    assert job.wait() == ("FAILED", 2), job.output
    assert re.fullmatch("run.sub: " + line + "\n", job.output), job.output
    assert not os.path.exists(os.path.join(logs, "cache"))


def test_the_image_is_asked_of_the_registry_by_its_name(cluster, settings):
    """Enroot wants # between registry and image; one that is not there ends the job."""
    job = submit(cluster, dict(settings, CONT="registry.example/team/ssd:1"))
    assert job.wait() == ("FAILED", 1), job.output
    assert "using registry.example#team/ssd:1" in job.output
    assert "failed to import docker image: registry.example#team/ssd:1" in job.output
    assert "CONT=registry.example#team/ssd:1: the container could not be created" in job.output
    os.makedirs(cluster.path("registry", "registry.example#team"))
    shutil.copy(settings["CONT"], cluster.path("registry", "registry.example#team", "ssd:1"))
    os.makedirs(os.path.join(settings["DATADIR"], "weights"))
    open(os.path.join(settings["DATADIR"], "weights", "resnet34-333f7ec4.onnx"), "w").close()
    job = submit(
        cluster,
        dict(
            settings,
            CONT="docker://registry.example/team/ssd:1",
            PRETRAINED_DIR=os.path.join(settings["DATADIR"], "weights"),
        ),
    )
    assert job.wait() == ("COMPLETED", 0), job.output
    assert "--pretrained-backbone /pretrained/resnet34-333f7ec4.onnx" in log_of(settings, job, 1)


def test_two_ranks_train_over_pmix_through_a_notice(cluster, settings):
    """The real training: MXNet, DALI and Horovod over MPI, a rank on each node; stopped, requeued,
    resumed, ended."""
    os.rmdir(settings["DATADIR"])
    tiny_data(settings["DATADIR"])
    del settings["PYTHON"]
    flags = " ".join(FLAGS[2:]).replace(
        "--no-report", "--clear-cache --max-steps 12 --eval-every 1000"
    )
    job = submit(cluster, dict(settings, NUMEPOCHS="30", EXTRA_PARAMS=flags))
    wait_for_trial(settings, job, 1, "epoch 2 step", 180)
    assert cluster.run("scancel", "--signal=USR1", job.number).returncode == 0
    state = job.wait(300)
    text = log_of(settings, job, 1)
    assert state == ("COMPLETED", 0), job.output + text
    assert job.field("Restarts") == "1" and "requeueing job" in job.output
    assert (
        text.strip().splitlines()[-1].startswith("RESULT,SINGLE_STAGE_DETECTOR,,")
        and text.count("RESULT,") == 1
    )
    assert '"key": "global_batch_size", "value": 8' in text, "two ranks of four images"
    assert '"key": "cache_clear", "value": "by the launcher, on every node"' in text
    assert "after 12 steps of 8" in text
    saved = int(re.search(r"resumed after step (\d+)", text).group(1))
    assert 2 <= saved < 12
    folder = os.path.join(settings["LOGDIR"], f"test_{job.number}_1")
    table = rows(os.path.join(folder, "train.csv"))
    assert [int(row["step"]) for row in table] == list(range(1, 13)), (
        "every step once, those after the requeue too"
    )
    assert all(math.isfinite(float(row["class_loss"])) for row in table)
    steps = re.findall(r"^epoch (\d+) step 1/1 ", text, re.M)
    assert steps == sorted(set(steps), key=int) and len(steps) == 12, (
        "what was done is not done again"
    )
    assert os.path.getsize(os.path.join(folder, "weights.params")) > 1000
    assert os.path.exists(os.path.join(folder, "report.html")) and os.path.exists(
        os.path.join(folder, "curves.png")
    )
    assert not re.search("read-only file system|matplotlib", text, re.I), (
        "the container's root is read-only"
    )
    assert cluster.containers() == []
