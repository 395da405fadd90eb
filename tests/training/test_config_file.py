"""Settings files: field names of FitConfig, the method's defaults for missing ones, errors that name what is wrong."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.cli.main import app, spread_lists
from training.comparison.cells import make_cells
from training.config import FitConfig
from training.config_file import read_settings
from training.errors import InvalidFitConfig, InvalidSettings, UnknownMethod
from training.methods import METHODS, build_method, fit_config
from training.teachers import random_teacher

CONFIGS = Path(__file__).parents[2] / "configs"
PAPERS = sorted((CONFIGS / "papers").glob("*.toml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_every_method_has_a_settings_file_of_its_paper_that_can_be_built() -> None:
    assert {path.stem for path in PAPERS} == set(METHODS)
    for path in PAPERS:
        config = read_settings(path)
        assert config.method == path.stem
        method = build_method(config, [random_teacher(name) for name in config.teachers])
        assert method.teachers == list(config.teachers)


@pytest.mark.parametrize("path", sorted((CONFIGS / "ablations").glob("*.toml")), ids=lambda path: path.stem)
def test_ablations_can_be_built(path: Path) -> None:
    config = read_settings(path)
    build_method(config, [random_teacher(name) for name in config.teachers])
    assert (path.stem == f"{config.method}-both") == (config == fit_config(config.method))


def test_file_overrides_the_method_and_the_command_overrides_both(tmp_path: Path) -> None:
    path = written(tmp_path, 'method = "nnet"\niterations = 7\nlr = 0.1\n[options]\nadapt = true\n')
    config = read_settings(path, iterations=9, input_size=None)
    expected = fit_config("nnet", iterations=9, lr=0.1, options={"adapt": True})
    assert config == expected
    assert config.input_size == METHODS["nnet"].recommended["input_size"]


def test_weights_are_relative_to_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'method = "drd"\nteacher_weights = ["weights.pth"]\n')
    assert read_settings(path).teacher_weights == (tmp_path / "weights.pth",)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("method = ", InvalidSettings, "mine.toml"),
        ("stepps = 3", InvalidSettings, "stepps is not a setting; choose from .*iterations"),
        ("iteratoins = 3", InvalidSettings, r"iteratoins is not a setting; .* \(did you mean `iterations`\?\)"),
        ("seed = 3", InvalidSettings, "seed is not a setting"),
        ('device = "cuda"', InvalidSettings, "device is not a setting"),
        ("teacher_weights = 3", InvalidSettings, "mine.toml"),
        ('iterations = "many"', InvalidSettings, "setting iterations is 'many': it is text, expected a whole number"),
        ("iterations = 5.5", InvalidSettings, "setting iterations is 5.5: it is a number with a fraction, expected"),
        (
            "iterations = true",
            InvalidSettings,
            "setting iterations is True: it is a truth value, expected a",
        ),
        ('lr = "fast"', InvalidSettings, "setting lr is 'fast': it is text, expected a number"),
        (
            'augment = "spin"',
            InvalidSettings,
            "setting augment is 'spin': it is not an accepted .*'rotate'",
        ),
        ('teachers = "resnet18"', InvalidSettings, "setting teachers is 'resnet18'"),
        ("method = nnet", InvalidSettings, "text in quotes"),
        ('method = "magic"', UnknownMethod, "magic"),
        ("input_size = 250", InvalidFitConfig, "multiple of 32"),
    ],
)
def test_errors_name_what_is_wrong_in_a_file(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_settings(written(tmp_path, text))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ('ensemble_weights = "much"', "option ensemble_weights is 'much'"),
        ("magic = 1", "no option magic; choose from .*adapt"),
        ("ensemble_weight = 1", r"no option ensemble_weight; .* \(did you mean `ensemble_weights`\?\)"),
    ],
)
def test_invalid_options_of_a_method_are_refused(tmp_path: Path, options: str, words: str) -> None:
    config = read_settings(written(tmp_path, f'method = "nnet"\n[options]\n{options}\n'))
    with pytest.raises(InvalidFitConfig, match=words):
        build_method(config, [random_teacher("efficientnet_lite2")])


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nothing\.toml"):
        read_settings(tmp_path / "nothing.toml")


def test_named_configurations_have_their_own_cells_and_columns() -> None:
    cells = make_cells(["a"], {"slow": FitConfig(), "quick": FitConfig(iterations=3)}, [0, 1])
    assert [cell.name for cell in cells] == ["a-slow-seed0", "a-quick-seed0", "a-slow-seed1", "a-quick-seed1"]
    assert {cell.column for cell in cells} == {"slow", "quick"}


@pytest.mark.parametrize("beside", [["--methods", "drd"], ["--option", "a=1"], ["--config", "other/mine.toml"]])
def test_compare_refuses_options_that_contradict_a_file(tmp_path: Path, beside: list[str]) -> None:
    (tmp_path / "part" / "test").mkdir(parents=True)
    path = written(tmp_path, 'method = "drd"')
    arguments = ["compare", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--config", str(path), *beside]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "--config" in result.output
    assert not (tmp_path / "out").exists()


def test_one_option_takes_several_files() -> None:
    assert spread_lists(["compare", "--config", "a.toml", "b.toml"]) == [
        *("compare", "--config", "a.toml"),
        *("--config", "b.toml"),
    ]
