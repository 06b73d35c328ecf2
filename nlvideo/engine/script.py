"""What every script does around its work: its arguments, and an error in one line instead of a traceback.

Nothing here imports torch, so that ``--help`` answers at once.
"""

import argparse
import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nlvideo.errors import (
    FORESEEN,
    RUN_ERRORS,
    RankFailed,
    TrainingInterrupted,
    UploadFailed,
    VideoDecodeError,
    is_out_of_memory,
)
from nlvideo.utils.console import Printable, end_if_unread, never_fail_to_encode, printable
from nlvideo.utils.system.processes import keep_freed_memory

DEBUG_VARIABLE = "NLVIDEO_DEBUG"
INTERRUPTED = 130


class ScriptParser(argparse.ArgumentParser):
    """A parser that takes flags and overrides in any order, and says a mistake in one line."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; a value may begin with a dash, as names of files do."""
        words = list(sys.argv[1:] if args is None else args)
        flags = {flag: action for action in self._actions for flag in action.option_strings}
        for i in range(len(words) - 1, 0, -1):
            action = flags.get(words[i - 1])
            if action is not None and action.nargs is None and re.match("-[^-]", words[i]) and words[i] not in flags:
                words[i - 1 : i + 1] = [f"{words[i - 1]}={words[i]}"]
        parsed = self.parse_intermixed_args(words, namespace)
        if "first_word" in parsed:
            if parsed.input is None:
                parsed.input = parsed.first_word or self.error("the following arguments are required: VIDEO")
            elif parsed.first_word:
                parsed.opts.insert(0, parsed.first_word)
            del parsed.first_word
        return parsed

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line, as `run_script` does."""
        dashed = next((word for word in sys.argv[1:] if word.startswith("-") and os.path.exists(word)), "")
        advice = f"for the file or folder write ./{dashed}" if dashed else "--help says more"
        self.exit(2, f"{self.prog}: {message}; {advice}\n")


def default_argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser that all scripts with a config share."""
    parser = ScriptParser(
        description=description,
        epilog=f"With {DEBUG_VARIABLE}=1 in the environment, errors show where they happened.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", metavar="FILE", help="YAML, see configs/")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="test MODEL.WEIGHTS and do not train")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="ranks on this machine (default: 1)")
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0; needed with several machines"
    )
    waits, again = "how long a rank waits for another (default: 30)", "start all ranks again when one dies (default: 0)"
    parser.add_argument("--dist-timeout", type=float, default=30.0, metavar="MINUTES", help=waits)
    parser.add_argument("--max-restarts", type=int, default=0, metavar="K", help=again)
    add_config_arguments(parser)
    return parser


def launch_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``launch`` that the arguments of `default_argument_parser` say."""
    names = ("num_gpus", "num_machines", "machine_rank", "dist_url", "max_restarts")
    return {name: getattr(args, name) for name in names} | {"timeout_minutes": args.dist_timeout, "args": (args,)}


def add_input_argument(parser: ScriptParser, help: str) -> None:
    """Add the video, as the first word or with --input, before `add_model_arguments` does the rest; ``args.input``."""
    parser.add_argument("first_word", nargs="?", metavar="VIDEO", help=help)
    parser.add_argument("--input", metavar="VIDEO", help="the same, where it is not the first word")


def add_model_arguments(parser: ScriptParser, default: str = "", device: bool = True) -> None:
    """Add what all scripts that use a trained model share; `chosen_model` reads it.

    Args:
        parser: gets --model or --config-file, --weights, --entry, --device, --plugin and overrides of the config.
        default: the model where neither --model nor --config-file is given; "": one of them must be.
        device: False leaves --device out.
    """
    which = parser.add_mutually_exclusive_group(required=not default)
    note = f" (default: {default})" if default else ", such as quickstart"
    what = f"a trained model or a network of the release{note}, the folder of a run, *.safetensors, or hf://USER/NAME"
    which.add_argument("--model", metavar="NAME", help=what)
    which.add_argument("--config-file", metavar="FILE", help="YAML of the model, instead of --model")
    parser.add_argument("--weights", metavar="W", help="checkpoint (default: the model's own, or MODEL.WEIGHTS)")
    parser.add_argument("--entry", default="", metavar="NAME", help="entry of the checkpoint (default: the usual one)")
    if device:
        parser.add_argument("--device", metavar="D", help="auto, cpu, cuda or cuda:N (default: as the config says)")
    add_config_arguments(parser)
    parser.set_defaults(model_default=default)


def chosen_model(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``nlvideo.model_zoo.get``, and of ``Predictor``, that the command line says."""
    return {
        "cfg_or_name": args.config_file or args.model or args.model_default,
        "weights": args.weights,
        "device": getattr(args, "device", None),
        "opts": args.opts,
        "plugins": args.plugin,
        "entry": args.entry,
    }


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --plugin and the overrides of the config."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="P", help="project folder, module or entry point; repeatable"
    )
    # Not REMAINDER: that would take the flags after the first override for more overrides.
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")


def run_script(
    main: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> None:
    """Parse the arguments, call ``main`` with them and exit: with 0, or with one line of what went wrong.

    Exit codes: 0 done, 2 a mistake in arguments, config or files, 1 a failed run, 130 stopped by a signal. An error
    that is none of these keeps its traceback.
    """
    never_fail_to_encode()
    try:
        with contextlib.redirect_stdout(Printable(sys.stdout)):
            args = parser.parse_args(argv)
            keep_freed_memory()
            main(args)
    except (Exception, KeyboardInterrupt) as error:
        end_if_unread(error)
        sys.stderr.write(traceback_to_show(error))
        print(f"{Path(sys.argv[0]).name}: {printable(one_line(error))}", file=sys.stderr, flush=True)
        _exit(exit_code_of(error))
    finally:
        end_if_unread()


def _exit(code: int) -> NoReturn:
    """Exit. A process group that an error has left is not waited for: its threads may hang or abort Python's end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def results_uploaded() -> Iterator[None]:
    """Wait, after the work of a rank, until results are uploaded where OUTPUT_DIR is remote; decorates ``main``.

    It also ends the process group: only rank 0 uploads, and no rank waits for it.

    Raises:
        UploadFailed: one line. After an error of the work itself, the log says it instead.
    """
    from nlvideo.checkpoint.remote_run import finish_uploads
    from nlvideo.utils import comm

    try:
        yield
    except BaseException:
        # A run that was stopped has saved a checkpoint.
        try:
            finish_uploads()
        except UploadFailed as error:
            logging.getLogger(__name__).error("%s", error)
        raise
    # Before the upload, which may take longer than ranks wait for each other.
    comm.finish()
    finish_uploads()


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    # A plain KeyError prints its text in quotes.
    message = error.args[0] if type(error) is KeyError and error.args else error
    text = " ".join(str(message).split())
    return text if text and is_foreseen(error) else f"{type(error).__name__}: {text}"


def exit_code_of(error: BaseException) -> int:
    """Return the exit code that an error ends a script with."""
    if isinstance(error, RankFailed):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, (TrainingInterrupted, KeyboardInterrupt)):
        return INTERRUPTED
    # First the runs that failed: some of these are foreseen by their base class, too.
    return 2 if isinstance(error, (*FORESEEN, VideoDecodeError)) and not isinstance(error, RUN_ERRORS) else 1


def is_foreseen(error: BaseException) -> bool:
    """Return whether the message of an error is all that a user needs."""
    ends = (RankFailed, TrainingInterrupted, KeyboardInterrupt, SystemExit)
    return isinstance(error, (*RUN_ERRORS, *FORESEEN, VideoDecodeError, *ends)) or is_out_of_memory(error)


def traceback_to_show(error: BaseException) -> str:
    """Return the traceback of an error that needs one, or of any with NLVIDEO_DEBUG=1; else an empty string."""
    if isinstance(error, RankFailed):
        return error.trace
    if is_foreseen(error) and os.environ.get(DEBUG_VARIABLE, "0") in ("", "0"):
        return ""
    return "".join(traceback.format_exception(error))
