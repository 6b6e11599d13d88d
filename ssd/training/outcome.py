"""The ways in which a run may end early, and their exit statuses (docs/commands.md lists
them)."""

from __future__ import annotations

# 0: the run is complete; 1: a bug; 2: a mistake of the user's (ssd.commandline).
STATUS_NOT_FINITE = 3
# 4: another rank failed, see ssd.watchdog.end.
STATUS_STOPPED = 75  # sysexits.h: EX_TEMPFAIL, "try again": continue with --resume


class Ended(Exception):
    """Every rank ends in an orderly way, at the same step. The text is one line for rank 0 to
    print."""

    status = 1


class Stopped(Ended):
    """A signal requested it."""

    status = STATUS_STOPPED


class NotFinite(Ended):
    """A loss, gradient or weight is not finite."""

    status = STATUS_NOT_FINITE


class NoScore(Ended):
    """Detections could not be scored."""
