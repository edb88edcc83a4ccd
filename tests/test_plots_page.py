"""`dvc plots` draws in any clone: its page is in git, with the scripts inside."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import vl_convert

from tests.conftest import ROOT, checkout, run

PAGE = (ROOT / ".dvc/plots-page.html").read_text()
SCRIPT = PAGE[PAGE.index("<script>") : PAGE.index("</script>")]
MARKUP = PAGE.replace(SCRIPT, "")


def test_the_page_has_the_places_that_dvc_fills_and_loads_nothing():
    assert MARKUP.count("{plot_divs}") == MARKUP.count("{refresh_tag}") == 1
    assert "{scripts}" not in PAGE  # where DVC puts the addresses of scripts
    assert not re.search(r"{(plot_divs|refresh_tag)}", SCRIPT)
    assert not re.findall(r"<[^>]*(?:src|href)\s*=", MARKUP)
    assert PAGE.count("<script>") == PAGE.count("</script>") == 1


def test_the_script_is_the_bundle_of_the_version_that_the_page_names():
    [named] = re.findall(r"vl-convert-python (\S+):", MARKUP)
    assert f"vl-convert-python=={named}\n" in (ROOT / "constraints.txt").read_text()
    if version("vl-convert-python") != named:
        pytest.skip(f"another vl-convert-python than the {named} of constraints.txt is installed")
    [call] = re.findall(r'javascript_bundle\("(.*)"\)', MARKUP)
    assert vl_convert.javascript_bundle(call) in SCRIPT


@pytest.mark.slow
def test_plots_show_and_diff_draw_in_a_fresh_clone_where_nothing_ran(tmp_path: Path):
    """After `git clone`, with neither `make` nor `dvc repro` nor a network."""
    project = checkout(tmp_path)
    rounds = project / "reports/federated/rounds.csv"
    rounds.write_text(rounds.read_text().replace("MNIST", "another data set"))
    run("git checkout -q -b other && git commit -q -a -m 'Other results'", project)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(project), str(clone)], check=True)
    for command in ("dvc plots show", "dvc plots diff origin/main other"):
        output = run(command, clone)
        page = (clone / "dvc_plots/index.html").read_text()
        assert output == (clone / "dvc_plots/index.html").as_uri() + "\n"
        assert page.count("vegaEmbed('#") == 11
        assert SCRIPT in page
        assert "another data set" in page
    assert page.count('"dataset": "MNIST"') > page.count("another data set")  # of the diff: both revisions
    assert run("git status --porcelain", clone) == ""
