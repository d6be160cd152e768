"""Loaded models, shared by all browser sessions of the server: at most two at a time, each loaded once."""

from __future__ import annotations

import threading
from collections import OrderedDict

from hermes_lab.lab import Lab, load

_KEPT = 2
_lock = threading.Lock()
_labs: OrderedDict[str, Lab] = OrderedDict()


def shared_lab(name: str) -> Lab:
    """The model of that name; a second caller waits for the first one's load. Never asks a hub.

    Raises:
        ModelError: as for `hermes_lab.load`.
    """
    with _lock:
        if name not in _labs:
            _labs[name] = load(name, local_files_only=True)  # whoever sends a link fetches nothing
        _labs.move_to_end(name)
        while len(_labs) > _KEPT:
            _labs.popitem(last=False)
        return _labs[name]
