"""Names become models, and everything that can be wrong with one is said in one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from hermes_lab import models, pocket
from hermes_lab.errors import ModelError
from hermes_lab.models.base import FrameLayout
from tests.checkpoints import FAMILIES, VARIANTS
from tests.segments import frames_of

pytestmark = pytest.mark.upstream

Checkpoint = Callable[..., Path]


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint("llava_onevision"), tmp_path / "model"))


def refusal(name: str | Path, **options: object) -> str:
    """The sentence with which a name is refused."""
    with pytest.raises(ModelError) as refused:
        models.load(name, **options)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    return sentence


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_every_family_loads_frozen_and_in_eval_mode(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family), device="cpu")
    assert adapter.model.config.model_type in adapter.model_types
    assert not adapter.model.training
    assert not any(p.requires_grad for p in adapter.model.parameters())
    assert adapter.text_config._attn_implementation == "sdpa"
    assert len(adapter.layers) == 4
    assert all(hasattr(layer, "self_attn") for layer in adapter.layers)
    assert adapter.rotary is adapter.decoder.rotary_emb
    assert adapter.max_positions == 4096
    hidden = torch.zeros(1, adapter.text_config.hidden_size)
    assert adapter.head(hidden).shape == (1, adapter.text_config.vocab_size)
    assert adapter.name == str(checkpoint(family))


def test_families_lists_what_loads() -> None:
    listed = models.families()
    assert [info.name for info in listed] == list(FAMILIES)
    assert {kind for info in listed for kind in info.model_types} == {*FAMILIES, *VARIANTS}
    assert all(info.examples and info.note and "\n" not in info.note for info in listed)
    assert {info.name for info in listed if info.rotary_axes == 3} == {"qwen2_5_vl", "qwen3_vl"}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("float16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes(checkpoint: Checkpoint, dtype: object, expected: torch.dtype) -> None:
    adapter = models.load(checkpoint("llava_onevision"), dtype=dtype)
    assert adapter.dtype == expected
    assert next(adapter.vision.parameters()).dtype == expected


def test_a_device_map_is_passed_on(checkpoint: Checkpoint) -> None:
    adapter = models.load(checkpoint("qwen2_5_vl"), device_map={"": "cpu"})
    assert adapter.device == torch.device("cpu")
    assert len(adapter.encode(frames_of(2), [0.0, 1.0]))
    assert "cannot be loaded" in refusal(checkpoint("qwen2_5_vl"), device_map="warp")


def test_settings_nested_in_the_processor_config_are_read(folder: Path) -> None:
    """transformers 5 saves one processor_config.json with everything in it."""
    image = json.loads((folder / "preprocessor_config.json").read_text())
    video = json.loads((folder / "video_preprocessor_config.json").read_text())
    expected = models.load(folder).encode(frames_of(1), [0.0]).embeds
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).unlink()
    video["image_mean"] = [0.4, 0.4, 0.4]
    nested = {"num_image_tokens": 25, "image_processor": image, "video_processor": video}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    adapter = models.load(folder)
    assert adapter.image_settings["image"] == image
    assert adapter.image_settings["processor"] == {"num_image_tokens": 25}
    assert not torch.allclose(adapter.encode(frames_of(1), [0.0]).embeds, expected)


@pytest.mark.parametrize("words", ["size", "min_pixels and max_pixels"])
def test_frames_are_as_large_whoever_saved_the_settings(
    checkpoint: Checkpoint, tmp_path: Path, words: str
) -> None:
    """As on the hub (no settings for video), and saved again by transformers, with the budget of images for both."""
    least, most = 3136, 12845056
    image = {"min_pixels": least, "max_pixels": most}
    if words == "size":
        image = {"size": {"shortest_edge": least, "longest_edge": most}}
    layouts: list[FrameLayout] = []
    for name, video in (
        ("hub", None),
        ("saved again", image),
        ("own", {"max_pixels": 100 * 28 * 28}),
    ):
        folder = tmp_path / name
        shutil.copytree(checkpoint("qwen2_5_vl"), folder)
        (folder / "video_preprocessor_config.json").unlink()
        (folder / "preprocessor_config.json").write_text(json.dumps(image))
        if video is not None:
            (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
        layouts.append(models.load(folder).frame_layout(1080, 1920))
    assert layouts[0] == layouts[1]
    assert 128 <= layouts[0].visual_tokens <= 768
    assert layouts[2].visual_tokens <= 100  # a budget of its own counts


def test_a_checkpoint_without_settings_uses_the_familys(folder: Path) -> None:
    expected = models.load(folder).encode(frames_of(1), [0.0]).embeds
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        (folder / name).unlink()
    (folder / "processor_config.json").unlink()
    assert torch.equal(models.load(folder).encode(frames_of(1), [0.0]).embeds, expected)


@pytest.mark.parametrize("file", ["chat_template.json", "processor_config.json"])
def test_the_processors_chat_template_goes_before_the_tokenizers(folder: Path, file: str) -> None:
    jinja = folder / "chat_template.jinja"
    template = jinja.read_text()
    jinja.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = template.replace("assistant", "tokenizers")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "tokenizers" in models.load(folder).tokenizer.chat_template
    (folder / file).write_text(json.dumps({"chat_template": template.replace("assistant", "own")}))
    assert "own" in models.load(folder).tokenizer.chat_template
    jinja.write_text(template.replace("assistant", "newest"))
    assert "newest" in models.load(folder).tokenizer.chat_template


# --- names ---------------------------------------------------------------------------------
def test_unknown_names_get_the_nearest() -> None:
    sentence = refusal("Qwen2.5-VL-7B-Instruct")
    assert "no model named 'Qwen2.5-VL-7B-Instruct'" in sentence
    assert "'Qwen/Qwen2.5-VL-7B-Instruct'" in sentence


def test_a_shipped_model_goes_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "names", lambda: ("pocket",), raising=False)
    monkeypatch.setattr(pocket, "shipped_path", lambda name: folder, raising=False)
    adapter = models.load("pocket")
    assert adapter.name == "pocket"
    assert adapter.family == "llava_onevision"
    assert "'pocket'" in refusal("poket")


def test_missing_folders_and_files(tmp_path: Path) -> None:
    assert "no model folder at" in refusal(tmp_path / "nowhere")
    assert "no model folder at" in refusal("./nowhere")
    assert "no model folder at" in refusal("some/where/deep")
    assert "holds no config.json" in refusal(tmp_path)
    file = tmp_path / "model.safetensors"
    file.touch()
    assert "is a file" in refusal(file)


def test_a_hub_id_that_is_not_here() -> None:
    sentence = refusal("nobody/no-such-model", local_files_only=True)
    assert (
        "'nobody/no-such-model' is neither a folder here nor in the local cache of the hub; fetch it"
        in sentence
    )


# --- options -------------------------------------------------------------------------------
def test_bad_options(folder: Path) -> None:
    assert "not a torch dtype" in refusal(folder, dtype="float31")
    assert "not a torch dtype" in refusal(folder, dtype="nn")
    assert "either a device or a device_map" in refusal(folder, device="cpu", device_map="auto")
    assert "cannot be moved to device 'warp'" in refusal(folder, device="warp")


# --- damaged checkpoints -------------------------------------------------------------------
def test_unsupported_types_name_the_supported(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    sentence = refusal(folder)
    assert "type 'llama'" in sentence
    assert all(kind in sentence for kind in (*FAMILIES, *VARIANTS))
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "type None" in refusal(folder)


def test_damaged_configs(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    assert "config.json in" in refusal(folder)


def test_missing_truncated_and_incomplete_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load(
        whole
    )  # not load_file: its tensors would be maps of the file that is damaged here
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"weights of {folder} cannot be loaded" in refusal(folder)
    weights.write_bytes(b"not safetensors at all")
    assert "cannot be loaded" in refusal(folder)

    lost = next(name for name in tensors if name.endswith("layers.1.self_attn.q_proj.weight"))
    save_file({k: v for k, v in tensors.items() if k != lost}, weights, {"format": "pt"})
    sentence = refusal(folder)
    assert "lacks 1 of its model's weights" in sentence
    assert "layers.1.self_attn.q_proj.weight" in sentence

    odd = {**tensors, lost: torch.zeros(3, 3)}
    save_file(odd, weights, {"format": "pt"})
    assert "cannot be loaded" in refusal(folder)
    weights.unlink()
    assert "holds no weights" in refusal(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pickled weights are never read" in refusal(folder)


def test_tokenizers(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.write_text("{")
    assert f"tokenizer of {folder} is missing or cannot be loaded" in refusal(folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "holds no tokenizer" in refusal(folder)


def test_broken_settings(folder: Path) -> None:
    (folder / "video_preprocessor_config.json").write_text("{")
    assert "video_preprocessor_config.json of" in refusal(folder)


# --- what loading never does ---------------------------------------------------------------
def test_remote_code_never_runs(folder: Path) -> None:
    trap = folder / "trap.py"
    trap.write_text("raise SystemExit('remote code ran')\n")
    for name in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {
            "AutoConfig": "trap.Config",
            "AutoModelForImageTextToText": "trap.Model",
            "AutoTokenizer": ["trap.Tokenizer", None],
        }
        (folder / name).write_text(json.dumps(content))
    adapter = models.load(folder)
    assert type(adapter.model).__module__.startswith("transformers.models.llava_onevision")


def test_torchvision_is_not_needed(folder: Path) -> None:
    script = (
        "import sys; sys.modules['torchvision'] = None\n"
        "import numpy as np\n"
        "from hermes_lab import models\n"
        f"adapter = models.load({str(folder)!r})\n"
        "print(len(adapter.encode([np.zeros((40, 40, 3), np.uint8)], [0.0])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip() == "9", done.stderr
