"""Compile the stand-in from its sources and the headers of the installed CUDA packages, into a cache folder."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from xlt_scale.errors import UserError

from .entry_points import read_headers, source_of

H200_MIB = 143_771
"""What nvidia-smi shows of an H200."""

_SOURCES = Path(__file__).parent


def environment(capacity_mib: int = H200_MIB, cache: Path | None = None) -> dict[str, str]:
    """What a process needs in its environment to find the stand-in: a device of so much memory.

    Triton links against the same library, and keeps what it compiles apart from what was compiled for a real device.

    Raises:
        UserError: see `build`.
    """
    folder = build(cache)
    return {
        "LD_PRELOAD": str(folder / "libcuda.so.1"),
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "STAND_IN_GPU_MIB": str(capacity_mib),
        "CUDA_VISIBLE_DEVICES": "0",
        "DS_ACCELERATOR": "cuda",
    }


def build(cache: Path | None = None) -> Path:
    """The folder with the library, which is compiled where that has not been done yet (a few seconds).

    Raises:
        UserError: PyTorch is not built for CUDA; its headers or a C compiler are missing; it does not compile.
    """
    version = torch.version.cuda
    if version is None:
        raise UserError("stand-in GPU: this PyTorch is built for CPUs; install a build for CUDA (no GPU is needed)")
    includes = _include_folders(Path(torch.__file__).parents[1])
    compiler = shutil.which("gcc")
    if compiler is None:
        raise UserError("stand-in GPU: gcc is not found; install a C compiler")
    sources = sorted(_SOURCES.glob("*.[ch]"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, *sorted(_SOURCES.glob("*.py"))]))
    key.update(f"{torch.__version__} {includes}".encode())
    folder = (cache or Path.home() / ".cache" / "xlt_scale") / f"stand_in_gpu_{key.hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _compile(compiler, version, includes, folder)
    return folder


def _include_folders(packages: Path) -> list[Path]:
    """Of the nvidia-... packages that PyTorch's builds for CUDA depend on; Triton alone brings the folder `crt`, which
    their headers ask for.
    """
    found = [*sorted(packages.glob("nvidia/*/include")), packages / "triton" / "backends" / "nvidia" / "include"]
    for header in ("driver_types.h", "crt/host_defines.h", "cuda.h", "cudnn_version.h", "nccl.h"):
        if not any((folder / header).exists() for folder in found):
            raise UserError(f"stand-in GPU: no package in {packages} has the header {header}; reinstall PyTorch")
    return found


def _compile(compiler: str, version: str, includes: list[Path], folder: Path) -> None:
    major, minor = version.split(".")[:2]
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        unfinished = Path(name) / "built"
        unfinished.mkdir()
        rest = unfinished / "entry_points.c"
        rest.write_text(source_of(read_headers(includes)))
        library = unfinished / "libcuda.so.1"
        command = [compiler, "-shared", "-fPIC", "-O1", "-fno-builtin", f"-DCUDA_VERSION={major}0{minor}0"]
        # PyTorch asks for the driver's library by name, and is given the loaded one that calls itself so.
        command.append("-Wl,-soname,libcuda.so.1")
        command += [f"-I{_SOURCES}", *(f"-I{include}" for include in includes)]
        command += [*map(str, sorted(_SOURCES.glob("*.c"))), str(rest), "-o", str(library), "-ldl", "-lpthread"]
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            first = next((line for line in finished.stderr.splitlines() if "error" in line), "no message")
            raise UserError(f"stand-in GPU: it does not compile with these headers of CUDA {version}: {first}")
        # Programs are linked against the name without a version.
        (unfinished / "libcuda.so").symlink_to(library.name)
        if not folder.exists():
            os.replace(unfinished, folder)
