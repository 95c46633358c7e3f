"""Compiled ops: one build however many ranks start, no lock that outlives its process, one line for what is missing."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from xlt_scale.engines import compiled_ops

# A DeepSpeed op that compiles in a second. It goes through DeepSpeed's builder and torch's extension loader as real
# ones do, and tells whether it was loaded and how long that took.
TINY_OP = """
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "tiny_op", nullptr, 0, nullptr};
PyMODINIT_FUNC PyInit_tiny_op() { return PyModule_Create(&definition); }
"""
LOAD_TINY_OP = """
import logging, sys, time
from pathlib import Path
from deepspeed.ops.op_builder.cpu.builder import CPUOpBuilder
from xlt_scale.engines import compiled_ops

class TinyOpBuilder(CPUOpBuilder):
    def __init__(self): super().__init__(name="tiny_op")
    def absolute_name(self): return "tests.tiny_op"
    def sources(self): return [sys.argv[1]]
    def include_paths(self): return []
    def cxx_args(self): return ["-O0"]

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
compiled_ops.get_op_builder = lambda name: TinyOpBuilder()
start = time.monotonic()
compiled_ops.build_compiled_ops(["TinyOpBuilder"])
print("loaded", "tiny_op" in TinyOpBuilder._loaded_ops, "seconds", time.monotonic() - start)
"""


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(directory))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    return directory


@pytest.fixture
def build_lock(tmp_path: Path) -> Path:
    """torch's build lock, made a minute ago."""
    lock = tmp_path / "some_op" / "lock"
    lock.parent.mkdir()
    lock.touch()
    make_old(lock, seconds=60)
    return lock


def make_old(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def start_loading(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    source = tmp_path / "tiny_op.cpp"
    source.write_text(TINY_OP)
    return subprocess.Popen(
        [sys.executable, "-c", LOAD_TINY_OP, str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def make_slow_compiler(tmp_path: Path, seconds: float) -> str:
    """A compiler that takes its time, and counts its calls for object files in compilations.txt."""
    compiler = tmp_path / "slow-c++"
    compiler.write_text(
        f"""#!/bin/sh
case "$*" in *" -c "*)
    echo once >> {tmp_path}/compilations.txt
    sleep {seconds}
esac
exec c++ "$@"
"""
    )
    compiler.chmod(0o755)
    return str(compiler)


def wait_until_exists(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)


def test_ranks_that_start_together_compile_once_and_all_load(tmp_path: Path, extensions: Path) -> None:
    compiler = make_slow_compiler(tmp_path, seconds=1)
    ranks = [start_loading(tmp_path, CXX=compiler) for _ in range(4)]
    assert all("loaded True" in output_of(rank) for rank in ranks)
    assert (tmp_path / "compilations.txt").read_text().split() == ["once"]


def test_an_op_that_is_built_loads_in_under_a_second(tmp_path: Path, extensions: Path) -> None:
    output_of(start_loading(tmp_path))
    seconds = float(output_of(start_loading(tmp_path)).split()[-1])
    assert seconds < 1.0


def test_a_start_after_a_killed_compilation_goes_on_with_one_logged_line(tmp_path: Path, extensions: Path) -> None:
    killed = start_loading(tmp_path, CXX=make_slow_compiler(tmp_path, seconds=2))
    wait_until_exists(tmp_path / "compilations.txt")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    lock = extensions / "tiny_op" / "lock"
    assert lock.exists()
    make_old(lock, seconds=60)

    output = output_of(start_loading(tmp_path))
    assert "loaded True" in output
    assert output.count("had left behind") == 1


def test_our_lock_is_free_again_as_soon_as_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    hold = (
        "import sys, time, pathlib; from xlt_scale.engines.compiled_ops import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()

    start = time.monotonic()
    with compiled_ops.exclusive_lock(lock):
        assert time.monotonic() - start < 1


def test_a_build_lock_without_its_process_is_removed(build_lock: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        compiled_ops.wait_for_build_lock(build_lock)
    assert not build_lock.exists()
    assert [record.getMessage().count(str(build_lock)) for record in caplog.records] == [1]


def test_a_build_lock_that_is_seconds_old_is_respected(build_lock: Path) -> None:
    make_old(build_lock, seconds=1)
    assert not compiled_ops.is_left_behind(build_lock)


def test_a_build_lock_that_a_process_holds_open_is_respected(build_lock: Path) -> None:
    with build_lock.open():
        assert not compiled_ops.is_left_behind(build_lock)
    assert compiled_ops.is_left_behind(build_lock)


def test_a_build_lock_is_respected_while_an_orphaned_compiler_works_in_its_folder(build_lock: Path) -> None:
    compiler = subprocess.Popen(["sleep", "60"], cwd=build_lock.parent)
    try:
        assert not compiled_ops.is_left_behind(build_lock)
    finally:
        compiler.kill()
        compiler.wait()
    assert compiled_ops.is_left_behind(build_lock)


def test_on_a_shared_disk_a_build_lock_is_respected_for_minutes(
    build_lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_ops, "LOCAL_FILE_SYSTEMS", frozenset())
    assert not compiled_ops.is_left_behind(build_lock)
    make_old(build_lock, seconds=3600)
    assert compiled_ops.is_left_behind(build_lock)


def test_without_a_compiler_one_line_names_it_and_its_package(tmp_path: Path, extensions: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "bash"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    program = [sys.executable, "-m", "xlt_scale.engines.compiled_ops"]
    result = subprocess.run(
        program, env=os.environ | {"PATH": str(tools), "CXX": "c++"}, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "missing: the C++ compiler c++ (apt-get install g++)" in result.stderr


def test_without_python_headers_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda *_, **__: str(tmp_path))
    assert any(
        f"Python.h in {tmp_path} (apt-get install python3." in tool for tool in compiled_ops.missing_build_tools()
    )


def test_the_ninja_of_the_environment_is_found_without_activation(
    extensions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    compiled_ops.build_compiled_ops([])
    assert shutil.which("ninja") == str(Path(sysconfig.get_path("scripts")) / "ninja")


def test_a_failed_compilation_is_one_line_with_the_compilers_reason(tmp_path: Path, extensions: Path) -> None:
    source = tmp_path / "tiny_op.cpp"
    source.write_text("#error this cannot be compiled\n")
    program = f"{LOAD_TINY_OP}".replace(
        'compiled_ops.build_compiled_ops(["TinyOpBuilder"])',
        'compiled_ops.run_as_program(lambda: compiled_ops.build_compiled_ops(["TinyOpBuilder"]))',
    )
    result = subprocess.run([sys.executable, "-c", program, str(source)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "#error this cannot be compiled" in result.stderr


def test_an_op_that_deepspeed_does_not_have_is_named(extensions: Path) -> None:
    with pytest.raises(compiled_ops.UserError, match="'NoSuchBuilder'"):
        compiled_ops.build_compiled_ops(["NoSuchBuilder"])


def test_a_folder_that_cannot_be_made_is_named_with_the_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "extensions"))
    with pytest.raises(compiled_ops.UserError, match=r"file/extensions.*set TORCH_EXTENSIONS_DIR"):
        compiled_ops.build_compiled_ops([compiled_ops.SHARED_MEMORY_COMMUNICATION])


def test_environments_do_not_share_a_folder_of_compiled_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for prefix in ("/one/environment", "/another/environment"):
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")
        monkeypatch.setattr(sys, "prefix", prefix)
        folders.add(compiled_ops.extensions_directory())
        assert os.environ["TORCH_EXTENSIONS_DIR"] == str(compiled_ops.extensions_directory())
    assert len(folders) == 2
