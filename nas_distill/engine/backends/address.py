"""Addresses of Ray: that of a cluster is checked before Ray is given it; without one, Ray listens on loopback only."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nas_distill.common.errors import RunError, first_line
from nas_distill.engine.backends.quiet import environment

CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def on_loopback(constants: Any) -> Iterator[None]:
    """Within the block, Ray starts on 127.0.0.1: its servers and workers then listen there, not on all interfaces.

    On Linux, Ray replaces a loopback address that it is given (``_node_ip_address``) by that of an outer interface,
    unless clusters are switched off, as they are by default on macOS and Windows. ``constants`` is Ray's module of
    constants, which it has read from the environment; the processes that it starts read the environment again.
    """
    before = constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER = False
    try:
        with environment({CLUSTER: "0"}):
            yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


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
