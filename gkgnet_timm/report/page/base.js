'use strict';
// What all parts share: the data, the choice of a class, and how elements are made. Text of others is only ever set as
// text, never as HTML.

const DATA = JSON.parse(document.getElementById('data').textContent);
const SVG = 'http://www.w3.org/2000/svg';
const COLOURS = ['var(--c0)', 'var(--c1)', 'var(--c2)', 'var(--c3)', 'var(--c4)', 'var(--c5)'];
const DASHES = ['', '7 3', '2 3', '9 3 2 3', '', '7 3'];
const state = { chosen: -1, compared: [] };
const drawers = []; // functions that draw a part anew for the state and the width of the page

const find = (id) => document.getElementById(id);
const classes = DATA.classes;
const nameOf = (index) => classes[index].name;

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function number(value, digits = 1) {
  return value === null ? '–' : value.toFixed(digits);
}

function threshold(value) {
  if (value === null) return '–';
  return value >= 0.01 ? value.toFixed(2) : Number(value.toPrecision(1)).toString();
}

function short(text, longest = 26) {
  const letters = [...text];
  const half = longest >> 1;
  return letters.length <= longest ? text : letters.slice(0, half).join('') + '…' + letters.slice(half + 1 - longest).join('');
}

const plural = (count, one, many) => `${count.toLocaleString('en')} ${count === 1 ? one : many || one + 's'}`;

function choose(index) {
  state.chosen = index;
  if (index >= 0) compare(index, true);
  redraw();
}

function compare(index, isWanted) {
  state.compared = state.compared.filter((other) => other !== index);
  if (isWanted && classes[index].curve) state.compared = [...state.compared, index].slice(-COLOURS.length);
}

function redraw() {
  for (const drawer of drawers) drawer();
}

// A coordinate system in a picture as wide as its place. Ticks are [value, text].
function chart(place, { height, left = 44, right = 12, top = 10, bottom = 40, x, y, xTicks, yTicks, xTitle, yTitle, label }) {
  const width = Math.max(260, place.clientWidth);
  const inner = [width - left - right, height - top - bottom];
  const X = (value) => left + ((value - x[0]) / (x[1] - x[0])) * inner[0];
  const Y = (value) => top + inner[1] - ((value - y[0]) / (y[1] - y[0])) * inner[1];
  const root = draw('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
  for (const [value, text] of xTicks || []) {
    root.append(draw('line', { class: 'grid', x1: X(value), x2: X(value), y1: top, y2: top + inner[1] }));
    root.append(draw('text', { class: 'soft', x: X(value), y: height - bottom + 16, 'text-anchor': 'middle' }, text));
  }
  for (const [value, text] of yTicks || []) {
    root.append(draw('line', { class: 'grid', x1: left, x2: width - right, y1: Y(value), y2: Y(value) }));
    root.append(draw('text', { class: 'soft', x: left - 6, y: Y(value) + 4, 'text-anchor': 'end' }, text));
  }
  if (xTitle) root.append(draw('text', { x: left + inner[0] / 2, y: height - 6, 'text-anchor': 'middle' }, xTitle));
  if (yTitle) {
    const middle = top + inner[1] / 2;
    root.append(draw('text', { x: 12, y: middle, 'text-anchor': 'middle', transform: `rotate(-90 12 ${middle})` }, yTitle));
  }
  place.replaceChildren(root);
  return { root, X, Y, width };
}

const path = (points) => points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
