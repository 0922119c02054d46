// Charts of the classes and of the scores.

const PERCENT = [0, 20, 40, 60, 80, 100].map((value) => [value, String(value)]);
const SHARES = [0, 0.2, 0.4, 0.6, 0.8, 1].map((value) => [value, String(value)]);
const MOST_BARS = 40;
const ENDS = 15; // best and worst bars of more classes than that

const ranked = () => classes.map((_, index) => index)
  .filter((index) => classes[index].AP !== null)
  .sort((a, b) => classes[b].AP - classes[a].AP);

function choosable(index, element, text) {
  element.classList.add('choice');
  element.append(draw('title', {}, text));
  element.addEventListener('click', () => choose(index));
  return element;
}

function drawScatter() {
  const shown = ranked();
  const place = find('scatter');
  const most = Math.max(2, ...shown.map((index) => classes[index].images));
  const least = Math.min(...shown.map((index) => classes[index].images), most / 2);
  const low = Math.log10(least) - 0.08;
  const high = Math.log10(most) + 0.08;
  const steps = high - low > 2.5 ? [1] : high - low > 0.9 ? [1, 3] : [1, 2, 3, 4, 5, 7];
  const ticks = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => steps.map((step) => step * 10 ** power))
    .filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  const { root, X, Y, width } = chart(place, {
    height: 330, x: [low, high], y: [0, 100], yTicks: PERCENT, xTitle: 'images with the label', yTitle: 'AP',
    xTicks: ticks.map((value) => [Math.log10(value), value.toLocaleString('en')]),
    label: `AP over number of images of ${shown.length} classes`,
  });
  if (!classes.some((row) => row.unknown)) { // else chance is not the same for the same number of images
    const chance = Array.from({ length: 30 }, (_, i) => low + (i / 29) * (high - low));
    root.append(draw('path', {
      class: 'chance', d: path(chance.map((x) => [X(x), Y(Math.min(100, (100 * 10 ** x) / DATA.images_total))])),
      fill: 'none', stroke: 'var(--orange)', 'stroke-dasharray': '5 4', 'stroke-width': 1.5,
    }));
    find('scatter-note').textContent = 'The dashed line is chance.';
  }
  const points = shown.map((index) => [index, X(Math.log10(classes[index].images)), Y(classes[index].AP)]);
  for (const [index, x, y] of points) {
    const isChosen = index === state.chosen;
    const dot = draw('circle', {
      cx: x, cy: y, r: isChosen ? 7 : shown.length > 150 ? 3.5 : 5, fill: isChosen ? 'var(--orange)' : 'var(--blue)',
      'fill-opacity': isChosen ? 1 : 0.65,
    });
    root.append(choosable(index, dot, `${nameOf(index)}: AP ${number(classes[index].AP)}, ${plural(classes[index].images, 'image')}`));
  }
  const wanted = [state.chosen, ...shown.slice(0, 6), ...shown.slice(-8).reverse(), ...shown];
  const taken = []; // boxes of labels
  for (const index of new Set(wanted.filter((index) => index >= 0 && classes[index].AP !== null))) {
    if (taken.length >= 26) break;
    const [, x, y] = points.find((point) => point[0] === index);
    const text = short(nameOf(index), 16);
    const length = 6.6 * text.length + 6;
    const isLeft = x + length + 10 > width - 8;
    const box = [isLeft ? x - length - 8 : x + 8, y - 8, length, 14];
    const isFree = taken.every(([a, b, c, d]) => box[0] > a + c || box[0] + box[2] < a || box[1] > b + d || box[1] + box[3] < b)
      && points.every(([other, a, b]) => other === index || a < box[0] - 4 || a > box[0] + length || b < box[1] || b > box[1] + 14);
    if (!isFree && index !== state.chosen) continue;
    taken.push(box);
    root.append(draw('text', { x: isLeft ? x - 8 : x + 8, y: y + 4, 'text-anchor': isLeft ? 'end' : 'start' }, text));
  }
}

function drawBars() {
  const all = ranked();
  const isLong = all.length > MOST_BARS;
  const shown = isLong ? [...all.slice(0, ENDS), null, ...all.slice(-ENDS)] : all;
  const absent = classes.length - all.length;
  const which = isLong ? `AP of the ${ENDS} best and the ${ENDS} worst of ${all.length} classes` : 'AP by class';
  const left = absent ? ` ${plural(absent, 'class has', 'classes have')} no image with the label, and no AP.` : '';
  find('bars-caption').textContent = `${which}, with the number of images. The mark is chance.${left}`;
  const step = 17;
  const { root, X, width } = chart(find('bars'), {
    height: shown.length * step + 40, left: 150, right: 40, top: 4, bottom: 36, x: [0, 100], y: [0, 1],
    xTicks: PERCENT, xTitle: 'AP', label: which,
  });
  shown.forEach((index, place) => {
    const y = 4 + place * step;
    if (index === null) {
      root.append(draw('text', { class: 'soft', x: 150, y: y + 12 }, `… ${all.length - 2 * ENDS} classes between …`));
      return;
    }
    const row = classes[index];
    const name = `${short(row.name, 16)} (${row.images})`;
    const bar = draw('g', {},
      draw('rect', { x: 0, y, width, height: step, fill: index === state.chosen ? 'var(--chosen)' : 'transparent' }),
      draw('text', { x: 144, y: y + 12, 'text-anchor': 'end' }, name),
      draw('rect', { x: X(0), y: y + 2, width: Math.max(0.5, X(row.AP) - X(0)), height: step - 4, fill: 'var(--blue)' }),
      draw('rect', { x: X(row.chance) - 1, y: y + 1, width: 2.5, height: step - 2, fill: 'var(--orange)' }),
      draw('text', { x: X(row.AP) + 4, y: y + 12 }, number(row.AP)),
    );
    root.append(choosable(index, bar, `${row.name}: AP ${number(row.AP)}, chance ${number(row.chance)}`));
  });
}

function drawCurves() {
  const { mean, quantiles } = DATA.curves;
  const shown = ranked();
  find('curves-note').textContent = shown.length > COLOURS.length
    ? `Of ${shown.length} classes, choose up to ${COLOURS.length}; the grey band has 80 % of the classes.` : '';
  const { root, X, Y } = chart(find('curve-chart'), {
    height: 400, x: [0, 1], y: [0, 1], xTicks: SHARES, yTicks: SHARES, xTitle: 'recall', yTitle: 'precision',
    label: `Precision over recall, mean of ${shown.length} classes and ${state.compared.length} single ones`,
  });
  const place = (curve) => curve.map((value, i) => [X(DATA.recalls[i]), Y(value)]);
  const line = (curve, colour, dash, width) => draw('path', {
    d: path(place(curve)), fill: 'none', stroke: colour, 'stroke-dasharray': dash, 'stroke-width': width, 'stroke-linejoin': 'round',
  });
  const legend = [];
  const entry = (sample, name, value, button) => legend.push(
    make('li', {}, fill(draw('svg', { width: 34, height: 12 }), {}, [sample]), make('span', { class: 'name', title: name }, short(name, 60)), make('span', {}, value), button),
  );
  const sample = (colour, dash, width) => draw('line', { x1: 1, x2: 33, y1: 6, y2: 6, stroke: colour, 'stroke-dasharray': dash, 'stroke-width': width });
  if (shown.length > COLOURS.length) {
    root.append(draw('path', { d: path([...place(quantiles[0]), ...place(quantiles[2]).reverse()]), fill: 'var(--soft)', 'fill-opacity': 0.22 }));
    entry(draw('rect', { width: 34, height: 12, fill: 'var(--soft)', 'fill-opacity': 0.22 }), '80 % of the classes', '', '');
  }
  if (shown.length > 1) {
    root.append(line(mean, 'var(--ink)', '', 3));
    const average = shown.reduce((sum, index) => sum + classes[index].AP, 0) / shown.length;
    entry(sample('var(--ink)', '', 3), 'mean of the classes', number(average), '');
  }
  state.compared.forEach((index, i) => {
    const looks = [COLOURS[i], DASHES[i], index === state.chosen ? 3.5 : 2];
    root.append(line(classes[index].curve, ...looks));
    const remove = make('button', { 'aria-label': `Leave out ${nameOf(index)}`, onclick: () => { compare(index, false); drawCurves(); } }, '×');
    entry(sample(...looks), nameOf(index), number(classes[index].AP), remove);
  });
  find('curve-legend').replaceChildren(...legend);
}

function drawHistogram() {
  const one = state.chosen < 0 ? DATA : classes[state.chosen];
  const sums = one.histogram.map((counts) => counts.reduce((a, b) => a + b, 0));
  const shares = one.histogram.map((counts, i) => counts.map((count) => (sums[i] ? count / sums[i] : 0)));
  const high = Math.max(...shares.flat(), 0.01);
  const at = (share) => Math.sqrt(share); // small shares stay visible
  const ticks = [0.01, 0.05, 0.2, 0.5, 1].filter((value) => value <= high * 1.05);
  const { root, X, Y } = chart(find('histogram'), {
    height: 300, left: 52, x: [0, 1], y: [-at(high), at(high)], xTicks: SHARES, xTitle: 'score', label: 'Histogram of scores',
    yTicks: [[0, '0 %'], ...ticks.flatMap((share) => [[at(share), `${100 * share} %`], [-at(share), `${100 * share} %`]])],
  });
  shares.forEach((group, i) => group.forEach((share, bin) => {
    if (!share) return;
    const [y, base] = [Y(i ? -at(share) : at(share)), Y(0)];
    root.append(draw('rect', {
      x: X(bin / group.length) + 0.5, width: X(1 / group.length) - X(0) - 1, y: Math.min(y, base),
      height: Math.max(1, Math.abs(base - y)), fill: i ? 'var(--orange)' : 'var(--blue)',
    }, draw('title', {}, `${plural(one.histogram[i][bin], 'score')} from ${(bin / group.length).toFixed(2)} to ${((bin + 1) / group.length).toFixed(2)}, ${(100 * share).toFixed(1)} %`)));
  }));
  const lines = [[state.chosen < 0 ? DATA.threshold : one.threshold, 'threshold', ''], [one.best_threshold ?? null, 'best', '5 4']];
  const shown = lines.filter(([value]) => value !== null);
  for (const [value, name, dash] of shown) {
    const isLower = shown.some(([other]) => other > value); // its name is on the other side
    const isRight = isLower ? value > 0.25 : value > 0.75;
    root.append(draw('line', { x1: X(value), x2: X(value), y1: Y(at(high)), y2: Y(-at(high)), stroke: 'var(--ink)', 'stroke-width': 2, 'stroke-dasharray': dash }));
    root.append(draw('text', { x: X(value) + (isRight ? -5 : 5), y: name === 'best' ? Y(-at(high)) - 5 : Y(at(high)) + 12, 'text-anchor': isRight ? 'end' : 'start' }, `${name} ${threshold(value)}`));
  }
  find('histogram-note').textContent = `${plural(sums[0], 'score')} with, ${sums[1].toLocaleString('en')} without.` +
    (one.unknown ? ` ${plural(one.unknown, 'unknown label is', 'unknown labels are')} left out.` : '');
}

function drawCalibration() {
  const one = (state.chosen < 0 ? DATA : classes[state.chosen]).calibration;
  const { root, X, Y } = chart(find('calibration'), {
    height: 300, x: [0, 1], y: [0, 1], xTicks: SHARES, yTicks: SHARES, xTitle: 'score (mean of ten bins)', yTitle: 'share that is right',
    label: `Calibration, expected error ${one.error} points`,
  });
  root.append(draw('line', { x1: X(0), y1: Y(0), x2: X(1), y2: Y(1), stroke: 'var(--soft)', 'stroke-dasharray': '5 4' }));
  root.append(draw('path', { d: path(one.bins.map(([score, share]) => [X(score), Y(share)])), fill: 'none', stroke: 'var(--blue)', 'stroke-width': 2 }));
  for (const [score, share, count] of one.bins) {
    const text = `${plural(count, 'score')} around ${score.toFixed(2)}: ${(100 * share).toFixed(1)} % are right`;
    root.append(draw('circle', { cx: X(score), cy: Y(share), r: 2.5 + 1.3 * Math.log10(count), fill: 'var(--blue)' }, draw('title', {}, text)));
  }
  find('calibration-note').textContent = `Expected calibration error ${one.error.toFixed(1)} points. ${one.sentence}`;
}

function startCharts() {
  const best = ranked();
  const middle = best.length >> 1;
  const first = best.length <= COLOURS.length ? best : [best[0], best[1], best[middle], best[best.length - 2], best[best.length - 1]];
  state.compared = [...first];
  const names = [...best].sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
  find('add').append(make('option', { value: '' }, 'a class'), ...names.map((index) => make('option', { value: index }, short(nameOf(index), 40))));
  find('add').addEventListener('change', (event) => {
    if (event.target.value) compare(Number(event.target.value), true);
    event.target.value = '';
    drawCurves();
  });
  drawers.push(drawScatter, drawBars, drawCurves, drawHistogram, drawCalibration);
}
