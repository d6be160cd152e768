"""What tests ask of a page."""

from __future__ import annotations

import json
import struct
from typing import Any

from streamlit.testing.v1 import AppTest


def sound(app: AppTest) -> AppTest:
    """The page drew itself without an exception; returns it."""
    assert not app.exception, [e.message + "\n" + "\n".join(e.stack_trace) for e in app.exception]
    return app


def press(app: AppTest, label: str) -> AppTest:
    """Press the button with this label."""
    found = [b for b in app.button if b.label == label]
    assert found, [b.label for b in app.button]
    return sound(found[0].click().run())


def text_of(app: AppTest) -> str:
    """Everything that the page says."""
    kinds = (
        app.markdown,
        app.caption,
        app.info,
        app.error,
        app.warning,
        app.success,
        app.subheader,
        app.title,
    )
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and bytes of what a component was sent, as `browser/strip_parts.js` reads them."""
    (length,) = struct.unpack("<I", data[:4])
    return json.loads(data[4 : 4 + length]), data[4 + length :]


def live_view_of(app: AppTest) -> tuple[dict[str, Any], bytes]:
    """What the live view was sent last."""
    (found,) = (
        c.proto for c in app.get("bidi_component") if c.proto.component_name == "hermes_lab_live"
    )
    return unpacked(found.bytes)
