"""DeepSpeed's compiled ops, built once on a machine before the ranks need them.

DeepSpeed compiles some of its ops at first use, through `torch.utils.cpp_extension`. Left alone, that has three traps:
every rank of a first start wants to compile at once; torch's own build lock is a plain file, so a process killed while
compiling leaves a lock on which every later start waits for ever; and a machine without a compiler answers with pages
of traceback. `build_compiled_ops` builds under a lock that the kernel frees with its process, removes torch's lock when
its owner is gone, and names what is missing in one line.

    python -m xlt_scale.engines.compiled_ops                   the ops every run on this machine needs
    python -m xlt_scale.engines.compiled_ops CPUAdamBuilder    one op by the name of its DeepSpeed builder
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xlt_scale.cluster.ending import run_as_program
from xlt_scale.errors import UserError

logger = logging.getLogger(__name__)

SHARED_MEMORY_COMMUNICATION = "ShareMemCommBuilder"
CPU_ADAM = "CPUAdamBuilder"

# How long a lock of torch's that nobody seems to hold must have lain there before it counts as left behind. Its owner
# may run on another machine that shares the folder, where we cannot look: then only time can tell.
STALE_AFTER_SECONDS = 5.0
STALE_AFTER_SECONDS_OUT_OF_SIGHT = 600.0

LOCAL_FILE_SYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
ERRORS_OF_FILE_SYSTEMS_WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})


def build_compiled_ops(ops: Sequence[str] | None = None) -> None:
    """Build and load DeepSpeed's compiled ops, named by their builder classes; by default those of `needed_ops`.

    Called by `launch/quickstart.sh` and `tests/run.sh` before any rank starts, and by every rank before it initialises
    DeepSpeed, at the same time or not: the first one builds, the others wait and load what it built. An op that is
    loaded here is not loaded again by DeepSpeed in the same process. Sets `TORCH_EXTENSIONS_DIR` (see
    `extensions_directory`).

    Raises:
        UserError: a compiler, header or tool is missing, the folder cannot be written, or compiling failed.
    """
    names = needed_ops() if ops is None else tuple(ops)
    _prefer_own_ninja()
    if not names:
        return
    directory = extensions_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(directory / "xlt_scale.lock"):
            for name in names:
                load_op(get_op_builder(name), directory)
    except OSError as error:
        raise _error_of_this_machine(
            f"compiled ops cannot be kept in {directory}: {error.strerror or error}; "
            "set TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error


def needed_ops() -> tuple[str, ...]:
    """The ops without which no DeepSpeed run starts here: its process groups on CPUs load a shared-memory op."""
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed itself does without the op where it is not Linux.
    if get_accelerator().device_name() == "cpu" and sys.platform == "linux":
        return (SHARED_MEMORY_COMMUNICATION,)
    return ()


def extensions_directory() -> Path:
    """The folder of compiled ops: `TORCH_EXTENSIONS_DIR`, which is set here to a folder of this environment's own.

    In torch's default folder all environments of one Python version build over each other, and an upgrade of torch
    goes unnoticed, because its headers count as system headers and are left out of the build's dependencies. CPU ops
    are compiled for the very processor, so a home shared by unlike machines needs one folder per kind of processor.
    """
    if not os.environ.get("TORCH_EXTENSIONS_DIR"):
        from torch.utils.cpp_extension import get_default_build_root

        identity = [importlib.metadata.version("torch"), importlib.metadata.version("deepspeed"), sys.version]
        identity += [sys.prefix, platform.machine(), _processor_features()]
        digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:12]
        os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(get_default_build_root()) / f"xlt_scale_{digest}")
    return Path(os.environ["TORCH_EXTENSIONS_DIR"]).absolute()


def get_op_builder(name: str) -> Any:
    """DeepSpeed's builder of that class name, for the accelerator in use.

    Raises:
        UserError: there is none.
    """
    from deepspeed.accelerator import get_accelerator

    builder = get_accelerator().create_op_builder(name)
    # For a name it does not know, DeepSpeed answers with None or with a builder of another class.
    if builder is None or type(builder).__name__ != name:
        raise UserError(f"DeepSpeed has no compiled op {name!r} for {get_accelerator().device_name()}")
    return builder


def load_op(builder: Any, directory: Path) -> None:
    """Load one op through its DeepSpeed builder, compiling it first where that is not done yet.

    The caller holds the lock of `directory`, the folder that TORCH_EXTENSIONS_DIR names.

    Raises:
        UserError: something that compiling needs is missing, or compiling failed.
    """
    from deepspeed.git_version_info import installed_ops

    build_directory = directory / builder.name
    wait_for_build_lock(build_directory / "lock")
    if (build_directory / f"{builder.name}.so").exists():
        # Nothing is compiled then, so torch need not warn of a compiler that a compute node lacks.
        os.environ.setdefault("TORCH_DONT_CHECK_COMPILER_ABI", "1")
    elif not installed_ops.get(builder.name):
        _require_build_tools(builder.name)
        logger.info("compiling DeepSpeed's %s: a minute or so, once per environment", builder.name)
    try:
        builder.load(verbose=False)
    except ImportError as error:
        raise _error_of_this_machine(
            f"the compiled op in {build_directory} cannot be loaded ({error}); remove that folder and start again"
        ) from error
    except RuntimeError as error:
        _require_build_tools(builder.name)
        log_file = build_directory / "build.log"
        log_file.write_text(str(error), encoding="utf-8")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "error:" in line), lines[-1] if lines else "no message")
        raise _error_of_this_machine(
            f"DeepSpeed's {builder.name} did not compile: {reason} (all of the compiler's output: {log_file})"
        ) from error


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the file `path` locked. The kernel frees the lock when the process ends, however it ends: it is never stale.

    Where the file system knows no locks it goes on without, with a warning.
    """
    start = time.monotonic()
    announced = False
    with path.open("a") as lock_file:
        while True:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Not at once: ranks that merely take turns to load a built op need not say so.
                if not announced and time.monotonic() - start > 2.0:
                    logger.info("waiting for another process that builds compiled ops (it holds %s)", path)
                    announced = True
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in ERRORS_OF_FILE_SYSTEMS_WITHOUT_LOCKS:
                    raise
                logger.warning("the file system of %s knows no locks: several ranks may compile at once", path)
                break
        yield


def wait_for_build_lock(lock: Path) -> None:
    """Return when torch's build lock is gone; one that a killed process left behind is removed, with one logged line.

    torch takes a file's existence for the lock (`torch.utils.file_baton`), so nobody else would ever remove it.
    """
    announced = False
    while lock.exists():
        if is_left_behind(lock):
            lock.unlink(missing_ok=True)
            logger.warning("removed %s, which a process that was killed while compiling had left behind", lock)
            return
        if not announced:
            logger.info("waiting for the process that compiles in %s", lock.parent)
            announced = True
        time.sleep(0.2)


def is_left_behind(lock: Path) -> bool:
    """Whether torch's build lock has lost its process: old enough, and nobody on this machine uses it."""
    try:
        status = lock.stat()
    except FileNotFoundError:
        return False
    sees_all_users = os.geteuid() in (0, status.st_uid)
    in_sight = sees_all_users and Path("/proc/self/fd").is_dir() and _is_on_local_disk(lock)
    if time.time() - status.st_mtime < (STALE_AFTER_SECONDS if in_sight else STALE_AFTER_SECONDS_OUT_OF_SIGHT):
        return False
    return not _is_in_use(lock)


def _is_in_use(lock: Path) -> bool:
    """Whether a process of this machine has the lock open, or works in its folder, as orphaned compilers still do."""
    try:
        wanted = {lock.name: lock.stat(), lock.parent.name: lock.parent.stat()}
    except FileNotFoundError:
        return False
    for process in Path("/proc").glob("[0-9]*"):
        # A process may end, or be somebody else's, at any point of this.
        with contextlib.suppress(OSError):
            for link in (process / "cwd", *(process / "fd").iterdir()):
                # By name first: asking for the status of every open file could hang on a dead network disk.
                status = wanted.get(os.path.basename(os.readlink(link)))
                if status is not None and os.path.samestat(status, link.stat()):
                    return True
    return False


def _is_on_local_disk(path: Path) -> bool:
    mount_point, kind = Path("/"), ""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        candidate = Path(line.split()[1].replace("\\040", " "))
        if path.resolve().is_relative_to(candidate) and len(candidate.parts) >= len(mount_point.parts):
            mount_point, kind = candidate, line.split()[2]
    return kind in LOCAL_FILE_SYSTEMS


def missing_build_tools() -> list[str]:
    """What compiling needs and this machine lacks, each with the command that installs it on Debian and Ubuntu."""
    from torch.utils.cpp_extension import get_cxx_compiler

    missing = []
    compiler = shlex.split(get_cxx_compiler())[0]
    if shutil.which(compiler) is None:
        missing.append(f"the C++ compiler {compiler} (apt-get install g++)")
    include = Path(sysconfig.get_path("include", scheme="posix_prefix"))
    if not (include / "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        missing.append(f"Python.h in {include} (apt-get install python{version}-dev)")
    if shutil.which("ninja") is None:
        missing.append("ninja (pip install ninja)")
    return missing


def _require_build_tools(op: str) -> None:
    missing = missing_build_tools()
    if missing:
        raise _error_of_this_machine(f"DeepSpeed's {op} cannot be compiled, missing: {'; '.join(missing)}")


def _prefer_own_ninja() -> None:
    """Let torch use the ninja of this environment, also when its Python was called by full path, without activation.

    Always that one: ninja does not trust another version's log and would compile everything again.
    """
    scripts = sysconfig.get_path("scripts")
    own_ninja = shutil.which("ninja", path=scripts)
    if own_ninja is not None and own_ninja != shutil.which("ninja"):
        os.environ["PATH"] = os.pathsep.join(filter(None, (scripts, os.environ.get("PATH"))))


def _processor_features() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()


def _error_of_this_machine(message: str) -> UserError:
    """An error that other nodes may not share: one rank of this node must say it, not only the first of all."""
    error = UserError(message)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        error.on_this_rank_only = True  # type: ignore[attr-defined]
    return error


def main() -> None:
    """Build the ops named on the command line, else the needed ones, and say what is there and how long it took."""
    logging.basicConfig(level=logging.INFO, format="compiled ops: %(message)s")
    names = tuple(sys.argv[1:]) or needed_ops()
    start = time.monotonic()
    build_compiled_ops(names)
    logger.info("%s", f"{', '.join(names)} ready, {time.monotonic() - start:.1f} s" if names else "none needed here")


if __name__ == "__main__":
    run_as_program(main)
