from __future__ import annotations

import socket

import pytest

from nas_distill.engine.backends.isolation import check_address
from nas_distill.utils.errors import RunError


def test_an_address_that_answers_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_words_of_rays_are_left_to_ray() -> None:
    check_address("auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:99999", "[::1]:1"])
def test_an_address_where_nothing_answers_is_named(address: str) -> None:
    with pytest.raises(RunError) as caught:
        check_address(address)
    assert str(caught.value).startswith(f"No Ray cluster answers at '{address}' (")
    assert "'search.address'" in str(caught.value)


def test_the_client_server_is_refused() -> None:
    with pytest.raises(RunError, match=r"'ray://127\.0\.0\.1:10001' is the address of Ray's client server"):
        check_address("ray://127.0.0.1:10001")
