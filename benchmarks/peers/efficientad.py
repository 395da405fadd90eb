"""anomalib's EfficientAD-S. Only modules that run in the peers' environment may import this.

It needs two things that this repository cannot provide: the teacher that anomalib publishes with its releases
(`pretrained_teacher_small.pth`), and a folder of ImageNet images for the penalty, for which anomalib uses Imagenette.
"""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from anomalib.models.image.efficient_ad.lightning_model import EfficientAd
from numpy.typing import NDArray
from torch import Tensor, nn

from training.pixels import to_pixels

_VALIDATION_SHARE = 0.1  # of the images, for the quantiles of the maps, as in the paper

Images = NDArray[np.uint8]


def train(images: Images, settings: Mapping[str, Any]) -> nn.Module:
    """Train EfficientAD-S with anomalib's optimiser and schedule, one image per step as in the paper.

    Args:
        images: uint8 `[N, H, W, 3]`; a tenth is not trained on.
        settings: With `efficientad_steps`, and the files `efficientad_teacher` and `efficientad_imagenet`.
    """
    module = EfficientAd(imagenet_dir=settings["efficientad_imagenet"], model_size="small")
    model = module.model
    model.teacher.load_state_dict(torch.load(settings["efficientad_teacher"], map_location="cpu", weights_only=True))
    module.prepare_imagenette_data((images.shape[1], images.shape[2]))
    validation = max(1, round(_VALIDATION_SHARE * len(images)))
    trained, kept = images[validation:], images[:validation]
    model.mean_std.update(module.teacher_channel_mean_std([_batch(image) for image in trained]))
    optimiser = torch.optim.Adam([*model.student.parameters(), *model.ae.parameters()], lr=1e-4, weight_decay=1e-5)
    steps = settings["efficientad_steps"]
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, step_size=max(1, int(0.95 * steps)), gamma=0.1)
    penalties = _endless(module)
    model.train()
    for _ in range(steps):
        image = trained[int(torch.randint(len(trained), (1,)))]
        losses = model(batch=_pixels(image), batch_imagenet=next(penalties))
        optimiser.zero_grad(set_to_none=True)
        sum(losses).backward()
        optimiser.step()
        schedule.step()
    model.eval()
    model.quantiles.update(module.map_norm_quantiles([_batch(image) for image in kept]))
    network: nn.Module = model  # anomalib has no type hints here
    return network


def _pixels(image: Images) -> Tensor:
    return to_pixels(torch.from_numpy(image[None]))


def _batch(image: Images) -> SimpleNamespace:
    """Return one good image in the form of anomalib's batches."""
    return SimpleNamespace(image=_pixels(image), gt_label=torch.zeros(1))


def _endless(module: Any) -> Iterator[Tensor]:
    while True:
        for pixels, _ in module.imagenet_loader:
            yield pixels
