"""run.sub under a real Slurm of two nodes; Pyxis and Enroot have stand-ins (spank/), training mostly too."""
import os
import re
import shutil
import subprocess
import tempfile

import pytest

from tests.launch import slurm_cluster
from tests.launch.docker_engine import missing
from tests.training.tiny import FLAGS, ROOT, tiny_data

FAKE = "/workspace/ssd/tests/launch/fake_training.py"
CONFIG = dict(SYSTEM="test", NNODES="2", WALLTIME="5", NEXP="1", NGPU="1", NSOCKET="0", SOCKETCORES="0", HT="0",
              RECIPE="ssd-resnet34-shapes", BATCHSIZE="4", NUMEPOCHS="1", EXTRA_PARAMS="--device cpu",
              SUBMISSION_ORG="me", SUBMISSION_PLATFORM="two nodes of a test", PRETRAINED_DIR="none")
reason = slurm_cluster.missing()
assert reason is None or os.environ.get("LAUNCH_TESTS") != "required", reason
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


def copy_project(folder):
    os.makedirs(folder)
    for name in ("ssd", "scripts", "tests", "run_and_time.sh"):
        source = os.path.join(ROOT, name)
        if os.path.isdir(source):
            shutil.copytree(source, os.path.join(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
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
    made = subprocess.run([os.path.join(ROOT, "tests/launch/base_image.sh"), "--rootfs"], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)
    if made.returncode == 3:
        missing(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    copy_project(cluster.path("project/workspace/ssd"))
    return cluster.image("ssd.sqsh", cluster.path("project"), made.stdout.splitlines()[-1])


@pytest.fixture
def settings(cluster, image, request):
    folder = tempfile.mkdtemp(prefix=request.node.originalname, dir=cluster.base)
    data, logs = os.path.join(folder, "a data set"), os.path.join(folder, "my logs")
    os.makedirs(data)
    return dict(CONFIG, CONT=image, DATADIR=data, LOGDIR=logs, PYTHON=FAKE)


def submit(cluster, settings, *arguments):
    return cluster.submit("-N", settings.get("NNODES", "2"), "-t", "5", *arguments, os.path.join(ROOT, "run.sub"),
                          cwd="/", **settings)


def log_of(settings, job, trial, kind="log"):
    with open(os.path.join(settings["LOGDIR"], f"test_{job.number}_{trial}.{kind}")) as file:
        return file.read()


def test_two_trials(cluster, settings):
    """Data, logs and image have blanks in their paths or names; job output, logs, statuses, what training was given."""
    job = submit(cluster, dict(settings, NEXP="2"))
    assert job.wait() == ("COMPLETED", 0), job.output
    assert re.search(r"trial 1 of 2: status 0 after \d+ s: .*_1.log\n.*trial 2 of 2: status 0", job.output), job.output
    for trial in (1, 2):
        text = log_of(settings, job, trial)
        lines = text.strip().splitlines()
        assert lines[-1].startswith("RESULT,SINGLE_STAGE_DETECTOR,,") and lines[-1].split(",")[4] == "me"
        assert text.count("fake training: --recipe") == 1, "one rank speaks"
        assert f"--data-dir /data --output /results/test_{job.number}_{trial} --cache-dir /results/cache" in text
        assert "--resume" not in text and "--pretrained-backbone" not in text
        assert "--cache-cleared" in text, "root may drop the file cache"
        assert log_of(settings, job, trial, "status") == "0\n"
    assert cluster.containers() == []


def test_a_failing_trial_does_not_keep_the_next_from_running(cluster, settings):
    job = submit(cluster, dict(settings, NEXP="2", FAKE="status 3 in trial 1"))
    assert job.wait() == ("FAILED", 3), job.output
    assert "trial 1 of 2: status 3" in job.output and "trial 2 of 2: status 0" in job.output
    assert "RESULT" not in log_of(settings, job, 1) and "RESULT" in log_of(settings, job, 2)
    assert "training ended with status 3" in log_of(settings, job, 1)
    assert (log_of(settings, job, 1, "status"), log_of(settings, job, 2, "status")) == ("3\n", "0\n")
    assert cluster.containers() == []


def test_notice_of_the_time_limit_saves_requeues_and_resumes(cluster, settings):
    """USR1 as `--signal=USR1@180` sends it: to the steps. Trial 1 is not repeated, trial 2 goes on."""
    job = submit(cluster, dict(settings, NEXP="2", FAKE="wait in trial 2"))
    log = os.path.join(settings["LOGDIR"], f"test_{job.number}_2.log")
    slurm_cluster.until(lambda: os.path.exists(log) and "waiting" in log_of(settings, job, 2), "trial 2", 60)
    assert cluster.run("scancel", "--signal=USR1", job.number).returncode == 0
    assert job.wait() == ("COMPLETED", 0), job.output
    assert job.field("Restarts") == "1"
    assert "trial 2 was stopped by a signal and saved; the job is queued again" in job.output
    assert "trial 1 of 2: done before, status 0" in job.output
    text = log_of(settings, job, 2)
    assert text.count("got SIGUSR1") == 1 and "--resume auto" in text and "fake training: resumed" in text
    assert text.strip().splitlines()[-1].startswith("RESULT,") and text.count("RESULT") == 1
    assert log_of(settings, job, 1).count("RESULT") == 1
    assert cluster.containers() == []


@pytest.mark.parametrize("signal, state", [([], "CANCELLED"), (["--batch", "--signal=KILL"], "FAILED")])
def test_a_job_that_is_killed_keeps_logs_and_removes_containers(cluster, settings, signal, state):
    """scancel of the whole job; and run.sub alone gone without a word."""
    job = submit(cluster, dict(settings, NEXP="2", FAKE="wait in trial 1"))
    log = os.path.join(settings["LOGDIR"], f"test_{job.number}_1.log")
    slurm_cluster.until(lambda: os.path.exists(log) and "waiting" in log_of(settings, job, 1), "trial 1", 60)
    assert len(cluster.containers()) == 2, "one per node"
    assert cluster.run("scancel", *signal, job.number).returncode == 0
    assert job.wait()[0] == state, job.output
    slurm_cluster.until(lambda: not cluster.containers(), "containers removed", 40)
    text = log_of(settings, job, 1)
    assert "waiting" in text and "RESULT" not in text
    if not signal:    # Slurm gives KillWait to a job that is cancelled
        assert "got SIGTERM" in text
        assert os.path.exists(os.path.join(settings["LOGDIR"], f"test_{job.number}_1", "checkpoint"))
    assert not os.path.exists(os.path.join(settings["LOGDIR"], f"test_{job.number}_2.log")), "no second trial"


@pytest.mark.parametrize("changed, line", [
    (dict.fromkeys(set(CONFIG) - {"PRETRAINED_DIR"}),
     "SYSTEM NNODES WALLTIME NEXP NGPU NSOCKET SOCKETCORES HT RECIPE BATCHSIZE NUMEPOCHS EXTRA_PARAMS SUBMISSION_ORG "
     r"SUBMISSION_PLATFORM is not set; source a config_\*.sh before sbatch"),
    (dict(HT=None), r"HT is not set; source a config_\*.sh before sbatch"),
    (dict(CONT=None, DATADIR=None), "CONT DATADIR is not set; give it to sbatch: CONT=... sbatch ... run.sub"),
    (dict(NGPU="four"), "NGPU=four: a whole number of at least 1 is needed"),
    (dict(NNODES="2"), "NNODES=2 in the config, but the job has 1 nodes; give sbatch -N 2"),
    (dict(DATADIR="/no/such/folder"), r"DATADIR=/no/such/folder: no such folder \(node n[12]\)"),
    (dict(DATADIR="/a,b"), "DATADIR=/a,b: Pyxis cannot mount a path with .*"),
    (dict(LOGDIR="/proc/logs"), "LOGDIR=/proc/logs: cannot be made"),
    (dict(LOGDIR="/proc"), r"LOGDIR=/proc: user root cannot write there \(node n[12]\)"),
    (dict(PRETRAINED_DIR="/usr"), "PRETRAINED_DIR=/usr: needed is one file resnet34-.*"),
    (dict(MPI_TYPE="pmix_v9"), "MPI_TYPE=pmix_v9: this cluster has .*pmi2, pmix.*"),
    (dict(NGPU="4", EXTRA_PARAMS="--device gpu"), "NGPU=4: the job sees 0 GPUs; .*"),
    (dict(NGPU="4000"), "NGPU=4000: more ranks than the [0-9]+ CPUs .*"),
    (dict(CONT="/no/such.sqsh"), r"CONT=/no/such.sqsh: no such file \(node n[12]\)"),
    (dict(CONT="folder/such.sqsh"), "CONT=folder/such.sqsh: the path of a squashfs file must begin with / or ./"),
    (dict(CONT="docker://nvcr.io/nvidia/mxnet:21.09-py3"), "CONT=docker://nvcr.io.*: leave out docker://, .*"),
    (dict(CONT=r"nvcr.io\#nvidia/mxnet"), r"CONT=nvcr.io\\#nvidia/mxnet: holds a backslash; .*"),
])
def test_a_mistake_is_one_line_before_anything_starts(cluster, settings, changed, line):
    if "4000" in changed.values() and shutil.which("nvidia-smi"):
        pytest.skip("a machine with GPUs")
    settings = dict(settings, NNODES="1", **changed) if "NNODES" not in changed else dict(settings, **changed)
    job = cluster.submit("-N", "1", "-t", "5", os.path.join(ROOT, "run.sub"), cwd="/",
                         **{name: value for name, value in settings.items() if value is not None})
    assert job.wait() == ("FAILED", 2), job.output
    assert re.fullmatch("run.sub: " + line + "\n", job.output), job.output
    assert cluster.containers() == [] and not os.path.exists(os.path.join(settings["LOGDIR"] or "", "cache"))


def test_the_image_is_asked_of_the_registry_by_its_name(cluster, settings):
    """Enroot wants # between registry and image; one that is not there ends the job."""
    job = submit(cluster, dict(settings, CONT="registry.example/team/ssd:1"))
    assert job.wait() == ("FAILED", 1), job.output
    assert "registry.example#team/ssd:1 is used" in job.output
    assert "failed to import docker image: registry.example#team/ssd:1" in job.output
    assert "CONT=registry.example#team/ssd:1: the container could not be made" in job.output
    os.makedirs(cluster.path("registry", "registry.example#team"))
    shutil.copy(settings["CONT"], cluster.path("registry", "registry.example#team", "ssd:1"))
    os.makedirs(os.path.join(settings["DATADIR"], "weights"))
    open(os.path.join(settings["DATADIR"], "weights", "resnet34-333f7ec4.onnx"), "w").close()
    job = submit(cluster, dict(settings, CONT="registry.example/team/ssd:1",
                               PRETRAINED_DIR=os.path.join(settings["DATADIR"], "weights")))
    assert job.wait() == ("COMPLETED", 0), job.output
    assert "--pretrained-backbone /pretrained/resnet34-333f7ec4.onnx" in log_of(settings, job, 1)


def test_two_ranks_train_over_pmix_through_a_notice(cluster, settings):
    """The real training: MXNet, DALI and Horovod over MPI, a rank on each node; stopped, requeued, resumed, ended."""
    os.rmdir(settings["DATADIR"])
    tiny_data(settings["DATADIR"])
    del settings["PYTHON"]
    flags = " ".join(FLAGS[2:]) + " --max-steps 20 --eval-every 1000 --clear-cache"
    job = submit(cluster, dict(settings, NUMEPOCHS="30", EXTRA_PARAMS=flags))
    log = os.path.join(settings["LOGDIR"], f"test_{job.number}_1.log")
    slurm_cluster.until(lambda: os.path.exists(log) and "epoch 2 step" in log_of(settings, job, 1), "step 2", 180)
    assert cluster.run("scancel", "--signal=USR1", job.number).returncode == 0
    state = job.wait(300)
    text = log_of(settings, job, 1)
    assert state == ("COMPLETED", 0), job.output + text
    assert job.field("Restarts") == "1" and "the job is queued again" in job.output
    assert text.strip().splitlines()[-1].startswith("RESULT,SINGLE_STAGE_DETECTOR,,") and text.count("RESULT,") == 1
    assert '"key": "global_batch_size", "value": 8' in text, "two ranks of four images"
    assert '"key": "cache_clear", "value": "by the launcher, on every node"' in text
    assert "after 20 steps of 8" in text
    assert text.count("epoch 1 step 1/1") == 1, "what was done is not done again"
    assert os.path.getsize(os.path.join(settings["LOGDIR"], f"test_{job.number}_1", "weights.params")) > 1000
    assert cluster.containers() == []
