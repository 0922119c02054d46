// The patches of a label on its image, by stage and channel group, and the neighbours of one of them.

const NAMESPACE = 'http://www.w3.org/2000/svg';
const COLOURS = ['#0072B2', '#D55E00', '#009E73', '#E69F00', '#56B4E9', '#F0E442'];
const SEVERAL = '#CC79A7'; // chosen by more than one group
const DASHES = ['', '6 3', '2 3', '9 3 2 3', '12 3', '4 4']; // groups differ without colour, too
const PAUSE = 60; // milliseconds on a patch until its neighbours are asked for

/** Where the frame of a patch is, as attributes. */
function frame([x0, y0, x1, y1]) {
  const [width, height] = [x1 - x0, y1 - y0];
  return { x: x0 + INSET * width, y: y0 + INSET * height, width: (1 - 2 * INSET) * width, height: (1 - 2 * INSET) * height };
}

function svg(tag, attributes = {}) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const INSET = 0.03; // of a patch's side, between the frames of patches that touch

const centre = ([x0, y0, x1, y1]) => [(x0 + x1) / 2, (y0 + y1) / 2];

/** The cells of chosen patches: those that several groups chose are one. */
function cellsOf(patches) {
  const cells = new Map();
  for (const patch of patches) {
    const key = `${patch.row},${patch.column}`;
    const cell = cells.get(key) ?? { ...patch, groups: new Map() };
    cell.groups.set(patch.group, patch.rank);
    cell.rank = Math.min(cell.rank, patch.rank);
    cells.set(key, cell);
  }
  return [...cells.values()].sort((a, b) => a.rank - b.rank);
}

export class Patches {
  constructor(card, page) {
    this.card = card;
    this.page = page;
    this.label = null;
    this.answers = new Map();
    this.neighbours = new Map();
    this.stage = 0;
    this.layer = svg('svg', { class: 'patches', preserveAspectRatio: 'none', role: 'group' });
    card.find('.picture').append(this.layer);
    this.layer.addEventListener('keydown', (event) => this.move(event));
    this.layer.addEventListener('pointerleave', () => this.leave());
  }

  ask(fields, signal) {
    return this.page.post('/explain', [['file', this.card.file], ...fields], signal);
  }

  /** Show the patches of a label, or nothing for null. */
  async show(label) {
    this.label = label;
    this.leave();
    this.card.find('figcaption').hidden = label === null;
    this.layer.replaceChildren();
    if (label === null) return;
    this.card.find('.picture').scrollIntoView({ block: 'nearest', behavior: 'smooth' });
    this.tell('Looking …');
    try {
      if (!this.answers.has(label)) this.answers.set(label, await this.ask([['labels', label]]));
    } catch (error) {
      this.tell(error.message);
      return;
    }
    if (this.label !== label) return; // another one was chosen meanwhile
    this.answer = this.answers.get(label);
    this.layer.setAttribute('viewBox', `0 0 ${this.answer.width} ${this.answer.height}`);
    const stages = this.answer.grids.map((grid) => grid.stage);
    if (!stages.includes(this.stage)) this.stage = stages[Math.min(2, stages.length - 1)];
    this.card.find('.stages').replaceChildren(...this.answer.grids.map((grid) => this.stageButton(grid)));
    this.draw();
  }

  stageButton({ stage, rows, columns }) {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: stage });
    const size = Object.assign(document.createElement('small'), { textContent: `${rows}×${columns}` });
    button.append(size);
    button.setAttribute('aria-label', `Stage ${stage}, ${rows} by ${columns} patches`);
    button.dataset.stage = stage;
    button.addEventListener('click', () => {
      this.stage = stage;
      this.draw();
    });
    return button;
  }

  /** The patches on the image, as the server has them. */
  shown() {
    return this.answer?.patches.filter((patch) => patch.stage === this.stage) ?? [];
  }

  draw() {
    this.leave();
    for (const button of this.card.find('.stages').children) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.stage) === this.stage));
    }
    const patches = this.shown();
    const cells = cellsOf(patches);
    this.ranks = Math.max(1, ...patches.map((patch) => patch.rank));
    this.legend(cells);
    this.cells = cells;
    this.veil = svg('path', { class: 'veil', 'fill-rule': 'evenodd' });
    this.uncover(cells);
    const casing = svg('g', { class: 'casing' });
    casing.append(...cells.map((cell) => svg('rect', frame(cell.box))));
    this.chosen = svg('g', { class: 'chosen' });
    this.lines = svg('g', { class: 'lines', 'aria-hidden': 'true' });
    this.chosen.append(...cells.map((cell, i) => this.rectangle(cell, i)));
    this.layer.replaceChildren(this.veil, casing, this.chosen, this.lines);
    this.layer.setAttribute('aria-label', `Patches of ${this.label} in stage ${this.stage}: arrow keys go from one to the next`);
    this.tell(`${cells.length} patches of ${this.label} in stage ${this.stage}.`);
  }

  /** Dim the image but for some patches. */
  uncover(cells) {
    const { width, height } = this.answer;
    const holes = cells.map(({ box: [x0, y0, x1, y1] }) => `M${x0} ${y0}H${x1}V${y1}H${x0}Z`).join('');
    this.veil.setAttribute('d', `M0 0H${width}V${height}H0Z${holes}`);
  }

  style(cell) {
    const group = Math.min(...cell.groups.keys());
    const colour = cell.groups.size > 1 ? SEVERAL : COLOURS[(group - 1) % COLOURS.length];
    const weight = 1 - 0.6 * ((cell.rank - 1) / Math.max(1, this.ranks - 1));
    const dashes = cell.groups.size > 1 ? '' : DASHES[(group - 1) % DASHES.length];
    return { fill: colour, stroke: colour, 'fill-opacity': 0.2 * weight, 'stroke-opacity': weight, 'stroke-dasharray': dashes };
  }

  rectangle(cell, index) {
    const groups = [...cell.groups].map(([group, rank]) => `rank ${rank} in group ${group}`).join(', ');
    const text = `Row ${cell.row}, column ${cell.column}: ${groups}, similarity ${cell.similarity.toFixed(2)}.`;
    const rectangle = svg('rect', {
      ...frame(cell.box), ...this.style(cell), tabindex: index ? -1 : 0, role: 'img', 'aria-label': text,
    });
    for (const kind of ['pointerenter', 'focus', 'click']) {
      rectangle.addEventListener(kind, () => this.enter(cell, text, rectangle));
    }
    rectangle.addEventListener('blur', () => this.leave());
    return rectangle;
  }

  move(event) {
    const all = [...this.chosen.children];
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const now = all.indexOf(document.activeElement);
    if (event.key === 'Escape') this.leave();
    if (!step || now < 0) return;
    event.preventDefault();
    const next = all[(now + step + all.length) % all.length];
    all[now].setAttribute('tabindex', -1);
    next.setAttribute('tabindex', 0);
    next.focus();
  }

  /** Show the neighbours of a patch, after a moment. */
  enter(cell, text, rectangle) {
    if (this.current === rectangle) return;
    this.leave();
    this.current = rectangle;
    rectangle.classList.add('current');
    this.tell(text);
    if (!this.page.model().patch_neighbors) return;
    this.timer = setTimeout(() => this.connect(cell, text), PAUSE);
  }

  leave() {
    clearTimeout(this.timer);
    this.aborting?.abort();
    this.current?.classList.remove('current');
    this.current = null;
    if (!this.layer.classList.contains('connected')) return;
    this.layer.classList.remove('connected');
    this.lines.replaceChildren();
    this.uncover(this.cells);
    this.legend(this.cells);
  }

  async connect(cell, text) {
    const [first] = this.answer.grids;
    const grid = this.answer.grids.find(({ stage }) => stage === this.stage);
    const place = [
      Math.floor(((cell.row + 0.5) * first.rows) / grid.rows),
      Math.floor(((cell.column + 0.5) * first.columns) / grid.columns),
    ].join(',');
    this.aborting = new AbortController();
    const { signal } = this.aborting;
    try {
      if (!this.neighbours.has(place)) this.neighbours.set(place, await this.ask([['patch', place]], signal));
    } catch (error) {
      if (error.name !== 'AbortError') this.tell(`${text} ${error.message}`);
      return;
    }
    if (signal.aborted) return;
    const near = this.neighbours.get(place).patches.filter((patch) => patch.stage === this.stage);
    const [x, y] = centre(cell.box);
    const cells = cellsOf(near);
    const drawn = cells.map((other) => {
      const [x2, y2] = centre(other.box);
      return [['rect', frame(other.box), other], ['line', { x1: x, y1: y, x2, y2 }, other]];
    }).flat();
    const casing = svg('g', { class: 'casing' });
    casing.append(...drawn.map(([tag, place]) => svg(tag, place)));
    this.lines.replaceChildren(
      casing,
      ...drawn.map(([tag, place, other]) => svg(tag, { ...place, ...this.style(other) })),
      svg('path', { class: 'start', d: `M${x} ${y}h0` }),
    );
    this.uncover(cells);
    this.legend(cells);
    this.layer.classList.add('connected');
    this.tell(`${text} Lines go to its ${cells.length} neighbours in the trunk.`);
  }

  legend(cells) {
    const groups = new Set(this.answer.patches.map((patch) => patch.group));
    const entries = [...groups].sort().map((group) => [COLOURS[(group - 1) % COLOURS.length], `group ${group}`]);
    if (cells.some((cell) => cell.groups.size > 1)) entries.push([SEVERAL, groups.size > 2 ? 'several' : 'both']);
    this.card.find('.legend').replaceChildren(...entries.map(([colour, text]) => {
      const item = Object.assign(document.createElement('li'), { textContent: text });
      item.style.setProperty('--colour', colour);
      return item;
    }));
  }

  tell(text) {
    this.card.find('.told').textContent = text;
  }
}
