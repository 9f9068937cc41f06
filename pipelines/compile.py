"""Compiling: one YAML that a laptop and a cluster run alike."""

import warnings
from pathlib import Path

import yaml

from pipelines.lint import find_traps


def compile_pipeline(target: Path) -> None:
    """Write the pipeline's YAML.

    Raises:
        RuntimeError: If the pipeline uses something that kfp.local is known to run wrongly.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from kfp import compiler

        from pipelines.simclr_to_yolo import simclr_to_yolo

        target.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(simclr_to_yolo, str(target))
    # A second document says what belongs to Kubernetes alone.
    spec, *_ = yaml.safe_load_all(target.read_text(encoding="utf-8"))
    traps = find_traps(spec)
    if traps:
        raise RuntimeError(f"{target} would run wrongly in kfp.local: " + "; ".join(traps))
