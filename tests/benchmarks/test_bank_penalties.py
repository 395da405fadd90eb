"""A bank with a planted defect finds that kind of defect again only with penalties."""

import pytest
import torch
from torch import Tensor

from benchmarks import bank_penalties
from benchmarks.bank_penalties import image_aurocs


def images(count: int, seed: int) -> Tensor:
    """Draw descriptors: every place has its own features, a little different in every image."""
    base = torch.randn(1, 12, 6, 6, generator=torch.Generator().manual_seed(0))
    return base + 0.1 * torch.randn(count, 12, 6, 6, generator=torch.Generator().manual_seed(seed))


def defect(count: int, seed: int) -> Tensor:
    """Draw images with the same defect."""
    drawn = images(count, seed)
    drawn[:, :, 2, 2] = torch.randn(12, generator=torch.Generator().manual_seed(99))
    return drawn


def test_planted_defect_hides_its_kind_unless_it_is_penalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_penalties, "PROTOTYPES", 300)
    scored, labels = torch.cat([images(12, 1), defect(12, 2)]), [False] * 12 + [True] * 12
    clean = image_aurocs(images(20, 3), scored, labels, [1.0, 0.75])
    assert min(clean) == 1.0
    hidden, found = image_aurocs(torch.cat([images(20, 3), defect(1, 2)]), scored, labels, [1.0, 0.75])
    assert found == 1.0
    assert hidden < found
