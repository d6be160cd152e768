"""What tests ask of a page."""

from __future__ import annotations

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
