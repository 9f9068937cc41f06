"""Settings and addresses of pretraining."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sightline.config import Rule, Seed, StepConfig, StepUris
from sightline.encoders.names import IMAGENET_MEAN, IMAGENET_STD, EncoderName
from sightline.errors import SettingsError
from sightline.training.names import OptimizerName, Precision

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=10)]


class PretrainUris(StepUris):
    """Where pretraining reads and writes."""

    dataset_uri: str = ""
    """Data set version that prepare packed; only its train split is read. Empty: no images were
    given, and the step publishes that it was skipped."""

    labels_uri: str = ""
    """Labelled data set that prepare packed: every knn_epochs epochs, kNN accuracy on its val split
    is shown. It chooses nothing. Empty: none."""

    initial_weights_uri: str = ""
    """Weights of the encoder to start from: a .pth or .pt file, such as torchvision's ImageNet
    weights or a notebook's own simclr_backbone.pth, or a finished pretrain step. Empty: random."""

    out_uri: str
    """Folder that receives the encoder, its curves and its metrics; must hold no result yet."""


class PretrainConfig(StepConfig):
    """SimCLR (Chen et al. 2020): two views of an image agree, views of other images do not."""

    encoder: EncoderName = "resnet18"
    """Network f that is learned: a torchvision ResNet without its last
    layer, or the backbone of a YOLOv12 detector (needs sightline[detect])."""

    initial_weights_sha256: Annotated[str, Field(pattern="^([0-9a-fA-F]{8,64})?$")] = ""
    """What the sha256 of the initial weights must be, or its first 8 digits or more. Empty: the
    digits in a file name such as resnet18-f37072fd.pth, if it has any."""

    image_size: Annotated[int, Field(ge=32, le=1024)] = 224
    """Side of a view in pixels."""

    augmentation: Literal["fast", "exact"] = "exact"
    """What draws the views: fast is our own on OpenCV (on a GPU, colours and blur are computed
    there), exact is torchvision, many times slower. They have the same distributions and other
    draws; fast turns hue in YIQ instead of HSV, which gray images do not notice."""

    crop_scale_min: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Smallest share of an image's area that a random resized crop keeps."""

    crop_scale_max: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest share of an image's area that a random resized crop keeps."""

    flip_probability: Share = 0.5
    """Probability that a view is mirrored left to right."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle in degrees, either way, by which an image is turned before the crop; corners
    become black."""

    jitter_brightness: Strength = 0.8
    """Brightness is multiplied by a factor from 1 - this to 1 + this, at least 0."""

    jitter_contrast: Strength = 0.8
    """Contrast is multiplied by a factor from 1 - this to 1 + this, at least 0."""

    jitter_saturation: Strength = 0.8
    """Saturation is multiplied by a factor from 1 - this to 1 + this, at least 0; it changes
    nothing on gray images and costs time."""

    jitter_hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """Hue is turned by up to this share of the colour circle; it changes nothing on gray images
    and costs time."""

    jitter_probability: Share = 1.0
    """Probability that a view's brightness, contrast, saturation and hue are changed at all."""

    grayscale_probability: Share = 0.2
    """Probability that a view loses its colours."""

    blur_kernel_px: Annotated[int, Field(ge=1, le=255)] = 23
    """Side of the Gaussian blur's kernel in pixels; odd, at most twice image_size - 1."""

    blur_sigma_min: Annotated[float, Field(gt=0)] = 0.1
    """Smallest standard deviation of the blur in pixels."""

    blur_sigma_max: Annotated[float, Field(gt=0)] = 2.0
    """Largest standard deviation of the blur in pixels."""

    blur_probability: Share = 1.0
    """Probability that a view is blurred."""

    normalize: Literal["imagenet", "none", "custom"] = "imagenet"
    """Scale of the encoder's input: ImageNet's mean and standard deviation, none (0..1), or
    normalize_mean and normalize_std. The encoder carries it, so later steps apply the same."""

    normalize_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of red, green and blue on the scale 0..1; used where normalize is custom."""

    normalize_std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of red, green and blue on the scale 0..1, each above 0; used where
    normalize is custom."""

    temperature: Annotated[float, Field(gt=0, le=100)] = 0.07
    """Divisor of the cosine similarities in NT-Xent: the lower, the more the negatives that are
    most similar to an image count."""

    exclude_group_negatives: bool = False
    """Leave images of one group (a patient) out of each other's negatives."""

    projection_hidden: Annotated[int, Field(ge=1)] = 512
    """Width of the hidden layers of the projection head g."""

    projection_out: Annotated[int, Field(ge=2)] = 128
    """Number of values in a projection z."""

    projection_layers: Annotated[int, Field(ge=1, le=8)] = 2
    """Linear layers of the projection head, with a ReLU between them."""

    projection_batch_norm: bool = False
    """Put a BatchNorm behind each linear layer of the head, in place of its bias."""

    optimizer: OptimizerName = "adam"
    """How weights follow the gradient. adam adds the weight decay to the gradient (L2); lars is
    the paper's."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate, at the start of the cosine; it is not scaled by the batch."""

    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Share of each weight that is added to its gradient."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last step that is kept; used by sgd and lars."""

    global_batch_size: Annotated[int, Field(ge=2)] = 32
    """Images of one step over all workers; each image meets twice as many, less two, negatives.
    It is divided among the workers, so it must be a multiple of them."""

    images_per_pass: Annotated[int, Field(ge=0)] = 0
    """Images, at most, whose two views go through the network at once, over all workers; 0: the
    whole batch. Less memory for a third more time: the loss and all its negatives still span the
    batch (gradient caching), but BatchNorm normalises each pass by itself."""

    epochs: Annotated[int, Field(ge=1)] = 100
    """Times each image is seen, as two views."""

    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs in which the learning rate rises in equal steps before the cosine to 0 starts."""

    lanes: Annotated[int, Field(ge=1, le=4096)] = 8
    """Shares, at most, that an epoch's images are read in side by side; as many as divide
    global_batch_size. Every batch takes equally from each, so the order of the images depends on
    this setting and not on workers, which must divide the lanes."""

    cache_mib: Annotated[int, Field(ge=1)] = 1024
    """Memory, in MiB over all workers, for stored images that are read ahead, or kept for the next
    epoch; what does not fit is read again from the data set."""

    precision: Precision = "float32"
    """Arithmetic of the forward pass. bfloat16 is used only where the processor has it natively,
    else float32; the loss is always computed in float32."""

    compile_network: bool = False
    """Compile the network with torch.compile on a GPU, where it saves memory traffic after a minute
    of compiling (1.3 times as fast in bfloat16). A CPU ignores it: it gains nothing there."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share each batch on this machine (one GPU each where there are GPUs). The
    loss and its gradient span the whole batch."""

    batch_norm: Literal["synchronised", "per_worker"] = "synchronised"
    """Over which images BatchNorm takes mean and variance: the whole batch, so that any number of
    workers computes what one would; or each worker's share, which is cheaper between machines,
    noisier, and lets the network tell negatives of its own worker from those of others."""

    loader_processes: Annotated[int, Field(ge=-1, le=256)] = -1
    """Processes that draw views for each worker. 0 draws them in the worker itself; -1 chooses: 0
    without a GPU, where the network uses all cores, else the usable cores per worker. A script of
    your own that trains with them needs its `if __name__ == "__main__":`."""

    knn_epochs: Annotated[int, Field(ge=0)] = 10
    """After every how many epochs kNN accuracy is shown, where labels are given; 0: never."""

    checkpoint_minutes: Annotated[float, Field(gt=0, le=1440)] = 4.0
    """Longest training time in minutes between two checkpoints; each epoch's end and a SIGTERM
    save one, too. Started again with the same out_uri, training goes on from the last."""

    stall_minutes: Annotated[float, Field(gt=0, le=1440)] = 5.0
    """How long in minutes the other workers wait for one that does not answer, and each for the
    processes that draw its views, before all end."""

    restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often all workers are started again, from the last checkpoint, after one of several was
    killed or did not answer."""

    log_steps: Annotated[int, Field(ge=0)] = 0
    """Where there is no terminal, a line is printed after every so many steps; 0: after the first
    step that ends 10 s or more after the last line."""

    tensorboard_dir: str = ""
    """Local folder that receives TensorBoard's event files while training runs; empty: none. The
    result has them in any case."""

    seed: Seed = 0
    """Seed of the initial weights, the order of the images and every view."""

    changes_no_result: ClassVar[frozenset[str]] = frozenset(
        {
            "cache_mib",
            "checkpoint_minutes",
            "knn_epochs",
            "loader_processes",
            "log_steps",
            "restarts",
            "stall_minutes",
            "tensorboard_dir",
            "workers",
        }
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "seed": {},
        # The paper's appendix B.1: 0.075 * sqrt(batch) suits batches below 4096.
        "paper": {
            "crop_scale_min": 0.08,
            "jitter_probability": 0.8,
            "blur_probability": 0.5,
            "normalize": "none",
            "temperature": 0.1,
            "projection_batch_norm": True,
            "optimizer": "lars",
            "learning_rate": 1.2,
            "weight_decay": 1e-6,
            "global_batch_size": 256,
            "warmup_epochs": 10,
        },
        # Gray images carry no hue or saturation; a tumour must stay in most crops; slices of one
        # patient as negatives teach the patient. Chosen on a validation fold: docs/method.md.
        "mri": {
            "image_size": 96,
            "crop_scale_min": 0.4,
            "rotation_degrees": 20.0,
            "jitter_brightness": 0.4,
            "jitter_contrast": 0.4,
            "jitter_saturation": 0.0,
            "jitter_hue": 0.0,
            "grayscale_probability": 0.0,
            "blur_kernel_px": 9,
            "blur_sigma_max": 1.0,
            "blur_probability": 0.5,
            "temperature": 0.2,
            "exclude_group_negatives": True,
            "projection_batch_norm": True,
            "learning_rate": 5e-4,
            "global_batch_size": 128,
            "epochs": 10,
            "precision": "bfloat16",
        },
        "demo": {
            "image_size": 64,
            "crop_scale_min": 0.5,
            "rotation_degrees": 15.0,
            "jitter_brightness": 0.4,
            "jitter_contrast": 0.4,
            "jitter_saturation": 0.0,
            "jitter_hue": 0.0,
            "grayscale_probability": 0.0,
            "blur_kernel_px": 7,
            "blur_sigma_max": 1.0,
            "blur_probability": 0.5,
            "temperature": 0.2,
            "exclude_group_negatives": True,
            "projection_batch_norm": True,
            "global_batch_size": 64,
            "epochs": 16,
            "precision": "bfloat16",
        },
    }

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean that `normalize` stands for."""
        named = {"imagenet": IMAGENET_MEAN, "none": (0.0, 0.0, 0.0)}
        return named.get(self.normalize, self.normalize_mean)

    @property
    def std(self) -> tuple[float, float, float]:
        """The standard deviation that `normalize` stands for."""
        named = {"imagenet": IMAGENET_STD, "none": (1.0, 1.0, 1.0)}
        return named.get(self.normalize, self.normalize_std)

    @property
    def used_lanes(self) -> int:
        """Lanes that an epoch's images are read in."""
        return math.gcd(self.lanes, self.global_batch_size)

    @property
    def passes(self) -> int:
        """Parts of near equal size in which a batch goes through the network."""
        if not self.images_per_pass:
            return 1
        of_a_lane = self.global_batch_size // self.used_lanes
        return math.ceil(of_a_lane / max(1, self.images_per_pass // self.used_lanes))

    @property
    def smallest_pass(self) -> int:
        """Fewest images over which BatchNorm takes mean and variance."""
        lanes = self.used_lanes
        images = self.global_batch_size // lanes // self.passes * lanes
        return images // self.workers if self.batch_norm == "per_worker" else images

    rules: ClassVar[Sequence[Rule]] = (
        (
            "blur_kernel_px must be odd, got {0.blur_kernel_px}",
            lambda config: config.blur_kernel_px % 2 == 1,
        ),
        (
            "blur_kernel_px must be below twice image_size, got {0.blur_kernel_px} and "
            "{0.image_size}",
            lambda config: config.blur_kernel_px < 2 * config.image_size,
        ),
        (
            "blur_sigma_min must not exceed blur_sigma_max, got {0.blur_sigma_min} and "
            "{0.blur_sigma_max}",
            lambda config: config.blur_sigma_min <= config.blur_sigma_max,
        ),
        (
            "crop_scale_min must not exceed crop_scale_max, got {0.crop_scale_min} and "
            "{0.crop_scale_max}",
            lambda config: config.crop_scale_min <= config.crop_scale_max,
        ),
        (
            "warmup_epochs must be fewer than epochs, got {0.warmup_epochs} and {0.epochs}",
            lambda config: config.warmup_epochs < config.epochs,
        ),
        (
            "global_batch_size must be a multiple of workers, got {0.global_batch_size} and "
            "{0.workers}",
            lambda config: config.global_batch_size % config.workers == 0,
        ),
        (
            "workers must divide the lanes that images are read in, {0.used_lanes} of lanes "
            "{0.lanes} fit global_batch_size {0.global_batch_size}, got {0.workers} workers: set "
            "lanes to {0.workers}",
            lambda config: (
                config.global_batch_size % config.workers != 0
                or config.used_lanes % config.workers == 0
            ),
        ),
        (
            "images_per_pass must be 0, or at least the {0.used_lanes} lanes of images, got "
            "{0.images_per_pass}: raise it, or lower lanes",
            lambda config: config.images_per_pass not in range(1, config.used_lanes),
        ),
        (
            "images_per_pass must give BatchNorm 2 images or more, or it compares the views of one "
            "image with each other, got {0.images_per_pass}: raise it",
            lambda config: config.passes == 1 or config.smallest_pass > 1,
        ),
        (
            "normalize_std must be above 0, got {0.normalize_std}",
            lambda config: min(config.normalize_std) > 0,
        ),
        # At the default it was not given, or by a file that holds every setting.
        (
            "normalize_mean is used where normalize is custom, got it with {0.normalize}: set "
            "normalize to custom, or leave it out",
            lambda config: config.normalize == "custom" or config.normalize_mean == IMAGENET_MEAN,
        ),
        (
            "normalize_std is used where normalize is custom, got it with {0.normalize}: set "
            "normalize to custom, or leave it out",
            lambda config: config.normalize == "custom" or config.normalize_std == IMAGENET_STD,
        ),
    )

    def what_counts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a step's settings that its result depends on."""
        counts = super().what_counts(settings)
        if self.batch_norm == "per_worker" and "workers" in settings:
            counts["workers"] = settings["workers"]  # of how many images each sees the statistics
        return counts


def require_given_weights(initial_weights_uri: str, config: PretrainConfig) -> None:
    """Refuse the sha256 of weights that are not given.

    Raises:
        SettingsError: If so; training would start from random weights.
    """
    if config.initial_weights_sha256 and not initial_weights_uri:
        raise SettingsError(
            f"initial_weights_sha256 {config.initial_weights_sha256} needs the weights that have "
            "it, got no initial_weights_uri: give it, or leave the sha256 out"
        )
