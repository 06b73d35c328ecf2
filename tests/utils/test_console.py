"""Console output as terminals and pipes take it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nlvideo.utils.console import Printable, printable, setup_logger


def test_what_a_terminal_would_take_for_a_command_is_shown_as_escapes() -> None:
    assert printable("\x1b[31mred\x07\r\x9b1m\u202egpj\x00\x7f") == r"\x1b[31mred\x07\r\x9b1m\u202egpj\x00\x7f"
    whole = "name caf\u00e9 \u4e2d \U0001f468\u200d\U0001f469\ttab\nline \\x1b \udce9"
    assert printable(whole) == whole


def test_a_stream_that_is_printable_is_a_stream(capsys: pytest.CaptureFixture) -> None:
    stream = Printable(sys.stdout)
    print("a\x1bb", file=stream, flush=True)
    assert capsys.readouterr().out == "a\\x1bb\n" and stream.encoding == sys.stdout.encoding


def test_names_are_escaped_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    logger = setup_logger(str(tmp_path), name="console_of_a_test")
    logger.info("cannot read %s:\n%s", "\x1b]0;title\x07.mp4", os.fsdecode(b"caf\xe9.mp4"))
    for text in (
        capsys.readouterr().out.encode(errors="backslashreplace").decode(),
        (tmp_path / "log.txt").read_text(),
    ):
        assert "cannot read \\x1b]0;title\\x07.mp4:\ncaf\\udce9.mp4" in text
    setup_logger(None, rank=1, name="console_of_a_test")


SCRIPT = """
import argparse, logging, sys
from nlvideo.engine.script import ScriptParser, run_script
from nlvideo.utils.console import setup_logger

def main(args):
    if args.log:
        logger = setup_logger(args.log)
        for i in range(100000):
            logger.info("line")
    else:
        print(args.text * 100000 if args.many else args.text)

parser = ScriptParser()
parser.add_argument("--text", default="line \\u4e2d\\udce9\\x1b\\n")
parser.add_argument("--many", action="store_true")
parser.add_argument("--log")
run_script(main, parser)
"""


def run(command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command.replace("TOOL", f'{sys.executable} -c "$SCRIPT"') + "; echo ${PIPESTATUS[0]} >&2"],
        env={**os.environ, "SCRIPT": SCRIPT, **environment}, capture_output=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("flags", ["--many", "", "--log OUT", "--help"])
def test_a_reader_that_stops_reading_ends_the_tool_quietly(tmp_path: Path, flags: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", SCRIPT, *flags.replace("OUT", str(tmp_path)).split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(writer)
    # Where argparse itself writes to the pipe, it takes no notice.
    is_argparse = flags == "--help" and unbuffered
    assert (done.returncode, done.stderr) == (0 if is_argparse else -signal.SIGPIPE, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_no_encoding_ends_the_tool(encoding: str) -> None:
    done = run("TOOL", PYTHONIOENCODING=encoding)
    shown = "\u4e2d".encode() if encoding == "utf-8" else b"\\u4e2d"
    assert done.stdout == b"line " + shown + b"\\udce9\\x1b\n\n" and done.stderr == b"0\n"


def test_a_closed_output_does_not_end_the_tool() -> None:
    assert run("TOOL >&-").stderr == b"0\n"


def test_a_value_may_begin_with_a_dash() -> None:
    assert run("TOOL --text -clip.mp4").stdout == b"-clip.mp4\n"
    assert b"expected one argument" in run("TOOL --text --many").stderr
    assert b"expected one argument" in run("TOOL --text --txet a").stderr
    assert run("TOOL --text -1 --many").stdout.startswith(b"-1-1-1")


def test_a_file_of_that_name_as_an_argument_is_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "-out").mkdir()
    error = run(f"cd {tmp_path}; TOOL -out").stderr.splitlines()[0]
    assert error == b"-c: unrecognized arguments: -out; for the file or folder write ./-out"


def test_a_run_that_saves_first_is_asked_to_stop_when_the_console_is_gone(tmp_path: Path) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: got.append(number))
    reader, writer = os.pipe()
    os.close(reader)
    logger = setup_logger(str(tmp_path), name="gone_of_a_test")
    try:
        logger.handlers[0].stream = os.fdopen(writer, "w")
        logger.info("one")
        logger.info("two")
        assert got == [signal.SIGHUP] and (tmp_path / "log.txt").read_text().count("INFO") == 2
    finally:
        signal.signal(signal.SIGHUP, before)
        setup_logger(None, rank=1, name="gone_of_a_test")


def test_a_log_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "log.txt")
    logger = setup_logger(str(tmp_path), name="full_of_a_test")
    logger.info("one")
    logger.info("two")
    out, err = capsys.readouterr()
    assert out.count("INFO") == 2 and err == f"{tmp_path}/log.txt cannot be written: No space left on device\n"
    logger.handlers[1].stream = None  # or what is left would be written once more
    setup_logger(None, rank=1, name="full_of_a_test")
