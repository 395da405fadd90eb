"""anomalib's networks with Plumbline's teacher. Only modules that run in the peers' environment may import this.

The classes that implement the methods are used without anomalib's engine. The engine would normalise and clamp scores,
select thresholds on test images, and read images differently.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import timm
import torch
from anomalib.models.components import KCenterGreedy
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.stfpm.loss import STFPMLoss
from anomalib.models.image.stfpm.torch_model import STFPMModel
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.peers.coreset import greedy_centres, projected_metric
from training.pixels import to_pixels
from training.teachers import Teacher

BATCH_SIZE = 32  # anomalib's default
LAYERS = ("stages.0", "stages.1", "stages.2")  # stages of a Teacher with strides 4, 8 and 16
PADIM_FEATURES = 100  # anomalib's default for ResNet-18; it has none for other backbones of this size

Images = NDArray[np.uint8]


class PeerGraph(nn.Module):
    """A trained peer with the inputs and outputs of a bundle's graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw map, float32 `[N, H, W]`, and the raw score, float32 `[N]`, of uint8 `[N, H, W, 3]`."""
        output = self.model(to_pixels(image))
        return output.anomaly_map[:, 0], output.pred_score.reshape(-1)


def train_padim(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> nn.Module:
    """Train PaDiM: one multivariate Gaussian of the features per patch position."""
    del settings
    model = PadimModel(backbone=cast("str", teacher), layers=list(LAYERS), n_features=PADIM_FEATURES)
    _collect(model, images)
    model.fit()
    trained: nn.Module = model  # anomalib has no type hints here
    return trained


def train_patchcore(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> nn.Module:
    """Train PatchCore: a coreset of the patch features at strides 8 and 16."""
    model = PatchcoreModel(backbone=cast("str", teacher), layers=LAYERS[1:])
    _collect(model, images)
    patches = torch.vstack(model.embedding_store)
    model.embedding_store.clear()
    # Same result as `subsample_embedding`, which takes hours on a CPU; see benchmarks.peers.coreset.
    sampler = KCenterGreedy(embedding=patches, sampling_ratio=settings["patchcore_coreset"])
    sampler.model.fit(patches)
    points = projected_metric(patches, sampler.model.sparse_random_matrix)
    first = int(torch.randint(high=len(patches), size=(1,)))
    model.memory_bank = patches[greedy_centres(points, sampler.coreset_size, first)]
    trained: nn.Module = model  # anomalib has no type hints here
    return trained


def train_stfpm(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> nn.Module:
    """Train STFPM: a student with the teacher's architecture and random weights, with anomalib's SGD settings."""
    model = STFPMModel(backbone=cast("str", teacher), layers=LAYERS)
    # anomalib would copy the teacher as the student. This teacher has no BatchNorm, which training needs.
    model.student_model = _Student(teacher)
    loss = STFPMLoss()
    optimiser = torch.optim.SGD(model.student_model.parameters(), lr=0.4, momentum=0.9, weight_decay=0.001)
    model.train()
    batches = _shuffled(images)
    for _ in range(settings["stfpm_steps"]):
        of_teacher, of_student = model(to_pixels(next(batches)))
        optimiser.zero_grad(set_to_none=True)
        loss(of_teacher, of_student).backward()
        optimiser.step()
    trained: nn.Module = model  # anomalib has no type hints here
    return trained


TRAIN: dict[str, Callable[[Images, Teacher, Mapping[str, Any]], nn.Module]] = {
    "padim": train_padim,
    "patchcore": train_patchcore,
    "stfpm": train_stfpm,
}


class _Student(nn.Module):
    """timm's EfficientNet-Lite0 up to stride 16, with random weights and BatchNorm."""

    mean: Tensor
    std: Tensor

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.net = timm.create_model(
            f"tf_{teacher.name}", pretrained=False, features_only=True, out_indices=(1, 2, 3), drop_path_rate=0.0
        )
        # The stages at stride 32 are not used.
        self.net.blocks = self.net.blocks[:5]
        self.register_buffer("mean", teacher.mean.clone())
        self.register_buffer("std", teacher.std.clone())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return dict(zip(LAYERS, self.net((pixels - self.mean) / self.std), strict=True))


@torch.no_grad()
def _collect(model: nn.Module, images: Images) -> None:
    """Run all images in training mode, in which PaDiM and PatchCore store the features."""
    model.train()
    for start in range(0, len(images), BATCH_SIZE):
        model(to_pixels(torch.from_numpy(images[start : start + BATCH_SIZE])))


def _shuffled(images: Images) -> Iterator[Tensor]:
    """Yield batches indefinitely; every image occurs once per epoch."""
    while True:
        for indices in torch.split(torch.randperm(len(images)), BATCH_SIZE):
            yield torch.from_numpy(images[indices.numpy()])
