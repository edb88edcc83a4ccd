"""Files are written whole or not at all, and read back as they were written."""

from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch

from fedpipe.system.errors import UserError
from fedpipe.system.files import read_json, replacing, write_json, write_table
from fedpipe.system.tensors import read_tensors, write_tensors


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with suppress(KeyboardInterrupt), replacing(path) as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_of_a_folder_leaves_the_old_folder(tmp_path: Path):
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "old").touch()
    with suppress(KeyboardInterrupt), replacing(folder) as new:
        new.mkdir()
        (new / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_is_replaced_whole(tmp_path: Path):
    for name in ("one", "other"):
        with replacing(tmp_path / "folder") as new:
            new.mkdir()
            (new / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_the_same_values_are_the_same_bytes(tmp_path: Path):
    for name in ("one", "other"):
        write_tensors(tmp_path / name, {"b": torch.arange(3), "a": torch.zeros(2, 2)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_table_reads_back_as_it_was_written(tmp_path: Path):
    write_table(tmp_path / "t.csv", [{"round": 1, "loss": 0.1 + 0.2}, {"round": 2, "loss": 1e-9}], dataset="MNIST, all")
    table = pd.read_csv(tmp_path / "t.csv")
    assert table.to_dict("list") == {"dataset": ["MNIST, all"] * 2, "round": [1, 2], "loss": [0.1 + 0.2, 1e-9]}


@pytest.mark.parametrize("read", [read_tensors, read_json])
def test_a_missing_or_damaged_file_is_one_line_that_names_it(read, tmp_path: Path):
    path = tmp_path / "file"
    with pytest.raises(UserError, match=rf"^{path}: not there; [^\n]*$"):
        read(path)
    path.write_text("{ not")
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*$"):
        read(path)


def test_json_keeps_floats_to_the_last_bit(tmp_path: Path):
    write_json(tmp_path / "x.json", {"loss": 0.1 + 0.2})
    assert read_json(tmp_path / "x.json") == {"loss": 0.1 + 0.2}
