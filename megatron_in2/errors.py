"""The one error that a user can fix, and the exit codes that schedulers and scripts see."""

EXIT_BAD_INPUT = 2
EXIT_REQUEUE = 75  # sysexits' EX_TEMPFAIL: "try again later", what the scheduler requeues on
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells count: 128 + SIGINT


class InputError(ValueError):
    """The user's input cannot be used; the message, one line, names what, where and the remedy."""
