"""Checkpoints that somebody made to do harm: what they ask for is refused in a sentence, or left out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hermes_lab import models
from hermes_lab.errors import ModelError
from hermes_lab.models import templates
from tests.integration.test_models_loading import refusal

pytestmark = pytest.mark.upstream

Checkpoint = Callable[..., Path]


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A checkpoint that a test may poison."""
    return Path(shutil.copytree(checkpoint("llava_onevision"), tmp_path / "model"))


@pytest.fixture(autouse=True)
def unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ever unpickled, not even with safeguards."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)


def settings_of(folder: Path, file: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / file).read_text())


def rewrite(folder: Path, change: dict[str, Any], file: str = "config.json") -> Path:
    """Change settings; a key with dots leads into objects."""
    content = settings_of(folder, file)
    for key, value in change.items():
        *outer, last = key.split(".")
        place = content
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    (folder / file).write_text(json.dumps(content))
    return folder


# --- weights --------------------------------------------------------------------------------
def sharded(folder: Path, names: dict[str, str]) -> Path:
    """The weights in one shard, with an index that names others for some tensors."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = dict.fromkeys(weights, "model-00001-of-00001.safetensors") | names
    content = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def test_a_sharded_checkpoint_loads(folder: Path) -> None:
    assert models.load(sharded(folder, {})).layers


@pytest.mark.parametrize(
    "name",
    [
        "evil.bin", "../evil.safetensors", "/etc/evil.safetensors", "sub/evil.safetensors", ".safetensors",
        "evil.safetensors.bin", "..\\evil.safetensors", "model.safetensors.index.json", 3, None, ["a.safetensors"],
    ],
)  # fmt: skip
def test_an_index_names_safetensors_of_its_folder_only(folder: Path, name: Any) -> None:
    torch.save({}, folder / "evil.bin", pickle_module=__import__("pickle"))
    assert "only safetensors files of the checkpoint itself" in refusal(
        sharded(folder, {"lm_head.weight": name})
    )


def test_a_shard_that_is_not_there_is_named(folder: Path) -> None:
    assert "lacks its file gone.safetensors" in refusal(sharded(folder, {"x": "gone.safetensors"}))


@pytest.mark.parametrize("name", ["adapter_model.bin", "../x.safetensors", "pytorch_model.bin", 5])
def test_the_settings_name_no_other_weights(folder: Path, name: Any) -> None:
    torch.save({}, folder / "adapter_model.bin")
    assert "only safetensors files" in refusal(rewrite(folder, {"transformers_weights": name}))


def test_adapters_and_distributed_checkpoints_are_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "holds an adapter" in refusal(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "shard-00000-model-00001-of-00001.safetensors").touch()
    assert "distributed checkpoint" in refusal(folder)


# --- code --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "key",
    [
        "_attn_implementation", "attn_implementation", "_attn_implementation_internal", "_experts_implementation",
        "text_config._attn_implementation", "vision_config.attn_implementation",
        "text_config.experts_implementation",
    ],
)  # fmt: skip
def test_settings_choose_no_kernel(folder: Path, key: str) -> None:
    adapter = models.load(rewrite(folder, {key: "evil/kernel"}))
    config = adapter.model.config
    for part in (config, config.text_config, config.vision_config):
        assert part._attn_implementation == "sdpa"


@pytest.mark.parametrize("place", ["text_config.auto_map", "vision_config.auto_map", "auto_map"])
def test_no_part_of_the_settings_brings_code(folder: Path, place: str) -> None:
    (folder / "trap.py").write_text("raise SystemExit('remote code ran')\n")
    trap = {"AutoModel": "trap.Model", "AutoModelForCausalLM": "evil/repo--trap.Model"}
    adapter = models.load(rewrite(folder, {place: trap}))
    assert not hasattr(adapter.model.config.text_config, "auto_map")


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "eetq", "fbgemm_fp8", "hqq", None, ["awq"]])
def test_quantisations_that_fetch_code_are_refused(folder: Path, method: Any) -> None:
    for place in ("quantization_config", "text_config.quantization_config"):
        sentence = refusal(rewrite(folder, {place: {"quant_method": method}}))
        assert "asks for the quantisation" in sentence


def test_no_other_model_is_fetched(folder: Path) -> None:
    assert "fetches another model" in refusal(
        rewrite(folder, {"vision_config": {"model_type": "timm_wrapper", "architecture": "x"}})
    )
    rewrite(folder, {"vision_config": {"model_type": "siglip_vision_model", "backbone": "a/b"}})
    assert "fetches another model" in refusal(folder)


# --- sizes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text_config.num_hidden_layers", 10**9), ("text_config.num_hidden_layers", 1e400),
        ("vision_config.num_hidden_layers", 10**9), ("text_config.num_hidden_layers", -1),
        ("text_config.vocab_size", 10**12), ("text_config.hidden_size", 10**400),
        ("vision_config.patch_size", 0), ("vision_config.image_size", 10**7),
        ("text_config.intermediate_size", 10**10), ("text_config.num_attention_heads", 10**9),
    ],
)  # fmt: skip
def test_absurd_sizes_are_refused_by_number(folder: Path, key: str, value: Any) -> None:
    sentence = refusal(rewrite(folder, {key: value}))
    assert f"its {key.split('.')[1]} is" in sentence
    assert len(sentence) < 300 + len(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {
            "text_config.num_hidden_layers": 1024, "text_config.intermediate_size": 2**20,
            "text_config.layer_types": ["full_attention"] * 1024,
        },
        {"text_config.hidden_size": 2**16, "text_config.head_dim": 2**14},
        {"vision_config.image_size": 2**14, "vision_config.patch_size": 1},
    ],
)  # fmt: skip
def test_a_model_larger_than_its_weights_takes_no_memory(
    folder: Path, change: dict[str, Any]
) -> None:
    assert "they do not belong together" in refusal(rewrite(folder, change))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("preprocessor_config.json", {"size": {"height": 10**6, "width": 10**6}}),
        ("video_preprocessor_config.json", {"size": {"shortest_edge": 10**12}}),
        ("preprocessor_config.json", {"patch_size": 0}),
    ],
)
def test_pictures_are_not_blown_up(folder: Path, file: str, change: dict[str, Any]) -> None:
    assert file in refusal(rewrite(folder, change, file))


def test_a_vocabulary_of_millions_is_not_built(folder: Path) -> None:
    tokenizer = settings_of(folder, "tokenizer.json")
    tokenizer["model"]["vocab"] = {f"w{i}": i for i in range(1_000_001)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "more than 1,000,000 words" in refusal(folder)


# --- damaged files -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '"x"', "[" * 100_000, '{"a":' * 100_000, "\xff"]
)
@pytest.mark.parametrize(
    "file", ["config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json"]
)
def test_settings_that_are_none(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content, encoding="latin-1")
    sentence = refusal(folder)
    assert len(sentence) < 600


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert "it is a pipe" in refusal(folder)


def test_a_settings_file_without_end_is_not_read(folder: Path) -> None:
    with (folder / "processor_config.json").open("wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    assert "is larger than" in refusal(folder)


def test_links_to_files_elsewhere_are_how_the_hubs_cache_looks(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "config.json").rename(tmp_path / "blob")
    (folder / "config.json").symlink_to(tmp_path / "blob")
    assert models.load(folder).layers


# --- templates ------------------------------------------------------------------------------------
def asked(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    models.load(folder).question("what is it")


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='aaaa') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "because"),
    [
        (NESTED, "it takes more than 0.3 seconds"),
        (NESTED.replace("99999", "99999|int"), "it takes more than 0.3 seconds"),
        ("{% macro m() %}" + NESTED + "{% endmacro %}{{ m() }}", "it takes more than 0.3 seconds"),
        ("{{ 10 ** 10 ** 10 }}", "it computes powers"),
        ("{% generation %}{{ 10 ** 10 ** 10 }}{% endgeneration %}", "it computes powers"),
        ("{{ 'a' * 10000000000 }}", "it holds a number beyond 100,000"),
        ("{{ 'a' | center(10000000000) }}", "it holds a number beyond 100,000"),
        ("x" * (templates.MOST_CHARACTERS + 1), "it has 1,048,577 characters"),
    ],
)
def test_templates_that_never_end_are_given_up(
    folder: Path, template: str, because: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "MOST_SECONDS", 0.3)
    with pytest.raises(ModelError, match=r"^The chat template of .* is not used: ") as refused:
        asked(folder, template)
    assert because in str(refused.value)


def test_a_template_that_eats_memory_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_MOST_GROWTH_BYTES", 2**27)
    monkeypatch.setattr(templates, "MOST_SECONDS", 60.0)
    with pytest.raises(ModelError, match="it takes more than"):
        asked(folder, DOUBLING)


def test_a_broken_template_is_replaced_by_the_familys_as_ever(folder: Path) -> None:
    asked(folder, "{% for %}")


def test_a_tracer_that_was_there_is_there_again(folder: Path) -> None:
    import sys

    seen: list[str] = []

    def trace(frame: Any, event: str, argument: Any) -> None:
        seen.append(event)

    adapter = models.load(folder)
    sys.settrace(trace)
    try:
        adapter.question("what is it")
        assert sys.gettrace() is trace
    finally:
        sys.settrace(None)


# --- the dashboard ------------------------------------------------------------------------------
def test_a_link_to_the_dashboard_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from dashboards.parts import models as shared

    asked: list[dict[str, Any]] = []

    def load(name: str, **options: Any) -> str:
        asked.append(options)
        return name

    monkeypatch.setattr(shared, "load", load)
    assert shared.shared_lab("nobody/no-such-model") == "nobody/no-such-model"
    shared._labs.pop("nobody/no-such-model")
    assert asked == [{"local_files_only": True}]


# --- the rest ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("ids", ["x", [[1]], {"a": 1}, [None, 3], 1.5])
def test_odd_ends_of_text_are_passed_over(folder: Path, ids: Any) -> None:
    rewrite(folder, {"eos_token_id": ids}, "generation_config.json")
    try:
        found = models.load(folder).eos_ids
    except ModelError:
        return
    assert all(isinstance(one, int) for one in found)


def test_weights_of_another_dtype_are_no_matter(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, folder / "model.safetensors")
    assert models.load(folder).layers
