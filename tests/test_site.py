"""The site of the documents: every document is in it, and it asks no other server for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf8")


def test_the_navigation_names_every_document_once():
    named = re.findall(r"^ +- ([\w/.-]+\.md)$", CONFIG, re.MULTILINE)
    patterns = ("*.md", "docs/*.md", "benchmarks/*.md", "datasets/README.md", "projects/README.md")
    documents = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    assert len(named) == len(set(named))
    assert documents <= set(named)
    assert all((ROOT / name).is_file() for name in named)


def test_nothing_is_fetched_from_elsewhere():
    config = yaml.safe_load(CONFIG)
    assert config["theme"]["font"] is False
    assert not any(key in config for key in ("extra_javascript", "extra_css", "extra"))


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {"index.html", "docs/nonlocal.html", "benchmarks/index.html", "api/modeling.html"} <= pages.keys()
    assert "NonLocalBlock" in pages["api/modeling.html"] and "inner_channels" in pages["api/modeling.html"]
    for name, text in pages.items():
        assert not re.search(r'<(script|img|iframe)[^>]+src="https?:', text), name
        assert not re.search(r'<link[^>]+rel="stylesheet"[^>]+href="https?:', text), name
