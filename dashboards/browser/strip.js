export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const [head, cells] = unpack(data);
  drawStrip(parentElement.querySelector('.box'), head, cells, (cell) => setTriggerValue('cell', cell));
}
