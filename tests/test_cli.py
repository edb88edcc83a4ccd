"""The program `fedpipe` starts fast, and its commands answer in lines that people can read."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT

SLOW = {"torch", "numpy", "pandas", "sklearn", "scipy", "dvc", "dvc_render", "vl_convert", "pydantic", "ruamel", "ray"}


def fedpipe(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fedpipe.cli", *arguments], cwd=folder, capture_output=True, text=True)


def test_the_program_starts_without_what_single_commands_need():
    code = "import sys, fedpipe.cli; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert SLOW & set(shown.stdout.split()) == set()


@pytest.mark.parametrize("command", ["check", "params", "verify"])
def test_help_lists_every_command_and_every_command_has_help(command: str):
    assert f" {command} " in fedpipe("--help").stdout
    assert fedpipe(command, "--help").returncode == 0


def test_the_printed_parameters_are_valid_and_every_one_has_a_comment(tmp_path: Path):
    printed = fedpipe("params").stdout
    path = tmp_path / "params.yaml"
    path.write_text(printed)
    checked = fedpipe("check", str(path))
    assert (checked.returncode, checked.stdout) == (0, f"{path}: valid\n"), checked.stderr
    assert YAML(typ="safe", pure=True).load(path)["compare"] == {"target_accuracy": 0.985}
    lines = printed.splitlines()
    assert lines[0].startswith("# ")
    undescribed = [
        line for above, line in pairwise(lines) if line and "#" not in line and not above.lstrip().startswith("#")
    ]
    assert undescribed == []
    assert max(map(len, lines)) <= 120


def test_a_mistake_is_one_line_and_the_exit_status_is_1(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("compare:\n  target_accuracy: 2.0\n")
    checked = fedpipe("check", str(path))
    assert checked.returncode == 1
    assert checked.stderr == f"{path}: compare.target_accuracy: 2.0 must be less than 1\n"


def test_verifying_where_nothing_ran_is_no_success(tmp_path: Path):
    verified = fedpipe("verify", folder=tmp_path)
    assert verified.returncode == 1
    assert verified.stderr.count("\n") == 1
