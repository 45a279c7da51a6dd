// The reading room: files in, an answer in words out, and the picture beside it.
//
// The server holds the sitting; this page shows it, and leaves no name of a file in the browser:
// neither in its storage nor in a title, which goes into the history. Names of files and all else that the server
// sends become text (`textContent`), never markup. Addresses are relative, for a proxy's prefix.
"use strict";

const PICTURES = 24; // pictures that the page holds; the oldest goes first
const PAUSE = 150; // ms after the last change of a DICOM window until the server draws it anew
const ZOOM = 1.25; // a step of the buttons and keys
const GREY = { center: 127.5, width: 255, low: 0, high: 255 }; // the window of a plain picture
const WORDS = {
  abnormal: "Abnormal",
  normal: "Not abnormal",
  doubt: "In the band of doubt: no call",
  unlike: "Not like the radiographs this was trained on: no call",
  unrouted: "Area not recognised: no call",
  "no release": "No release for this area: no call",
  unreadable: "A file of this study cannot be read: no call",
};
const SIGNS = { abnormal: "●", normal: "○", doubt: "◐" }; // "◇" stands for all others
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const room = { areas: [], router: null, limits: {} };
const sitting = { studies: [], chosen: null, view: 0, point: null, uploads: 0 };
const look = { heatmap: false, opacity: 70, invert: false, network: false };
const windows = new Map(); // by the id of a view: what the reader chose
const faithfulness = new Map(); // by the id of a view: its deletion score

// ---------------------------------------------------------------- small helpers

/** An element with its properties and children; a child that is a string is text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** A probability to three digits, never rounded up to certainty. */
function print(probability) {
  if (probability === null || probability === undefined) return "–";
  if (probability > 0.999) return "> 0.999";
  return probability < 0.001 ? "< 0.001" : probability.toFixed(3);
}

/** An area for people: "XR_WRIST" is "Wrist". */
function areaName(area) {
  const words = String(area).replace(/^XR_/, "").replaceAll("_", " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The last part of a file's path. */
const baseName = (path) => path.slice(path.lastIndexOf("/") + 1);

/** What chooses a study's area, for the two lists of areas: pairs of a value and a text. */
function areaChoices() {
  const areas = room.areas.map((entry) => [entry.area, areaName(entry.area)]);
  if (room.router) return [["auto", "recognised by the router"], ...areas];
  if (areas.length === 1) return [["auto", areas[0][1]]];
  return [["auto", "named by the DICOM header"], ...areas];
}

function announce(line) {
  byId("live").textContent = line;
}

function complain(line) {
  byId("trouble").textContent = line;
  byId("trouble").hidden = !line;
}

function recall(key) {
  try {
    return localStorage.getItem(`room.${key}`);
  } catch {
    return null; // storage may be forbidden; the page works without it
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(`room.${key}`, value);
  } catch {
    // as above
  }
}

// ---------------------------------------------------------------- the server

/** Ask the server; throws an Error whose message is a line for people. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `mura read` still running?");
  }
  if (response.ok) return response;
  if (response.status === 401 || response.status === 403) {
    throw new Error("This sitting has ended. Open the address that `mura read` printed.");
  }
  const answer = await response.json().catch(() => ({}));
  const error = new Error(answer.reason || `The server answered ${response.status}.`);
  throw Object.assign(error, { status: response.status, answer });
}

const askJson = async (path, options) => (await ask(path, options)).json();

const postJson = (path, body) =>
  askJson(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

const pictures = new Map(); // by address, the latest last: promises of object URLs

/** The object URL of a picture, from the server or from memory. */
function fetchPicture(path) {
  const held = pictures.get(path);
  pictures.delete(path);
  const picture =
    held ??
    ask(path)
      .then((response) => response.blob())
      .then((blob) => URL.createObjectURL(blob));
  pictures.set(path, picture);
  picture.catch(() => pictures.delete(path));
  for (const [oldest, gone] of pictures) {
    if (pictures.size <= PICTURES) break;
    pictures.delete(oldest);
    revoke(gone);
  }
  return picture;
}

/** Free a picture, once no element can still be loading it. */
function revoke(picture) {
  picture.then(
    (address) => setTimeout(() => URL.revokeObjectURL(address), 10_000),
    () => {},
  );
}

// ---------------------------------------------------------------- decisions

const releaseOf = (study) => room.areas.find((entry) => entry.area === study.area) ?? null;
const recommended = (entry) =>
  entry?.operating_points.find((point) => point.recommended) ?? entry?.operating_points[0] ?? null;

/** The operating point that a study is shown at; `usual` is whether the release recommends it. */
function pointOf(study) {
  const entry = releaseOf(study);
  const usual = recommended(entry);
  const chosen = entry?.operating_points.find((point) => point.name === sitting.point) ?? usual;
  return { point: chosen ?? study.operating_point, usual: chosen === usual };
}

/** What a study is called at the operating point that is shown, and why. */
function callOf(study) {
  const { point, usual } = pointOf(study);
  if (usual || !["abnormal", "normal", "doubt"].includes(study.call)) {
    return { call: study.call, why: study.why ?? "" };
  }
  const abnormal = study.probability >= point.threshold;
  return {
    call: abnormal ? "abnormal" : "normal",
    why:
      `The probability is ${abnormal ? "at or above" : "below"} ${print(point.threshold)}. ` +
      "The band of doubt belongs to the recommended operating point, and is not used here.",
  };
}

const signOf = (call) => SIGNS[call] ?? "◇";
const chosenStudy = () => sitting.studies.find((study) => study.id === sitting.chosen) ?? null;
const chosenView = () => chosenStudy()?.views[sitting.view] ?? null;
const isAnswered = (view) => typeof view?.probability === "number";

// ---------------------------------------------------------------- the list of studies

function renderList() {
  const list = byId("studies");
  const focused = list.contains(document.activeElement);
  list.replaceChildren(...sitting.studies.map(makeItem));
  const n = sitting.studies.length;
  byId("count").textContent = n ? String(n) : "";
  byId("none").hidden = n > 0 || sitting.uploads > 0;
  byId("sitting").hidden = n === 0;
  byId("csv").setAttribute("href", `api/sitting.csv${pointQuery()}`);
  if (focused) list.querySelector("[aria-current]")?.focus();
}

/** The operating point that the table is asked for: only one that all of its releases have. */
function pointQuery() {
  const entries = sitting.studies.map(releaseOf).filter(Boolean);
  const has = (entry) => entry.operating_points.some((point) => point.name === sitting.point);
  const usable = sitting.point && entries.every(has);
  return usable ? `?operating_point=${encodeURIComponent(sitting.point)}` : "";
}

function makeItem(study) {
  const { call } = callOf(study);
  const item = make("button", { type: "button", className: "study", title: study.name });
  item.dataset.call = call;
  if (study.id === sitting.chosen) item.setAttribute("aria-current", "true");
  const sign = make("span", { className: "sign", textContent: signOf(call) });
  sign.setAttribute("aria-hidden", "true");
  const short = (WORDS[call] ?? call).replace(": no call", "");
  const known = study.area && study.call !== "unrouted";
  const details = [known && areaName(study.area), plural(study.views.length, "view")];
  item.append(
    sign,
    make("span", { className: "name", textContent: study.name }),
    make("span", { className: "number", textContent: print(study.probability) }),
    make("span", { className: "call", textContent: short }),
    make("span", { className: "pale", textContent: details.filter(Boolean).join(", ") }),
  );
  item.addEventListener("click", () => {
    choose(study.id);
    announce(`${study.name}: ${describe(study)}`);
  });
  return make("li", {}, item);
}

function choose(id) {
  sitting.chosen = id;
  sitting.view = 0;
  render();
  byId("studies").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  if (matchMedia("(max-width: 800px)").matches) byId("headline").scrollIntoView(); // below the list
}

/** Choose the study `step` places further down the list. */
function chooseNext(step) {
  const at = sitting.studies.findIndex((study) => study.id === sitting.chosen);
  const next = sitting.studies[clamp(at + step, 0, sitting.studies.length - 1)];
  if (next && next.id !== sitting.chosen) choose(next.id);
  const study = chosenStudy();
  if (study) announce(`${study.name}: ${describe(study)}`);
}

/** An answer in one spoken sentence or two. */
function describe(study) {
  const { call, why } = callOf(study);
  const number = study.probability === null ? "" : ` Probability ${print(study.probability)}.`;
  return `${WORDS[call] ?? call}.${number} ${why}`;
}

// ---------------------------------------------------------------- the answer

function render() {
  renderList();
  const study = chosenStudy();
  byId("welcome").hidden = study !== null;
  byId("reading").hidden = study === null;
  if (!study) return;
  renderHeadline(study);
  renderDecision(study);
  renderViews(study);
  renderFaithfulness();
  showView();
}

function renderHeadline(study) {
  const { call, why } = callOf(study);
  byId("study-name").textContent = study.name;
  byId("words").textContent = WORDS[call] ?? call;
  byId("why").textContent = why;
  byId("headline").dataset.call = call;
  const scale = byId("scale");
  scale.hidden = study.probability === null;
  if (!scale.hidden) scale.replaceChildren(...drawScale(study, call));
}

/** The probability on a line from 0 to 1, with the threshold and the band of doubt. */
function drawScale(study, call) {
  const { point, usual } = pointOf(study);
  const band = usual ? study.band : null;
  const x = (share) => (4 + 292 * share).toFixed(1);
  const drawing = makeSvg("svg", { viewBox: "0 0 300 50", role: "img" });
  const text = [`Probability of abnormal ${print(study.probability)}`];
  if (point) text.push(`threshold ${print(point.threshold)}`);
  if (band) text.push(`band of doubt ${print(band.low)} to ${print(band.high)}`);
  drawing.setAttribute("aria-label", text.join(", "));
  drawing.append(makeSvg("rect", { class: "line", x: 4, y: 20, width: 292, height: 8, rx: 4 }));
  if (band) {
    const width = (292 * (band.high - band.low)).toFixed(1);
    const low = x(band.low);
    drawing.append(makeSvg("rect", { class: "band", x: low, y: 15, width, height: 18, rx: 2 }));
  }
  if (point) {
    const at = x(point.threshold);
    drawing.append(makeSvg("line", { class: "threshold", x1: at, x2: at, y1: 11, y2: 37 }));
    const anchor = point.threshold < 0.2 ? "start" : point.threshold > 0.8 ? "end" : "middle";
    const label = `${point.name} ${print(point.threshold)}`;
    drawing.append(makeSvg("text", { x: at, y: 48, "text-anchor": anchor }, label));
  }
  const marker = { class: "marker", cx: x(study.probability), cy: 24, r: 7, "data-call": call };
  drawing.append(makeSvg("circle", marker));
  const number = make("b", { className: "number", textContent: print(study.probability) });
  return [make("figcaption", {}, "Probability of abnormal ", number), drawing];
}

function renderDecision(study) {
  const rows = [];
  const route = study.route;
  if (route) {
    const sure = `router: ${areaName(route.area)}, confidence ${print(route.confidence)}`;
    const doubt = `; it needs ${print(route.least)}`;
    rows.push(["Area", route.abstained ? `not recognised (${sure}${doubt})` : sure]);
  } else if (study.area) {
    const sources = { fixed: "chosen by you", only: "the only release", header: "DICOM header" };
    rows.push([
      "Area",
      `${areaName(study.area)} (${sources[study.area_source] ?? study.area_source})`,
    ]);
  }
  if (study.recognised_area) rows.push(["Looks like", areaName(study.recognised_area)]);
  if (study.note) rows.push(["Note", study.note]);
  const familiarity = study.familiarity;
  if (familiarity) {
    const [distance, limit] = [familiarity.distance, familiarity.threshold];
    const numbers = `distance ${distance.toPrecision(3)}, limit ${limit.toPrecision(3)}`;
    rows.push(["Like training", `${familiarity.like_training ? "yes" : "no"} (${numbers})`]);
  } else if (study.probability !== null) {
    rows.push(["Like training", "not known: this release does not say"]);
  }
  const release = releaseOf(study)?.release;
  if (release) rows.push(["Release", `${release.name} ${release.digest ?? ""}`]);
  if (study.read_at)
    rows.push(["Read", `${study.read_at}, in ${study.seconds?.toFixed(2) ?? "?"} s`]);
  for (const { file, message } of study.errors ?? []) rows.push([file, message]);
  byId("decision").replaceChildren(
    ...rows.flatMap(([term, text]) => [
      make("dt", { textContent: term }),
      make("dd", { textContent: text }),
    ]),
  );
  renderPoints(study);
  fillSelect(byId("again"), [["", "another area …"], ...areaChoices()], "");
  byId("again").labels[0].hidden = byId("again").hidden = areaChoices().length < 2;
}

function renderPoints(study) {
  const select = byId("point");
  const points = releaseOf(study)?.operating_points ?? [];
  select.disabled = points.length === 0;
  const { point } = pointOf(study);
  const choices = points.map((each) => {
    const mark = each.recommended ? ", recommended" : "";
    return [each.name, `${each.name} (${print(each.threshold)}${mark})`];
  });
  fillSelect(select, choices, point?.name ?? "");
  byId("rule").textContent = point?.rule ?? "";
}

function fillSelect(select, choices, value) {
  select.replaceChildren(
    ...choices.map(([name, text]) => make("option", { value: name, textContent: text })),
  );
  select.value = value;
}

function renderViews(study) {
  const rows = study.views.map((view, index) => {
    const button = make("button", {
      type: "button",
      className: "plain",
      textContent: baseName(view.name),
    });
    button.title = view.name;
    button.addEventListener("click", () => chooseView(index));
    const level = make("i");
    level.style.width = `${100 * (view.probability ?? 0)}%`;
    const meter = make("span", { className: "meter" }, level);
    const unlike = isUnlike(study, view)
      ? make("span", { className: "pale" }, "not like training")
      : "";
    const number = make("span", { className: "number", textContent: print(view.probability) });
    const cell = make("td", {}, meter, number, unlike);
    return make("tr", {}, make("td", {}, button), cell);
  });
  byId("views").tBodies[0].replaceChildren(...rows);
  byId("thumbnails").hidden = study.views.length < 2;
  byId("thumbnails").replaceChildren(
    ...study.views.map((view, index) => makeThumbnail(study, view, index)),
  );
}

const isUnlike = (study, view) =>
  typeof view.distance === "number" && view.distance > (study.familiarity?.threshold ?? Infinity);

function makeThumbnail(study, view, index) {
  const image = make("img", { alt: "" });
  fetchPicture(`api/views/${view.id}/image.png`).then(
    (address) => (image.src = address),
    () => {}, // the stage says it for the view that is shown
  );
  const which = `View ${index + 1} of ${study.views.length}, ${baseName(view.name)}`;
  const label = `${which}: probability ${print(view.probability)}`;
  const button = make("button", { type: "button", title: view.name }, image);
  button.append(make("span", { className: "number", textContent: print(view.probability) }));
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => chooseView(index));
  return make("li", {}, button);
}

function chooseView(index) {
  const study = chosenStudy();
  if (!study?.views[index]) return;
  sitting.view = index;
  renderFaithfulness();
  showView();
  announce(describePicture());
}

// ---------------------------------------------------------------- the picture

const stage = byId("stage");
const frame = byId("frame");
const radiograph = byId("radiograph");
const evidence = byId("evidence");
const place = { scale: 1, fitted: true, x: 0, y: 0 }; // of the frame in the stage
let shown = { view: null, window: GREY }; // the window that the loaded picture was drawn with
let redrawing = 0; // the timer
let turn = 0; // counts the pictures that were asked for: only the last is shown

// Only a release that has answered has a map and a picture of its own size.
const showsHeatmap = () => look.heatmap && isAnswered(chosenView());
const showsNetwork = () => look.network && isAnswered(chosenView());
const windowOf = (view) => windows.get(view.id) ?? view.window ?? GREY;

function describePicture() {
  const study = chosenStudy();
  const view = chosenView();
  const parts = [`View ${sitting.view + 1} of ${study.views.length}, ${baseName(view.name)}`];
  if (isAnswered(view)) parts.push(`probability of abnormal ${print(view.probability)}`);
  if (showsNetwork()) parts.push("as the network saw it");
  if (look.invert) parts.push("inverted");
  if (showsHeatmap()) parts.push(`heatmap at ${look.opacity} %`);
  return parts.join(", ");
}

/** Show the chosen view; nothing of the view before remains on the stage. */
async function showView() {
  const view = chosenView();
  const mine = ++turn;
  for (const [index, item] of [...byId("thumbnails").children].entries()) {
    item.firstChild.setAttribute("aria-current", String(index === sitting.view));
  }
  for (const [index, row] of [...byId("views").tBodies[0].rows].entries()) {
    row.classList.toggle("chosen", index === sitting.view);
  }
  shown = { view: null, window: GREY };
  frame.hidden = true;
  radiograph.removeAttribute("src");
  evidence.removeAttribute("src");
  renderLook();
  if (!view) {
    byId("stage-note").textContent = "This study has no picture.";
    return;
  }
  byId("stage-note").textContent = "Loading …";
  prepareSliders(view);
  const settings = windows.get(view.id);
  const query = settings && view.window ? windowQuery(settings) : "";
  const path = showsNetwork() ? "network.png" : `image.png${query}`;
  try {
    const address = await fetchPicture(`api/views/${view.id}/${path}`);
    radiograph.src = address;
    await radiograph.decode();
  } catch (error) {
    if (mine !== turn) return;
    const gone = error.status === 410 || error.status === 404;
    byId("stage-note").textContent = gone
      ? "This picture is no longer held by the server. Drop its files again to see it."
      : error.message || "This picture could not be shown.";
    return;
  }
  if (mine !== turn) return;
  shown = { view, window: view.window ? windowOf(view) : GREY };
  byId("stage-note").textContent = "";
  frame.hidden = false;
  fit();
  renderLook();
}

const windowQuery = ({ center, width }) => `?center=${center}&width=${width}`;

/** Set everything that changes without another picture: window, inversion, heatmap, texts. */
function renderLook() {
  const view = chosenView();
  for (const name of ["heatmap", "invert", "network"]) {
    byId(name).setAttribute("aria-pressed", String(look[name]));
  }
  const mapped = showsHeatmap();
  for (const name of ["heatmap", "network"]) byId(name).disabled = !isAnswered(view);
  byId("legend").hidden = !mapped;
  byId("opacity-value").textContent = `${look.opacity} %`;
  byId("opacity").disabled = !mapped;
  stage.classList.toggle("network", showsNetwork());
  if (!view || shown.view !== view) return;
  radiograph.alt = describePicture();
  applyLevels(view);
  evidence.hidden = !mapped;
  evidence.style.opacity = String(look.opacity / 100);
  if (mapped && !evidence.getAttribute("src")) {
    fetchPicture(`api/views/${view.id}/heatmap.png`).then(
      (address) => {
        if (shown.view === view) evidence.src = address;
      },
      (error) => complain(error.message),
    );
  }
}

/** Map the loaded grey levels to those of the chosen window, by a linear filter. */
function applyLevels(view) {
  const from = shown.window;
  const to = showsNetwork() ? from : windowOf(view);
  let slope = from.width / to.width;
  let intercept = (from.center - to.center) / to.width - slope / 2 + 0.5;
  if (look.invert) [slope, intercept] = [-slope, 1 - intercept];
  for (const channel of document.querySelectorAll(
    "#levels feFuncR, #levels feFuncG, #levels feFuncB",
  )) {
    channel.setAttribute("slope", slope.toFixed(5));
    channel.setAttribute("intercept", intercept.toFixed(5));
  }
  const same = slope === 1 && Math.abs(intercept) < 1e-6;
  radiograph.style.filter = same ? "" : "url(#levels)";
}

function prepareSliders(view) {
  const bounds = view.window ?? GREY;
  const range = Math.max(bounds.high - bounds.low, 1);
  const { center, width } = windowOf(view);
  Object.assign(byId("width"), {
    min: 1,
    max: Math.max(2 * range, bounds.width),
    step: 1,
    value: width,
  });
  Object.assign(byId("level"), { min: bounds.low, max: bounds.high, step: 1, value: center });
  printWindow(center, width);
  for (const id of ["width", "level", "reset"]) byId(id).disabled = showsNetwork();
}

function printWindow(center, width) {
  byId("width-value").textContent = String(Math.round(width));
  byId("level-value").textContent = String(Math.round(center));
}

/** Choose a window, within the sliders' bounds; a DICOM file's is drawn anew by the server. */
function setWindow(center, width) {
  const view = chosenView();
  if (!view || showsNetwork()) return;
  const bounds = view.window ?? GREY;
  const chosen = {
    center: clamp(center, bounds.low, bounds.high),
    width: clamp(width, 1, Number(byId("width").max)),
  };
  windows.set(view.id, chosen);
  byId("width").value = chosen.width;
  byId("level").value = chosen.center;
  printWindow(chosen.center, chosen.width);
  applyLevels(view);
  clearTimeout(redrawing);
  if (view.window) redrawing = setTimeout(() => redraw(view), PAUSE);
}

function resetWindow() {
  const view = chosenView();
  if (!view) return;
  const { center, width } = view.window ?? GREY;
  setWindow(center, width);
  windows.delete(view.id);
}

/** Replace a DICOM picture by the same one in the chosen window, without a moment of darkness. */
async function redraw(view) {
  const mine = turn;
  const chosen = { ...windowOf(view) };
  try {
    const address = await fetchPicture(`api/views/${view.id}/image.png${windowQuery(chosen)}`);
    const image = new Image();
    image.src = address;
    await image.decode();
    if (mine !== turn) return;
    radiograph.src = address;
    shown.window = chosen;
    applyLevels(view);
  } catch (error) {
    if (mine === turn) complain(error.message);
  }
}

// ---------------------------------------------------------------- zoom and pan

function placeFrame() {
  const { naturalWidth, naturalHeight } = radiograph;
  frame.style.width = `${naturalWidth}px`;
  frame.style.height = `${naturalHeight}px`;
  frame.style.transform = `translate(${place.x}px, ${place.y}px) scale(${place.scale})`;
  byId("zoom").textContent = `${Math.round(100 * place.scale)} %`;
}

function fit() {
  const { naturalWidth: width, naturalHeight: height } = radiograph;
  if (!width) return;
  place.scale = Math.min((stage.clientWidth - 16) / width, (stage.clientHeight - 16) / height);
  place.x = (stage.clientWidth - width * place.scale) / 2;
  place.y = (stage.clientHeight - height * place.scale) / 2;
  place.fitted = true;
  placeFrame();
}

/** Zoom by a factor; the point (x, y) of the stage, its middle by default, stays where it is. */
function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const scale = clamp(place.scale * factor, 0.05, 20);
  place.x = x - (x - place.x) * (scale / place.scale);
  place.y = y - (y - place.y) * (scale / place.scale);
  place.scale = scale;
  place.fitted = false;
  placeFrame();
}

/** Move the picture; a corner of it always stays within reach. */
function pan(dx, dy) {
  const width = radiograph.naturalWidth * place.scale;
  const height = radiograph.naturalHeight * place.scale;
  place.x = clamp(place.x + dx, 40 - width, stage.clientWidth - 40);
  place.y = clamp(place.y + dy, 40 - height, stage.clientHeight - 40);
  place.fitted = false;
  placeFrame();
}

const pointers = new Map(); // by id: where each pointer on the stage is

function followPointer(event) {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const now = { x: event.clientX, y: event.clientY, pans: before.pans };
  const [dx, dy] = [now.x - before.x, now.y - before.y];
  if (pointers.size === 2) {
    pinch(event.pointerId, before, now);
  } else if (before.pans) {
    pan(dx, dy);
  } else {
    dragWindow(dx, dy);
  }
  pointers.set(event.pointerId, now);
}

function pinch(id, before, now) {
  const [other] = [...pointers].filter(([each]) => each !== id).map(([, where]) => where);
  const apart = (point) => Math.hypot(point.x - other.x, point.y - other.y) || 1;
  const box = stage.getBoundingClientRect();
  zoom(apart(now) / apart(before), (now.x + other.x) / 2 - box.x, (now.y + other.y) / 2 - box.y);
  pan((now.x - before.x) / 2, (now.y - before.y) / 2);
}

/** To the right: a wider window. Up: brighter. */
function dragWindow(dx, dy) {
  const view = chosenView();
  if (!view) return;
  const bounds = view.window ?? GREY;
  const step = (bounds.high - bounds.low) / 400;
  const { center, width } = windowOf(view);
  setWindow(center + dy * step, width + dx * step);
}

function nudgeWindow(narrower, darker) {
  const view = chosenView();
  if (!view) return;
  const bounds = view.window ?? GREY;
  const { center, width } = windowOf(view);
  setWindow(center + (darker * (bounds.high - bounds.low)) / 32, width * 1.1 ** narrower);
}

const toolPans = () => document.querySelector("[name=tool]:checked").value === "pan";

function chooseTool(name) {
  document.querySelector(`[name=tool][value=${name}]`).checked = true;
  stage.classList.toggle("pans", name === "pan");
}

stage.addEventListener("pointerdown", (event) => {
  if (event.button > 1) return;
  const other = event.shiftKey || event.button === 1;
  stage.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, pans: toolPans() !== other });
});
stage.addEventListener("pointermove", followPointer);
for (const end of ["pointerup", "pointercancel"]) {
  stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
}
stage.addEventListener("dblclick", fit);
stage.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    const factor = Math.exp(-clamp(event.deltaY, -100, 100) / 400);
    zoom(factor, event.clientX - box.x, event.clientY - box.y);
  },
  { passive: false },
);
new ResizeObserver(() => place.fitted && fit()).observe(stage);

// ---------------------------------------------------------------- the deletion score

function renderFaithfulness() {
  const view = chosenView();
  const scores = view && faithfulness.get(view.id);
  byId("measure").hidden = Boolean(scores);
  byId("measure").disabled = !isAnswered(view);
  const words = byId("deletion-words");
  words.dataset.rest ??= words.textContent;
  words.textContent = scores ? describeFaithfulness(scores) : words.dataset.rest;
  const chart = byId("deletion-chart");
  chart.hidden = !scores?.curve;
  chart.replaceChildren(...(scores?.curve ? drawCurve(scores.curve) : []));
}

function describeFaithfulness(scores) {
  const better =
    scores.deletion < scores.random_deletion && scores.insertion > scores.random_insertion;
  const { point } = pointOf(chosenStudy());
  let verdict = "The heatmap’s places count for no more than random ones here: doubt this map.";
  if (point && chosenView().probability < point.threshold) {
    verdict =
      "This view is below the threshold and has little to lose: the score says little here.";
  } else if (better) {
    verdict = "The heatmap’s places count for more than random ones, in both directions.";
  }
  return (
    `Deletion ${print(scores.deletion)}, random places ${print(scores.random_deletion)}; ` +
    `insertion ${print(scores.insertion)}, random places ${print(scores.random_insertion)}. ` +
    verdict
  );
}

function drawCurve({ shares, deletion, random }) {
  const points = (values) =>
    values
      .map((p, i) => `${(30 + 260 * shares[i]).toFixed(1)},${(90 - 80 * p).toFixed(1)}`)
      .join(" ");
  const drawing = makeSvg("svg", { viewBox: "0 0 300 112", role: "img" });
  const last = deletion.length - 1;
  drawing.setAttribute(
    "aria-label",
    `Probability while the view is blurred, ${print(deletion[0])} to ${print(deletion[last])}: ` +
      `half way ${print(deletion[last >> 1])} in the heatmap’s order, ` +
      `${print(random[last >> 1])} in a random order`,
  );
  drawing.append(
    makeSvg("path", { class: "axes", d: "M30 10V90H290" }),
    makeSvg("text", { x: 24, y: 14, "text-anchor": "end" }, "1"),
    makeSvg("text", { x: 24, y: 93, "text-anchor": "end" }, "0"),
    makeSvg(
      "text",
      { x: 160, y: 108, "text-anchor": "middle" },
      "share of the picture that is blurred",
    ),
    makeSvg("polyline", { class: "random", points: points(random) }),
    makeSvg("polyline", { class: "map", points: points(deletion) }),
  );
  const key = make("figcaption", { className: "pale" });
  key.append(make("i", { className: "map" }), "heatmap’s order ", make("i"), "random order");
  return [drawing, key];
}

async function measure() {
  const view = chosenView();
  if (!view || faithfulness.has(view.id) || byId("measure").disabled) return;
  byId("measure").disabled = true;
  announce("Measuring …");
  try {
    const scores = await askJson(`api/views/${view.id}/deletion`, { method: "POST" });
    // Read again as another area meanwhile, the study has other views: the score is of none of them.
    if (!sitting.studies.some((study) => study.views.includes(view))) return;
    faithfulness.set(view.id, scores);
    if (view === chosenView()) announce(describeFaithfulness(scores));
  } catch (error) {
    complain(error.message);
  }
  renderFaithfulness();
}

// ---------------------------------------------------------------- files in

const byPath = (a, b) => a.path.localeCompare(b.path, undefined, { numeric: true });
const folderOf = (file) => file.path.slice(0, file.path.lastIndexOf("/") + 1);
const hidden = (path) =>
  path.split("/").some((name) => name.startsWith(".") || name === "Thumbs.db");

/** The files of a drop with their paths, of folders too; hidden files are left out. */
async function filesOfDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((blob) => ({ blob, path: blob.name }));
  const files = [];
  const visit = async (entry, prefix) => {
    const path = prefix + entry.name;
    if (entry.isFile) {
      const blob = await new Promise((resolve, reject) => entry.file(resolve, reject));
      files.push({ blob, path });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const each of some) await visit(each, `${path}/`);
    }
  };
  for (const entry of entries) await visit(entry, "");
  return files;
}

let asked = Promise.resolve(); // the last question about loose files: one at a time

async function isDicom(blob) {
  const magic = await blob.slice(128, 132).text();
  return magic === "DICM" || /\.dcm$/i.test(blob.name);
}

/** Read files: ask what belongs together where neither a folder nor a header says it. */
async function readFiles(files) {
  files = files.filter((file) => !hidden(file.path)).sort(byPath);
  const limit = room.limits.bytes ?? Infinity;
  for (const { path, blob } of files) {
    if (blob.size > limit) {
      refuse([{ file: path, message: `larger than ${Math.floor(limit / 2 ** 20)} MB` }]);
    }
  }
  files = files.filter((file) => file.blob.size <= limit);
  if (!files.length) return;
  const dicom = [];
  const loose = [];
  const folders = new Map();
  for (const file of files) {
    if (await isDicom(file.blob)) dicom.push(file);
    else if (!folderOf(file)) loose.push(file);
    else folders.set(folderOf(file), [...(folders.get(folderOf(file)) ?? []), file]);
  }
  asked = asked.then(() => (loose.length > 1 ? askGroup(loose) : "each"));
  const group = await asked;
  const packs = packStudies(await groupDicom(dicom), limit);
  const uploads = [...folders.values(), ...packs].map((each) => [each, "each"]);
  if (loose.length && group === "one") uploads.push([loose, "one"]);
  if (loose.length && group === "each") uploads.push(...loose.map((each) => [[each], "each"]));
  uploads.sort(([[a]], [[b]]) => byPath(a, b));
  await uploadAll(uploads);
}

const STUDY_TAG = [0x20, 0x00, 0x0d, 0x00]; // (0020,000D), little endian
const PART_HEAD = 1024; // bytes that a form has before each file, at most about

/** What a DICOM file calls its study; its folder, where the beginning of its header does not say. */
async function studyOf({ blob, path }) {
  const bytes = new Uint8Array(await blob.slice(0, 2 ** 16).arrayBuffer());
  const at = bytes.findIndex((_, i) => STUDY_TAG.every((byte, k) => bytes[i + k] === byte));
  if (at < 0) return folderOf({ path });
  const length = bytes[at + 4] === 0x55 ? bytes[at + 6] : bytes[at + 4]; // "UI", or implicit
  const uid = bytes.slice(at + 8, at + 8 + length);
  return String.fromCharCode(...uid).replace(/[^0-9.]+$/, "");
}

/** The DICOM files of each study, in the order of their first files. */
async function groupDicom(files) {
  const studies = new Map();
  for (const file of files) {
    const study = await studyOf(file);
    studies.set(study, [...(studies.get(study) ?? []), file]);
  }
  return [...studies.values()];
}

/** Studies in as few uploads as the limits permit. A study is never divided: its answer would be
 * about a part of its views. One that is too large is refused by the server. */
function packStudies(studies, bytes) {
  const packs = [];
  let size = Infinity;
  for (const files of studies) {
    const more = files.reduce((sum, file) => sum + file.blob.size + PART_HEAD, 0);
    const number = (packs.at(-1)?.length ?? 0) + files.length;
    if (number > (room.limits.files ?? Infinity) || size + more > bytes) {
      packs.push([]);
      size = 0;
    }
    packs.at(-1).push(...files);
    size += more;
  }
  return packs;
}

/** Whether loose pictures are one study: "one", "each" or null, where the reader cancels. */
function askGroup(files) {
  const dialog = byId("group");
  byId("group-title").textContent = `Are these ${files.length} pictures views of one study?`;
  byId("group-each").textContent = `No, ${files.length} separate studies`;
  byId("group-one").textContent = `Yes, one study of ${files.length} views`;
  byId("group-files").replaceChildren(
    ...files.map((file) => make("li", { textContent: file.path })),
  );
  dialog.returnValue = "";
  dialog.showModal();
  byId("group-each").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
  });
}

async function uploadAll(uploads) {
  const control = new AbortController();
  const note = make("span");
  const cancel = make("button", { type: "button", className: "plain", textContent: "Cancel" });
  cancel.addEventListener("click", () => control.abort());
  const item = make("p", { className: "pending" }, note, cancel);
  byId("studies").after(item);
  sitting.uploads += 1;
  byId("none").hidden = true;
  complain("");
  const added = [];
  try {
    announce("Reading …");
    for (const [index, [files, group]] of uploads.entries()) {
      note.textContent = `Reading ${index + 1} of ${uploads.length} … `;
      const studies = await upload(files, group, control.signal);
      sitting.studies.push(...studies);
      if (studies.length && !added.length) choose(studies[0].id);
      else renderList();
      added.push(...studies);
    }
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
    else announce("Cancelled");
  } finally {
    sitting.uploads -= 1;
    item.remove();
    renderList();
  }
  const lines = added.map((study) => `${study.name}: ${describe(study)}`);
  if (lines.length)
    announce(`${plural(lines.length, "study", "studies")} read. ${lines.join(" ")}`);
}

/** Read the files of one upload; returns its studies. Where its answer does not arrive, since it was
 * cancelled or lost, the server forgets its studies: the sitting is what the page shows. */
async function upload(files, group, signal) {
  const form = new FormData();
  const id = Math.random().toString(36).slice(2);
  form.append("upload", id);
  form.append("area", byId("area").value);
  form.append("group", group);
  for (const { blob, path } of files) form.append("file", blob, path);
  let answer;
  try {
    answer = await askJson("api/studies", { method: "POST", body: form, signal });
  } catch (error) {
    if (!error.answer?.reason) {
      await ask(`api/uploads/${id}`, { method: "DELETE" }).catch(() => {});
    }
    if (!error.status) throw error;
    const more = files.length === 1 ? "" : ` and ${files.length - 1} more`;
    const whole = [{ file: files[0].path + more, message: error.message }];
    answer = { studies: [], errors: whole, ...error.answer };
  }
  refuse(answer.errors);
  return answer.studies;
}

/** Show errors at the names of their files. */
function refuse(errors) {
  if (!errors?.length) return;
  for (const { file, message } of errors) {
    const line = make(
      "li",
      {},
      make("b", { textContent: file }),
      make("span", { textContent: message }),
    );
    byId("errors").append(line);
  }
  byId("refused").hidden = false;
  announce(`${plural(errors.length, "file")} not read. ${errors[0].file}: ${errors[0].message}`);
}

function dismiss() {
  byId("errors").replaceChildren();
  byId("refused").hidden = true;
}

// ---------------------------------------------------------------- changes of the sitting

async function readAgain(area) {
  const study = chosenStudy();
  if (!study || !area) return;
  try {
    const again = await postJson(`api/studies/${study.id}/area`, { area });
    const at = sitting.studies.indexOf(study);
    if (at < 0) return; // removed meanwhile
    sitting.studies[at] = again;
    for (const view of study.views) forget(view);
    choose(again.id);
    announce(describe(again));
  } catch (error) {
    byId("again").value = "";
    complain(error.message);
  }
}

async function remove(study) {
  try {
    await ask(`api/studies/${study.id}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) return complain(error.message);
  }
  const at = sitting.studies.indexOf(study);
  if (at < 0) return; // a second press of the key
  sitting.studies.splice(at, 1);
  for (const view of study.views) forget(view);
  if (sitting.chosen === study.id) {
    const next = sitting.studies[Math.min(at, sitting.studies.length - 1)];
    sitting.chosen = next?.id ?? null;
    sitting.view = 0;
  }
  render();
  announce(`${study.name} removed`);
}

/** Drop what the page holds of a view: its pictures too. */
function forget(view) {
  windows.delete(view.id);
  faithfulness.delete(view.id);
  for (const [path, picture] of pictures) {
    if (!path.startsWith(`api/views/${view.id}/`)) continue;
    pictures.delete(path);
    revoke(picture);
  }
}

async function clear() {
  const studies = sitting.studies.splice(0);
  sitting.chosen = null;
  render();
  dismiss();
  byId("add-files").focus();
  for (const study of studies) {
    study.views.forEach(forget);
    try {
      await ask(`api/studies/${study.id}`, { method: "DELETE" });
    } catch (error) {
      if (error.status !== 404) return complain(error.message);
    }
  }
  announce("The list is empty");
}

// ---------------------------------------------------------------- figures, limits, keys, theme

function makeTable(head, rows) {
  const cells = (tag, row) =>
    make("tr", {}, ...row.map((text) => make(tag, { textContent: text ?? "" })));
  const table = make("table", {}, make("thead", {}, cells("th", head)));
  for (const cell of table.querySelectorAll("th")) cell.scope = "col";
  table.append(make("tbody", {}, ...rows.map((row) => cells("td", row))));
  return make("div", { className: "scroll" }, table);
}

/** What a release says of itself: figures with intervals, operating points, limits. */
function describeRelease(entry) {
  const { release, band } = entry;
  const about = make("section", {}, make("h3", { textContent: areaName(entry.area) }));
  const facts = [release.name];
  if (release.version) facts.push(`mura-tune ${release.version}`);
  if (release.digest) facts.push(`digest ${release.digest}`);
  if (release.trained) facts.push(`trained ${release.trained.slice(0, 10)}`);
  about.append(make("p", { className: "pale" }, facts.join(", ")));
  const figures = entry.figures.map((figure) => [figure.name, figure.text, figure.split]);
  about.append(
    figures.length
      ? makeTable(["Figure", "Value and 95 % interval", "Split"], figures)
      : make("p", {}, "This release has no figures: nobody has measured it."),
  );
  const points = entry.operating_points.map((point) => [
    point.name + (point.recommended ? " (recommended)" : ""),
    print(point.threshold),
    point.sensitivity,
    point.specificity,
  ]);
  const split = entry.figures[0]?.split;
  const measured = ["Sensitivity", "Specificity"].map((name) => (split ? `${name}, ${split}` : name));
  about.append(makeTable(["Operating point", "Threshold", ...measured], points));
  if (band) {
    const range = `Band of doubt: from ${print(band.low)} up to ${print(band.high)}`;
    about.append(make("p", {}, band.rule ? `${range} (${band.rule}).` : `${range}.`));
  }
  about.append(make("ul", {}, ...entry.limits.map((limit) => make("li", { textContent: limit }))));
  return about;
}

function openAbout() {
  const area = chosenStudy()?.area ?? byId("area").value;
  const first = room.areas.filter((entry) => entry.area === area);
  const others = room.areas.filter((entry) => entry.area !== area);
  byId("about-body").replaceChildren(...[...first, ...others].map(describeRelease));
  byId("about").showModal();
  byId("about-body").scrollTop = 0;
}

const themes = ["system", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  remember("theme", theme);
}

const nextTheme = () =>
  setTheme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length]);

function toggle(name) {
  if (!chosenView() || byId(name).disabled) return;
  look[name] = !look[name];
  if (name === "network") showView().then(() => announce(describePicture()));
  renderLook();
  announce(describePicture());
}

function setOpacity(percent) {
  look.opacity = clamp(percent, 0, 100);
  byId("opacity").value = look.opacity;
  renderLook();
}

/** Keys, what they do, and the line of the help that names them; pairs share a line. */
const KEYS = [
  [["j", "ArrowDown"], () => chooseNext(1), "j, ↓", "next study"],
  [["k", "ArrowUp"], () => chooseNext(-1), "k, ↑", "previous study"],
  [["ArrowRight"], () => chooseView(sitting.view + 1), "→", "next view"],
  [["ArrowLeft"], () => chooseView(sitting.view - 1), "←", "previous view"],
  [["o"], () => byId("files").click(), "o", "add files"],
  [["O"], () => byId("folder").click(), "Shift O", "add a folder"],
  [["h"], () => toggle("heatmap"), "h", "heatmap on or off"],
  [["<"], () => setOpacity(look.opacity - 10), "<", "fainter heatmap"],
  [[">"], () => setOpacity(look.opacity + 10), ">", "stronger heatmap"],
  [["w"], () => chooseTool("window"), "w", "a drag changes the window"],
  [["p"], () => chooseTool("pan"), "p", "a drag moves the picture; Shift does the other"],
  [["["], () => nudgeWindow(-1, 0), "[", "narrower window"],
  [["]"], () => nudgeWindow(1, 0), "]", "wider window"],
  [["{"], () => nudgeWindow(0, -1), "{", "brighter"],
  [["}"], () => nudgeWindow(0, 1), "}", "darker"],
  [["r"], resetWindow, "r", "reset the window"],
  [["i"], () => toggle("invert"), "i", "invert"],
  [["s"], () => toggle("network"), "s", "as the network saw it"],
  [["+", "="], () => zoom(ZOOM), "+", "zoom in"],
  [["-"], () => zoom(1 / ZOOM), "-", "zoom out"],
  [["0"], fit, "0", "fit the picture"],
  [["d"], measure, "d", "measure the deletion score"],
  [["f"], openAbout, "f", "figures and limits"],
  [["e"], () => chosenStudy() && byId("csv").click(), "e", "export CSV"],
  [["Delete"], () => chosenStudy() && remove(chosenStudy()), "Delete", "remove this study"],
  [["t"], nextTheme, "t", "theme"],
  [["?"], () => byId("help").showModal(), "?", "this list"],
];
const ACTIONS = new Map(KEYS.flatMap(([keys, action]) => keys.map((key) => [key, action])));
const PAN = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat && event.key === "Delete") return; // a key held down removes one study
  if (document.querySelector("dialog[open]")) return;
  const target = event.target;
  if (target.matches("select, textarea")) return;
  if (target.matches("input") && event.key.length > 1) return; // a slider's own keys
  if (event.key.length === 1 && !byId("single").checked && event.key !== "?") return;
  const move = target === stage && PAN[event.key];
  const action = move ? () => pan(...move) : ACTIONS.get(event.key);
  if (!action) return;
  event.preventDefault();
  action();
}

// ---------------------------------------------------------------- the page's own controls

function listen() {
  const click = (id, action) => byId(id).addEventListener("click", action);
  click("add-files", () => byId("files").click());
  click("add-folder", () => byId("folder").click());
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      readFiles(files.map((blob) => ({ blob, path: blob.webkitRelativePath || blob.name })));
    });
  }
  click("open-about", openAbout);
  click("open-help", () => byId("help").showModal());
  click("theme", nextTheme);
  click("dismiss", dismiss);
  click("clear", () => byId("sure").showModal());
  click("sure-no", () => byId("sure").close());
  click("sure-yes", () => {
    byId("sure").close();
    clear();
  });
  for (const group of ["one", "each"]) click(`group-${group}`, () => byId("group").close(group));
  click("group-none", () => byId("group").close());
  click("zoom-in", () => zoom(ZOOM));
  click("zoom-out", () => zoom(1 / ZOOM));
  click("fit", fit);
  click("reset", resetWindow);
  for (const name of ["invert", "network", "heatmap"]) click(name, () => toggle(name));
  click("measure", measure);
  click("remove", () => remove(chosenStudy()));
  for (const close of document.querySelectorAll("dialog .close")) {
    close.addEventListener("click", () => close.closest("dialog").close());
  }
  const slide = () => setWindow(Number(byId("level").value), Number(byId("width").value));
  byId("width").addEventListener("input", slide);
  byId("level").addEventListener("input", slide);
  byId("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
  for (const radio of document.querySelectorAll("[name=tool]")) {
    radio.addEventListener("change", () => chooseTool(radio.value));
  }
  byId("point").addEventListener("change", (event) => {
    const entry = releaseOf(chosenStudy());
    const name = event.target.value;
    sitting.point = name === recommended(entry)?.name ? null : name;
    render();
    announce(describe(chosenStudy()));
  });
  byId("again").addEventListener("change", (event) => readAgain(event.target.value));
  byId("single").checked = recall("single") !== "no";
  byId("single").addEventListener("change", (event) =>
    remember("single", event.target.checked ? "yes" : "no"),
  );
  document.addEventListener("keydown", pressKey);
  listenToDrops();
}

function listenToDrops() {
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0;
  const show = (step) => {
    depth = Math.max(depth + step, 0);
    byId("drop").hidden = depth === 0;
  };
  document.addEventListener("dragenter", (event) => carriesFiles(event) && show(1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && show(-1));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    show(-depth);
    try {
      await readFiles(await filesOfDrop(event.dataTransfer));
    } catch (error) {
      complain(error.message);
    }
  });
}

function renderRoom() {
  byId("warning").textContent = room.warning ?? "";
  fillSelect(byId("area"), areaChoices(), "auto");
  byId("area").disabled = areaChoices().length < 2;
  byId("keys").replaceChildren(
    ...KEYS.map(([, , keys, text]) =>
      make(
        "div",
        {},
        make("dt", {}, make("kbd", { textContent: keys })),
        make("dd", { textContent: text }),
      ),
    ),
  );
  const rows = room.areas.map(({ area, figures: [first] }) => [
    areaName(area),
    first && `${first.name}, ${first.split}`,
    first?.text,
  ]);
  byId("summary").replaceChildren(makeTable(["Area", "Measured", "Value and 95 % interval"], rows));
}

async function start() {
  setTheme(themes.find((theme) => theme === recall("theme")) ?? "system");
  listen();
  try {
    Object.assign(room, await askJson("api/room"));
    renderRoom();
    sitting.studies = (await askJson("api/studies")).studies;
    sitting.chosen = sitting.studies.at(-1)?.id ?? null;
  } catch (error) {
    complain(error.message);
  }
  render();
}

start();
