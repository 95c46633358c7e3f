"""What all tests share: no network, one thread, a cache of their own."""

import os
from pathlib import Path
from typing import Any

import pytest

# Before anything imports torch or a hub library.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
# Compiling this package anew is an eighth of what each Python that a test starts takes to begin.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if not os.environ.get("XLT_SCALE_TEST_GPU"):  # tests/gpu/ on a machine that has one
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated worlds and tokenised data of this test session: what one of its processes (-n) has made serves all."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


SHARE_PROCESS_GROUPS = ("test_engines_agree", "test_trajectory", "test_formats")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In several processes (-n) the tests of a file stay together, and so do files that share what is started once:
    the cluster, or process groups.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.split("::")[0])
            if path.parent.name == "cluster":
                return "cluster"
            return "process groups" if path.stem in SHARE_PROCESS_GROUPS else str(path)

    return ByWhatIsShared(config, log)
