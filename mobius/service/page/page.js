// The web page of the API under /v1. Everything that comes from the service is inserted as text, never as markup.

const PAGE_PAIRS = 20;          // pairs requested at a time
const SEARCH_MAX_BITS = 30;     // bits of 128: beyond this distance pictures are not similar
const MAX_ATTEMPTS = 3;         // attempts at a request while the service answers 503
const REFRESH_MS = 4000;        // interval of updating the figures; the service counts in the background

const at = (id) => document.getElementById(id);
const part = (name, text = "", more = {}) => Object.assign(document.createElement(name), { textContent: text, ...more });

function setStatus(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", isError);
}

// -- requests ---------------------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The service does not answer.");
    }
    if (answer.ok) return answer;
    const wait = Number(answer.headers.get("Retry-After") ?? NaN);
    if (answer.status === 503 && wait <= 5 && attempt < MAX_ATTEMPTS) {
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      continue;
    }
    if (answer.status === 401) at("access").open = true;
    const problem = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(problem.detail ?? `The service answered ${answer.status}.`), { status: answer.status });
  }
}

const askJson = async (path, options) => (await ask(path, options)).json();

/** Wraps an action: ignores calls while it runs, and shows its error. */
function exclusive(work) {
  let busy = false;
  return async (...parameters) => {
    if (busy) return;
    busy = true;
    try {
      await work(...parameters);
    } catch (error) {
      setStatus(error.message, true);
    } finally {
      busy = false;
    }
  };
}

// -- figures ----------------------------------------------------------------------------------------------------------

const refresh = exclusive(async () => {
  const figures = await askJson("/metrics/dhash");
  at("images").textContent = figures.images.toLocaleString("en");
  at("waiting").textContent = figures.doubtful_queue.toLocaleString("en");
  at("release").textContent = figures.release;
  const health = await (await fetch("/health")).json();  // also when its status is 503
  at("health").textContent = [health.status, ...health.warnings].join(": ");
});

// -- pictures ---------------------------------------------------------------------------------------------------------

const nameOf = (image) => image.path ?? `posted, ${image.sha256.slice(0, 16)}`;

function sizeOf(bytes) {
  for (const unit of ["bytes", "kB", "MB"]) {
    if (bytes < 1000) return `${bytes < 10 && unit !== "bytes" ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} GB`;
}

/** Shows an image of the index in a figure. The script fetches the thumbnail, because that may need the token. */
async function show(figure, image, side, words = []) {
  const caption = part("figcaption");
  if (words.length) caption.append(part("strong", words.join(", ")));
  const facts = `${image.width} × ${image.height}, ${image.format}, ${sizeOf(image.size)}`;
  caption.append(part("span", nameOf(image)), part("br"), part("span", facts));
  figure.dataset.sha256 = image.sha256;
  for (const old of figure.querySelectorAll("img")) URL.revokeObjectURL(old.src);
  figure.replaceChildren(part("div", "", { className: "missing" }), caption);
  let picture;
  try {
    const blob = await (await ask(`/v1/images/${image.sha256}/thumbnail?side=${side}`)).blob();
    picture = part("img", "", { alt: nameOf(image), src: URL.createObjectURL(blob) });
  } catch (error) {
    picture = part("div", error.status === 404 ? "There is no thumbnail." : error.message, { className: "missing" });
  }
  if (figure.dataset.sha256 === image.sha256) figure.firstChild.replaceWith(picture);
}

// -- search -----------------------------------------------------------------------------------------------------------

const search = exclusive(async (file) => {
  setStatus(`Searching for ${file.name} …`);
  const turned = at("transforms").checked;
  const { matches } = await askJson(`/v1/search?max_distance=${SEARCH_MAX_BITS}&limit=24&transforms=${turned}`, {
    method: "POST",
    body: file,
    headers: { "Content-Type": "application/octet-stream" },
  });
  const list = part("ul", "", { className: "many" });
  for (const match of matches) {
    const bits = match.distance === 1 ? "1 bit differs" : `${match.distance} bits differ`;
    const words = [match.confidence === "confident" ? "The same picture" : "Perhaps the same", bits];
    if (match.transform !== "none") words.push(match.transform);
    const figure = part("figure");
    const item = part("li");
    item.append(figure);
    list.append(item);
    show(figure, match.image, 256, words);
  }
  const heading = matches.length ? `${matches.length} similar to ${file.name}, the best first.` : `Nothing is similar to ${file.name}.`;
  at("results").replaceChildren(part("h3", heading), list);
  at("results").hidden = false;
  at("results").focus();
  setStatus("");
});

at("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  search(at("picture").files[0]);
});
const area = at("search");
area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
area.addEventListener("dragleave", () => area.classList.remove("over"));
area.addEventListener("drop", (event) => {
  event.preventDefault();
  area.classList.remove("over");
  if (event.dataTransfer.files.length) search(event.dataTransfer.files[0]);
});

// -- review -----------------------------------------------------------------------------------------------------------

let queue = [];      // pairs to review, the first one is shown
let next = null;     // start of the next page
let before = [];     // pairs decided or skipped, so that a decision can be corrected

async function load(after = null) {
  const page = await askJson(`/v1/review?limit=${PAGE_PAIRS}${after ? `&after=${after}` : ""}`);
  queue.push(...page.pairs.filter((pair) => !before.some((one) => one.id === pair.id)));
  next = page.next;
}

/** Loads pairs until there is one to show. At the end it starts again: a decision can add pairs to the queue. */
async function fill() {
  while (!queue.length && next) await load(next);
  if (!queue.length && before.length) await load();
  while (!queue.length && next) await load(next);
}

async function showNext() {
  await fill();
  const pair = queue[0];
  at("back").disabled = !before.length;
  at("pair").hidden = !pair && !before.length;
  for (const id of ["same", "different", "later"]) at(id).disabled = !pair;
  at("none").hidden = Boolean(pair);
  if (!pair) {
    at("none").textContent = before.length ? "That was the last one." : "Nothing waits for review.";
    at("how-near").textContent = "";
    for (const id of ["first", "second"]) { at(id).replaceChildren(); delete at(id).dataset.sha256; }
    return;
  }
  const alike = pair.score === null ? "" : `, ${Math.round(pair.score * 100)} % alike`;
  at("how-near").textContent = `${pair.distance} of 128 bits differ${alike}.`;
  at("pair").dataset.id = pair.id;
  show(at("first"), pair.first, 512);
  show(at("second"), pair.second, 512);
}

const decide = exclusive(async (decision) => {
  const pair = queue[0];
  if (!pair) return;
  await ask(`/v1/review/${pair.id}`, {
    method: "POST",
    body: JSON.stringify({ decision }),
    headers: { "Content-Type": "application/json" },
  });
  before.push(queue.shift());
  setStatus(`Saved: ${nameOf(pair.first)} and ${nameOf(pair.second)} are ${decision}.`);
  await showNext();
});

const later = exclusive(async () => {
  if (!queue.length) return;
  before.push(queue.shift());
  setStatus("Skipped; this pair will come again.");
  await showNext();
});

const back = exclusive(async () => {
  if (!before.length) return;
  queue.unshift(before.pop());
  setStatus("Previous pair. A new decision replaces the earlier one.");
  await showNext();
});

const begin = exclusive(async () => {
  queue = [];
  before = [];
  try {
    await load();
    await showNext();
  } catch (error) {
    at("none").textContent = error.message;
    throw error;
  }
});

const keys = { s: () => decide("same"), d: () => decide("different"), n: later, b: back };
at("same").addEventListener("click", keys.s);
at("different").addEventListener("click", keys.d);
at("later").addEventListener("click", later);
at("back").addEventListener("click", back);
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (typing || !at("keys").checked || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  keys[event.key.toLowerCase()]?.();
});

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value.trim());
  at("token").value = "";
  at("access").open = false;
  setStatus("The token is used from now on.");
  if (!queue.length) begin();
});

refresh();
setInterval(() => document.hidden || refresh(), REFRESH_MS);
begin();
