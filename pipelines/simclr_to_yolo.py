"""The table of contents: from a folder of images to a compared, reported, promoted model."""

from kfp import dsl, kubernetes

from components.detect import detect
from components.evaluate import evaluate
from components.finetune import finetune
from components.prepare import prepare
from components.pretrain import pretrain
from components.promote import promote
from components.reap import reap
from components.report import report
from pipelines.parameters import cluster_default, settings_default
from sightline.detect.config import DetectConfig
from sightline.evaluate.config import EvaluateConfig
from sightline.finetune.config import FinetuneConfig
from sightline.prepare.config import PrepareConfig
from sightline.pretrain.config import PretrainConfig
from sightline.promote.config import PromoteConfig
from sightline.report.config import ReportConfig
from sightline.storage.settings import StorageConfig
from sightline_cluster.config import ClusterConfig

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dsl.pipeline(name="simclr-to-yolo", display_name="SimCLR to YOLOv12")
def simclr_to_yolo(
    out: str,
    data_images: str = "",
    data_labels: str = "",
    data_boxes: str = "",
    data_table: str = "",
    data_initial_weights: str = "",
    run_id: str = "",
    seed: int = 0,
    workers: int = PretrainConfig().workers,
    gate_metric: str = PromoteConfig().gate_metric,
    gate_floor: float = PromoteConfig().gate_floor,
    gate_margin: float = PromoteConfig().gate_margin,
    settings_prepare: dict = settings_default("prepare", PrepareConfig),
    settings_pretrain: dict = settings_default("pretrain", PretrainConfig),
    settings_evaluate: dict = settings_default("evaluate", EvaluateConfig),
    settings_finetune: dict = settings_default("finetune", FinetuneConfig),
    settings_detect: dict = settings_default("detect", DetectConfig),
    settings_report: dict = settings_default("report", ReportConfig),
    settings_promote: dict = settings_default("promote", PromoteConfig),
    settings_storage: dict = StorageConfig.defaults(),
    settings_cluster: dict = cluster_default(),
) -> None:
    """Pretrain an encoder, measure it, train a classifier and a detector on it, compare, promote.

    A step whose data is missing does no work and says so; the others run.

    Args:
        out: Where everything goes: data sets, the run's folder and the models; a folder or s3://….
        data_images: Folder of images without labels, for pretraining; empty: none.
        data_labels: Folder with one folder of images a class, for the classifier; empty: none.
        data_boxes: Folder of images and YOLO label files, for the detector; empty: none.
        data_table: CSV with the columns name, group, split that fixes groups and splits; empty:
            none.
        data_initial_weights: Weights that pretraining starts from, a .pth file or a pretrain step's
            folder; empty: random.
        run_id: Name of the run's folder under <out>/runs; empty: KFP's own id of the run.
        seed: Seed of every training and of what is drawn from its results; the splits have their
            own, split_seed in settings_prepare, and stay.
        workers: Processes that pretrain together.
        gate_metric: Number that decides about promotion; auto: the task's own.
        gate_floor: Least value of that number that a champion must reach, from 0 to 1.
        gate_margin: By how much a challenger must beat the champion, in units of that number.
        settings_prepare: Settings of step prepare.
        settings_pretrain: Settings of step pretrain.
        settings_evaluate: Settings of step evaluate.
        settings_finetune: Settings of step finetune.
        settings_detect: Settings of step detect.
        settings_report: Settings of step report.
        settings_promote: Settings of step promote.
        settings_storage: How s3://… is reached, in every step; what is left at its default takes
            the container's SIGHTLINE_S3_… variables. Credentials do not belong here.
        settings_cluster: How pretrain, finetune and detect run: as PyTorchJobs that their steps
            submit and follow; a run on one machine sets backend to local.
    """
    # It runs last, however the rest ends, also when somebody presses Terminate.
    reaper = reap(
        out=out,
        run_id=run_id,
        job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        cluster=settings_cluster,
    ).set_caching_options(False)
    with dsl.ExitHandler(reaper, name="steps") as steps:
        prepared = prepare(
            images_uri=data_images,
            labels_uri=data_labels,
            boxes_uri=data_boxes,
            table_uri=data_table,
            out=out,
            run_id=run_id,
            job_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
            settings=settings_prepare,
            storage=settings_storage,
        )
        run = prepared.outputs["run"]
        images = prepared.outputs["images"]
        labels = prepared.outputs["labels"]
        boxes = prepared.outputs["boxes"]

        encoder = pretrain(
            run=run,
            dataset_uri=images,
            labels_uri=labels,
            initial_weights_uri=data_initial_weights,
            seed=seed,
            workers=workers,
            settings=settings_pretrain,
            storage=settings_storage,
            cluster=settings_cluster,
        ).outputs["Output"]
        frozen = evaluate(
            run=run,
            encoder_uri=encoder,
            dataset_uri=labels,
            seed=seed,
            settings=settings_evaluate,
            storage=settings_storage,
        ).outputs["Output"]
        classifier = finetune(
            run=run,
            encoder_uri=encoder,
            dataset_uri=labels,
            seed=seed,
            settings=settings_finetune,
            storage=settings_storage,
            cluster=settings_cluster,
        ).outputs["Output"]
        detector = detect(
            run=run,
            encoder_uri=encoder,
            dataset_uri=boxes,
            seed=seed,
            settings=settings_detect,
            storage=settings_storage,
            cluster=settings_cluster,
        ).outputs["Output"]
        compared = report(
            run=run,
            prepare_uri=prepared.outputs["folder"],
            pretrain_uri=encoder,
            evaluate_uri=frozen,
            finetune_uri=classifier,
            detect_uri=detector,
            seed=seed,
            settings=settings_report,
            storage=settings_storage,
        ).outputs["Output"]
        promote(
            run=run,
            report_uri=compared,
            finetune_uri=classifier,
            detect_uri=detector,
            labels_uri=labels,
            boxes_uri=boxes,
            out=out,
            seed=seed,
            gate_metric=gate_metric,
            gate_floor=gate_floor,
            gate_margin=gate_margin,
            settings=settings_promote,
            storage=settings_storage,
        )
    for step in steps.tasks:
        # KFP's cache compares addresses, and knows nothing of what lies there by now.
        step.set_caching_options(False)
        kubernetes.use_secret_as_env(
            step,
            secret_name=ClusterConfig().s3_secret,
            secret_key_to_env={name: name for name in KEYS},
            optional=True,  # with a workload identity there is none
        )
