"""Two small browser components: the retention strip on a canvas, and a picture that says where it was clicked.

Both take plain bytes, redraw in place (no flicker, no zoom lost) and can be used from the keyboard: arrow keys
move a cursor, Enter selects.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import streamlit as st

from hermes_lab.figures import STATE_COLOURS, STATE_WORDS, Strip
from hermes_lab.recording import TokenState

_CSS = """
:host, .box { display: block; width: 100%; }
.box { position: relative; font: 12px sans-serif; color: var(--st-text-color); }
canvas, img { display: block; width: 100%; outline-offset: 2px; cursor: crosshair; }
img { width: auto; max-width: 100%; }
img + .tip { white-space: normal; }
.tip { min-height: 16px; padding: 2px 0; opacity: .85; white-space: nowrap; overflow: hidden; }
.mark { position: absolute; pointer-events: none; border: 2px solid #CC79A7; outline: 1px solid #000000; }
.axis { position: relative; height: 14px; opacity: .75; }
.axis span { position: absolute; white-space: nowrap; }
.legend { display: flex; gap: 14px; flex-wrap: wrap; }
.legend canvas { width: 16px; height: 12px; display: inline-block; margin-right: 4px; cursor: default; }
"""

_STRIP_JS = """
const LEVELS = 31;
function rgb(hex) { return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)); }
function isDark(el) {
  const c = getComputedStyle(el).getPropertyValue('--st-background-color').trim();
  if (!/^#[0-9a-f]{6}$/i.test(c)) return false;
  const [r, g, b] = rgb(c);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128;
}
function paint(ctx, w, h, at, palette, rowPx) {
  const image = ctx.createImageData(w, h), out = image.data, gone = palette[2], paper = palette[0];
  for (let y = 0, o = 0; y < h; y++) {
    const row = Math.floor(y / rowPx), gap = rowPx > 4 && y % rowPx === rowPx - 1;
    for (let x = 0; x < w; x++, o += 4) {
      const code = at(row, x), state = code & 7, share = (code >> 3) / LEVELS;
      let c = palette[state];
      if (gap) c = paper;
      else if (state === 3 && (x + y) % 6 < 2) c = paper;
      else if (state === 4 && x % 5 < 2 && y % 5 < 2) c = paper;
      const k = (state === 1 || state === 4) && !gap ? 0.3 + 0.7 * share : 1;
      for (let i = 0; i < 3; i++) out[o + i] = gone[i] + k * (c[i] - gone[i]);
      out[o + 3] = 255;
    }
  }
  ctx.putImageData(image, 0, 0);
}
export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const cells = bytes.subarray(4 + length);
  const box = parentElement.querySelector('.box'), canvas = box.querySelector('canvas.strip');
  const tip = box.querySelector('.tip'), axis = box.querySelector('.axis');
  const palette = (isDark(box) ? head.dark : head.light).map(rgb);
  const { layers, columns } = head;
  const w = Math.max(200, Math.min(1600, Math.round(box.clientWidth || 900)));
  const rowPx = head.row_px, h = layers * rowPx;
  canvas.style.height = h + 'px';
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const column = new Int32Array(w);
  for (let x = 0; x < w; x++) column[x] = Math.floor(x * columns / w);
  const ctx = canvas.getContext('2d');
  const me = box._state = box._state || { cursor: null };
  const draw = () => {
    paint(ctx, w, h, (row, x) => cells[row * columns + column[x]], palette, rowPx);
    const mark = (cell, colour) => {
      if (!cell) return;
      const x0 = cell[1] * w / columns, wide = Math.max(6, w / columns);
      for (const [stroke, line] of [['#000000', 5], [colour, 2]]) {  // seen on any colour
        ctx.strokeStyle = stroke; ctx.lineWidth = line;
        ctx.strokeRect(x0 - 2, cell[0] * rowPx + 1, wide + 4, rowPx - 3);
      }
    };
    mark(head.chosen, '#F0E442');
    mark(me.cursor, '#CC79A7');
  };
  draw();
  window.__hermesStripDraws = (window.__hermesStripDraws || 0) + 1;
  if (window.__hermesStripSeq !== head.seq) {
    window.__hermesStripSeq = head.seq;
    window.__hermesStripChanges = (window.__hermesStripChanges || 0) + 1;
  }
  axis.replaceChildren(...head.ticks.map(([c, text]) => {
    const s = document.createElement('span');
    s.textContent = text;
    s.style.left = (100 * c / columns) + '%';
    return s;
  }));
  const say = (cell) => {
    const [row, col] = cell, code = cells[row * columns + col];
    const frame = head.frame[col];
    tip.textContent = 'layer ' + row + (frame < 0 ? '' : ', frame ' + frame + ' at ' + head.time_s[col] + ' s')
      + ': ' + head.words[code & 7]
      + ((code & 7) === 1 || (code & 7) === 4 ? ', share held ' + ((code >> 3) / LEVELS).toFixed(2) : '');
  };
  const at = (event) => {
    const r = canvas.getBoundingClientRect();
    const row = Math.min(layers - 1, Math.max(0, Math.floor((event.clientY - r.top) / r.height * layers)));
    const col = Math.min(columns - 1, Math.max(0, Math.floor((event.clientX - r.left) / r.width * columns)));
    return [row, col];
  };
  const choose = (cell) => setTriggerValue('cell', { layer: cell[0], column: cell[1] });
  if (!tip.textContent) tip.textContent = head.hint;
  canvas.setAttribute('aria-label', head.alt);
  canvas.setAttribute('aria-description', head.hint);
  canvas.onmousemove = (e) => say(at(e));
  canvas.onmouseleave = () => { tip.textContent = head.hint; };
  canvas.onclick = (e) => choose(at(e));
  canvas.onkeydown = (e) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
    if (e.key === 'Enter' && me.cursor) { choose(me.cursor); e.preventDefault(); return; }
    if (!step) return;
    const jump = e.shiftKey ? 16 : 1, from = me.cursor || head.chosen || [0, 0];
    me.cursor = [
      Math.min(layers - 1, Math.max(0, from[0] + step[0])),
      Math.min(columns - 1, Math.max(0, from[1] + step[1] * jump)),
    ];
    draw(); say(me.cursor); e.preventDefault();
  };
  const legend = box.querySelector('.legend');
  const theme = palette.join();
  if (legend.dataset.theme !== theme) {
    legend.dataset.theme = theme;
    legend.replaceChildren(...[1, 2, 3, 4].map((state) => {
      const item = document.createElement('span'), patch = document.createElement('canvas');
      patch.width = 16; patch.height = 12;
      paint(patch.getContext('2d'), 16, 12, () => (LEVELS << 3) | state, palette, 13);
      item.append(patch, head.words[state]);
      return item;
    }));
  }
}
"""

_PICTURE_JS = """
export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const box = parentElement.querySelector('.box'), image = box.querySelector('img');
  const me = box._state = box._state || { spot: 0 };
  if (me.stamp !== head.stamp) {
    me.stamp = head.stamp;
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([bytes.subarray(4 + length)], { type: 'image/png' }));
  }
  image.alt = head.alt;
  image.style.width = head.width + 'px';
  const tip = box.querySelector('.tip'), mark = box.querySelector('.mark');
  mark.hidden = true;
  const choose = (n) => setTriggerValue('spot', n);
  const spotAt = (e) => {
    const r = image.getBoundingClientRect();
    const x = (e.clientX - r.left) / r.width, y = (e.clientY - r.top) / r.height;
    return head.spots.findIndex(([x0, y0, x1, y1]) => x >= x0 && x < x1 && y >= y0 && y < y1);
  };
  const say = (n) => { tip.textContent = n >= 0 ? head.names[n] : head.hint; };
  if (head.still) {
    tip.textContent = head.hint;
    image.style.cursor = 'default';
    image.removeAttribute('tabindex');
    return;
  }
  image.setAttribute('aria-description', head.hint);
  const show = (n) => {
    const [x0, y0, x1, y1] = head.spots[n], wide = image.clientWidth, high = image.clientHeight;
    mark.style.left = (image.offsetLeft + x0 * wide) + 'px';
    mark.style.top = (image.offsetTop + y0 * high) + 'px';
    mark.style.width = ((x1 - x0) * wide - 4) + 'px';
    mark.style.height = ((y1 - y0) * high - 4) + 'px';
    mark.hidden = false;
  };
  image.onblur = () => { mark.hidden = true; };
  if (!tip.textContent) tip.textContent = head.hint;
  image.onmousemove = (e) => say(spotAt(e));
  image.onmouseleave = () => say(-1);
  image.onclick = (e) => { const n = spotAt(e); if (n >= 0) choose(n); };
  image.onkeydown = (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -head.across, ArrowDown: head.across }[e.key];
    if (e.key === 'Enter') { choose(me.spot); e.preventDefault(); return; }
    if (!step) return;
    me.spot = Math.min(head.spots.length - 1, Math.max(0, me.spot + step));
    show(me.spot); say(me.spot); e.preventDefault();
  };
}
"""

_strip = st.components.v2.component(
    "hermes_lab_strip",
    html='<div class="box"><canvas class="strip" tabindex="0" role="img"></canvas><div class="axis"></div>'
    '<div class="tip" aria-live="polite"></div><div class="legend"></div></div>',
    css=_CSS,
    js=_STRIP_JS,
)
_picture = st.components.v2.component(
    "hermes_lab_picture",
    html='<div class="box"><img tabindex="0"><div class="tip" aria-live="polite"></div>'
    '<div class="mark" hidden></div></div>',
    css=_CSS,
    js=_PICTURE_JS,
)


def strip_payload(
    strip: Strip,
    *,
    seq: int = 0,
    chosen: tuple[int, int] | None = None,
    row_px: int | None = None,
    alt: str = "",
) -> bytes:
    """What the strip's canvas is sent: a JSON header with its length before it, then one byte a cell."""
    seen = np.flatnonzero(np.isfinite(strip.time_s))
    ticks = seen[:: max(1, -(-len(seen) // 8))]
    head = {
        "layers": strip.layers,
        "columns": strip.columns,
        "row_px": row_px or max(5, min(26, 260 // max(strip.layers, 1))),
        "frame": strip.frame.tolist(),
        "time_s": [None if np.isnan(t) else round(float(t), 1) for t in strip.time_s],
        "ticks": [[int(c), f"{strip.time_s[c]:.0f} s"] for c in ticks],
        "light": [STATE_COLOURS[False][s] for s in TokenState],
        "dark": [STATE_COLOURS[True][s] for s in TokenState],
        "words": [STATE_WORDS[s] for s in TokenState],
        "chosen": None if chosen is None else list(chosen),
        "seq": seq,
        "alt": alt or _alt(strip),
        "hint": "Point at a cell to read it, click it (or arrow keys and Enter) to ask why.",
    }
    return _packed(head, strip.codes().tobytes())


def draw_strip(
    strip: Strip,
    *,
    key: str,
    on_cell: Callable[[], None],
    seq: int = 0,
    chosen: tuple[int, int] | None = None,
    row_px: int | None = None,
) -> Any:
    """Draw the strip; after a click the result's `cell` is {"layer", "column"} and `on_cell` has been called."""
    return _strip(
        data=strip_payload(strip, seq=seq, chosen=chosen, row_px=row_px),
        key=key,
        on_cell_change=on_cell,
    )


def draw_picture(
    picture: npt.NDArray[np.uint8],
    spots: list[tuple[float, float, float, float]],
    names: list[str],
    *,
    key: str,
    on_spot: Callable[[], None],
    alt: str,
    hint: str,
    across: int,
    width: int | None = None,
) -> Any:
    """Draw a picture with clickable spots (x0, y0, x1, y1 as shares of its size); `spot` is the one clicked."""
    png = png_bytes(picture)
    head = {
        "spots": spots, "names": names, "alt": alt, "hint": hint, "across": across,
        "width": width or picture.shape[1], "stamp": hash(png),
    }  # fmt: skip
    return _picture(data=_packed(head, png), key=key, on_spot_change=on_spot)


def show_picture(
    picture: npt.NDArray[np.uint8],
    *,
    key: str,
    alt: str,
    caption: str = "",
    width: int | None = None,
) -> None:
    """A picture that changes several times a second: its bytes travel with the page, not as a file that is gone by
    the time that a slow browser asks for it (as those of `st.image` are)."""
    png = png_bytes(picture)
    head = {
        "spots": [], "names": [], "alt": alt, "hint": caption, "across": 1, "width": width or picture.shape[1],
        "stamp": hash(png), "still": True,
    }  # fmt: skip
    _picture(data=_packed(head, png), key=key, on_spot_change=lambda: None)


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """An RGB picture as PNG."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _packed(head: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + body


def _alt(strip: Strip) -> str:
    held = (strip.share * np.diff(strip.first)).sum(1)
    total = max(int((strip.frame >= 0).sum() and strip.first[-1]), 1)
    first, last = held[0] / total, held[-1] / total
    return (
        f"Retention strip of {strip.layers} layers: the first holds {first:.0%} of the tokens drawn, "
        f"the last {last:.0%}."
    )
