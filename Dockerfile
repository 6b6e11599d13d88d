# The benchmark on NVIDIA's MXNet image (Ubuntu 20.04, Python 3.8, MXNet 1.9.0.rc6, DALI 1.5.0, Horovod 0.22.1,
# Open MPI 4.1.1, NCCL 2.11.4: its release notes), or on another image with MXNet, NumPy, DALI and Horovod:
#
#   docker build --pull -t ssd .
#   docker build --build-arg FROM_IMAGE_NAME=my/mxnet:1.9 -t ssd .
ARG FROM_IMAGE_NAME=nvcr.io/nvidia/mxnet:21.09-py3
FROM ${FROM_IMAGE_NAME}

WORKDIR /workspace/ssd

# What the image lacks, at the versions of scripts/constraints.txt. Of NVIDIA's image that is, by its release notes, at least
#   pycocotools      COCO's twelve numbers
#   mlperf-logging   the MLPerf log and its compliance checker
#   onnx             reads the converted ImageNet weights
#   faster-coco-eval counts the score in less time
# and pillow (checks the images), pyyaml (recipes), tqdm and rich (progress), OpenCV and matplotlib (pictures, curves),
# packaging, cloudpickle and psutil (Horovod) where they are not there already. MXNet, NumPy, Horovod and DALI of the
# image are never replaced. These three files alone decide this layer: a change of the code leaves it as it is.
COPY pyproject.toml scripts/constraints.txt scripts/container_packages.py /opt/ssd-packages/
RUN cd /opt/ssd-packages \
 && python3 container_packages.py pyproject.toml constraints.txt requirements.txt base.txt \
 && python3 -m pip install --no-cache-dir -r requirements.txt -c base.txt \
 && python3 -c "import mlperf_logging.mllog, onnx, pycocotools.cocoeval, PIL.Image, yaml"

# HOROVOD_CYCLE_TIME                   look for finished gradients every 0.1 ms, not every ms
# HOROVOD_CACHE_CAPACITY               remember the answers about 2048 tensors; a new tensor costs a round of talking
# HOROVOD_BATCH_D2D_MEMCOPIES          gather small gradients by one kernel instead of a copy each
# HOROVOD_NUM_NCCL_STREAMS             one stream is enough for one model
# MXNET_CUDNN_AUTOTUNE_DEFAULT         no trial of convolution algorithms: it takes time on the clock and differs from
#                                      run to run
# MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD, _BWD   hand the engine the whole pass at once instead of 15 operators
# MXNET_EXEC_ENABLE_ADDTO              add up gradients of a shared input in place, without a buffer each
# MXNET_GPU_WORKER_NTHREADS, MXNET_CPU_PRIORITY_NTHREADS   one is enough for one GPU a process; more only contend
# MXNET_SAFE_ACCUMULATION              sums of float16 values are kept in float32
# OMP_NUM_THREADS                      the GPU computes; threads of many ranks would stand in each other's way;
#                                      run_with_docker.sh empties it for runs without GPUs
ENV HOROVOD_CYCLE_TIME=0.1 \
    HOROVOD_CACHE_CAPACITY=2048 \
    HOROVOD_BATCH_D2D_MEMCOPIES=1 \
    HOROVOD_NUM_NCCL_STREAMS=1 \
    MXNET_CUDNN_AUTOTUNE_DEFAULT=0 \
    MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD=999 \
    MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD=999 \
    MXNET_EXEC_ENABLE_ADDTO=1 \
    MXNET_GPU_WORKER_NTHREADS=1 \
    MXNET_CPU_PRIORITY_NTHREADS=1 \
    MXNET_SAFE_ACCUMULATION=1 \
    OMP_NUM_THREADS=1

# The code, last.
COPY . .
