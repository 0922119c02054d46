// Which label misleads the model to which other one: the strongest pairs, and the matrix.

const MOST_PAIRS = 12;
const confusion = DATA.confusion;
const cellColour = (share, top) => Math.sqrt(Math.min(1, share / (top || 1)));

function drawPairs() {
  const isOf = ([label, given]) => state.chosen < 0 || label === state.chosen || given === state.chosen;
  const shown = confusion.pairs.filter(isOf).slice(0, MOST_PAIRS);
  const name = (index) => make('td', { class: 'name' }, make('button', { class: 'name', onclick: () => { choose(index); find('class').focus(); }, title: nameOf(index) }, short(nameOf(index), 60)));
  find('pairs').tBodies[0].replaceChildren(...shown.map(([label, given, wrong, all, share, base]) => make('tr', {},
    name(label), name(given), make('td', {}, `${wrong.toLocaleString('en')} of ${all.toLocaleString('en')}`),
    make('td', {}, `${number(share)} %`), make('td', {}, `${number(base)} %`))));
  find('pairs').hidden = !shown.length;
  find('pairs-note').textContent = shown.length ? 'Most images beyond what any image would give come first.'
    : 'No label misleads the model to another one more often than any image does.';
}

function gradient(colour, top, text) {
  const bar = make('i');
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => `color-mix(in srgb, ${colour} ${100 * Math.sqrt(share)}%, transparent)`);
  bar.style.backgroundImage = `linear-gradient(to right, ${stops.join(', ')})`;
  return make('span', {}, '0', bar, `${number(top, 0)} % ${text}`);
}

function drawMatrix() {
  const { classes: shown, matrix } = confusion;
  find('matrix-figure').hidden = !shown.length;
  if (!shown.length) return;
  const isDiagonal = (row, column) => row === column + 1;
  const largest = (wanted) => Math.max(0, ...matrix.flatMap((cells, row) => cells.filter((value, column) => value !== null && isDiagonal(row, column) === wanted)));
  const tops = [largest(false), largest(true)];
  const colours = ['var(--orange)', 'var(--blue)'];
  const [left, top] = [150, 104];
  const side = Math.max(15, Math.min(34, (find('matrix').clientWidth - left - 60) / shown.length));
  const [width, height] = [left + side * shown.length + 70, top + side * (shown.length + 1) + 4];
  const root = draw('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Confusion of ${shown.length} classes` });
  shown.forEach((index, column) => {
    const x = left + side * (column + 0.5);
    root.append(draw('text', { x: x + 3, y: top - 6, transform: `rotate(-50 ${x + 3} ${top - 6})` }, short(nameOf(index), 16)));
  });
  matrix.forEach((cells, row) => {
    const y = top + side * row + (row ? 3 : 0);
    const title = row ? `${short(nameOf(shown[row - 1]), 15)} (${classes[shown[row - 1]].images.toLocaleString('en')})` : 'any image';
    root.append(draw('text', { x: left - 6, y: y + side / 2 + 4, 'text-anchor': 'end' }, title));
    cells.forEach((value, column) => {
      const kind = Number(isDiagonal(row, column));
      const names = [row ? nameOf(shown[row - 1]) : '', nameOf(shown[column])];
      const share = `${number(value)} %`;
      const text = value === null ? 'no such image' : kind ? `${names[1]} is missed in ${share} of its images`
        : row ? `${names[1]} is given in ${share} of the images with ${names[0]} and without ${names[1]}`
        : `${names[1]} is given in ${share} of all images without it`;
      const cell = draw('g', {}, draw('rect', {
        x: left + side * column, y, width: side - 1, height: side - 1, fill: value === null ? 'var(--line)' : colours[kind],
        'fill-opacity': value === null ? 0.5 : cellColour(value, tops[kind]),
        stroke: shown[column] === state.chosen || shown[row - 1] === state.chosen ? 'var(--ink)' : 'var(--line)', 'stroke-width': 0.6,
      }));
      if (side >= 24 && value !== null && value >= 0.5) {
        cell.append(draw('text', { x: left + side * (column + 0.5), y: y + side / 2 + 4, 'text-anchor': 'middle', class: cellColour(value, tops[kind]) > 0.6 ? 'strong' : null }, number(value, 0)));
      }
      root.append(choosable(shown[column], cell, text));
    });
  });
  find('matrix').replaceChildren(root);
  find('matrix-legend').replaceChildren(gradient(colours[0], tops[0], 'of the images without the label get it'), gradient(colours[1], tops[1], 'of the images with the label miss it (diagonal)'));
  if (matrix.flat().includes(null)) find('matrix-legend').append(make('span', { class: 'soft' }, 'grey: there are no such images'));
}

function startConfusion() {
  const titles = ['An image has', 'The model also says', 'Images', 'Share', 'In any image'];
  find('pairs').tHead.append(make('tr', {}, ...titles.map((title, i) => make('th', { scope: 'col', class: i < 2 ? 'name' : null }, title))));
  find('matrix-note').textContent = confusion.note;
  drawers.push(drawPairs, drawMatrix);
}
