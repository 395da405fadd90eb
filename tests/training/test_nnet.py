"""N-Net: what is its own. What every method must do is in test_methods.py."""

import pytest
import torch

from tests.training.test_drd import batch_of, pictures
from training.config import FitConfig
from training.methods import build_method
from training.methods.nnet import Adapter, NNet
from training.pixels import in_chunks
from training.teachers import random_teacher


def build(**options: object) -> NNet:
    torch.manual_seed(0)
    config = FitConfig(method="nnet", input_size=64, options={"prototypes": 32, "floors": [0.3], **options})
    method = build_method(config, [random_teacher("efficientnet_lite0")])
    assert isinstance(method, NNet)
    method.prepare(method.frozen_features(torch.cat(in_chunks(pictures(4)))))
    return method


@pytest.mark.parametrize("painted", [0, 2])
def test_adapters_begin_at_the_teachers_features_and_learn_only_when_asked(painted: int) -> None:
    learning, resting = build(adapt=True), build()
    features = learning.frozen_features(torch.rand(2, 3, 64, 64))
    for before, after in zip(features, learning.adapt(features), strict=True):
        assert torch.equal(before, after)
    losses = learning.training_step(batch_of(learning, painted))
    assert "adapter" not in resting.training_step(batch_of(resting, painted))
    # At first, features that have not moved cost nothing to keep; only painted ones are to be pushed.
    assert (float(losses["adapter"].detach()) > 1e-3) == (painted > 0)
    losses["loss"].backward()  # type: ignore[no-untyped-call]
    assert all(adapter.last.weight.grad is not None for adapter in learning.adapters if isinstance(adapter, Adapter))
    assert not list(resting.adapters.parameters())


def test_branches_never_see_past_the_code() -> None:
    method = build()
    method.eval()
    features = method.scaler(method.frozen_features(torch.rand(1, 3, 64, 64)))
    seen: list[torch.Size] = []
    method.branches.code.register_forward_hook(lambda _m, _i, code: seen.append(code.shape))
    constant = torch.zeros(())
    method.branches.code.register_forward_hook(lambda _m, _i, code: code * constant)
    reverse, forward = method.branches(features)
    other_reverse, other_forward = method.branches([f.flip(3) for f in features])
    assert seen[0][2:] == (2, 2)  # stride 32
    # With the code silenced, every picture is answered alike: nothing else leads around it.
    for mine, others in zip((*reverse, *forward), (*other_reverse, *other_forward), strict=True):
        assert torch.equal(mine, others)


def test_map_has_a_source_for_every_branch_and_level_and_the_query() -> None:
    method = build()
    method.eval()
    method.consolidate(method.frozen_features(torch.cat(in_chunks(pictures(4)))))
    method.calibrate(pictures(4, seed=1))
    with torch.inference_mode():
        shapes = [tuple(source.shape[2:]) for source in method.sources(torch.rand(1, 3, 64, 64))]
    assert shapes == [(8, 8), (4, 4), (8, 8), (4, 4), (4, 4)]
