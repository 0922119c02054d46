// The list of images, the queue of uploads, the threshold, and what the foot says about the model.

import { Card } from './card.js';

const AT_A_TIME = 2; // uploads; the server forms batches of what comes from everybody
const find = (id) => document.getElementById(id);
const cards = [];
const waiting = [];
let model = null;
let running = 0;
let common = 0.5; // threshold of all labels: the slider has steps, the model may have another until it is moved

const thresholdOf = (label) => (find('calibrated').checked ? model.thresholds[label] : common);

function say(text) {
  find('status').textContent = text;
}

/** Throws an Error with a sentence if the browser cannot read a file. */
async function check(file) {
  if (!file.size) throw new Error('it is empty, or a folder.');
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error('the browser cannot read the file. Has it changed on the disk, or is it a folder? Choose it again.');
  }
}

/** The answer of the server: waits and tries again while it is busy. Throws an Error with a sentence. */
export async function post(path, fields, signal) {
  for (const [, value] of fields) if (value instanceof File) await check(value);
  for (;;) {
    const body = new FormData();
    for (const [name, value] of fields) body.append(name, value);
    let response;
    try {
      response = await fetch(path, { method: 'POST', body, signal });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new Error('The server does not answer.');
    }
    if (response.status === 503) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get('Retry-After') || 1)));
      continue;
    }
    const answer = await response.json().catch(() => null);
    if (answer === null || answer.detail) throw new Error(answer?.detail || `The server answers ${response.status}.`);
    return answer;
  }
}

async function label(card) {
  try {
    if (card.file.size > model.limits.upload_bytes) {
      const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
      throw new Error(
        `it has ${megabytes(card.file.size)} MB, this server takes up to ${megabytes(model.limits.upload_bytes)} MB`);
    }
    const [row] = await post('/predict?lenient=true', [['files', card.file]]);
    if (row.error) throw new Error(row.error);
    card.show(row);
    say(`${card.file.name}: ${card.summary()}`);
  } catch (error) {
    card.fail(error.message);
    say(`${card.file.name} cannot be read: ${error.message}`);
  }
}

function next() {
  while (model && running < AT_A_TIME && waiting.length) {
    running += 1;
    label(waiting.shift()).finally(() => {
      running -= 1;
      next();
    });
  }
}

function add(files) {
  const added = files.map((file) => new Card(file, { thresholdOf, post, model: () => model, remove }));
  cards.push(...added);
  waiting.push(...added);
  find('images').prepend(...added.map((card) => card.element));
  find('empty').hidden = cards.length > 0;
  next();
}

function remove(card) {
  cards.splice(cards.indexOf(card), 1);
  if (waiting.includes(card)) waiting.splice(waiting.indexOf(card), 1);
  find('empty').hidden = cards.length > 0;
  (cards.at(-1)?.element.querySelector('.remove') ?? find('pick')).focus();
}

function update() {
  const shown = common.toLocaleString('en', { minimumFractionDigits: 2, maximumFractionDigits: 6 });
  find('threshold-value').textContent = find('calibrated').checked ? 'calibrated' : shown;
  find('threshold').disabled = find('calibrated').checked;
  for (const card of cards) card.update();
}

function describe() {
  const { preprocessing: how } = model;
  const numbers = (values) => values.map((value) => value.toFixed(3)).join(', ');
  const facts = [
    ['Model', `${model.name}, ${model.class_names.length} labels`],
    ['Licence', model.license || 'the weights state none'],
    ['Preprocessing', `${how.size.join(' × ')} pixels, ${how.crop_mode}, crop ${how.crop_pct}, ${how.interpolation}; ` +
      `mean ${numbers(how.mean)}; std ${numbers(how.std)}; ${how.reading}`],
    ['Limits', `${model.limits.upload_bytes / 1e6} MB, ${(model.limits.pixels / 1e6).toFixed(0)} megapixels`],
    ['Version', `gkgnet_timm ${model.version}`],
  ];
  find('about').replaceChildren(...facts.map(([term, text]) => {
    const entry = document.createElement('div');
    for (const [tag, content] of [['dt', term], ['dd', text]]) {
      entry.append(Object.assign(document.createElement(tag), { textContent: content }));
    }
    return entry;
  }));
}

async function start() {
  try {
    model = await (await fetch('/model')).json();
  } catch {
    find('model').textContent = 'The server does not answer. Start it again, then load this page anew.';
    return;
  }
  find('model').textContent = `${model.name} knows ${model.class_names.length} labels.`;
  const thresholds = new Set(Object.values(model.thresholds));
  if (thresholds.size === 1) [common] = thresholds;
  find('threshold').value = common;
  find('own').hidden = !model.calibrated;
  find('calibrated').checked = model.calibrated;
  describe();
  update();
  next();
}

find('pick').addEventListener('change', (event) => {
  add([...event.target.files]);
  event.target.value = ''; // so that the same file can be chosen again
});
find('threshold').addEventListener('input', () => {
  common = Number(find('threshold').value);
  update();
});
find('calibrated').addEventListener('change', update);
addEventListener('paste', (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    add(files);
  }
});
let depth = 0; // of elements that a drag is over
addEventListener('dragenter', () => document.body.classList.toggle('dragging', ++depth > 0));
addEventListener('dragleave', () => document.body.classList.toggle('dragging', --depth > 0));
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('drop', (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove('dragging');
  add([...event.dataTransfer.files]);
});
start();
