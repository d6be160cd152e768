"""Words from elsewhere are shown as they are written: no picture is fetched, no formula, no emphasis, no link."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from streamlit.testing.v1 import AppTest

from dashboards.parts.plain_text import code, plain
from hermes_lab import video
from hermes_lab.stream.session import StreamSession
from tests.app.pages import press, sound
from tests.app.test_app_streams import LINK, says, until

HOSTILE = (
    "![p](http://evil.example/p.png) [l](http://evil.example) <img src='http://evil.example/x'> "
    "$5 or $10, *really* __bold__ `code` :red[text] ~~gone~~ &lt; [ref][r]\n\n[r]: http://evil.example"
)
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
WORDS = {"text", "softbreak", "hardbreak"}


def meaning(markdown: str) -> tuple[set[str], str]:
    """Kinds of the pieces that Markdown makes of a text, and what it says."""
    inline = [piece for token in MARKDOWN.parse(markdown) for piece in token.children or ()]
    blocks = {t.type for t in MARKDOWN.parse(markdown)} - {
        "paragraph_open",
        "paragraph_close",
        "inline",
    }
    said = "".join(" " if p.type.endswith("break") else p.content for p in inline)
    return blocks | {p.type for p in inline} - WORDS, said


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE.split("\n")[0], "1. one", "- a", "+ a", "# title", "> quote", "a | b\n--|--\n1 | 2", "    indented",
        "title\n===", "title\n---", "___", "* * *", "```py\nx\n```", "\\*", "ends in \\", "_a_b_ c_d __init__", "a*b*c",
        "[0.89, 1.21] (random_weights)", "![x][y]\n[y]: http://evil.example", "~/x ~a~", "", "5:30", "<!-- -->",
    ],
)  # fmt: skip
def test_markdown_of_a_text_says_that_text_and_nothing_else(text: str) -> None:
    kinds, said = meaning(plain(text))
    assert kinds == set()
    assert "".join(said.split()) == "".join(text.split())
    if text.strip():
        assert meaning(f"**{plain(text)}**")[0] <= {"strong_open", "strong_close"}


@given(st.text(alphabet="ab *_[]()<>!`~#|&:$\\\n-+=1.{}^\"'/\ud800\udce9é", max_size=30))
def test_no_text_means_anything_in_markdown(text: str) -> None:
    kinds, _ = meaning(plain(text))
    assert kinds == set()
    plain(text).encode()


@pytest.mark.parametrize(
    "text", ["x", "`", "a`b``c", "``", " spaces ", "![x](y)", "fifo(budget_tokens=9)"]
)
def test_code_is_the_text_whatever_ticks_are_in_it(text: str) -> None:
    kinds, said = meaning(code(text))
    assert kinds == {"code_inline"}
    assert said.strip() == text.strip()
    assert code("") == ""


def harmless(app: AppTest) -> None:
    """Nothing on the page is more than text, where it quotes somebody."""
    kinds = (
        app.markdown,
        app.caption,
        app.info,
        app.error,
        app.warning,
        app.success,
        app.subheader,
    )
    for element in [element for kind in kinds for element in kind]:
        more = meaning(element.value)[0] & {
            "image",
            "html_inline",
            "html_block",
            "link_open",
            "em_open",
        }
        assert not more, element.value


@pytest.fixture
def hostile(runs: Path, lab) -> Path:
    """A recording whose every name and word is made to be more than text."""
    folder = runs / "hostile"
    source = video.open("world:seed=7,frames=8")
    with StreamSession(
        lab, "fifo(budget_tokens=40)", chunk_frames=4, record=folder, record_level="rows", fps=1,
        source={"name": HOSTILE, "kind": source.kind},
    ) as session:  # fmt: skip
        for chunk in source.chunks(4):
            session.feed(chunk)
        session.ask(HOSTILE, max_new_tokens=2)
    manifest = folder / "manifest.json"
    told = json.loads(manifest.read_text())
    told["model"]["name"] = told["policy"]["policy"] = told["reason"] = HOSTILE
    manifest.write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("page", ["live", "why", "atlas", "recordings"])
def test_a_hostile_recording_is_only_words(open_page, hostile: Path, page: str) -> None:
    app = sound(open_page(page, recording="hostile", step="1"))
    assert not app.error
    harmless(app)
    if page == "live":
        assert HOSTILE in [t.value for t in app.text]


@pytest.mark.parametrize("page", ["live", "why", "atlas", "recordings"])
def test_a_hostile_link_is_only_words(open_page, page: str) -> None:
    app = sound(
        open_page(
            page, recording=HOSTILE, policy=HOSTILE, model=HOSTILE, source=HOSTILE, group=HOSTILE
        )
    )
    assert any("evil" in w.value for w in app.warning)
    harmless(app)


def test_questions_answers_and_errors_of_a_stream_are_only_words(
    open_page, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = sound(open_page("live", policy="fifo(budget_tokens=48)", **(LINK | {"model": HOSTILE})))
    press(app, "Start")
    assert any("evil" in e.value for e in app.error)
    harmless(app)
    app.selectbox(key="w_model").set_value("tiny").run()
    press(app, "Start")
    until(app, says("The stream has ended"), 120)
    ask = StreamSession.ask

    def answer(self: StreamSession, question: str, **how):
        return replace(ask(self, question, **how), text=HOSTILE, top=((HOSTILE, 0.9),))

    monkeypatch.setattr(StreamSession, "ask", answer)
    app.chat_input[0].set_value(HOSTILE).run()
    until(app, says("TTFT"))
    assert [t.value for t in app.text] == [HOSTILE, HOSTILE]
    harmless(app)
