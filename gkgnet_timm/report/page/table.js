// The summary, and the table of classes: sorted by a click on a heading, a class chosen by a click on its name.

const COLUMNS = [
  { key: 'name', title: 'Class', className: 'name', text: (row) => short(row.name, 100) },
  { key: 'images', title: 'Images', text: (row) => row.images.toLocaleString('en') },
  { key: 'AP', title: 'AP', className: 'bar', text: (row) => number(row.AP) },
  { key: 'F1', title: 'F1', text: (row) => number(row.F1) },
  { key: 'best_F1', title: 'Best F1', text: (row) => number(row.best_F1) },
  { key: 'threshold', title: 'Threshold', text: (row) => threshold(row.threshold) },
  { key: 'best_threshold', title: 'Best threshold', text: (row) => threshold(row.best_threshold) },
  { key: 'precision', title: 'Precision', text: (row) => number(row.precision) },
  { key: 'recall', title: 'Recall', text: (row) => number(row.recall) },
];
const order = { key: 'AP', descending: true };
const rows = []; // of the table, by class

function sorted() {
  const { key, descending } = order;
  return classes.map((_, index) => index).sort((a, b) => {
    const [one, other] = [classes[a][key], classes[b][key]];
    if (one === null || other === null) return (one === null) - (other === null) || a - b; // unknown ones last
    const difference = key === 'name' ? one.localeCompare(other) : one - other;
    return (descending ? -difference : difference) || a - b;
  });
}

function fillTable() {
  const wanted = find('find').value.trim().toLocaleLowerCase();
  const shown = sorted().filter((index) => nameOf(index).toLocaleLowerCase().includes(wanted));
  find('table').tBodies[0].replaceChildren(...shown.map((index) => rows[index]));
  find('found').textContent = wanted ? plural(shown.length, 'class', 'classes') : '';
  find('table').querySelectorAll('th').forEach((th, i) => {
    if (COLUMNS[i].key === order.key) th.setAttribute('aria-sort', order.descending ? 'descending' : 'ascending');
    else th.removeAttribute('aria-sort');
  });
}

function sortBy(key) {
  order.descending = order.key === key ? !order.descending : key !== 'name';
  order.key = key;
  fillTable();
}

function makeRow(index) {
  const row = classes[index];
  const cells = COLUMNS.map(({ key, className, text }) => {
    if (key === 'name') {
      return make('td', { class: 'name' }, make('button', { class: 'name', title: row.name, onclick: () => choose(index) }, text(row)));
    }
    const cell = make('td', { class: className }, text(row));
    if (className === 'bar' && row.AP !== null) {
      const at = `${row.chance}%`;
      cell.style.backgroundImage =
        `linear-gradient(to right, transparent calc(${at} - 1px), var(--orange) calc(${at} - 1px) calc(${at} + 1px), transparent 0), ` +
        `linear-gradient(to right, var(--bar) ${row.AP}%, transparent 0)`;
    }
    return cell;
  });
  return make('tr', {}, ...cells);
}

function startTable() {
  find('facts').append(
    ...DATA.facts.map(([name, value]) => make('div', {}, make('dt', {}, name), make('dd', { class: 'name' }, value))),
  );
  find('figures').append(
    ...DATA.figures.map(({ name, value, sentence }) => make('div', {}, name, make('b', {}, value), make('p', {}, sentence))),
  );
  find('notes').append(...DATA.notes.map((note) => make('li', {}, note)));
  find('table').tHead.append(
    make('tr', {}, ...COLUMNS.map(({ key, title, className }) =>
      make('th', { scope: 'col', class: key === 'name' ? className : null }, make('button', { onclick: () => sortBy(key) }, title)),
    )),
  );
  rows.push(...classes.map((_, index) => makeRow(index)));
  find('find').addEventListener('input', fillTable);
  fillTable();
  const names = classes.map((_, index) => index).sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
  const options = names.map((index) => make('option', { value: index }, short(nameOf(index), 40)));
  find('class').append(make('option', { value: -1 }, 'All classes'), ...options);
  find('class').addEventListener('change', (event) => choose(Number(event.target.value)));
  drawers.push(() => {
    find('class').value = state.chosen;
    rows.forEach((row, index) => row.classList.toggle('chosen', index === state.chosen));
    const of = state.chosen < 0 ? '' : `of ${short(nameOf(state.chosen), 40)}`;
    document.querySelectorAll('h2 .of').forEach((span) => { span.textContent = of; });
  });
}
