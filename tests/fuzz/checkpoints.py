"""Checkpoints of models that somebody passed on."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch

import hermes_lab
from hermes_lab import StreamSession
from hermes_lab.models import templates
from tests.checkpoints import write_checkpoint
from tests.fuzz.cases import GONE, PIPE, Case, Fault, Target, lay
from tests.fuzz.mutators import damaged, damaged_safetensors, json_bytes

_FAMILIES = ("llava_onevision", "qwen2_5_vl", "smolvlm", "qwen3_vl")
_TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 9 ** 9 ** 9 }}", "{{ ''.__class__.__mro__ }}", "{% set n = namespace(x='aa') %}{% for a in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 1 / 0 }}", "",
)  # fmt: skip
_HOSTILE = {
    "_attn_implementation": "evil/kernel", "auto_map": {"AutoModel": "evil/x--m.M"}, "transformers_weights": "evil.bin",
    "quantization_config": {"quant_method": "fp8"}, "quantization_config ": {"quant_method": []},
}  # fmt: skip


class Checkpoints(Target):
    """A checkpoint folder with a file that is not as it was saved."""

    name = "checkpoint"

    def prepare(self, folder: Path) -> None:
        templates.MOST_SECONDS = 0.5
        self.folder = folder
        self.files: dict[str, dict[str, bytes]] = {}
        for family in _FAMILIES:
            path = write_checkpoint(family, folder / family, layers=2)
            self.files[family] = {file.name: file.read_bytes() for file in sorted(path.iterdir())}

    def draw(self, rng: random.Random) -> Case:
        family = rng.choice(_FAMILIES)
        files = self.files[family]
        name = rng.choice(sorted(files))
        data, kind = files[name], rng.random()
        if kind < 0.05:
            data = rng.choice((GONE, PIPE, b"", b"[]"))
        elif name.endswith(".json") and kind < 0.2:
            value = json.loads(data)
            key = rng.choice(sorted(_HOSTILE))
            value[key.strip()] = _HOSTILE[key]
            data = json.dumps(value).encode()
        elif name.endswith(".json"):
            data = json_bytes(json.loads(data), rng)
        elif name.endswith(".safetensors"):
            data = damaged_safetensors(data, rng)
        elif name.endswith(".jinja") and kind < 0.4:
            data = rng.choice(_TEMPLATES).encode()
        else:
            data = damaged(data, rng)
        return {"family": family.encode(), name: data}

    def run(self, case: Case, folder: Path) -> None:
        model = folder / "model"
        shutil.copytree(self.folder / case["family"].decode(), model)
        lay({name: data for name, data in case.items() if name != "family"}, model)
        lab = hermes_lab.load(model)
        session = StreamSession(lab, "fifo(budget_tokens=64)")
        frames = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
        session.feed(frames)
        answer = session.ask("what is it", max_new_tokens=2)
        if not all(np.isfinite([chance for _, chance in answer.top])):
            raise Fault("an answer with a chance that is no number")
        if not all(torch.isfinite(p).all() for p in lab.adapter.model.parameters()):
            raise Fault("weights that are no numbers, and an answer without a word")
