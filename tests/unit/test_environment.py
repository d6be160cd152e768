"""What `hermes-lab doctor` finds: versions against those allowed and tested, devices, codecs, weights."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hermes_lab
from hermes_lab.environment import codecs, devices, examine, extras, versions, weights
from hermes_lab.environment.checks import Check

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Installed = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """`installed(torch="2.0", av=None)`: as if these versions were installed, and the others as they are."""
    real = versions.installed

    def pretend(**changed: str | None) -> None:
        names = {name.replace("_", "-"): version for name, version in changed.items()}
        for module in (versions, extras):
            monkeypatch.setattr(
                module, "installed", lambda name: names[name] if name in names else real(name)
            )

    return pretend


def named(checks: list[Check], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


# --- one source for each number ---------------------------------------------------------------
def test_the_version_has_one_source() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == hermes_lab.__version__


def test_the_lock_is_what_the_package_says_was_tested() -> None:
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    locked = dict(reversed(found))
    assert "torch" not in locked
    assert versions.locked() == {n: locked.get(n, v) for n, v in versions.locked().items()}
    pair = tuple(locked[name] for name in versions.PAIR)
    assert pair in {tuple(tested) for tested in versions.tested_pairs()}


def test_every_direct_dependency_has_a_tested_version_that_is_allowed() -> None:
    declared = versions.allowed()
    assert [re.split(r"[<>=]", line)[0] for line in PROJECT["dependencies"]] == list(declared)
    assert set(declared) == {*versions.PAIR, *versions.locked()}
    for name, version in versions.locked().items():
        assert versions.satisfies(version, declared[name]), name
    for pair in versions.tested_pairs():
        assert all(
            versions.satisfies(version, declared[name])
            for name, version in zip(versions.PAIR, pair, strict=True)
        )


def test_bounds_are_read_from_the_metadata_of_an_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(versions, "PACKAGE", tmp_path / "hermes_lab")  # no pyproject.toml beside it
    lines = ["transformers<6,>=5.23", 'pytest>=8; extra == "dev"', "av>=18"]
    monkeypatch.setattr(versions.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(versions.metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    assert versions.allowed.__wrapped__() == {"transformers": ">=5.23,<6", "av": ">=18"}
    assert versions.allowed_python() == ">=3.11"


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("5.23.0", ">=5.23,<6", True),
        ("5.23", ">=5.23.0,<6", True),
        ("5.100.0", ">=5.23,<6", True),
        ("5.9.9", ">=5.23,<6", False),
        ("6.0.0rc1", ">=5.23,<6", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1+cu121", ">=2.6", False),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_by_number(version: str, bounds: str, fits: bool) -> None:
    assert versions.satisfies(version, bounds) is fits


# --- versions ---------------------------------------------------------------------------------
@pytest.mark.parametrize("pair", versions.tested_pairs())
def test_tested_versions_are_not_mentioned(pair: tuple[str, str], installed: Installed) -> None:
    installed(transformers=pair[0], transformer_lens=pair[1] + "+local")
    assert versions.untested() is None
    assert {c.state for c in versions.packages() if c.name in versions.PAIR} == {"ok"}


@pytest.mark.parametrize(
    ("transformers", "lens"), [("5.23.1", "4.3.0"), ("5.40.0", "4.3.0"), ("5.24.0", "4.4.0")]
)
def test_allowed_versions_that_were_not_tested_are_told_and_not_a_failure(
    transformers: str, lens: str, installed: Installed
) -> None:
    installed(transformers=transformers, transformer_lens=lens)
    said = versions.untested()
    assert said is not None
    assert f"transformers {transformers} with transformer-lens {lens}" in said
    assert len(said.splitlines()) == 1
    check = named(versions.packages(), "transformers")
    newest = versions.tested_pairs()[-1]
    assert (check.state, check.failed) == ("untested", False)
    assert (
        check.fix == f'python -m pip install "transformers=={newest[0]}" '
        f'"transformer-lens=={newest[1]}"'
    )


def test_missing_and_outdated_packages_fail_with_the_command_that_fixes_them(
    installed: Installed,
) -> None:
    installed(av=None, torch="2.5.0", transformers="6.0.0", plotly="7.99")
    found = versions.packages()
    states = {c.name: c.state for c in found if c.state != "ok"}
    assert states["av"] == "missing"
    assert states["torch"] == states["transformers"] == "outside"
    assert named(found, "av").fix == 'python -m pip install "av>=18"'
    assert named(found, "transformers").fix == 'python -m pip install "transformers>=5.23,<6"'
    assert all(named(found, name).failed for name in ("av", "torch", "transformers"))
    assert named(found, "plotly").state == "ok"


# --- the whole ----------------------------------------------------------------------------------
def test_examination_has_stable_keys() -> None:
    found = examine().to_json()
    sections = ("python", "packages", "devices", "codecs", "models", "optional", "browser")
    assert tuple(found) == ("hermes_lab", "ok", *sections)
    assert found["hermes_lab"] == hermes_lab.__version__
    for section in sections:
        assert found[section]
        for check in found[section]:
            assert tuple(check) == ("name", "state", "found", "wanted", "fix", "needed", "facts")
            # whatever is not as it should be comes with what to do about it, hardware apart
            assert check["fix"] or check["state"] == "ok" or check["name"] in ("CUDA", "MPS")
    assert [c["name"] for c in found["optional"]] == [
        "kvpress", "accelerate", "bitsandbytes", "peft", "ray", "gguf",
    ]  # fmt: skip
    assert [c["name"] for c in found["packages"]] == list(versions.allowed())


def test_optional_things_that_are_absent_do_not_fail(installed: Installed) -> None:
    installed(kvpress=None, peft=None, playwright=None)
    absent = [*extras.optional(), *extras.browser()]
    for name in ("kvpress", "peft", "playwright"):
        check = named(absent, name)
        assert (check.state, check.failed) == ("absent", False)
    assert named(absent, "peft").fix == 'python -m pip install "peft"'
    assert "--no-deps kvpress" in (named(absent, "kvpress").fix or "")


def test_the_browser_is_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "chrome").touch()
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "chrome"))
    assert named(extras.browser(), "Chromium").state == "ok"
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    assert named(extras.browser(), "Chromium").state == "absent"


# --- codecs ----------------------------------------------------------------------------------------
def test_every_codec_is_tried_on_a_picture() -> None:
    found = codecs.codecs()
    assert {c.name for c in found} == {"FFmpeg", "h264", "hevc", "vp9", "av1", "mjpeg"}
    assert {c.state for c in found} == {"ok"}


def test_a_codec_that_cannot_be_decoded_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in codecs.CODECS:
        # another codec's picture under this name is fine, a file without one is not
        (tmp_path / f"{name}.mkv").write_bytes((codecs.SAMPLES / "vp9.mkv").read_bytes())
    (tmp_path / "av1.mkv").write_bytes(b"not a video")
    (tmp_path / "h264.mkv").unlink()
    monkeypatch.setattr(codecs, "SAMPLES", tmp_path)
    found = codecs.codecs()
    assert {c.name: c.state for c in found if c.state != "ok"} == {
        "h264": "broken",
        "av1": "absent",
    }
    assert named(found, "h264").failed
    assert not named(found, "av1").failed
    assert "--force-reinstall" in (named(found, "av1").fix or "")


def test_a_wrong_picture_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "SIDE_PX", 32)
    assert named(codecs.codecs(), "vp9").found == "ValueError: it decodes to a wrong picture"


# --- weights ---------------------------------------------------------------------------------------
def test_the_sums_are_those_of_the_shipped_weights() -> None:
    files = sorted(weights.WEIGHTS.glob("*/model.safetensors"))
    expected = "".join(
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(weights.WEIGHTS).as_posix()}\n"
        for f in files
    )
    assert sorted(weights.SUMS.read_text().splitlines()) == sorted(expected.splitlines()), (
        "in hermes_lab/pocket/weights run `sha256sum */model.safetensors > SHA256SUMS`"
    )
    assert {c.state for c in weights.weights()} == {"ok"}


def test_damaged_and_missing_weights_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = weights.SUMS.read_text()
    (tmp_path / "SHA256SUMS").write_text(shipped)
    (tmp_path / "pocket").mkdir()
    whole = (weights.WEIGHTS / "pocket" / "model.safetensors").read_bytes()
    (tmp_path / "pocket" / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    monkeypatch.setattr(weights, "SUMS", tmp_path / "SHA256SUMS")
    found = weights.weights()
    pocket, other = named(found, "pocket"), named(found, "pocket-s1")
    assert (pocket.state, pocket.failed) == ("broken", True)
    assert "damaged or replaced" in (pocket.found or "")
    assert (other.state, other.failed) == ("missing", False)
    assert pocket.fix
    assert other.fix
    (tmp_path / "SHA256SUMS").unlink()
    (list_of_them,) = weights.weights()
    assert list_of_them.failed


# --- devices ----------------------------------------------------------------------------------------
def test_the_processor_multiplies() -> None:
    cpu = named(devices.devices(), "CPU")
    assert cpu.state == "ok"
    assert cpu.needed
    assert cpu.facts["bf16"] is True


class _Card:
    name, total_memory, major, minor = "Test Card", 8 * 2**30, 7, 5


def test_a_gpu_is_told_with_its_memory_and_whether_it_has_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[str, torch.dtype]] = []

    def product(module: Any, device: str, dtype: torch.dtype) -> str | None:
        tried.append((device, dtype))
        return None if device != "cuda:1" else "RuntimeError: no kernel image is available"

    class Chosen:
        def __init__(self, device: str) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: _Card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(devices, "_product_fails", product)
    found = devices.devices()
    first, second = named(found, "CUDA 0"), named(found, "CUDA 1")
    assert first.state == "ok"
    assert "Test Card, 8.0 GiB, compute capability 7.5, no bfloat16" in (first.found or "")
    assert first.facts["bf16"] is False
    assert (second.state, second.failed) == ("broken", False)
    assert "no kernel image" in (second.found or "")
    assert ("cuda:0", torch.float32) in tried


@pytest.mark.parametrize(
    ("build", "said"), [(None, "built for CPU only"), ("12.8", "torch cannot use it")]
)
def test_an_unused_nvidia_card_is_told(
    monkeypatch: pytest.MonkeyPatch, build: str | None, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(devices, "_nvidia_driver", lambda: True)
    cuda = named(devices.devices(), "CUDA")
    assert (cuda.state, cuda.failed) == ("broken", False)
    assert said in (cuda.found or "")
    assert cuda.fix
    monkeypatch.setattr(devices, "_nvidia_driver", lambda: False)
    assert named(devices.devices(), "CUDA").state == "absent"
