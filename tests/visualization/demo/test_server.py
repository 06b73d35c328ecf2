"""Ports, addresses and signals; and what is said without Gradio."""

import os
import signal
import socket
import sys

import pytest

from nlvideo.visualization.demo import ended_by_signal, free_port, start


def test_any_free_port():
    port = free_port("127.0.0.1", 0)
    assert 1024 <= port < 2**16 and free_port("127.0.0.1", port) == port


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port} .*choose another port"):
            free_port("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(port):
    with pytest.raises(ValueError, match=f"port: got {port}, allowed: 0 to 65535"):
        free_port("127.0.0.1", port)


def test_an_address_of_another_machine():
    with pytest.raises(ValueError, match="cannot listen on 192.0.2.1:0"):
        free_port("192.0.2.1", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait(number):
    before = signal.getsignal(number)
    with ended_by_signal() as ended:
        assert not ended.is_set()
        os.kill(os.getpid(), number)
        assert ended.wait(5)
    assert signal.getsignal(number) is before


def test_without_gradio_the_extra_is_named(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # put back afterwards
    with pytest.raises(ImportError, match=r"pip install 'nlvideo\[demo\]'"):
        start(demo, "quickstart")
