"""The one error that a user can fix, and the exit codes that schedulers and scripts see."""

EXIT_BAD_INPUT = 2
EXIT_UNFIT_NODES = 69  # sysexits' EX_UNAVAILABLE: a node is unfit, or a rank hung
EXIT_REQUEUE = 75  # sysexits' EX_TEMPFAIL: "try again later", what the scheduler requeues on
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells count: 128 + SIGINT


class InputError(ValueError):
    """The user's input cannot be used; the message, one line, names what, where and the remedy."""


class TryAgainError(Exception):
    """Nothing is wrong with the input: the next start may work; the message is one line."""


class UnfitNodeError(Exception):
    """This node cannot do its part, another one may; the message is one line."""
