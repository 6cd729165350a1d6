"""The port on which rank 0 serves the job's key-value store."""

import os

from megatron_in2.errors import TryAgainError

_TAKEN = "EADDRINUSE"  # in torch's message


def port_taken(error: Exception, where: str) -> TryAgainError | None:
    """Return what to raise if an error says that another program listens on MASTER_PORT.

    Args:
        error: of torch's store.
        where: the rank and its host.
    """
    if _TAKEN not in str(error):
        return None
    return TryAgainError(
        f"{where}: another program listens on port {os.environ.get('MASTER_PORT', '?')}: start "
        "again with another MASTER_PORT"
    )
