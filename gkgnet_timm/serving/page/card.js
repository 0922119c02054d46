// One image with its labels.

import { Patches } from './patches.js';

const SHOWN = 10; // labels that are always listed, whatever their score

export class Card {
  /** `page` has thresholdOf(label), post(path, fields, signal), model() and remove(card). */
  constructor(file, page) {
    this.file = file;
    this.page = page;
    this.row = null;
    this.all = false;
    this.rows = new Map(); // label -> its button
    this.element = document.getElementById('card').content.cloneNode(true).firstElementChild;
    this.find = (selector) => this.element.querySelector(selector);
    this.find('h2').textContent = file.name || 'Pasted image';
    this.url = URL.createObjectURL(file);
    const image = this.find('img');
    image.alt = file.name;
    image.addEventListener('error', () => {
      image.hidden = true;
      this.find('.hidden-format').hidden = false;
    });
    image.addEventListener('load', () => { // small images are enlarged, so that patches can be told apart
      const { naturalWidth: width, naturalHeight: height } = image;
      this.find('.picture').style.width = `min(100%, ${(Math.min(512, Math.max(288, height)) * width) / height}px)`;
    });
    image.src = this.url;
    this.patches = new Patches(this, page);
    this.find('.copy').addEventListener('click', () => this.copy());
    this.find('.remove').addEventListener('click', () => this.remove());
    this.find('.remove').setAttribute('aria-label', `Remove ${file.name}`);
    this.find('.more').addEventListener('click', () => {
      this.all = !this.all;
      this.update();
    });
  }

  remove() {
    URL.revokeObjectURL(this.url);
    this.element.remove();
    this.page.remove(this);
  }

  fail(sentence) {
    this.element.classList.add('failed');
    this.find('.waiting').hidden = true;
    this.find('.body').hidden = true;
    this.find('.error').hidden = false;
    this.find('.error').textContent = `Cannot be labelled: ${sentence}`;
  }

  /** Show an entry of the server's answer. */
  show(row) {
    this.row = row;
    this.find('.waiting').hidden = true;
    this.find('.copy').disabled = false;
    this.find('.hint').hidden = !this.page.model().label_graph;
    const names = Object.keys(row.scores).sort((a, b) => row.scores[b] - row.scores[a]);
    for (const name of names) this.rows.set(name, this.button(name, row.scores[name]));
    this.find('.labels').replaceChildren(...[...this.rows.values()].map((button) => {
      const item = document.createElement('li');
      item.append(button);
      return item;
    }));
    this.update();
  }

  button(name, score) {
    const explains = this.page.model().label_graph;
    const button = document.createElement(explains ? 'button' : 'div');
    button.className = 'label';
    const parts = ['name', 'bar', 'score'].map((part) => {
      const span = document.createElement('span');
      span.className = part;
      return button.appendChild(span);
    });
    parts[0].textContent = name;
    parts[1].append(...['fill', 'tick'].map((part) => Object.assign(document.createElement('span'), { className: part })));
    parts[1].firstChild.style.width = `${100 * score}%`;
    parts[2].textContent = score.toFixed(3);
    if (explains) {
      button.type = 'button';
      button.setAttribute('aria-pressed', 'false');
      button.addEventListener('click', () => this.choose(name));
    }
    return button;
  }

  choose(name) {
    const chosen = this.patches.label === name ? null : name;
    for (const [other, button] of this.rows) button.setAttribute('aria-pressed', String(other === chosen));
    this.find('.hint').hidden = chosen !== null;
    this.patches.show(chosen);
  }

  /** Labels at or above their threshold, best first. */
  labels() {
    return [...this.rows.keys()].filter((name) => this.row.scores[name] >= this.page.thresholdOf(name));
  }

  summary() {
    const labels = this.labels().map((name) => `${name} ${this.row.scores[name].toFixed(2)}`);
    return labels.join(', ') || 'no label reaches the threshold';
  }

  /** Follow the threshold. */
  update() {
    if (!this.row) return;
    const labels = new Set(this.labels());
    const many = this.rows.size > SHOWN;
    for (const [name, button] of this.rows) {
      button.classList.toggle('below', !labels.has(name));
      button.parentElement.hidden = many && !this.all && !labels.has(name) && this.patches.label !== name;
      button.querySelector('.tick').style.left = `${100 * this.page.thresholdOf(name)}%`;
    }
    const count = labels.size === 1 ? '1 label' : `${labels.size || 'No'} labels`;
    this.find('.count').textContent = labels.size ? count : 'No label reaches the threshold.';
    this.find('.more').hidden = !many;
    this.find('.more').textContent = this.all ? 'Only labels above the threshold' : `All ${this.rows.size} labels`;
    this.find('.more').setAttribute('aria-expanded', String(this.all));
  }

  /** What is shown, as the server has it. */
  toJSON() {
    const { file, scores } = this.row;
    const labels = this.labels().map((label) => ({ label, score: scores[label] }));
    return { file, labels, scores, ...(this.patches.label ? { patches: this.patches.shown() } : {}) };
  }

  async copy() {
    const button = this.find('.copy');
    const text = JSON.stringify(this, null, 1);
    try {
      await navigator.clipboard.writeText(text);
    } catch { // the clipboard of pages without TLS, on another host
      const area = Object.assign(document.createElement('textarea'), { value: text });
      this.element.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
      button.focus();
    }
    button.textContent = 'Copied';
    setTimeout(() => (button.textContent = 'Copy as JSON'), 1500);
  }
}
