import pytest

from sightline.encoders import EncoderSpec, build_encoder, save_encoder
from sightline.errors import UserError
from sightline.evaluate.config import EvaluateConfig, EvaluateUris
from sightline.evaluate.run import run
from sightline.pretrain.config import PretrainConfig, PretrainUris
from sightline.storage import fetch_artifacts, new_artifacts
from sightline.storage.artifacts import read_json


@pytest.fixture
def encoder_uri(s3_bucket):
    """Return the address on S3 of an encoder as pretraining leaves it."""
    uri = f"{s3_bucket}/pretrain"
    with new_artifacts("pretrain", PretrainUris(out_uri=uri), PretrainConfig(), uri) as folder:
        save_encoder(build_encoder(EncoderSpec("resnet18", image_size=32), seed=0), folder)
    return uri


def test_from_s3_to_s3_gives_the_numbers_that_folders_give(
    encoder_uri, labelled_dataset, on_s3, s3_bucket, tmp_path
):
    config = EvaluateConfig(epochs=3, bootstrap_samples=100)
    stored = fetch_artifacts(encoder_uri)
    found = []
    for encoder, dataset, out in (
        (str(stored / "simclr_backbone.pth"), labelled_dataset, str(tmp_path / "evaluate")),
        (f"{encoder_uri}/simclr_backbone.pth", on_s3(labelled_dataset), f"{s3_bucket}/evaluate"),
        (encoder_uri, f"{s3_bucket}/datasets/{labelled_dataset.split('/')[-1]}", f"{s3_bucket}/e"),
    ):
        size = config.model_copy(update={"image_size": 32})
        uris = EvaluateUris(encoder_uri=encoder, dataset_uri=dataset, out_uri=out)
        found.append(run(uris, size)["protocols"])
    assert found[0] == found[1] == found[2]
    published = read_json(fetch_artifacts(f"{s3_bucket}/e", ["metrics.json"]) / "metrics.json")
    assert published["protocols"] == found[0]


def test_weights_that_are_not_on_s3_are_told_by_their_address(labelled_dataset, s3_bucket):
    uri = f"{s3_bucket}/absent.pth"
    uris = EvaluateUris(
        encoder_uri=uri, dataset_uri=labelled_dataset, out_uri=f"{s3_bucket}/evaluate"
    )
    with pytest.raises(UserError, match=f"no weights file at {uri}"):
        run(uris, EvaluateConfig())
