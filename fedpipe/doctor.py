"""Is everything here that the pipeline needs? A finding for each thing, with what would help."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import torch

from fedpipe.config.file import PARAMS
from fedpipe.data.sources import OLD_VARIABLE, SOURCE_VARIABLE
from fedpipe.pipeline import check
from fedpipe.system.errors import UserError
from fedpipe.system.machine import cores
from fedpipe.system.programs import output_of

SOURCES = (SOURCE_VARIABLE, OLD_VARIABLE)  # environment variables; the first that is set counts
GIB = 2**30
LITTLE = GIB  # of memory or disk space, below which a training may not fit
DATA_SET = Path("data/dataset/dataset.json")
MADE = {  # what the pipeline makes, by the files that tell whether it is there
    "data": (DATA_SET, Path("data/shards/manifest.csv")),
    "models": (Path("models/federated.safetensors"), Path("models/baseline.safetensors")),
}


@dataclass(frozen=True)
class Finding:
    """Tell about one thing: what was found, and what would help unless all is well."""

    status: Literal["ok", "warning", "problem"]  # a problem prevents `dvc repro`
    name: str
    found: str
    help: str = ""


def findings() -> Iterator[Finding]:
    """Yield a finding for each thing that the pipeline needs in the current folder or on this machine."""
    yield from _versions()
    yield _python_of_stages()
    yield from _machine()
    yield from _repositories()
    yield _source()
    yield from _made()
    yield _parameters()


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()}, {sys.executable}")
    for package in ("fedpipe", "torch", "dvc"):
        try:
            yield Finding("ok", package, version(package))
        except PackageNotFoundError:
            help = 'pip install -e ".[dev]" -c constraints.txt'
            yield Finding("problem", package, "not installed", help)
    try:
        yield Finding("ok", "ray", version("ray"))
    except PackageNotFoundError:
        yield Finding("ok", "ray", 'not installed; only compute.engine: ray needs it (pip install -e ".[ray]")')


def _python_of_stages() -> Finding:
    """Tell whether the stages, which run as `python -m stages.NAME`, find what they need."""
    name, activate = "python of the stages", "activate the environment, such as by `. .venv/bin/activate`"
    python = shutil.which("python")
    if python is None:
        return Finding("problem", name, "no `python` in the path", activate)
    program = (
        "import sys, importlib.util as u; print(sys.prefix); print(*(m for m in sys.argv[1:] if not u.find_spec(m)))"
    )
    try:
        prefix, missing = output_of([python], "-c", program, "torch", "pydantic", "safetensors").splitlines()
    except UserError as error:
        return Finding("problem", name, f"{python}: {error}", activate)
    if missing:
        return Finding("problem", name, f"{python}, which lacks {missing}", activate)
    if Path(prefix) != Path(sys.prefix):
        return Finding("warning", name, f"{python}, not the one that runs fedpipe", activate)
    return Finding("ok", name, python)


def _machine() -> Iterator[Finding]:
    yield Finding("ok", "cores", f"{cores()} that this process may use")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        memory = min(memory, int(text))
    yield _amount("memory", memory, "", "lower compute.workers, or use a larger machine")
    yield Finding("ok", "device", f"auto takes {_device()}")
    yield Finding("ok", "bfloat16", _bfloat16())


def _device() -> str:
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "cpu; mps is there too" if torch.backends.mps.is_available() else "cpu; torch finds neither cuda nor mps"


def _bfloat16() -> str:
    """Tell whether compute.precision: bfloat16 would be fast."""
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return "fast on this GPU"
    try:
        instructions = set(Path("/proc/cpuinfo").read_text().split()) & {"avx512_bf16", "amx_bf16", "bf16"}
    except OSError:  # not Linux
        return "not known of this CPU"
    found = ", ".join(sorted(instructions))
    return f"fast on this CPU ({found})" if found else "slow on this CPU, which has no instructions for it"


def _repositories() -> Iterator[Finding]:
    try:
        yield Finding("ok", "git repository", output_of(["git"], "rev-parse", "--show-toplevel").strip())
    except UserError:
        help = "clone the project with git"
        yield Finding("warning", "git repository", "none; experiments and `fedpipe verify` need it", help)
    dvc = [sys.executable, "-m", "dvc"]
    try:
        root = output_of(dvc, "root").strip()
        cache = Path(output_of(dvc, "cache", "dir").strip())
    except UserError as error:
        yield Finding("problem", "DVC repository", str(error), "run from the folder of a clone, or `dvc init`")
        return
    if not Path("dvc.yaml").is_file():
        yield Finding("problem", "DVC repository", "no dvc.yaml here", f"run from {Path(root).resolve()}")
    else:
        yield Finding("ok", "DVC repository", f"{Path(root).resolve()}")
    yield _cache(cache)


def _cache(cache: Path) -> Finding:
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return Finding("problem", "DVC cache", f"{cache}: not writable", "make it writable, or `dvc cache dir FOLDER`")
    files = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
    holds = f"{cache}: {sum(files) / GIB:.2f} GiB in {len(files):,} files"
    return _amount("DVC cache", shutil.disk_usage(there).free, f"{holds}; free: ", "free some space, as by `dvc gc -w`")


def _amount(name: str, amount: int, before: str, help: str) -> Finding:
    """Return a finding about bytes of which too few would be a warning."""
    found = f"{before}{amount / GIB:.1f} GiB"
    return Finding("ok", name, found) if amount >= LITTLE else Finding("warning", name, found, help)


def _source() -> Finding:
    """Tell where the data set comes from, if it is not there yet."""
    name = "source of data"
    there = DATA_SET.is_file()
    for variable in SOURCES:
        if source := os.environ.get(variable):
            url = urlsplit(source)
            if Path(source).exists() or (url.scheme in ("http", "https") and url.netloc):
                return Finding("ok", name, f"{variable} = {source}")
            help = f"have {variable} name a folder or a URL, or unset it"
            return Finding("warning" if there else "problem", name, f"{variable} = {source}: not there", help)
    if there:
        return Finding("ok", name, f"neither {' nor '.join(SOURCES)} is set, and the data set is there")
    return Finding("ok", name, f"neither {' nor '.join(SOURCES)} is set: public mirrors, else a sample")


def _made() -> Iterator[Finding]:
    for name, files in MADE.items():
        if missing := [str(file) for file in files if not file.is_file()]:
            help = "`dvc repro` makes them, and `dvc checkout` brings them if DVC's cache has them"
            yield Finding("warning", name, f"no {', no '.join(missing)}", help)
        else:
            yield Finding("ok", name, ", ".join(map(str, files)))


def _parameters() -> Finding:
    try:
        check(PARAMS)
    except UserError as error:
        lines = [line.removeprefix(f"{PARAMS}: ") for line in str(error).splitlines()]
        return Finding(
            "problem", f"{PARAMS}", "; ".join(lines), "mend it: `fedpipe params NAME` tells what is possible"
        )
    return Finding("ok", f"{PARAMS}", "valid")
