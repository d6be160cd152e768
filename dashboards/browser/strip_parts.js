// What the components share: how a message is unpacked (dashboards/parts/protocol.py describes it), and how a retention
// strip is painted and pointed at.
const LEVELS = 31;
const COMING = 5; // frames that came after the last decision; the states 0 to 4 are TokenState
const SLOT_PX = 8;
const CLOCK_MS = 125;

function unpack(data) {
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data);
  const length = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0, true);
  return [JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))), bytes.subarray(4 + length)];
}
function rgb(hex) { return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)); }
function isDark(el) {
  const c = getComputedStyle(el).getPropertyValue('--st-background-color').trim();
  if (!/^#[0-9a-f]{6}$/i.test(c)) return false;
  const [r, g, b] = rgb(c);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128;
}
function packed(c) { return (255 << 24 | c[2] << 16 | c[1] << 8 | c[0]) >>> 0; }
function inks(palette) { // the colour of every code, ready to be written into a picture
  const gone = palette[2], out = new Uint32Array(256);
  for (let code = 0; code < 256; code++) {
    const state = code & 7, c = palette[state] || palette[0];
    const k = state === 1 || state === 4 ? 0.3 + 0.7 * (code >> 3) / LEVELS : 1;
    out[code] = packed(gone.map((g, i) => Math.round(g + k * (c[i] - g))));
  }
  return out;
}
function paint(ctx, w, h, at, palette, rowPx) {
  const image = ctx.createImageData(w, h), out = new Uint32Array(image.data.buffer);
  const ink = inks(palette), paper = packed(palette[0]), codes = new Uint8Array(w);
  for (let y = 0, o = 0; y < h; y++) {
    if (y % rowPx === 0) {
      const row = y / rowPx;
      for (let x = 0; x < w; x++) codes[x] = at(row, x);
    }
    if (rowPx > 4 && y % rowPx === rowPx - 1) { out.fill(paper, o, o + w); o += w; continue; }
    for (let x = 0; x < w; x++, o++) {
      const state = codes[x] & 7; // textures tell the states apart without colour
      const hole = state === 3 ? (x + y) % 6 < 2 : state === 4 ? x % 5 < 2 && y % 5 < 2 : state === COMING && x % 4 > 1;
      out[o] = hole ? paper : ink[codes[x]];
    }
  }
  ctx.putImageData(image, 0, 0);
}
function count(name) { window[name] = (window[name] || 0) + 1; } // read by tests and by scripts/measure_dashboard.py

// Draws a strip into a box that has canvas.strip, .axis, .tip and .legend. Only what differs from the last call is
// painted. head.arriving, where there is one, says what is on its way; its clock is carried on here between two calls.
function drawStrip(box, head, cells, choose) {
  const canvas = box.querySelector('canvas.strip'), tip = box.querySelector('.tip');
  const palette = (isDark(box) ? head.dark : head.light).map(rgb), theme = palette.join();
  const { layers, columns } = head, arriving = head.arriving || { slots: 0, frames: [], times_s: [], due: null };
  const w = Math.max(200, Math.min(1600, Math.round(canvas.parentElement.clientWidth || 900)));
  const rowPx = head.row_px, h = layers * rowPx;
  const slotPx = arriving.slots ? Math.max(2, Math.min(SLOT_PX, Math.floor(128 / arriving.slots))) : 0;
  const wide = w - slotPx * arriving.slots; // of the cells; there is always room behind them for a chunk on its way
  const ctx = canvas.getContext('2d');
  const me = box._strip = box._strip || { cursor: null };
  const came = performance.now();
  const drawCells = () => {
    const column = new Int32Array(w);
    for (let x = 0; x < w; x++) column[x] = x < wide ? Math.floor(x * columns / wide) : -1;
    paint(ctx, w, h, (row, x) => (column[x] < 0 ? 0 : cells[row * columns + column[x]]), palette, rowPx);
    const mark = (cell, colour) => {
      if (!cell) return;
      const x0 = cell[1] * wide / columns, across = Math.max(6, wide / columns);
      for (const [stroke, line] of [['#000000', 5], [colour, 2]]) { // seen on any colour
        ctx.strokeStyle = stroke; ctx.lineWidth = line;
        ctx.strokeRect(x0 - 2, cell[0] * rowPx + 1, across + 4, rowPx - 3);
      }
    };
    mark(head.chosen, '#F0E442');
    mark(me.cursor, '#CC79A7');
  };
  const from = Math.ceil(arriving.slots ? arriving.end * wide / columns : w);
  const slot = arriving.slots ? Math.min(Math.max(slotPx, arriving.width * wide / columns), (w - from) / arriving.slots) : 0;
  // how much of the time to the next frame has passed: from the stream's own pace, and never more than one frame
  const clock = () => {
    if (!arriving.due) return 0;
    const left = arriving.due.in_s - (performance.now() - came) / 1000;
    return Math.min(1, Math.max(0, 1 - left / arriving.due.every_s));
  };
  const needle = () => Math.min(w - 2, Math.round(from + (arriving.frames.length + clock()) * slot));
  const drawArriving = (x) => {
    const [paper, ink] = [head.paper[+isDark(box)], (isDark(box) ? head.dark : head.light)[COMING]];
    ctx.fillStyle = paper; ctx.fillRect(from, 0, w - from, h);
    const end = Math.min(w, from + arriving.frames.length * slot);
    ctx.fillStyle = ink;
    for (let s = from; s < end; s += 4) ctx.fillRect(s, 0, Math.min(2, end - s), h);
    ctx.globalAlpha = 0.35; ctx.fillRect(end, 0, Math.max(0, x - end), h); ctx.globalAlpha = 1;
    ctx.fillStyle = paper;
    if (rowPx > 4) for (let y = rowPx - 1; y < h; y += rowPx) ctx.fillRect(from, y, w - from, 1);
    ctx.fillStyle = ink; ctx.fillRect(x, 0, 2, h);
  };
  const seen = [head.seq, w, h, theme, head.chosen, me.cursor].join('|'), x = arriving.slots ? needle() : 0;
  const coming = [seen, arriving.frames.length, x].join('|');
  if (canvas.width !== w || canvas.height !== h) { canvas.style.height = h + 'px'; canvas.width = w; canvas.height = h; }
  const redraw = () => { drawCells(); if (arriving.slots) drawArriving(needle()); };
  if (me.seen !== seen) drawCells();
  if (arriving.slots && me.coming !== coming) drawArriving(x);
  if (me.coming !== coming) count('__hermesStripChanges');
  if (me.steps !== head.seq + '|' + arriving.frames.length) count('__hermesStripSteps');
  Object.assign(me, { seen, coming, steps: head.seq + '|' + arriving.frames.length });
  count('__hermesStripDraws');
  clearInterval(me.timer);
  if (arriving.due && arriving.slots) {
    let last = x;
    me.timer = setInterval(() => {
      const now = needle();
      if (!canvas.isConnected) clearInterval(me.timer);
      else if (now !== last) { last = now; drawArriving(now); me.coming = ''; count('__hermesStripChanges'); count('__hermesStripDraws'); }
    }, CLOCK_MS);
  }
  const ticks = JSON.stringify([head.ticks, wide, w]);
  if (me.ticks !== ticks) {
    me.ticks = ticks;
    let free = 0; // ticks that would overlap are left out
    box.querySelector('.axis').replaceChildren(...head.ticks.flatMap(([c, text]) => {
      const left = c * wide / columns;
      if (left < free) return [];
      free = left + 8 * text.length + 8;
      const s = document.createElement('span');
      s.textContent = text;
      s.style.left = (100 * left / w) + '%';
      return [s];
    }));
  }
  const say = (cell) => {
    const [row, col] = cell;
    if (col >= columns) {
      const n = col - columns;
      tip.textContent = n < arriving.frames.length
        ? 'frame ' + arriving.frames[n] + ' at ' + arriving.times_s[n] + ' s: ' + head.words[COMING] + ', no layer has decided on it' : head.hint;
      return;
    }
    const code = cells[row * columns + col], frame = head.frame[col];
    tip.textContent = 'layer ' + row + (frame < 0 ? '' : ', frame ' + frame + ' at ' + head.time_s[col] + ' s')
      + ': ' + head.words[code & 7]
      + ((code & 7) === 1 || (code & 7) === 4 ? ', share held ' + ((code >> 3) / LEVELS).toFixed(2) : '');
  };
  const at = (event) => { // columns and more: a frame on its way
    const r = canvas.getBoundingClientRect(), px = (event.clientX - r.left) / r.width * w;
    const row = Math.min(layers - 1, Math.max(0, Math.floor((event.clientY - r.top) / r.height * layers)));
    if (arriving.slots && px >= from && px < from + arriving.frames.length * slot) return [row, columns + Math.floor((px - from) / slot)];
    return [row, Math.min(columns - 1, Math.max(0, Math.floor(px / wide * columns)))];
  };
  const pick = (cell) => { if (cell[1] < columns) choose({ layer: cell[0], column: cell[1] }); };
  if (!tip.textContent) tip.textContent = head.hint;
  if (me.alt !== head.alt) { me.alt = head.alt; canvas.setAttribute('aria-label', head.alt); canvas.setAttribute('aria-description', head.hint); }
  canvas.onmousemove = (e) => say(at(e));
  canvas.onmouseleave = () => { tip.textContent = head.hint; };
  canvas.onclick = (e) => pick(at(e));
  canvas.onkeydown = (e) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
    if (e.key === 'Enter' && me.cursor) { pick(me.cursor); e.preventDefault(); return; }
    if (!step) return;
    const jump = e.shiftKey ? 16 : 1, was = me.cursor || head.chosen || [0, 0];
    me.cursor = [
      Math.min(layers - 1, Math.max(0, was[0] + step[0])),
      Math.min(columns - 1, Math.max(0, was[1] + step[1] * jump)),
    ];
    redraw(); say(me.cursor); e.preventDefault();
  };
  const legend = box.querySelector('.legend'), states = arriving.slots ? [1, 2, 3, 4, COMING] : [1, 2, 3, 4];
  if (legend.dataset.theme !== theme + states) {
    legend.dataset.theme = theme + states;
    legend.replaceChildren(...states.map((state) => {
      const item = document.createElement('span'), patch = document.createElement('canvas');
      patch.width = 16; patch.height = 12;
      paint(patch.getContext('2d'), 16, 12, () => (LEVELS << 3) | state, palette, 13);
      item.append(patch, head.words[state]);
      return item;
    }));
  }
}
