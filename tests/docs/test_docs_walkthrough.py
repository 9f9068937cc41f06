from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from markdown_pages import ROOT, code_blocks


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the page as one program whose line numbers are the page's; return folder and output."""
    folder = tmp_path_factory.mktemp("walkthrough")
    program = ""
    for block in code_blocks(ROOT / "docs" / "walkthrough.md", "python"):
        program += "\n" * (block.line - 1 - program.count("\n")) + block.text
    (folder / "walkthrough.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "walkthrough.py"],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return folder / "walkthrough", done.stdout


def test_every_block_of_the_walkthrough_runs(walked: tuple[Path, str]) -> None:
    _, output = walked
    assert "epoch 1 loss" in output


def test_walkthrough_leaves_a_backbone_that_torchvision_loads(walked: tuple[Path, str]) -> None:
    folder, _ = walked
    state = torch.load(folder / "simclr_backbone.pth", weights_only=True)
    misfit = torchvision.models.resnet18().load_state_dict(state, strict=False)
    assert misfit.unexpected_keys == []
    assert set(misfit.missing_keys) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    "name", ["views.png", "curves.png", "accuracy.png", "tsne.png", "temperature.png"]
)
def test_walkthrough_draws_its_figures(walked: tuple[Path, str], name: str) -> None:
    folder, _ = walked
    assert (folder / name).stat().st_size > 10_000
