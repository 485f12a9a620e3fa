"use strict";
// The page of msal-deploy view. Coordinates: "model" is the model's resolution (that of the tiles), "level 0" the file's.

const MIN_ZOOM = 0.5; // screen px for each µm, below which outlines are too small to see
const KEPT = 200; // regions in memory
const RAINBOW = ["#00b7ff", "#00dcc0", "#6fe000", "#ffe100", "#ff9400", "#ff2d55"];
const ONE_COLOUR = "#00e05a";
const LABELS = {
  x: "x", y: "y", area_um2: "Area", perimeter_um: "Perimeter", eccentricity: "Eccentricity", solidity: "Solidity",
  mean_probability: "Mean probability", haematoxylin_od: "Haematoxylin OD",
};
const $ = (id) => document.getElementById(id);
const state = { index: 0, info: null, regions: new Map(), visible: [], heat: null, selected: null, range: null, colouring: 0, asked: 0 };

const viewer = OpenSeadragon({
  element: $("viewer"), drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "TOP_RIGHT",
  animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6, maxZoomPixelRatio: 8, visibilityRatio: 0.3,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
});
const heatCanvas = layer("heat"), outlineCanvas = layer("outlines");

function layer(id) {
  const canvas = document.createElement("canvas");
  canvas.id = id;
  canvas.className = "layer-canvas";
  viewer.canvas.appendChild(canvas);
  return canvas;
}

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
  return answer.json();
}

const number = (value, digits = 0) => value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });

// --- the slide -----------------------------------------------------------------------------------------------------

async function start() {
  const slides = await fetchJson("/slides.json");
  slides.forEach((slide, index) => {
    const link = document.createElement("a"), count = document.createElement("span");
    link.href = `#${index}`;
    link.textContent = slide.name;
    count.textContent = slide.nuclei < 0 ? "unfinished" : number(slide.nuclei);
    link.append(count);
    $("slides").append(link);
  });
  $("slides").hidden = slides.length < 2;
  const chosen = () => Math.min(Number.parseInt(location.hash.slice(1), 10) || 0, slides.length - 1);
  addEventListener("hashchange", () => open(chosen()).catch(complain));
  await open(chosen());
}

async function open(index) {
  delete document.body.dataset.ready;
  Object.assign(state, { index, info: null, regions: new Map(), visible: [], heat: null, selected: null, range: null });
  [...$("slides").children].forEach((link, at) => at === index ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current"));
  const info = await fetchJson(`/${index}/info.json`);
  if (index !== state.index) return;
  state.info = info;
  describe(info);
  const heat = new Image();
  heat.onload = () => { if (state.info === info) { state.heat = heat; draw(); } };
  heat.src = `/${index}/density.png`;
  viewer.open({
    width: info.shape[1], height: info.shape[0], tileSize: info.tile, minLevel: 0, maxLevel: info.levels - 1,
    getTileUrl: (level, column, row) => `/${index}/tiles/${level}/${column}_${row}.jpg`,
  });
}

function describe(info) {
  document.title = `${info.name} – msal-deploy`;
  $("name").textContent = info.name;
  const unfinished = info.complete ? "" : "unfinished, ";
  $("facts").textContent = `${unfinished}${number(info.nuclei)} nuclei, ${number(info.tissue_mm2, 2)} mm² of tissue, ${info.engine}`;
  $("notes").hidden = !info.notes.length;
  $("notes").replaceChildren(...info.notes.map((note) => Object.assign(document.createElement("p"), { textContent: note })));
  $("highest").textContent = `${number(info.highest)} per mm²`;
  const options = info.features.filter(([name]) => name !== "x" && name !== "y");
  $("colour").replaceChildren(new Option("one colour", ""), ...options.map(([name]) => new Option(LABELS[name] || name, name)));
  select(null);
}

function complain(error) {
  $("notes").hidden = false;
  $("notes").append(Object.assign(document.createElement("p"), { textContent: error.message }));
}

// --- what is in view -----------------------------------------------------------------------------------------------

function windowInView(margin = 0) {
  const { x, y, width, height } = viewer.viewport.viewportToImageRectangle(viewer.viewport.getBounds(true));
  const [rows, columns] = state.info.shape;
  const top = Math.floor(Math.max(0, y - margin)), left = Math.floor(Math.max(0, x - margin));
  const bottom = Math.ceil(Math.min(rows, y + height + margin)), right = Math.ceil(Math.min(columns, x + width + margin));
  return { top, left, height: Math.max(0, bottom - top), width: Math.max(0, right - left) };
}

const modelZoom = () => viewer.viewport.viewportToImageZoom(viewer.viewport.getZoom(true)); // screen px for each model px
const near = () => modelZoom() / state.info.microns_per_pixel >= MIN_ZOOM;

async function refresh() {
  const { info, index } = state, asked = ++state.asked;
  if (!info || !viewer.world.getItemCount()) return;
  const { top, left, height, width } = windowInView();
  const outlines = near() ? loadRegions() : Promise.resolve([]);
  const seen = await fetchJson(`/${index}/within/${top}-${left}-${height}-${width}.json`);
  const visible = await outlines;
  if (asked !== state.asked) return; // the view has moved on
  state.visible = visible;
  showFigures(seen);
  draw();
  document.body.dataset.ready = `${index}:${top}-${left}-${height}-${width}`;
}

function loadRegions() {
  const view = windowInView(100); // an outline may reach over the edge of its region
  const inView = state.info.regions.filter(([, , top, left, height, width]) =>
    top < view.top + view.height && top + height > view.top && left < view.left + view.width && left + width > view.left);
  return Promise.all(inView.map(([row, column]) => region(row, column)));
}

async function region(row, column) {
  const { regions, index } = state, key = `${row}-${column}`;
  if (!regions.has(key)) {
    if (regions.size >= KEPT) regions.delete(regions.keys().next().value);
    regions.set(key, fetchJson(`/${index}/regions/${key}.json`).then(prepare));
    regions.get(key).catch(() => regions.delete(key));
  }
  return regions.get(key);
}

function prepare(data) {
  const paths = data.ends.map((end, nucleus) => {
    const path = new Path2D(), start = nucleus ? data.ends[nucleus - 1] : 0;
    for (let at = start; at < end; at++) path.lineTo(data.points[2 * at], data.points[2 * at + 1]);
    path.closePath();
    return path;
  });
  return { ...data, paths, groups: null, colouring: -1 };
}

function showFigures(seen) {
  $("count").textContent = number(seen.count);
  $("density").textContent = number(seen.density);
  $("median").textContent = seen.count ? number(seen.median_area, 1) : "–";
  const svg = $("histogram"), highest = Math.max(...seen.histogram, 1), step = 260 / seen.histogram.length;
  const make = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.textContent = text;
    return element;
  };
  const bars = seen.histogram.map((count, bin) => {
    const height = 72 * count / highest, last = bin === seen.histogram.length - 1;
    const bar = make("rect", { x: bin * step + 0.5, y: 78 - height, width: step - 1, height });
    bar.append(make("title", {}, `${bin * seen.step}${last ? " or more" : `–${(bin + 1) * seen.step}`} µm²: ${count}`));
    return bar;
  });
  const end = (seen.histogram.length - 1) * seen.step;
  svg.replaceChildren(make("line", { x1: 0, x2: 260, y1: 78.5, y2: 78.5 }), ...bars,
    make("text", { x: 0, y: 92 }, "0"), make("text", { x: 130, y: 92, "text-anchor": "middle" }, "area, µm²"),
    make("text", { x: 260, y: 92, "text-anchor": "end" }, `≥ ${end}`));
  const modal = seen.histogram.indexOf(highest) * seen.step;
  svg.setAttribute("aria-label", seen.count ? `Areas of ${seen.count} nuclei; most have ${modal} to ${modal + seen.step} µm²` : "No nuclei in view");
}

// --- drawing -------------------------------------------------------------------------------------------------------

function prepareCanvas(canvas) {
  const ratio = devicePixelRatio || 1, { clientWidth, clientHeight } = viewer.canvas;
  const width = Math.round(clientWidth * ratio), height = Math.round(clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  const origin = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true), zoom = modelZoom() * ratio;
  context.setTransform(zoom, 0, 0, zoom, origin.x * ratio, origin.y * ratio); // from model pixels to the screen
  return { context, zoom, ratio };
}

function draw() {
  if (!state.info || !viewer.world.getItemCount()) return;
  drawHeat();
  drawOutlines();
  drawBar();
}

function drawHeat() {
  const { context } = prepareCanvas(heatCanvas), { info, heat } = state;
  $("scale").hidden = !$("show-heat").checked;
  if (!heat || !$("show-heat").checked) return;
  const side = info.cell / info.microns_per_pixel;
  context.save();
  context.beginPath();
  context.rect(0, 0, info.shape[1], info.shape[0]);
  context.clip();
  context.globalAlpha = $("heat-opacity").value / 100;
  context.drawImage(heat, 0, 0, heat.naturalWidth * side, heat.naturalHeight * side);
  context.restore();
}

function drawOutlines() {
  const { context, zoom, ratio } = prepareCanvas(outlineCanvas), shown = $("show-outlines").checked && near();
  $("far").hidden = near() || !$("show-outlines").checked;
  const scale = 1 / state.info.scale;
  context.scale(scale, scale); // outlines are in pixels of level 0
  context.globalAlpha = $("outlines-opacity").value / 100;
  context.lineWidth = 1.5 * ratio / (zoom * scale);
  let drawn = 0;
  for (const part of shown ? state.visible : []) {
    if (part.colouring !== state.colouring) Object.assign(part, { groups: grouped(part), colouring: state.colouring });
    for (const [colour, path] of part.groups) {
      context.strokeStyle = colour;
      context.stroke(path);
    }
    drawn += part.paths.length;
  }
  if (state.selected) {
    context.globalAlpha = 1;
    context.strokeStyle = "#fff200";
    context.lineWidth *= 2.5;
    context.stroke(state.selected.path);
  }
  outlineCanvas.dataset.drawn = drawn;
}

function grouped({ paths, features }) {
  const name = $("colour").value, groups = new Map();
  paths.forEach((path, nucleus) => {
    const colour = name ? shade(features[name][nucleus]) : ONE_COLOUR;
    if (!groups.has(colour)) groups.set(colour, new Path2D());
    groups.get(colour).addPath(path);
  });
  return groups;
}

function shade(value) {
  const [low, high] = state.range;
  return RAINBOW[Math.max(0, Math.min(RAINBOW.length - 1, Math.floor((value - low) / (high - low || 1) * RAINBOW.length)))];
}

function recolour() {
  const name = $("colour").value;
  $("range").hidden = !name;
  if (name) { // the range of most nuclei in view, kept until another feature is chosen
    const values = state.visible.flatMap((part) => part.features[name]).filter(Number.isFinite).sort((a, b) => a - b);
    const at = (share) => values[Math.round(share * (values.length - 1))] ?? 0;
    state.range = [at(0.02), at(0.98)];
    const unit = state.info.features.find(([feature]) => feature === name)[1];
    $("low").textContent = number(state.range[0], 2);
    $("high").textContent = `${number(state.range[1], 2)} ${unit}`;
  }
  state.colouring += 1; // every region is coloured again when it is drawn
  draw();
}

function drawBar() {
  const perMicron = modelZoom() / state.info.microns_per_pixel, power = 10 ** Math.floor(Math.log10(140 / perMicron));
  const microns = [5, 2, 1].map((digit) => digit * power).find((length) => length * perMicron <= 140);
  $("bar").firstElementChild.style.width = `${microns * perMicron}px`;
  const text = microns >= 1000 ? `${microns / 1000} mm` : `${number(microns, 2)} µm`;
  $("bar").lastChild === $("bar").firstElementChild ? $("bar").append(text) : $("bar").lastChild.data = text;
  $("bar").setAttribute("aria-label", `Scale bar: ${text}`);
}

// --- one nucleus ---------------------------------------------------------------------------------------------------

function nucleusAt(x, y) { // in pixels of level 0
  const context = outlineCanvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  for (const part of state.visible) {
    const nucleus = part.paths.findIndex((path) => context.isPointInPath(path, x, y));
    if (nucleus >= 0) return { part, nucleus, path: part.paths[nucleus] };
  }
  return null;
}

function nearest(x, y) {
  let best = null, least = Infinity;
  for (const part of state.visible) {
    part.features.x.forEach((nucleusX, nucleus) => {
      const distance = Math.hypot(nucleusX - x, part.features.y[nucleus] - y);
      if (distance < least) [best, least] = [{ part, nucleus, path: part.paths[nucleus] }, distance];
    });
  }
  return best;
}

function select(found) {
  state.selected = found;
  $("values").hidden = !found;
  $("hint").hidden = Boolean(found);
  const rows = found ? state.info.features.map(([name, unit]) => {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    head.scope = "row";
    head.textContent = LABELS[name] || name;
    cell.textContent = `${number(found.part.features[name][found.nucleus], unit ? 1 : 3)} ${unit}`.trim();
    cell.dataset.feature = name;
    row.append(head, cell);
    return row;
  }) : [];
  $("values").tBodies[0].replaceChildren(...rows);
  draw();
}

function levelZero(point) {
  const { x, y } = viewer.viewport.viewportToImageCoordinates(point);
  return [x * state.info.scale, y * state.info.scale];
}

// --- events --------------------------------------------------------------------------------------------------------

let waiting = 0;
function refreshSoon() {
  clearTimeout(waiting);
  delete document.body.dataset.ready;
  waiting = setTimeout(() => refresh().catch(complain), 80);
}
viewer.addHandler("viewport-change", () => { draw(); refreshSoon(); });
for (const event of ["open", "resize"]) viewer.addHandler(event, () => { draw(); refreshSoon(); });
viewer.addHandler("canvas-click", (event) => {
  if (event.quick && state.info) select(nucleusAt(...levelZero(viewer.viewport.pointFromPixel(event.position))));
});
for (const id of ["show-outlines", "show-heat", "outlines-opacity", "heat-opacity"]) $(id).addEventListener("input", draw);
$("colour").addEventListener("input", recolour);

const zoomBy = (factor) => { viewer.viewport.zoomBy(factor); viewer.viewport.applyConstraints(); };
$("zoom-in").addEventListener("click", () => zoomBy(2));
$("zoom-out").addEventListener("click", () => zoomBy(0.5));
$("home").addEventListener("click", () => viewer.viewport.goHome());
const KEYS = {
  o: () => $("show-outlines").click(), d: () => $("show-heat").click(),
  n: () => select(nearest(...levelZero(viewer.viewport.getCenter(true)))),
};
// The slide's own keys (w, a, s, d, r, f …) would do something else at the same time.
viewer.addHandler("canvas-key", (event) => { if (KEYS[event.originalEvent.key.toLowerCase()] || /^[a-z]$/i.test(event.originalEvent.key)) event.preventDefaultAction = true; });
addEventListener("keydown", (event) => {
  const busy = event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName);
  const action = KEYS[event.key.toLowerCase()];
  if (!busy && action && state.info) action();
});

start().catch(complain);
