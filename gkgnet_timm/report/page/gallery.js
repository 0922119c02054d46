// Galleries of mistakes, and the viewer of one image.

const KINDS = ['false_positives', 'misses', 'label_errors'];
const GROUPS = ['#0072B2', '#D55E00']; // of channels, as in all pictures of the package
const viewer = { items: [], at: 0, stage: -1 };
let masks = 0; // each needs a name of its own

function boxes(patches, stage) {
  return patches.filter((patch) => stage === 0 || patch[0] === stage);
}

// The image dimmed where the node did not look: the more patches of the stages are at a place, the lighter it is.
function veil(patches, stage, hasOutlines) {
  const shown = boxes(patches, stage);
  const id = `mask-${masks++}`;
  const mask = draw('mask', { id }, draw('rect', { width: 1000, height: 1000, fill: '#fff' }));
  const strength = stage ? 0.9 : 0.5;
  for (const [, , x0, y0, x1, y1] of shown) {
    mask.append(draw('rect', { x: x0, y: y0, width: x1 - x0, height: y1 - y0, fill: '#000', 'fill-opacity': strength }));
  }
  const root = draw('svg', { viewBox: '0 0 1000 1000', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, mask);
  root.append(draw('rect', { width: 1000, height: 1000, fill: '#000', 'fill-opacity': 0.78, mask: `url(#${id})` }));
  if (hasOutlines) {
    for (const [, group, x0, y0, x1, y1] of shown) {
      const inset = group > 1 ? 3 : 0;
      root.append(draw('rect', {
        x: x0 + inset, y: y0 + inset, width: Math.max(1, x1 - x0 - 2 * inset), height: Math.max(1, y1 - y0 - 2 * inset), fill: 'none',
        stroke: GROUPS[(group - 1) % 2], 'stroke-width': 2, 'vector-effect': 'non-scaling-stroke',
      }));
    }
  }
  return root;
}

function frame(image, overlay) {
  if (!image.src) return make('span', { class: 'soft' }, 'no picture');
  const [width, height] = image.size;
  const place = make('span', { class: 'frame' }, make('img', { src: image.src, alt: '', width, height, loading: 'lazy' }));
  place.style.aspectRatio = `${width} / ${height}`;
  place.style[width >= height ? 'width' : 'height'] = '100%';
  if (overlay) place.append(overlay);
  return place;
}

const patchesOf = ([image, label]) => DATA.looks[`${image}:${label}`];
const scoreOf = ([image, label]) => DATA.images[image].labels.find((entry) => entry[0] === label)[1];

function drawGallery(kind) {
  const gallery = DATA.galleries[kind];
  const items = !gallery ? [] : state.chosen < 0 ? gallery.overall : gallery.classes[state.chosen] || [];
  let note = gallery ? gallery.sentence : DATA.no_label_errors;
  if (gallery && state.chosen >= 0) {
    const total = gallery.totals[state.chosen];
    note = `${items.length === total ? plural(total, 'image') : `${items.length} of ${plural(total, 'image')}`}, worst first.`;
    if (!total) note = 'None in this class.';
    else if (!items.length) note = `None of ${plural(total, 'image')} is shown: only classes with more have a gallery of their own.`;
  }
  find(`${kind}-note`).textContent = note;
  find(kind).replaceChildren(...items.map((item, at) => {
    const image = DATA.images[item[0]];
    const patches = find('looks').checked && patchesOf(item);
    const given = image.labels.find((entry) => entry[0] === item[1]);
    const verb = kind === 'label_errors' ? (given[2] ? 'perhaps not: ' : 'perhaps missing: ') : '';
    return make('button', { onclick: () => show(items, at) },
      make('span', { class: 'picture' }, frame(image, patches && veil(patches, 0, false))),
      make('span', { class: 'name' }, verb, make('b', {}, nameOf(item[1])), ` ${scoreOf(item).toFixed(2)}`),
      make('small', { class: 'name' }, image.file));
  }));
}

function show(items, at) {
  Object.assign(viewer, { items, at });
  if (!patchesOf(items[at])) viewer.stage = -1;
  drawViewer();
  if (!find('viewer').open) find('viewer').showModal();
}

function drawViewer() {
  const item = viewer.items[viewer.at];
  const image = DATA.images[item[0]];
  const patches = patchesOf(item);
  find('viewer-title').textContent = image.file;
  find('previous').disabled = !viewer.at;
  find('next').disabled = viewer.at + 1 >= viewer.items.length;
  find('viewer-picture').replaceChildren(frame(image, viewer.stage >= 0 && patches && veil(patches, viewer.stage, viewer.stage > 0)));
  const stages = patches ? [...new Set(patches.map((patch) => patch[0]))] : [];
  const button = (stage, text) => make('button', {
    type: 'button', 'aria-pressed': String(viewer.stage === stage), onclick: () => { viewer.stage = stage; drawViewer(); },
  }, text);
  const about = `Where the node of ${short(nameOf(item[1]))} looked, by stage of the network. In a single stage: blue and orange are the two groups of channels.`;
  find('viewer-stages').replaceChildren(...(patches ? [
    button(-1, 'Image'), button(0, 'All stages'), ...stages.map((stage) => button(stage, `Stage ${stage}`)), make('p', { class: 'soft' }, about),
  ] : []));
  find('viewer-labels').tBodies[0].replaceChildren(...image.labels.map(([label, score, target]) => {
    const isGiven = score >= classes[label].threshold;
    const verdict = target < 0 ? 'unknown' : target ? (isGiven ? 'found' : 'missed') : isGiven ? 'wrong' : '';
    const row = make('tr', {}, make('td', { class: 'name' }, nameOf(label)), make('td', {}, target < 0 ? '?' : target ? 'yes' : 'no'),
      make('td', {}, score.toFixed(2)), make('td', {}, threshold(classes[label].threshold)), make('td', {}, verdict));
    row.classList.toggle('chosen', label === item[1]);
    return row;
  }));
}

function startGallery() {
  find('pictures-note').textContent = DATA.pictures;
  find('looks-switch').hidden = !Object.keys(DATA.looks).length;
  find('looks').addEventListener('change', () => KINDS.forEach(drawGallery));
  const titles = ['Label', 'In the data', 'Score', 'Threshold', ''];
  find('viewer-labels').tHead.append(make('tr', {}, ...titles.map((title, i) => make('th', { scope: 'col', class: i ? null : 'name' }, title))));
  const go = (step) => {
    const at = viewer.at + step;
    if (at >= 0 && at < viewer.items.length) show(viewer.items, at);
  };
  find('previous').addEventListener('click', () => go(-1));
  find('next').addEventListener('click', () => go(1));
  find('viewer').addEventListener('keydown', (event) => {
    if (event.key === 'ArrowLeft') go(-1);
    if (event.key === 'ArrowRight') go(1);
  });
  find('viewer').addEventListener('click', (event) => { if (event.target === find('viewer')) find('viewer').close(); });
  drawers.push(...KINDS.map((kind) => () => drawGallery(kind)));
}

startTable();
startCharts();
startConfusion();
startGallery();
redraw();
let waiting = 0;
let drawnAt = document.documentElement.clientWidth;
window.addEventListener('resize', () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const width = document.documentElement.clientWidth;
    if (width !== drawnAt) redraw();
    drawnAt = width;
  }, 150);
});
