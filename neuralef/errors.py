"""The one exception a user is meant to see, and what the system says that a user can mend."""

import errno

BEYOND_US = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),  # a file where a folder should be, or the other way round
)
"""Errors of the system that the user can mend and we cannot: permissions, full disks, paths too long or in the way."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch's errors say, which are of no class of their own where a processor lacks memory."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence or two: it names the offending value and the remedy. The command line prints it
    without a traceback and exits with status 2, as it does where the system refuses a file (permissions, a full
    disk); every other exception is a defect of ours and keeps its traceback.
    """
