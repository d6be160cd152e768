// Everything that moves on the Live page, in one place: numbers, the newest frame, the strip, the filmstrip, an answer
// while it is being written. A call touches only what differs from the last one. The message is described in
// dashboards/parts/protocol.py.
function put(el, text) { if (el.textContent !== text) el.textContent = text; }

function drawNumbers(list, pairs) {
  while (list.children.length < pairs.length) {
    const item = document.createElement('div');
    item.append(document.createElement('dt'), document.createElement('dd'));
    list.append(item);
  }
  pairs.forEach(([name, value], n) => {
    put(list.children[n].firstChild, name);
    put(list.children[n].lastChild, value);
  });
}

// Pictures are decoded once, beside the main thread, and kept as long as the page may show them.
function keepPictures(me, head, body) {
  if (me.stream !== head.stream) { me.stream = head.stream; me.pictures = new Map(); }
  const wanted = new Set();
  for (const [frame, start, end] of head.pictures) {
    wanted.add(frame);
    if (me.pictures.has(frame)) continue;
    const kept = { bitmap: null };
    me.pictures.set(frame, kept);
    createImageBitmap(new Blob([body.subarray(start, end)])).then((bitmap) => { kept.bitmap = bitmap; me.draw(); });
  }
  for (const frame of me.pictures.keys()) if (!wanted.has(frame)) me.pictures.delete(frame);
}

function drawNow(me, box, now) {
  const canvas = box.querySelector('.now canvas'), kept = now && me.pictures.get(now.frame);
  put(box.querySelector('.now figcaption'), now ? now.caption : '');
  if (!kept || !kept.bitmap || me.now === kept.bitmap) return;
  me.now = kept.bitmap;
  canvas.width = kept.bitmap.width; canvas.height = kept.bitmap.height;
  canvas.getContext('2d').drawImage(kept.bitmap, 0, 0);
  canvas.setAttribute('aria-label', 'The newest frame of the stream, ' + now.caption);
}

// A patch fades to dark grey as fewer layers hold it: as `hermes_lab.figures.overlay` draws it.
function fade(ctx, w, h, share, rows, cols) {
  const image = ctx.getImageData(0, 0, w, h), p = image.data;
  for (let y = 0, o = 0; y < h; y++) {
    const row = Math.floor(y * rows / h), top = y && row !== Math.floor((y - 1) * rows / h);
    for (let x = 0; x < w; x++, o += 4) {
      const col = Math.floor(x * cols / w), edge = top || (x && col !== Math.floor((x - 1) * cols / w));
      const k = Math.sqrt(share[row * cols + col] / 255), e = edge ? 0.7 : 1;
      const grey = 0.28 * (0.299 * p[o] + 0.587 * p[o + 1] + 0.114 * p[o + 2]) + 18;
      for (let i = 0; i < 3; i++) p[o + i] = e * (grey + k * (p[o + i] - grey));
    }
  }
  ctx.putImageData(image, 0, 0);
}

function drawFilmstrip(me, box, head, body, choose) {
  const filmstrip = box.querySelector('.filmstrip'), [rows, cols] = head.grid, size = rows * cols;
  filmstrip.setAttribute('aria-label', head.filmstrip_alt);
  while (filmstrip.children.length > head.tiles.length) filmstrip.lastChild.remove();
  while (filmstrip.children.length < head.tiles.length) {
    const button = document.createElement('button');
    button.append(document.createElement('canvas'), document.createElement('span'));
    filmstrip.append(button);
  }
  head.tiles.forEach((tile, n) => {
    const button = filmstrip.children[n], kept = me.pictures.get(tile.frame);
    button.onclick = () => choose(tile.frame);
    if (!kept || !kept.bitmap) return;
    const share = tile.share === null ? null : body.subarray(tile.share, tile.share + size);
    const key = [head.stream, tile.frame, share].join();
    put(button.lastChild, tile.caption);
    if (button._key === key) return;
    button._key = key;
    button.title = tile.name;
    button.setAttribute('aria-label', tile.name);
    button.classList.toggle('coming', share === null);
    const canvas = button.firstChild, ctx = canvas.getContext('2d', { willReadFrequently: true });
    canvas.height = head.tile_px;
    canvas.width = Math.max(1, Math.round(kept.bitmap.width * head.tile_px / kept.bitmap.height));
    canvas.style.maxWidth = canvas.width + 'px';
    ctx.drawImage(kept.bitmap, 0, 0, canvas.width, canvas.height);
    if (share) fade(ctx, canvas.width, canvas.height, share, rows, cols);
  });
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const [head, body] = unpack(data);
  const box = parentElement.querySelector('.box');
  const me = box._live = box._live || { pictures: new Map() };
  box.style.setProperty('--coming', (isDark(box) ? head.dark : head.light)[COMING]);
  drawNumbers(box.querySelector('.numbers'), head.numbers);
  drawStrip(box, head, body, (cell) => setTriggerValue('cell', cell));
  me.draw = () => {
    drawNow(me, box, head.now);
    drawFilmstrip(me, box, head, body, (frame) => setTriggerValue('frame', frame));
  };
  keepPictures(me, head, body);
  me.draw();
  put(box.querySelector('.answering'), head.answering === null ? '' : 'Answering: ' + (head.answering || '...'));
}
