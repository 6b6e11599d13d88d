"""How a run may end early, and the exit statuses that tell (README lists them)."""

from __future__ import annotations

# 0: the run came to its end; 2: a mistake of the user's (ssd.commandline); 1: a fault of the
# program's.
STATUS_NOT_FINITE = 3
# 4: another rank failed, see ssd.watchdog.end.
STATUS_STOPPED = 75  # sysexits.h: EX_TEMPFAIL, "try again": go on with --resume


class Ended(Exception):
    """Every rank ends here, at the same step, in good order. The text is one line, for rank 0 to
    print."""

    status = 1


class Stopped(Ended):
    """A signal asked for it."""

    status = STATUS_STOPPED


class NotFinite(Ended):
    """A loss, gradient or weight is not finite."""

    status = STATUS_NOT_FINITE


class NoScore(Ended):
    """Detections could not be scored."""
