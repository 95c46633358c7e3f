"""The start-up check of DeepSpeed: the installed one passes, and whatever we rely on is named when it is gone."""

import importlib.metadata

import pytest
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

from xlt_scale.engines.requirements_check import MEND, check_deepspeed
from xlt_scale.errors import UserError


def test_the_installed_deepspeed_passes() -> None:
    check_deepspeed()


@pytest.mark.parametrize("version", ["0.17.6", "0.20.0", "0.20.0.dev1", "1.0.0"])
def test_a_version_outside_the_range_is_refused_with_the_mend(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    with pytest.raises(UserError) as refusal:
        check_deepspeed()
    assert version in str(refusal.value)
    assert MEND in str(refusal.value)


@pytest.mark.parametrize("version", ["0.18.0", "0.19.8+local"])
def test_a_version_inside_the_range_is_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    check_deepspeed()


def test_an_absent_deepspeed_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    with pytest.raises(UserError, match="DeepSpeed is not installed; pip install"):
        check_deepspeed()


def test_all_internals_that_are_gone_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(DeepSpeedEngine, "set_gradient_accumulation_boundary")
    monkeypatch.delattr("deepspeed.utils.safe_set_local_fp32_param")
    with pytest.raises(UserError) as refusal:
        check_deepspeed()
    assert "DeepSpeedEngine.set_gradient_accumulation_boundary" in str(refusal.value)
    assert "deepspeed.utils.safe_set_local_fp32_param" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_parameter_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(self: DeepSpeedEngine, loss: object) -> None: ...

    monkeypatch.setattr(DeepSpeedEngine, "backward", backward)
    with pytest.raises(UserError, match="scale_wrt_gas"):
        check_deepspeed()


def test_an_attribute_that_the_optimizer_no_longer_sets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def constructor(self: DeepSpeedZeroOptimizer_Stage3) -> None: ...

    monkeypatch.setattr(DeepSpeedZeroOptimizer_Stage3, "__init__", constructor)
    with pytest.raises(UserError, match="fp16_groups"):
        check_deepspeed()
