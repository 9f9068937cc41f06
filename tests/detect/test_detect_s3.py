from sightline.data import open_dataset
from sightline.detect.config import DetectUris
from sightline.detect.run import run
from sightline.encoders.yolo_scoring import load_detector, score_detector
from sightline.storage.s3 import S3Storage


def test_detectors_are_trained_and_scored_on_s3_without_a_request_an_image(
    boxes_dataset, encoder_uri, on_s3, s3_bucket, tiny_config, monkeypatch
):
    dataset_uri = on_s3(boxes_dataset)
    reads = []
    read_bytes = S3Storage.read_bytes

    def note(storage, key, *arguments):
        if key.endswith(".tar"):
            reads.append(key)
        return read_bytes(storage, key, *arguments)

    monkeypatch.setattr(S3Storage, "read_bytes", note)
    out = f"{s3_bucket}/detect"
    uris = DetectUris(encoder_uri=encoder_uri("yolo12n"), dataset_uri=dataset_uri, out_uri=out)
    metrics = run(uris, tiny_config(image_size_px=32, picture_count=1))
    # One read for each split's images, one a detector for the confidence and for the test split,
    # one for the picture; none in the epochs.
    assert len(reads) <= 2 + 2 + 2 + 1
    entry = score_detector(load_detector(out), open_dataset(dataset_uri), bootstrap_samples=20)
    assert metrics["protocols"]["pretrained"]["map50"] == entry["map50"]
