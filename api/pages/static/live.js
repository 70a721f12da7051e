// Keeps an open page up to date, and draws its charts.
//
// The page names its stream in <body data-live>. Elements with data-fragment are replaced whole, by id; those in a
// <tbody data-sorted> stand in the order of data-position. Without a stream, times and charts still work.

const SLIDE_MS = 200;
const RETRY_MS = 5000;
const { live, candidates } = document.body.dataset;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const themes = [matchMedia("(prefers-color-scheme: dark)"), matchMedia("print")];

// --- fragments ---------------------------------------------------------------------------------------------------

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

function tops() {
  const rows = document.querySelectorAll("tbody tr[id]");
  return new Map([...rows].map((row) => [row.id, row.getBoundingClientRect().top]));
}

function values(element) {
  const cells = element.querySelectorAll("[data-tint]");
  return new Map([...cells].map((cell) => [`${cell.closest("[id]").id} ${cell.dataset.tint}`, cell]));
}

function replace(old, element) {
  const before = values(old);
  const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const opened = [...old.querySelectorAll("details[open]")].map((details) => details.id);
  old.replaceWith(element);
  for (const [key, cell] of values(element)) {
    if (before.has(key) && before.get(key).textContent !== cell.textContent) cell.classList.add("changed");
  }
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  if (focused) element.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  if (element.dataset.title) document.title = element.dataset.title;
}

function sort() {
  for (const body of document.querySelectorAll("tbody[data-sorted]")) {
    const rows = [...body.rows];
    const sorted = [...rows].sort((a, b) => a.dataset.position - b.dataset.position);
    if (sorted.some((row, index) => row !== rows[index])) body.append(...sorted);
  }
}

function slide(before) {
  if (calm.matches) return;
  for (const [id, top] of tops()) {
    const distance = before.has(id) ? before.get(id) - top : 0;
    if (distance) {
      const from = `translateY(${distance}px)`;
      document.getElementById(id).animate([{ transform: from }, { transform: "none" }], SLIDE_MS);
    }
  }
}

function show(elements) {
  const before = tops();
  for (const element of elements) {
    const old = document.getElementById(element.id);
    if (old && old.outerHTML !== element.outerHTML) replace(old, element);
  }
  sort();
  slide(before);
  tellTimes();
}

// --- times -------------------------------------------------------------------------------------------------------

function ago(seconds) {
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function tellTimes() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const told = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== told) time.textContent = told;
  }
}

// --- charts ------------------------------------------------------------------------------------------------------

const figures = {};

function themed(figure) {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const layout = structuredClone(figure.layout);
  layout.font = { ...layout.font, color: color("--ink"), family: getComputedStyle(document.body).fontFamily };
  layout.hoverlabel = { bgcolor: color("--paper"), bordercolor: color("--mark"), font: layout.font };
  layout.modebar = { bgcolor: color("--paper"), color: color("--mark"), activecolor: color("--ink") };
  for (const axis of [layout.xaxis, layout.yaxis]) axis.gridcolor = color("--line");
  return { data: figure.data, layout };
}

function open(event) {
  const id = event.points[0].customdata;
  if (!candidates || id === undefined) return;
  const { ctrlKey, metaKey } = event.event;
  if (ctrlKey || metaKey) window.open(candidates + id, "_blank", "noopener");
  else location.assign(candidates + id);
}

function draw(newer) {
  Object.assign(figures, newer);
  for (const id of Object.keys(newer)) {
    const place = document.getElementById(id);
    if (!place || !window.Plotly) continue;
    const { data, layout } = themed(figures[id]);
    const buttons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]];
    const config = { responsive: true, displaylogo: false, modeBarButtons: buttons };
    const first = !place.classList.contains("js-plotly-plot");
    if (first) place.replaceChildren();
    // A zoom stays until the reader ends it.
    layout.uirevision = "kept";
    Plotly.react(place, data, layout, config);
    if (first) place.on("plotly_click", open);
  }
}

function drawFirst() {
  const data = document.getElementById("figures");
  if (data) draw(JSON.parse(data.textContent));
}

// --- the stream --------------------------------------------------------------------------------------------------

let source = null;
let retry = 0;

function connected(yes) {
  document.getElementById("connection").hidden = yes;
}

function listen() {
  if (!live || source || document.hidden) return;
  source = new EventSource(live);
  // It begins with all fragments and figures, so nothing is missed while a page is hidden.
  source.addEventListener("open", () => connected(true));
  source.addEventListener("fragments", (event) => {
    const fragments = Object.values(JSON.parse(event.data)).map(parse);
    if (fragments.some(({ id }) => !document.getElementById(id))) location.reload();
    else show(fragments);
  });
  source.addEventListener("figures", (event) => draw(JSON.parse(event.data)));
  source.addEventListener("resync", () => location.reload());
  source.addEventListener("error", () => {
    connected(false);
    if (source?.readyState !== EventSource.CLOSED) return;
    hush();
    retry = setTimeout(listen, RETRY_MS);
  });
}

// A browser allows six streams to one server: a page that nobody sees must not hold one.
function hush() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
addEventListener("pagehide", hush);
addEventListener("pageshow", (event) => event.persisted && listen());
for (const theme of themes) theme.addEventListener("change", () => draw(figures));
setInterval(tellTimes, 30_000);
tellTimes();
drawFirst();
listen();
