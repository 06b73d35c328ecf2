"""Arguments, one-line errors and exit codes of scripts."""

import argparse
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from nlvideo.data import VideoDecodeError
from nlvideo.engine.script import (
    ScriptParser,
    add_model_arguments,
    chosen_model,
    default_argument_parser,
    exit_code_of,
    one_line,
    run_script,
)
from nlvideo.errors import LookupFailed, RankFailed, TooManyFailedVideos, TrainingInterrupted, UnexpectedResults


def test_flags_are_frozen() -> None:
    """A new flag is a decision: a key of the config does the same and is recorded with the run."""
    flags = {option for action in default_argument_parser()._actions for option in action.option_strings}
    assert flags == {
        "-h", "--help", "--config-file", "--resume", "--eval-only", "--num-gpus", "--num-machines", "--machine-rank",
        "--dist-url", "--dist-timeout", "--max-restarts", "--plugin",
    }  # fmt: skip


def test_defaults() -> None:
    assert vars(default_argument_parser().parse_args([])) == {
        "config_file": None, "resume": False, "eval_only": False, "num_gpus": 1, "num_machines": 1, "machine_rank": 0,
        "dist_url": "auto", "dist_timeout": 30.0, "max_restarts": 0, "plugin": [], "opts": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "--config-file a.yaml --plugin p --plugin q --resume --num-gpus 2 SEED -1 OUTPUT_DIR out",
        "--config-file a.yaml SEED -1 OUTPUT_DIR out --plugin p --plugin q --resume --num-gpus 2",
        "SEED -1 OUTPUT_DIR out --plugin p --plugin q --resume --num-gpus 2 --config-file a.yaml",
        "SEED -1 --plugin p --resume OUTPUT_DIR out --plugin q --num-gpus 2 --config-file a.yaml",
    ],
)
def test_overrides_and_flags_in_any_order(line: str) -> None:
    args = default_argument_parser().parse_args(line.split())
    assert (args.config_file, args.plugin, args.resume, args.num_gpus) == ("a.yaml", ["p", "q"], True, 2)
    assert args.opts == ["SEED", "-1", "OUTPUT_DIR", "out"]


CASES = [
    (ValueError("SOLVER.MAX_ITER: got 0"), 2, "SOLVER.MAX_ITER: got 0"),
    (ValueError("two\n  lines"), 2, "two lines"),
    (LookupFailed("unknown key 'A'"), 2, "unknown key 'A'"),
    (KeyError("no such thing"), 2, "no such thing"),
    (FileNotFoundError("no config file 'a.yaml'"), 2, "no config file 'a.yaml'"),
    (ImportError("plugin 'x' could not be imported"), 2, "plugin 'x' could not be imported"),
    (VideoDecodeError("a.mp4", "broken"), 2, "a.mp4: broken"),
    (FloatingPointError("iteration 3: the loss is not finite"), 1, "iteration 3: the loss is not finite"),
    (TooManyFailedVideos("2 of 10"), 1, "2 of 10"),
    (UnexpectedResults("off"), 1, "off"),
    (torch.OutOfMemoryError("CUDA out of memory"), 1, "CUDA out of memory"),
    (RankFailed("rank 1: off", 1, ""), 1, "rank 1: off"),
    (TrainingInterrupted("SIGINT: stopped"), 130, "SIGINT: stopped"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize(("error", "code", "line"), CASES, ids=lambda case: type(case).__name__)
def test_foreseen_errors_end_in_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NLVIDEO_DEBUG", raising=False)
    monkeypatch.setattr(sys, "argv", ["/some/where/tool.py"])

    def fail(args: argparse.Namespace) -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(fail, default_argument_parser(), [])
    assert caught.value.code == code
    assert capsys.readouterr().err == f"tool.py: {line}\n"


def _run(error: BaseException) -> None:
    def fail(args: argparse.Namespace) -> None:
        raise error

    with pytest.raises(SystemExit):
        run_script(fail, default_argument_parser(), [])


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLVIDEO_DEBUG", "1")
    _run(ValueError("bad value"))
    error = capsys.readouterr().err
    assert "Traceback" in error and "in fail" in error and error.endswith(": bad value\n")


def test_errors_that_nobody_foresaw_keep_their_traceback(capsys: pytest.CaptureFixture) -> None:
    _run(AttributeError("None has no attribute x"))
    error = capsys.readouterr().err
    assert "Traceback" in error and error.endswith(": AttributeError: None has no attribute x\n")
    assert exit_code_of(AttributeError()) == 1


def test_the_traceback_of_a_rank_is_passed_on(capsys: pytest.CaptureFixture) -> None:
    _run(RankFailed("rank 1: TypeError: x", 1, "Traceback of rank 1\n"))
    assert capsys.readouterr().err.startswith("Traceback of rank 1\n")


def model_parser(*args: object, **kwargs: object) -> ScriptParser:
    parser = ScriptParser(prog="tool.py")
    add_model_arguments(parser, *args, **kwargs)
    return parser


def test_a_trained_model_is_chosen_alike_everywhere() -> None:
    line = "--model mine --plugin p SEED 1 --entry ema --weights w.pth --device cpu --plugin q TEST.NUM_CLIPS 2"
    assert chosen_model(model_parser().parse_args(line.split())) == {
        "cfg_or_name": "mine", "weights": "w.pth", "device": "cpu", "opts": ["SEED", "1", "TEST.NUM_CLIPS", "2"],
        "plugins": ["p", "q"],
        "entry": "ema",
    }  # fmt: skip
    nothing = chosen_model(model_parser("quickstart", device=False).parse_args([]))
    assert nothing == {
        "cfg_or_name": "quickstart",
        "weights": None,
        "device": None,
        "opts": [],
        "plugins": [],
        "entry": "",
    }
    assert chosen_model(model_parser("quickstart").parse_args(["--config-file", "f.yaml"]))["cfg_or_name"] == "f.yaml"


@pytest.mark.parametrize("arguments, message", [
    ([], "one of the arguments --model --config-file is required"),
    (["--model", "a", "--config-file", "b"], "not allowed with argument --model"),
    (["--model", "a", "--modle", "b"], "unrecognized arguments: --modle"),
    (["--model"], "expected one argument"),
])  # fmt: skip
def test_mistakes_in_arguments_are_one_line(capsys: pytest.CaptureFixture, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        model_parser().parse_args(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and message in err and err.startswith("tool.py: ") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["predict", "visualize_attention", "extract_features", "export_model", "demo"])
def test_tools_take_a_model_by_the_same_names(load_tool: Callable, name: str) -> None:
    shared = {action.dest: action.help for action in model_parser("quickstart" * (name == "demo"))._actions}
    own = {action.dest: action.help for action in load_tool(name).build_parser()._actions}
    missing = {dest for dest, text in shared.items() if own.get(dest) != text}
    # An export is made and compared on the CPU.
    assert missing == ({"device"} if name == "export_model" else set())


def test_an_error_without_a_message_has_a_name() -> None:
    assert one_line(ValueError()).strip() == "ValueError:"


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (None, 0), ("text", 1)])
def test_exit_codes_of_exits(code: object, expected: int) -> None:
    assert exit_code_of(SystemExit(code)) == expected


def test_arguments_do_not_import_torch() -> None:
    code = "import sys, nlvideo.engine.script, nlvideo.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_the_package_exist() -> None:
    import nlvideo.engine

    for name in nlvideo.engine.__all__:
        assert getattr(nlvideo.engine, name).__name__ == name
    with pytest.raises(AttributeError, match="Trainer"):
        _ = nlvideo.engine.Trainer
