"""tools/demo.py: its arguments. The page itself is tested in tests/visualization/demo."""

import socket

import pytest


@pytest.mark.parametrize("arguments, message", [
    (["--model", "quickstart", "--config-file", "a.yaml", "--weights", "a.pth"], "allowed: one of them"),
    (["--config-file", "a.yaml"], "--config-file and --weights: got one of them, allowed: both or none"),
    (["--weights", "a.pth"], "--config-file and --weights: got one of them, allowed: both or none"),
    (["--max-seconds", "0"], "max_seconds: got 0.0, allowed: above 0"),
    (["--max-megabytes", "-1"], "max_megabytes: got -1.0, allowed: above 0"),
    (["--port", "70000"], "port: got 70000, allowed: 0 to 65535"),
    (["--port", "0", "--model", "quickstrat"], "unknown config 'quickstrat': did you mean"),
    (["--port", "0", "--config-file", "missing.yaml", "--weights", "a.pth"], "missing.yaml"),
])  # fmt: skip
def test_mistakes_are_one_line(call_tool, arguments, message):
    status, out, err = call_tool("demo", *arguments)
    assert status == 2 and message in err and err.count("\n") == 1 and out == "", err


def test_a_taken_port_is_found_out_at_once(call_tool):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = call_tool("demo", "--port", port)
    assert status == 2 and f"cannot listen on 127.0.0.1:{port}" in err and err.count("\n") == 1


def test_only_this_machine_by_default(load_tool):
    defaults = load_tool("demo").build_parser().parse_args([])
    assert defaults.host == "127.0.0.1" and defaults.max_megabytes == 100 and defaults.max_seconds == 120
