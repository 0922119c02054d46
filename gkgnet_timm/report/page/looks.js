// Pictures, and where a label node looked in them.

const GROUPS = ['#0072B2', '#D55E00', '#009E73', '#56B4E9', '#E69F00']; // of channels, as in all pictures of the package
const BOTH = '#CC79A7';
const PALE = 0.55; // share of white where nobody looked

function groupBy(items, keyOf) { // Map.groupBy, which browsers of 2023 do not have
  const groups = new Map();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) || []), item]);
  return groups;
}

// How many pairs of stage and channel group chose each pixel, from 0 for the fewest to 1 for the most.
function sharesOf(patches, width, height) {
  const counts = new Uint8Array(width * height);
  const pairs = groupBy(patches, (patch) => `${patch[0]}:${patch[1]}`);
  for (const chosen of pairs.values()) {
    const isChosen = new Uint8Array(width * height);
    for (const [, , x0, y0, x1, y1] of chosen) {
      const [left, right] = [x0, x1].map((x) => Math.round((x * width) / 1000));
      const [top, bottom] = [y0, y1].map((y) => Math.round((y * height) / 1000));
      for (let y = top; y < bottom; y++) isChosen.fill(1, y * width + left, y * width + right);
    }
    isChosen.forEach((value, place) => { counts[place] += value; });
  }
  const least = counts.reduce((a, b) => Math.min(a, b), 255);
  const most = counts.reduce((a, b) => Math.max(a, b), 0);
  return Float32Array.from(counts, (count) => (most > least ? (count - least) / (most - least) : 1));
}

// Paint the picture, grey and pale where fewer patches were chosen.
function paint(canvas, picture, patches) {
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const shares = sharesOf(patches, width, height);
  shares.forEach((share, place) => {
    const [red, green, blue] = pixels.data.subarray(4 * place, 4 * place + 3);
    const grey = (1 - PALE) * (0.299 * red + 0.587 * green + 0.114 * blue) + PALE * 255;
    [red, green, blue].forEach((value, i) => { pixels.data[4 * place + i] = share * value + (1 - share) * grey; });
  });
  context.putImageData(pixels, 0, 0);
}

function outlines(patches) {
  const root = draw('svg', { viewBox: '0 0 1000 1000', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  for (const same of groupBy(patches, (patch) => patch.slice(2).join()).values()) {
    const [[, group, x0, y0, x1, y1]] = same;
    const isBoth = new Set(same.map((patch) => patch[1])).size > 1;
    root.append(draw('rect', {
      x: x0 + 2, y: y0 + 2, width: Math.max(1, x1 - x0 - 4), height: Math.max(1, y1 - y0 - 4), fill: 'none',
      stroke: isBoth ? BOTH : GROUPS[(group - 1) % GROUPS.length], 'stroke-width': 3, 'vector-effect': 'non-scaling-stroke',
    }));
  }
  return root;
}

// A picture, with patches as it was looked at in a stage, or in all (0).
function frame(image, patches, stage) {
  if (!image.src) return make('span', { class: 'soft' }, 'no picture');
  const [width, height] = image.size;
  const picture = make('img', { src: image.src, alt: '', width, height });
  const place = make('span', { class: 'frame' }, picture);
  place.style.aspectRatio = `${width} / ${height}`;
  place.style[width >= height ? 'width' : 'height'] = '100%';
  if (patches) {
    const shown = patches.filter((patch) => !stage || patch[0] === stage);
    const canvas = make('canvas');
    place.append(canvas);
    picture.decode().then(() => paint(canvas, picture, shown));
    if (stage) place.append(outlines(shown));
  }
  return place;
}
