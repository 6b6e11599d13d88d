"""How long a run of two ranks survives a fault: prints a table, median and worst of some trials.

    python benchmarks/fault_times.py [TRIALS]

Real runs under horovodrun, on a tiny network and data set; --rank-timeout is
tests.faults.launch.RANK_TIMEOUT.
"""

import os
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.faults.launch import RANK_TIMEOUT, run
from tests.training.tiny import tiny_data

FAULTS = ("raise", "kill", "stop", "leave", "exit", "hang", "term", "usr1")


def main(trials: int) -> None:
    print(
        f"| fault | rank | until all are gone, median of {trials} [s] | worst [s] | last line "
        "|\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        data = tiny_data(os.path.join(folder, "set"))
        for fault in FAULTS:
            for rank in (0, 1):
                seconds = []
                for trial in range(trials):
                    result = run(
                        f"{fault}:{rank}:3",
                        data,
                        os.path.join(folder, f"{fault}-{rank}-{trial}"),
                        "--max-steps",
                        "50",
                        "--save-interval",
                        "1steps",
                        ranks=2,
                    )
                    assert result.status and not result.left, result.output
                    seconds.append(
                        time.time() - float(re.search(r"fault at ([\d.]+)", result.output).group(1))
                    )
                line = re.sub(r".*stopped: ", "", result.last_line()).replace(folder, "...")
                print(
                    f"| {fault} | {rank} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | "
                    f"{line} |",
                    flush=True,
                )
    print(
        f"\n--rank-timeout {RANK_TIMEOUT} s; SIGKILL follows for a rank that was stopped. Times "
        "from the fault to the end of the launcher and of every process that it started."
    )


if __name__ == "__main__":
    if len(sys.argv) > 2 or not all(argument.isdigit() for argument in sys.argv[1:]):
        sys.exit(__doc__)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
