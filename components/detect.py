"""Step `detect` as a KFP component."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.DETECT, install_kfp_package=False)
def detect(
    run: str,
    encoder_uri: str,
    dataset_uri: str,
    seed: int,
    settings: dict,
    storage: dict,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Train YOLOv12 on the encoder, and the same detector from scratch."""
    from sightline.pipeline_step import run_pipeline_step

    uris = {"encoder_uri": encoder_uri, "dataset_uri": dataset_uri}
    step = run_pipeline_step("detect", run, uris, settings, {"seed": seed}, storage)
    step.show(metrics=metrics)
    return step.uri
