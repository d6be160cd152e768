"""A model family in a package of its own: built, installed, loaded, streamed and bridged without an edit of the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from hermes_lab import models, plugins
from hermes_lab.cli import main
from hermes_lab.errors import ModelError
from hermes_lab.models import Adapter, families, registry
from hermes_lab.models.gemma3 import Gemma3
from hermes_lab.models.llava_onevision import LlavaOnevision
from tests.checkpoint_specs import ID, VOCABULARY
from tests.checkpoints import write_tokenizer

pytestmark = pytest.mark.upstream

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "family_example"
GUIDE = ROOT / "docs" / "guides" / "add-a-model-family.md"
RUN = """
import json, sys
import numpy as np
import hermes_lab
from hermes_lab import StreamSession, models
from hermes_lab.lens import bridge

folder = sys.argv[1]
(info,) = [f for f in models.families() if f.name == "llava"]
lab = hermes_lab.load(folder)
frames = [np.full((30, 40, 3), 40 * n, np.uint8) for n in range(4)]
shown = lab.adapter.encode(frames, [0.0, 1.0, 2.0, 3.0], want_saliency=True)
layout = lab.adapter.frame_layout(30, 40)
run = StreamSession(lab, "hermes(budget_tokens=20)")
for start in (0, 2):
    snapshot = run.feed(frames[start : start + 2])
print(json.dumps({
    "problems": models.problems(),
    "origin": info.origin,
    "family": lab.adapter.family,
    "tokens": len(shown),
    "grid": layout.rows * layout.cols * 4,
    "saliency": float(shown.saliency.sum()),
    "held": [len(ids[0]) for ids in snapshot.held],
    "architecture": lab.adapter.bridge_architecture(),
    "answer": isinstance(run.ask("what is it").text, str),
    "bridge": type(bridge(run)).__name__,  # refused where its logits are not the session's
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which pip has installed the wheel of the example."""
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, EXAMPLE]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA with random weights, as it would lie on disk."""
    path = tmp_path_factory.mktemp("llava")
    config = AutoConfig.for_model(
        "llava",
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 2, "image_size": 24, "patch_size": 6,
        },
        text_config={
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096, "initializer_range": 0.12,
        },
        image_token_index=ID["<image>"],
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    model.generation_config.eos_token_id = ID["<|im_end|>"]
    model.save_pretrained(path)
    write_tokenizer(path, None)
    return path


def call(code: str, *arguments: str, paths: tuple[Path, ...] = ()) -> str:
    """Output of Python code in a process of its own."""
    path = os.pathsep.join(map(str, [ROOT, *paths]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True, text=True, timeout=1200, cwd=EXAMPLE, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_family_streams_and_is_bridged(installed: Path, folder: Path) -> None:
    found = json.loads(call(RUN, str(folder), paths=(installed,)).splitlines()[-1])
    assert found.pop("saliency") == pytest.approx(
        4, abs=0.5
    )  # of each frame 1, less the class token's share
    assert max(found.pop("held")) < 64
    assert found == {
        "problems": [],
        "origin": "hermes-lab-llava",
        "family": "llava",
        "tokens": 64,
        "grid": 64,
        "architecture": "LlavaForConditionalGeneration",
        "answer": True,
        "bridge": "SessionBridge",
    }
    shown = call("from hermes_lab.cli import main; main(['models'])", paths=(installed,))
    assert "trained on single images (hermes-lab-llava)" in " ".join(shown.split())


def test_without_the_package_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="is a model of type 'llava', which cannot be streamed"):
        models.load(folder)


def test_the_guide_shows_the_example_as_it_is() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    shown = re.findall(r"```(?:python|toml) title=\"([^\"]+)\"\n(.*?)```", text, re.DOTALL)
    assert len(shown) >= 2
    for name, block in shown:
        assert block.strip() in (EXAMPLE / name).read_text(encoding="utf-8"), name


# --- faulty packages -------------------------------------------------------------------------------
class Sound(Gemma3):
    family: ClassVar[str] = "sound"
    model_types: ClassVar[tuple[str, ...]] = ("sound_vl",)


class Same(Gemma3):
    family: ClassVar[str] = "same"
    model_types: ClassVar[tuple[str, ...]] = ("sound_vl",)


class Greedy(LlavaOnevision):
    family: ClassVar[str] = "greedy"
    model_types: ClassVar[tuple[str, ...]] = ("greedy_vl", "gemma3")


class Nothing(Gemma3):
    family: ClassVar[str] = "nothing"
    model_types: ClassVar[tuple[str, ...]] = ()


class Unfinished(Adapter):
    family: ClassVar[str] = "unfinished"
    model_types: ClassVar[tuple[str, ...]] = ("unfinished_vl",)

    @property
    @abstractmethod
    def more(self) -> int: ...


number = 3
PLUGINS = {
    "sound": "Sound",
    "same": "Same",
    "greedy": "Greedy",
    "nothing": "Nothing",
    "unfinished": "Unfinished",
    "other": "Sound",
    "number": "number",
    "gemma3": "Sound",
    "broken": "no_such_thing",
}
FAULTS = {
    "same": "its model type 'sound_vl' belongs to the family 'sound'",
    "greedy": "its model type 'gemma3' belongs to the family 'gemma3'",
    "nothing": "'model_types' must be a tuple of the model types",
    "unfinished": "it does not define decoder, encode, eos_ids, frame_layout, head, more, prefix",
    "other": "its class is of the family 'sound'; both names must be the same",
    "number": "it is not a subclass of hermes_lab.models.Adapter",
    "gemma3": "its name belongs to a built-in model family",
    "broken": "failed with AttributeError",
}


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint(n, f"{__name__}:{v}", registry.GROUP) for n, v in PLUGINS.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    monkeypatch.setattr(registry._plugins, "_found", None)
    monkeypatch.setattr(registry._plugins, "_problems", {})


@pytest.mark.usefixtures("entries")
def test_faulty_families_are_named_and_skipped(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [f.name for f in families()] == [*registry.BUILTIN, "sound"]
    assert families()[-1].origin == "plug-in"
    assert registry.adapter_class("x", "sound_vl") is Sound
    sentences = models.problems()
    assert len(sentences) == len(FAULTS)
    assert sorted(record.message for record in caplog.records) == sorted(sentences)
    for name, words in FAULTS.items():
        assert any(words in s and repr(name) in s for s in sentences), name
    assert main(["models"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(sentence in shown for sentence in sentences)
    with pytest.raises(ModelError, match=r"supported types are .*gemma3, sound_vl\."):
        registry.adapter_class("x", "greedy_vl")


def test_built_in_families_load_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(group: str) -> Any:
        raise AssertionError("a plug-in was looked for")

    monkeypatch.setattr(plugins, "entry_points", refuse)
    monkeypatch.setattr(registry._plugins, "_found", None)
    assert registry.adapter_class("x", "gemma3") is Gemma3


# --- notebooks -------------------------------------------------------------------------------------
@pytest.fixture
def registered() -> Iterator[Callable[[type[Adapter]], type[Adapter]]]:
    yield models.register
    for name in ("sound", "same"):
        models.unregister(name)


def test_a_notebooks_family_is_known_until_it_is_forgotten(
    registered: Callable[[type[Adapter]], type[Adapter]],
) -> None:
    assert registered(Sound) is Sound
    assert registered(Sound) is Sound
    assert families()[-1].origin == "registered"
    assert registry.adapter_class("x", "sound_vl") is Sound
    for cls, words in (
        (Same, "its model type 'sound_vl' belongs to the family 'sound'"),
        (Greedy, "its model type 'gemma3' belongs to"),
        (Gemma3, "the name 'gemma3' belongs to another family"),
        (Unfinished, "it does not define"),
    ):
        with pytest.raises(ModelError, match=words):
            registered(cls)
    models.unregister("sound")
    assert registered(Same) is Same
