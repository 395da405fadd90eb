"""The list of products: what spreadsheet programs write, and one message per bad line."""

from pathlib import Path

import pytest

from training.errors import InvalidProductList
from training.fleet.product_list import read_list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("bolt", "nut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bolt.toml").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "product,data,settings\nbolt,bolt,bolt.toml\nnut,nut,\n",
        "\ufeffdata;Product;settings\r\nbolt;bolt;bolt.toml\r\n\r\nnut;nut\r\n",
        'settings\tproduct\tdata\n"bolt.toml"\tbolt\tbolt\n\tnut\tnut',
    ],
    ids=["commas", "German Excel", "tabs"],
)
def test_separators_and_order_of_columns_are_recognised(folder: Path, text: str) -> None:
    path = folder / "list.csv"
    path.write_bytes(text.encode())
    products, problems = read_list(path)
    assert problems == []
    assert [(item.product, item.data, item.settings) for item in products] == [
        ("bolt", folder / "bolt", folder / "bolt.toml"),
        ("nut", folder / "nut", None),
    ]


def test_every_bad_line_is_named_with_all_its_problems(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text(
        "product,data,settings\nBolt,bolt,\nnut,missing,\nbolt,bolt,\n\nbolt,empty,no.toml\nnut2,,\nnut3,nut,,,,\n"
    )
    products, problems = read_list(path)
    assert [item.product for item in products] == ["bolt"]
    found = {problem.line: problem.reason for problem in problems}
    assert found.keys() == {2, 3, 6, 7, 8}
    assert "'Bolt', expected 1 to 64 of a-z" in found[2]
    assert "missing does not exist" in found[3]
    for part in ("bolt is in line 4", "empty holds no image files", "no.toml does not exist"):
        assert part in found[6]
    assert found[7] == "the data folder is missing"
    assert "6 cells, expected 3" in found[8]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"product,data\n", "no product follows"),
        (b"name,data\nbolt,bolt\n", "the column 'product' is missing; there is no column 'name'"),
        (b"product,data,data\nbolt,bolt,bolt\n", "the column 'data' is there more than once"),
        (b"product,data\nbolt,b\xf6lt\n", "line 2 is not UTF-8"),
        (b'product,data\nbolt,"bolt\n', "line 2 is not CSV"),
    ],
)
def test_a_file_that_is_no_list_is_refused(folder: Path, content: bytes, reason: str) -> None:
    path = folder / "list.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidProductList) as caught:
        read_list(path)
    assert reason in caught.value.detail
    assert "product,data,settings" in caught.value.detail


def test_a_missing_file_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidProductList, match="cannot be read"):
        read_list(folder / "missing.csv")
