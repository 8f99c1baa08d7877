// What /v1 gives, for eyes and hands. Everything that comes from outside is put in as text, never as markup.

const PAGE = 20;       // pairs asked for at a time
const WIDEST = 30;     // bits of 128: farther away nothing looks alike
const BUSY = 3;        // times that a "come back later" is followed
const FRESH = 4000;    // milliseconds after which the figures are asked for again; the service counts in the background

const at = (id) => document.getElementById(id);
const part = (name, text = "", more = {}) => Object.assign(document.createElement(name), { textContent: text, ...more });

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").classList.toggle("bad", bad);
}

// -- asking the service -----------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  for (let turn = 1; ; turn++) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The service does not answer.");
    }
    if (answer.ok) return answer;
    const wait = Number(answer.headers.get("Retry-After") ?? NaN);
    if (answer.status === 503 && wait <= 5 && turn < BUSY) {
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      continue;
    }
    if (answer.status === 401) at("access").open = true;
    const problem = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(problem.detail ?? `The service answered ${answer.status}.`), { status: answer.status });
  }
}

const askJson = async (path, options) => (await ask(path, options)).json();

/** Runs one thing at a time of its kind, and tells what went wrong. */
function doing(work) {
  let busy = false;
  return async (...given) => {
    if (busy) return;
    busy = true;
    try {
      await work(...given);
    } catch (error) {
      say(error.message, true);
    } finally {
      busy = false;
    }
  };
}

// -- figures ----------------------------------------------------------------------------------------------------------

const refresh = doing(async () => {
  const { instances } = await askJson("/metrics/dhash");
  const up = instances.filter((one) => one.up);
  const serving = up.find((one) => one.state === "serving") ?? up[0];
  at("images").textContent = serving.images.toLocaleString("en");
  at("waiting").textContent = serving.doubtful_queue.toLocaleString("en");
  at("release").textContent = serving.release;
  const health = await (await fetch("/health")).json();  // a failing one is an answer, too
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

/** Fills a figure with an image of the index. The thumbnail is fetched by hand, because it may need the token. */
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

const search = doing(async (file) => {
  say(`Looking for ${file.name} …`);
  const turned = at("transforms").checked;
  const { matches } = await askJson(`/v1/search?max_distance=${WIDEST}&limit=24&transforms=${turned}`, {
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
  const said = matches.length ? `${matches.length} like ${file.name}, the surest first.` : `Nothing is like ${file.name}.`;
  at("found").replaceChildren(part("h3", said), list);
  at("found").hidden = false;
  at("found").focus();
  say("");
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

let queue = [];      // pairs to come, the first one is shown
let next = null;     // where the next page begins
let before = [];     // pairs decided or put off, so that a slip can be taken back

async function load(after = null) {
  const page = await askJson(`/v1/review?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  queue.push(...page.pairs.filter((pair) => !before.some((one) => one.id === pair.id)));
  next = page.next;
}

/** Gets pairs until there is one to show. At the end it begins anew: a decision can bring up new questions. */
async function fill() {
  while (!queue.length && next) await load(next);
  if (!queue.length && before.length) await load();
  while (!queue.length && next) await load(next);
}

async function turn() {
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

const decide = doing(async (decision) => {
  const pair = queue[0];
  if (!pair) return;
  await ask(`/v1/review/${pair.id}`, {
    method: "POST",
    body: JSON.stringify({ decision }),
    headers: { "Content-Type": "application/json" },
  });
  before.push(queue.shift());
  say(`Written down: ${nameOf(pair.first)} and ${nameOf(pair.second)} are ${decision}.`);
  await turn();
});

const later = doing(async () => {
  if (!queue.length) return;
  before.push(queue.shift());
  say("Put off; it will be asked again.");
  await turn();
});

const back = doing(async () => {
  if (!before.length) return;
  queue.unshift(before.pop());
  say("The pair before. What you say now counts.");
  await turn();
});

const begin = doing(async () => {
  queue = [];
  before = [];
  try {
    await load();
    await turn();
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
  say("The token is used from now on.");
  if (!queue.length) begin();
});

refresh();
setInterval(() => document.hidden || refresh(), FRESH);
begin();
