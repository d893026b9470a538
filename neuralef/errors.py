"""The one exception a user is meant to see."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence or two: it names the offending value and the remedy. The command line prints it
    without a traceback and exits with status 2, as it does where the system refuses a file (permissions, a full
    disk); every other exception is a defect of ours and keeps its traceback.
    """
