"""PyTorch, DeepSpeed and its compiled operations, tried in a process of their own that can be ended when it hangs.

python -m xlt_scale.doctor.stack     prints one finding as JSON per line, as soon as it is known
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from typing import Any

from xlt_scale.doctor.deadline import Deadline
from xlt_scale.doctor.findings import Finding
from xlt_scale.errors import UserError, reason

# Compiling the operations takes half a minute on a quick machine, importing from a busy network disk as long.
SECONDS = 300.0
STEPS = ("PyTorch", "DeepSpeed", "compiled operations")


class StackProbe:
    """The process that tries them, started at once and asked later. One per node."""

    def __init__(self) -> None:
        self._deadline = Deadline(SECONDS)
        # Files rather than pipes: nobody reads while it runs, and what it has said is kept when it is ended.
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xlt_scale.doctor.stack"],
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )

    def findings(self) -> list[Finding]:
        """What was found; a step that hung or ended the process is a finding as well."""
        problem = ""
        try:
            code = self._process.wait(self._deadline.seconds_left)
            if code:
                problem = f"its test ended with exit code {code}: {_last_line(self._errors)}"
        except subprocess.TimeoutExpired:
            self.stop()
            problem = f"no answer within {SECONDS:.0f} s"
        self._output.seek(0)
        findings = [Finding(**json.loads(line)) for line in self._output if line.startswith("{")]
        missing = [step for step in STEPS if step not in {finding.check for finding in findings}]
        if missing:
            mend = "python -m xlt_scale.doctor.stack shows all of it"
            findings.append(Finding(missing[0], "fail", problem or "no answer", mend))
            findings += [Finding(step, "-", "not reached") for step in missing[1:]]
        return findings

    def stop(self) -> None:
        """End it, with the compilers that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _last_line(file: Any) -> str:
    file.seek(0)
    lines = file.read().strip().splitlines()
    return lines[-1] if lines else "no message"


def look_at_torch() -> Finding:
    """PyTorch and the devices it sees."""
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        return Finding("PyTorch", "fail", f"cannot be imported: {reason(error)}", "install it again: pip install torch")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
        nccl = ".".join(str(part) for part in torch.cuda.nccl.version())
        found = f"{torch.__version__} with CUDA {torch.version.cuda}, NCCL {nccl}, {torch.cuda.device_count()} x "
        return Finding("PyTorch", "pass", found + ", ".join(sorted(names)))
    # DeepSpeed picks its accelerator when it is first imported.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    found = f"{torch.__version__}, sees no GPU: runs on the processor in fp32"
    if os.path.exists("/dev/nvidia0") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        mend = "install the PyTorch of a CUDA version that the driver knows"
        return Finding("PyTorch", "fail", f"{found}, though the node has one", mend)
    return Finding("PyTorch", "pass", found)


def look_at_deepspeed() -> Finding:
    """DeepSpeed's version and the internals that the engine relies on."""
    from xlt_scale.engines.requirements_check import MEND, check_deepspeed

    try:
        check_deepspeed()
    except UserError as error:
        found, _, mend = str(error).rpartition("; ")
        return Finding("DeepSpeed", "fail", found or mend, mend or MEND)
    return Finding("DeepSpeed", "pass", f"{version('deepspeed')}, its internals are as expected")


def look_at_compiled_ops() -> Finding:
    """The compiled operations, which are built now where they are not yet."""
    from xlt_scale.engines.compiled_ops import build_compiled_ops, needed_ops

    try:
        names = needed_ops()
        build_compiled_ops(names)
    except UserError as error:
        mend = "install that on every node, or build on one that shares the folder: xlt-scale doctor there"
        return Finding("compiled operations", "fail", str(error), mend)
    except ImportError as error:
        return Finding("compiled operations", "-", f"DeepSpeed cannot be imported ({reason(error)})")
    return Finding("compiled operations", "pass", f"{', '.join(names)} built" if names else "none needed")


def main() -> None:
    # DeepSpeed and compilers write to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for look in (look_at_torch, look_at_deepspeed, look_at_compiled_ops):
        print(json.dumps(look().to_json()), file=answers, flush=True)


if __name__ == "__main__":
    main()
