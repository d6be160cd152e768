// A still picture, or one that says where it was clicked.
export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const [head, png] = unpack(data);
  const box = parentElement.querySelector('.box'), image = box.querySelector('img');
  const me = box._state = box._state || { spot: 0 };
  if (me.stamp !== head.stamp) {
    me.stamp = head.stamp;
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([png], { type: 'image/png' }));
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
