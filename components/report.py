"""Step `report` as a KFP component."""

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def report(
    run: str,
    prepare_uri: str,
    pretrain_uri: str,
    evaluate_uri: str,
    finetune_uri: str,
    detect_uri: str,
    seed: int,
    settings: dict,
    storage: dict,
    page: dsl.Output[dsl.HTML],
    model_card: dsl.Output[dsl.Markdown],
) -> str:
    """Compare all protocols in one self-contained page."""
    from sightline.pipeline_step import run_pipeline_step

    uris = {"prepare_uri": prepare_uri, "pretrain_uri": pretrain_uri}
    uris |= {"evaluate_uri": evaluate_uri, "finetune_uri": finetune_uri, "detect_uri": detect_uri}
    step = run_pipeline_step("report", run, uris, settings, {"seed": seed}, storage)
    step.show(pages={"report.html": page, "model_card.md": model_card})
    return step.uri
