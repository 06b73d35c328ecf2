"""The tools, without the repository: ``nlvideo train_net ...`` and ``python -m nlvideo.tools.train_net ...``.

A wheel holds them in this folder. In a clone they are in ``tools/``, beside the package.
"""

import ast
import pkgutil
import runpy
import sys
from pathlib import Path

from nlvideo.utils.messages import did_you_mean

if not Path(__file__).with_name("train_net.py").is_file():
    __path__.append(str(Path(__file__).resolve().parents[2] / "tools"))


def list_tools() -> dict[str, str]:
    """Return what each tool does, in its own words, by name."""
    files = {
        module.name: Path(folder, f"{module.name}.py")
        for folder in __path__
        for module in pkgutil.iter_modules([folder])
        if not module.ispkg
    }
    texts = {name: ast.get_docstring(ast.parse(file.read_text(encoding="utf8"))) or "" for name, file in files.items()}
    return {name: " ".join(text.partition("\n\n")[0].split()) for name, text in sorted(texts.items())}


def main() -> None:
    """Run the tool that the first argument names. This is the command ``nlvideo``."""
    tools = list_tools()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        lines = [f"  {tool:20} {text}" for tool, text in tools.items()]
        print("usage: nlvideo TOOL [ARGUMENTS]\n\nThe tools (nlvideo TOOL --help says more):\n" + "\n".join(lines))
    elif name not in tools:
        hint = did_you_mean(name, tools) or "nlvideo --help lists them"
        sys.exit(f"nlvideo: there is no tool {name!r}; {hint}")
    else:
        del sys.argv[1]
        # The tool becomes __main__, as if its file were run: the processes that it starts find its functions there.
        runpy.run_module(f"{__name__}.{name}", run_name="__main__", alter_sys=True)
