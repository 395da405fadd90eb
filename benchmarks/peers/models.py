"""anomalib's networks with Plumbline's teacher. Only modules that run in the peers' environment may import this.

The classes that implement the methods are used without anomalib's engine. The engine would normalise and clamp scores,
select thresholds on test images, and read images differently.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
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

from benchmarks.peers import efficientad
from benchmarks.peers.coreset import greedy_centres, projected_metric
from benchmarks.peers.plateau import WINDOW, has_converged
from training.pixels import to_pixels
from training.teachers import Teacher

BATCH_SIZE = 32  # anomalib's default
LAYERS = ("stages.0", "stages.1", "stages.2")  # stages of a Teacher with strides 4, 8 and 16
PADIM_FEATURES = 100  # anomalib's default for ResNet-18; it has none for other backbones of this size

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Trained:
    """A trained peer.

    Attributes:
        model: anomalib's network.
        details: How the training went, as JSON values.
    """

    model: nn.Module
    details: Mapping[str, Any] = field(default_factory=dict)


class PeerGraph(nn.Module):
    """A trained peer with the inputs and outputs of a bundle's graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the raw map, float32 `[N, H, W]`, and the raw score, float32 `[N]`, of uint8 `[N, H, W, 3]`."""
        output = self.model(to_pixels(image))
        return output.anomaly_map[:, 0], output.pred_score.reshape(-1)


def train_padim(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> Trained:
    """Train PaDiM: one multivariate Gaussian of the features per patch position."""
    del settings
    model = PadimModel(backbone=cast("str", teacher), layers=list(LAYERS), n_features=PADIM_FEATURES)
    _collect(model, images)
    model.fit()
    return Trained(model)


def train_patchcore(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> Trained:
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
    return Trained(model, {"entries": sampler.coreset_size})


def train_stfpm(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> Trained:
    """Train STFPM: a student with the teacher's architecture and random weights, with anomalib's SGD settings.

    It ends when the loss has converged, see `benchmarks.peers.plateau`, at the latest after `stfpm_steps`.
    """
    model = STFPMModel(backbone=cast("str", teacher), layers=LAYERS)
    # anomalib would copy the teacher as the student. This teacher has no BatchNorm, which training needs.
    model.student_model = _Student(teacher)
    loss_of = STFPMLoss()
    optimiser = torch.optim.SGD(model.student_model.parameters(), lr=0.4, momentum=0.9, weight_decay=0.001)
    model.train()
    # STFPM does not augment, so each image has the same features in every epoch.
    with torch.no_grad():
        parts = [model.teacher_model(to_pixels(torch.from_numpy(part))) for part in _parts(images)]
    targets = {layer: torch.cat([part[layer] for part in parts]) for layer in LAYERS}
    losses: list[float] = []
    for indices in _shuffled(len(images)):
        of_student = model.student_model(to_pixels(torch.from_numpy(images[indices.numpy()])))
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of({layer: features[indices] for layer, features in targets.items()}, of_student)
        loss.backward()
        optimiser.step()
        losses.append(loss.item() / len(indices))  # anomalib sums over the batch
        if has_converged(losses) or len(losses) >= settings["stfpm_steps"]:
            break
    means = [round(fmean(losses[start : start + WINDOW]), 4) for start in range(0, len(losses), WINDOW)]
    return Trained(
        model, {"steps": len(losses), "converged": has_converged(losses), f"losses_by_{WINDOW}_steps": means}
    )


def train_efficientad(images: Images, teacher: Teacher, settings: Mapping[str, Any]) -> Trained:
    """Train EfficientAD-S, which has a teacher of its own."""
    del teacher
    return Trained(efficientad.train(images, settings))


TRAIN: dict[str, Callable[[Images, Teacher, Mapping[str, Any]], Trained]] = {
    "padim": train_padim,
    "patchcore": train_patchcore,
    "stfpm": train_stfpm,
    "efficientad": train_efficientad,
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
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                # That of ResNet, as in the paper; with timm's 0.01 the statistics lag behind by hundreds of steps.
                module.momentum = 0.1
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
    for part in _parts(images):
        model(to_pixels(torch.from_numpy(part)))


def _parts(images: Images) -> Iterator[Images]:
    for start in range(0, len(images), BATCH_SIZE):
        yield images[start : start + BATCH_SIZE]


def _shuffled(count: int) -> Iterator[Tensor]:
    """Yield the indices of batches indefinitely; every image occurs once per epoch."""
    while True:
        yield from torch.split(torch.randperm(count), BATCH_SIZE)
