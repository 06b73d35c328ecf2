"""tools/demo.py: its arguments. The page itself is tested in tests/visualization/demo."""

import socket

import pytest


@pytest.mark.parametrize("arguments, message", [
    (["--model", "quickstart", "--config-file", "a.yaml"], "--config-file: not allowed with argument --model"),
    (["--port", "0", "--config-file", "configs/quickstart/i3d_nl.yaml"], "MODEL.WEIGHTS: got '', allowed"),
    (["--port", "0", "--weights", "a.pth"], "no checkpoint a.pth"),
    (["--max-seconds", "0"], "max_seconds: got 0.0, allowed: above 0"),
    (["--max-megabytes", "-1"], "max_megabytes: got -1.0, allowed: above 0"),
    (["--port", "70000"], "port: got 70000, allowed: 0 to 65535"),
    (["--port", "0", "--model", "quickstrat"], "unknown model 'quickstrat': did you mean 'quickstart'?"),
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


@pytest.fixture()
def served(monkeypatch):
    """What the script serves, which it does for no time at all."""
    import nlvideo.visualization.demo as demo

    calls = []

    class Page:
        def close(self, verbose):
            calls[-1]["closed"] = calls[-1]["content"].uploads.path.is_dir()

    class Ended:
        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            pass

        def wait(self):
            calls[-1]["waited"] = True

    def start(content, name, host, port):
        calls.append({"content": content, "name": name, "host": host, "examples": [p.stem for p in content.examples]})
        return Page(), f"http://{host}:{port}/"

    monkeypatch.setattr(demo, "start", start)
    monkeypatch.setattr(demo, "ended_by_signal", Ended)
    return calls


def test_the_bundled_model_is_served_with_examples(call_tool, served):
    status, out, _ = call_tool("demo", "--port", "0", "--device", "cpu", "--max-seconds", "7")
    (call,) = served
    assert status == 0 and out.startswith("Serving quickstart at http://127.0.0.1:") and out.count("\n") == 1
    assert call["waited"] and call["closed"] and call["content"].limits.max_seconds == 7
    assert call["examples"] == ["left", "right", "up", "down", "clockwise", "5_in_a_row"]
    assert not call["content"].uploads.path.exists() and not call["content"].examples[0].exists()


def test_another_address_is_warned_about(call_tool, served):
    status, out, _ = call_tool("demo", "--port", "0", "--device", "cpu", "--host", "0.0.0.0")
    assert status == 0 and "Everybody who reaches 0.0.0.0 can use the page" in out and served[0]["host"] == "0.0.0.0"
