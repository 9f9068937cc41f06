"""Step `prepare` as a KFP component."""

from typing import NamedTuple

from kfp import dsl

from sightline_cluster import images


@dsl.component(base_image=images.TRAIN, install_kfp_package=False)
def prepare(
    images_uri: str,
    labels_uri: str,
    boxes_uri: str,
    table_uri: str,
    out: str,
    run_id: str,
    job_id: str,
    settings: dict,
    storage: dict,
    data_report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Prepared", run=str, folder=str, images=str, labels=str, boxes=str):
    """Check, split by group and pack images, labels and boxes."""
    from sightline.pipeline_step import dataset_uris, run_folder, run_pipeline_step
    from sightline.storage import join_uri

    run = run_folder(out, run_id, job_id)
    uris = {"images_uri": images_uri, "labels_uri": labels_uri, "boxes_uri": boxes_uri}
    uris |= {"table_uri": table_uri, "store_uri": join_uri(out, "datasets")}
    step = run_pipeline_step("prepare", run, uris, settings, {}, storage)
    step.show(metrics=metrics, pages={"data_report.html": data_report})
    return (run, step.uri, *dataset_uris(step))
