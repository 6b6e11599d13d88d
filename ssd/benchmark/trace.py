"""A trace of MXNet's operators for chrome://tracing."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile

from ssd.files import replace_file, write_errors


def unbulk(block, training: bool) -> None:
    """Make a hybridized block run its operators one by one, so that a trace names each; otherwise
    dozens count as one."""
    # With static shapes MXNet 1.9.1 runs an inference graph as one bulk, whatever the bulk size;
    # and a bulk of one has no name.
    size = 1 if training else 0
    block.hybridize(
        backend=block._backend,
        static_alloc=True,
        static_shape=training,
        forward_bulk_size=size,
        backward_bulk_size=size,
    )


@contextlib.contextmanager
def traced(path: str):
    """Trace MXNet in the `with` block and write the new file `path`, a JSON object whose
    `traceEvents` are in microseconds. UserError if it cannot be written."""
    import mxnet as mx

    mx.nd.waitall()
    with tempfile.TemporaryDirectory(prefix="ssd-trace-") as folder:
        raw = os.path.join(folder, "trace.json")
        mx.profiler.set_config(
            filename=raw,
            profile_symbolic=True,
            profile_imperative=True,
            profile_api=False,
            profile_memory=False,
        )
        mx.profiler.set_state("run")
        try:
            yield
            mx.nd.waitall()
        finally:
            mx.profiler.set_state("stop")
        mx.profiler.dump()
        with open(raw, encoding="utf-8") as file:
            trace = json.load(file)
    assert trace["traceEvents"]
    with write_errors(f"--trace {path}", path):
        replace_file(path, json.dumps(trace, separators=(",", ":")).encode())
