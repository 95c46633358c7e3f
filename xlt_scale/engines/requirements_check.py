"""The start-up check of DeepSpeed: its version, and the internals that the ZeRO-3 engine and its checkpoints rely on.

They are not promised by DeepSpeed, so a release may drop one. Better one line before the start than an AttributeError
after an hour of training.
"""

import importlib
import importlib.metadata
from types import FunctionType, ModuleType
from typing import Any

from packaging.specifiers import SpecifierSet

from xlt_scale.errors import UserError

SUPPORTED_DEEPSPEED = ">=0.18,<0.20"
MEND = f"pip install 'deepspeed{SUPPORTED_DEEPSPEED}'"

# Module, then what must be found in it.
NEEDED_NAMES = (
    ("deepspeed", "initialize"),
    ("deepspeed", "init_distributed"),
    ("deepspeed", "zero.Init"),
    ("deepspeed", "zero.GatheredParameters"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine.set_gradient_accumulation_boundary"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine.get_global_grad_norm"),
    ("deepspeed.runtime.engine", "DeepSpeedEngine.backward"),
    ("deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3.checkpoint_event_prologue"),
    ("deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3.checkpoint_event_epilogue"),
    ("deepspeed.utils", "safe_get_local_fp32_param"),
    ("deepspeed.utils", "safe_set_local_fp32_param"),
    ("deepspeed.utils", "safe_get_local_optimizer_state"),
    ("deepspeed.utils", "safe_set_local_optimizer_state"),
)


def check_deepspeed() -> None:
    """Check the installed DeepSpeed; every rank calls it before it builds a ZeRO-3 engine. It only imports and looks.

    Raises:
        UserError: DeepSpeed is absent, cannot be imported, is of an untested version, or lacks an internal we rely on.
    """
    try:
        version = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"DeepSpeed is not installed; {MEND}") from None
    if not SpecifierSet(SUPPORTED_DEEPSPEED).contains(version, prereleases=True):
        raise UserError(f"DeepSpeed {version} is outside the tested range {SUPPORTED_DEEPSPEED}; {MEND}")
    missing = _missing_names()
    if missing:
        raise UserError(f"DeepSpeed {version} lacks what this package relies on: {', '.join(missing)}; {MEND}")


def _missing_names() -> list[str]:
    missing = [f"{module}.{name}" for module, name in NEEDED_NAMES if _find(module, name) is None]
    backward = _find("deepspeed.runtime.engine", "DeepSpeedEngine.backward")
    if backward is not None and not _takes(backward, "scale_wrt_gas"):
        missing.append("deepspeed.runtime.engine.DeepSpeedEngine.backward(scale_wrt_gas=...)")
    stage3 = _find("deepspeed.runtime.zero.stage3", "DeepSpeedZeroOptimizer_Stage3")
    # Set on the instance alone, so the constructor's own names are looked at.
    if stage3 is not None and "fp16_groups" not in stage3.__init__.__code__.co_names:
        missing.append("deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3.fp16_groups")
    return missing


def _find(module: str, name: str) -> Any:
    """What `name` (dots go into classes) means in `module`, None when either is absent."""
    found: Any = _import(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _import(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            return None
        raise UserError(f"{module} cannot be imported, {error.name} is not installed; {MEND}") from error
    except Exception as error:
        # DeepSpeed looks at compilers and devices while it is imported: a broken machine can raise anything here.
        raise UserError(f"{module} cannot be imported: {type(error).__name__}: {error}; {MEND}") from error


def _takes(function: Any, parameter: str) -> bool:
    """Whether the function, or one that a decorator without `functools.wraps` hides in its closure, has a parameter."""
    cells = getattr(function, "__closure__", None) or ()
    candidates = [function, *(cell.cell_contents for cell in cells)]
    return any(
        parameter in candidate.__code__.co_varnames for candidate in candidates if isinstance(candidate, FunctionType)
    )
