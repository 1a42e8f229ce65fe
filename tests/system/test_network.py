"""Free ports and reachable addresses."""

from __future__ import annotations

import socket

import pytest

from open_r1.errors import RecipeError
from open_r1.system import network


def test_a_port_of_the_sites_range_that_is_free(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv(network.PORTS, f"{port}-{port}")
        with pytest.raises(RecipeError, match=rf"OPEN_R1_PORTS: every port of {port}-{port} is taken on "):
            network.find_free_port()
    assert network.find_free_port() == port
    with pytest.raises(RecipeError, match="every port"):
        network.find_free_port()  # handed out, although nobody listens on it yet
    monkeypatch.setenv(network.PORTS, "many")
    with pytest.raises(RecipeError, match="a range of ports such as 20000-20100, got 'many'"):
        network.find_free_port()


def test_an_address_is_one_that_resolves_to_more_than_the_loopback():
    assert network.find_reachable(["no-such-host.invalid", "192.0.2.7"]) == "192.0.2.7"
    with pytest.raises(RecipeError, match=r"can resolve none of no-such-host\.invalid, 127\.0\.0\.2"):
        network.find_reachable(["no-such-host.invalid", "127.0.0.2"])
