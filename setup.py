"""Packaging of nlvideo. It imports nothing that pip would have to install first."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Folder of the repository -> which of its files the wheel holds in a folder of the same name within nlvideo.
BESIDE_THE_PACKAGE = {"tools": "*.py", "configs": "*.yaml", "model_zoo": "*.yaml"}


def read_version() -> str:
    """Return the version that nlvideo/__init__.py states, without importing it."""
    text = (ROOT / "nlvideo" / "__init__.py").read_text(encoding="utf8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


class BuildWithTools(build_py):
    """Build the package with what lies beside it in the repository, so that an install needs no repository."""

    def run(self) -> None:
        """Copy the modules, then those files. An editable install finds them where they are."""
        super().run()
        if self.editable_mode:
            return
        for folder, ending in BESIDE_THE_PACKAGE.items():
            for path in sorted((ROOT / folder).rglob(ending)):
                target = Path(self.build_lib, "nlvideo", path.relative_to(ROOT))
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


setup(
    name="nlvideo",
    version=read_version(),
    description="Train, test, inspect and extend video classifiers built around the non-local operation",
    license="Apache-2.0",
    packages=find_packages(include=["nlvideo", "nlvideo.*"]),
    package_data={
        # The trained models: weights, config, class names, README and report of each.
        "nlvideo": ["py.typed", *(f"model_zoo/*/*.{ending}" for ending in ("pth", "yaml", "txt", "md", "html"))],
        "nlvideo.visualization.report": ["templates/*"],
    },
    cmdclass={"build_py": BuildWithTools},
    entry_points={"console_scripts": ["nlvideo = nlvideo.tools:main"]},
    python_requires=">=3.10",
    # Lower bounds only: an upper one breaks installs each time a sibling releases.
    install_requires=[
        "torch>=2.5",
        "torchvision>=0.20",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "yacs>=0.1.8",
        "av>=17.0",
        "tabulate>=0.9",
        "tensorboard>=2.15",
        "numpy>=1.26",
        "pillow>=10.1",
        "pyyaml>=6.0",
        "tqdm>=4.60",
        "jinja2>=3.1",
    ],
    extras_require={
        # Masks and metrics of projects/mask_rcnn.
        "coco": ["pycocotools>=2.0.8"],
        # Gradio 6.0 has the browser fetch a script from elsewhere; of 6.31 it is tested that nothing is.
        "demo": ["gradio>=6.31"],
        "dev": [
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "matplotlib>=3.8",
            "pycocotools>=2.0.8",
            "scikit-learn>=1.3",
            "safetensors>=0.4",
            # docs/tour.ipynb is run.
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "onnx>=1.17",
            "onnxscript>=0.5",
            "onnxruntime>=1.20",
            # From 70.1 on it builds wheels by itself.
            "setuptools>=70.1",
            # A newer linter may find more: the checks must not change by themselves.
            "ruff~=0.17.6",
            "mypy~=2.4.1",
            "types-PyYAML>=6.0",
            "types-tabulate>=0.9",
            "types-tqdm>=4.60",
        ],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings-python>=1.13", "ruff~=0.17.6"],
        "export": ["torch>=2.6", "onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
        "hub": ["huggingface-hub>=0.23", "safetensors>=0.4"],
        # The smallest MLflow, and what it needs to write into a local file.
        "mlflow": ["mlflow-skinny>=2.10", "sqlalchemy>=2.0", "alembic>=1.13"],
        "parquet": ["pyarrow>=15.0"],
        "plot": ["matplotlib>=3.8"],
        "peers": ["mmcv-lite>=2.1", "pytorchvideo>=0.1.5", "timm>=1.0"],
        # Object storage: Amazon S3 and what speaks its protocol. docs/remote.md has the packages of other stores.
        "remote": ["fsspec>=2024.6", "s3fs>=2024.6"],
        # Tests of object storage run against a server of their own.
        "services": ["moto[server]>=5.0"],
        "torchcodec": ["torchcodec>=0.7"],
        "wandb": ["wandb>=0.19"],
    },
)
