"""Files of exported models: a graph, and beside it in the same file what its user needs to know."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlvideo.utils.messages import one_of

FORMATS = ("pt2", "onnx")
#: name of the JSON text in either file
ENTRY = "nlvideo.json"


def check_packages(format: str) -> None:
    """Make sure that a format can be written and read here.

    Raises:
        ImportError: a package is missing.
        ValueError: an unknown format.
    """
    if format not in FORMATS:
        raise one_of("--format", format, FORMATS)
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError(f"format 'onnx' needs {error.name}: pip install 'nlvideo[export]'") from None


def write_export(program: torch.export.ExportedProgram, path: str, format: str, recipe: dict[str, Any]) -> None:
    """Write a traced graph.

    Args:
        program: of one input ``clips`` and one output ``scores``.
        path: the file.
        format: one of `FORMATS`.
        recipe: plain values that travel in the file.
    """
    text = json.dumps(recipe, ensure_ascii=False)
    if format == "pt2":
        # Not into the file: PyTorch's error for a full disk says nothing of a disk, and then aborts the process.
        torch.export.save(program, buffer := io.BytesIO(), extra_files={ENTRY: text})
        Path(path).write_bytes(buffer.getbuffer())
        return
    onnx_program = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["clips"], output_names=["scores"],
        dynamic_shapes={"clips": {0: "batch"}},
    )  # fmt: skip
    for node in onnx_program.model.graph:
        # Lines of source with their paths on this machine, which are private.
        node.metadata_props.clear()
    onnx_program.model.metadata_props[ENTRY] = text
    onnx_program.save(path, external_data=False)


def read_export(path: str, format: str) -> tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, Any]]:
    """Read an exported model, with onnxruntime or torch alone.

    Args:
        path: the file.
        format: one of `FORMATS`.

    Returns:
        uint8 (N, 3, T, H, W) -> float32 (N, K), probabilities; and what travels in the file, see docs/export.md.
    """
    if format == "pt2":
        texts = {ENTRY: ""}
        network = torch.export.load(path, extra_files=texts).module()
        return torch.no_grad()(network), json.loads(texts[ENTRY])
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(clips: torch.Tensor) -> torch.Tensor:
        """The probabilities of clips."""
        return torch.from_numpy(np.asarray(session.run(["scores"], {"clips": clips.numpy()})[0]))

    return run, json.loads(session.get_modelmeta().custom_metadata_map[ENTRY])
