"""The address of a Ray cluster, looked at before Ray does."""

from __future__ import annotations

import socket

from nas_distill.common.errors import RunError, first_line


def check_address(address: str) -> None:
    """Say at once what Ray would find out after minutes, with lines of its own on the terminal.

    Raises:
        RunError: nothing listens at ``address``, or it is one through which a search cannot be led.
    """
    if "://" in address:
        raise RunError(
            f"'{address}' is the address of Ray's client server, through which a search cannot be led; give that of "
            "the cluster's head, such as 10.0.0.1:6379, on a machine of the cluster."
        )
    host, colon, port = address.rpartition(":")
    if not colon:  # a word of Ray's, such as "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RunError(
            f"No Ray cluster answers at '{address}' ({first_line(error)}); start one with 'ray start --head', or leave "
            "'search.address' out to search on this machine."
        ) from error
