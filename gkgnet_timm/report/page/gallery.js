// Galleries of mistakes, and the viewer of one image.

const KINDS = ['false_positives', 'misses', 'label_errors'];
const viewer = { items: [], at: 0, stage: -1 };

const patchesOf = ([image, label]) => DATA.looks[`${image}:${label}`];
const scoreOf = ([image, label]) => DATA.images[image].labels.find((entry) => entry[0] === label)[1];

// The labels of an image in the data.
function hasOf(image) {
  const names = image.labels.filter(([, , target]) => target > 0).map(([label]) => short(nameOf(label), 20));
  const none = image.labels.some(([, , target]) => target < 0) ? 'no known label' : 'no label';
  return names.length ? `labels: ${names.join(', ')}` : none;
}

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
      make('span', { class: 'picture' }, frame(image, patches, 0)),
      make('span', { class: 'name' }, verb, make('b', { title: nameOf(item[1]) }, short(nameOf(item[1]), 60)), ` ${scoreOf(item).toFixed(2)}`),
      make('small', { class: 'name' }, hasOf(image)),
      make('small', { class: 'name' }, image.file));
  }));
}

function show(items, at) {
  if (!find('viewer').open) viewer.stage = find('looks').checked ? 0 : -1;
  Object.assign(viewer, { items, at });
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
  find('viewer-picture').replaceChildren(frame(image, viewer.stage >= 0 && patches, viewer.stage));
  const stages = patches ? [...new Set(patches.map((patch) => patch[0]))] : [];
  const button = (stage, text) => make('button', {
    type: 'button', 'aria-pressed': String(viewer.stage === stage), onclick: () => { viewer.stage = stage; drawViewer(); },
  }, text);
  const about = `Where the node of ${short(nameOf(item[1]))} looked, by stage of the network. Paler is less. In a single stage, a frame is a patch that was chosen: blue and orange for the two groups of channels, pink for both.`;
  const hadFocus = find('viewer-stages').contains(document.activeElement);
  find('viewer-stages').replaceChildren(...(patches ? [
    button(-1, 'Image'), button(0, 'All stages'), ...stages.map((stage) => button(stage, `Stage ${stage}`)), make('p', { class: 'soft' }, about),
  ] : []));
  if (hadFocus) find('viewer-stages').querySelector('[aria-pressed="true"]')?.focus();
  find('viewer-labels').tBodies[0].replaceChildren(...image.labels.map(([label, score, target, isGiven]) => {
    const verdict = target < 0 ? 'unknown' : target ? (isGiven ? 'found' : 'missed') : isGiven ? 'wrong' : '';
    const row = make('tr', {}, make('td', { class: 'name', title: nameOf(label) }, short(nameOf(label), 60)), make('td', {}, target < 0 ? '?' : target ? 'yes' : 'no'),
      make('td', {}, `${score.toFixed(2)} (${threshold(classes[label].threshold)})`), make('td', {}, verdict));
    row.classList.toggle('chosen', label === item[1]);
    return row;
  }));
  find('viewer-more').textContent = image.more ? `${plural(image.more, 'more label is', 'more labels are')} left out.` : '';
}

function startGallery() {
  find('pictures-note').textContent = DATA.pictures;
  find('looks-switch').hidden = !Object.keys(DATA.looks).length;
  find('looks').addEventListener('change', () => KINDS.forEach(drawGallery));
  const titles = ['Label', 'In the data', 'Score (threshold)', ''];
  find('viewer-labels').tHead.append(make('tr', {}, ...titles.map((title, i) => make('th', { scope: 'col', class: i ? null : 'name' }, title))));
  const go = (step) => {
    const at = viewer.at + step;
    if (at >= 0 && at < viewer.items.length) show(viewer.items, at);
  };
  find('previous').addEventListener('click', () => go(-1));
  find('next').addEventListener('click', () => go(1));
  document.addEventListener('keydown', (event) => {
    if (!find('viewer').open) return;
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
