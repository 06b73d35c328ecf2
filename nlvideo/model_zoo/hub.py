"""Models for the Hugging Face hub: a folder with weights, config, classes and a model card, and its upload."""

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

import nlvideo
from nlvideo.checkpoint.catalog import hub_errors
from nlvideo.config import CfgNode
from nlvideo.model_zoo.pack import pack_model
from nlvideo.utils.files.file_io import write_text
from nlvideo.utils.messages import some

CARD = "README.md"

_CARD = """\
---
library_name: nlvideo
pipeline_tag: video-classification
tags: [video-classification, non-local]
---

# {title}

A video classifier, trained with nlvideo {version}: {network}.

## Use

```
pip install 'nlvideo[hub]'
nlvideo predict --model hf://{repo} clip.mp4
```

```python
from nlvideo import Predictor

predictor = Predictor("hf://{repo}")
print(predictor("clip.mp4"))
```

To start a training from these weights: `MODEL.WEIGHTS hf://{repo}`.

## Metrics

{metrics}

## Classes

{number} classes: {classes}

## Config

What differs from the defaults of nlvideo:

```yaml
{config}```
"""


def write_hub_folder(model: nn.Module, cfg: CfgNode, classes: Sequence[str], folder: str, repo: str) -> str:
    """Write ``model.safetensors``, ``config.yaml``, ``classes.txt``, and ``README.md`` unless it is there.

    Args:
        model: as for `pack_model`.
        cfg: of the model; the metrics are in its OUTPUT_DIR.
        classes: their names, in the order of the scores.
        folder: made if missing; files of an earlier call are replaced.
        repo: ``USER/NAME``, for the model card.

    Returns:
        The path of the model card.

    Raises:
        ValueError, OSError, ImportError: as for `pack_model`.
    """
    pack_model(model, cfg, classes, folder, overwrite=True, name="model.safetensors")
    card = Path(folder, CARD)
    if not card.exists():
        backbone, clip = cfg.MODEL.BACKBONE, cfg.INPUT
        network = f"{backbone.NAME}{' with non-local blocks' if cfg.MODEL.NONLOCAL.ENABLED else ''} on clips of"
        network += f" {clip.NUM_FRAMES} frames, every {clip.FRAME_STRIDE}, {clip.CROP_SIZE} x {clip.CROP_SIZE} pixels"
        text = _CARD.format(
            title=repo.split("/")[-1], version=nlvideo.__version__, network=network, repo=repo, number=len(classes),
            metrics=_metrics(os.path.join(cfg.OUTPUT_DIR, "metrics.json")), classes=some(classes, 400),
            config=Path(folder, "config.yaml").read_text(encoding="utf8"),
        )  # fmt: skip
        write_text(card, text)
    return str(card)


def _metrics(path: str) -> str:
    """The last result of each evaluation of a run, as a table."""
    last: dict[str, tuple[float, int]] = {}
    for line in Path(path).read_text(encoding="utf8").splitlines() if os.path.isfile(path) else ():
        with contextlib.suppress(ValueError):  # the last line of a run that was killed
            row = json.loads(line)
            last |= {name: (value, row["iteration"] + 1) for name, value in row.items() if "/" in name}
    if not last:
        return "The run has no results of a test."
    rows = [f"| {name} | {value:.6g} | {iterations} |" for name, (value, iterations) in sorted(last.items())]
    return "\n".join(["| metric | value | after iterations |", "|---|---|---|", *rows])


def push_folder(folder: str, repo: str, private: bool = False) -> str:
    """Upload the files of `write_hub_folder` to the hub, and return the address of the model.

    Args:
        folder: what `write_hub_folder` wrote.
        repo: ``USER/NAME``; made if missing.
        private: only the user sees a new one.

    Raises:
        ImportError: huggingface_hub is not installed.
        OSError: the upload failed; one line without the user's token.
    """
    with hub_errors(f"hf://{repo}"):
        from huggingface_hub import HfApi

        api = HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        names = ["model.safetensors", "config.yaml", "classes.txt", CARD]
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=names, commit_message="Upload a model of nlvideo"
        )
        return str(url)
