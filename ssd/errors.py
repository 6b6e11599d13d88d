"""The exceptions that stand for a mistake of the user's."""


class UserError(ValueError):
    """The user asked for something that cannot be done.

    The message is one line that names the thing and its value. The command line prints it without a
    traceback and exits with status 2; every other exception is our own defect and keeps its traceback.
    """


class UserErrorEverywhere(UserError):
    """A UserError that is raised on every rank, so that rank 0 alone says it."""
