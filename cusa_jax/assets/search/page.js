// The page of search.py: asks as one types, shows what comes back. File names only ever become text, never markup.
"use strict";
const $ = (id) => document.getElementById(id);
const limit = Number(document.body.dataset.limit);
let query = null; // {text}, {photo} or {like}: what was asked last
let hits = [], total = 0, loading = false, asked = 0, viewed = 0, timer = 0;

function tell(message, error = false) {
  $("status").textContent = message;
  $("status").classList.toggle("error", error);
}

async function answer(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The server does not answer. Is search.py still running?");
  }
  const content = await response.json().catch(() => ({ error: `The server failed (${response.status}).` }));
  if (!response.ok) throw new Error(content.error);
  return content;
}

async function find(start = 0) {
  const mine = start ? asked : ++asked;
  if (!query) return;
  loading = true;
  const together = $("together").checked ? { together: 1 } : {};
  try {
    const found = await answer(`find?${new URLSearchParams({ ...query, ...together, start })}`);
    if (mine !== asked) return; // a later question is on its way
    if (!start) clear();
    $("hint").hidden = true;
    total = found.total;
    for (const hit of found.hits) show(hit);
    $("more").hidden = hits.length >= total;
    tell(`${total.toLocaleString("en")} ${$("together").checked ? "groups of photos" : "photos"}, best first. ${found.note}`);
  } catch (error) {
    if (mine === asked) tell(error.message, true);
  } finally {
    if (mine === asked) loading = false;
  }
  if (mine === asked && reached() && !$("status").classList.contains("error")) more();
}

function clear() {
  hits = [];
  $("hits").replaceChildren();
  $("more").hidden = true;
  window.scrollTo(0, 0);
}

function show(hit) {
  const place = hits.push(hit) - 1;
  const button = element("button", "hit"), image = element("img");
  button.type = "button";
  image.loading = "lazy";
  image.alt = "";
  image.src = `thumbnail/${hit.number}`;
  image.onerror = () => image.replaceWith(element("span", "gone", "No longer there"));
  const more = hit.alike.length ? ` · ${hit.alike.length + 1} alike` : "";
  const name = element("span", "name", hit.path);
  name.title = hit.path;
  button.append(image, name, element("span", "score", hit.score.toFixed(3) + more));
  button.onclick = () => view(place);
  const item = element("li");
  item.append(button);
  $("hits").append(item);
}

function element(tag, kind = "", text = "") {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

function more() {
  if (!loading && hits.length < total) find(hits.length);
}

function reached() {
  return hits.length < total && window.innerHeight + window.scrollY > document.body.scrollHeight - 600;
}

function view(place) {
  viewed = place;
  const hit = hits[place], picture = $("viewer-picture");
  $("viewer-gone").hidden = true;
  picture.hidden = false;
  picture.alt = hit.path;
  picture.onerror = async () => {
    picture.hidden = true;
    $("viewer-gone").hidden = false;
    const reason = await answer(`large/${hit.number}`).catch((error) => error.message);
    if (hits[viewed] === hit) $("viewer-gone").textContent = String(reason).replace(/^t/, "T") + ".";
  };
  picture.src = `large/${hit.number}`;
  $("viewer-path").textContent = hit.path;
  $("viewer-score").textContent = `Number ${place + 1} of ${total}, cosine similarity ${hit.score.toFixed(4)}`;
  $("viewer-alike").replaceChildren(...hit.alike.map((other) => element("li", "", `alike: ${other.path}`)));
  $("previous").disabled = place === 0;
  $("next").disabled = place === hits.length - 1;
  if (place > hits.length - 5) more();
  if (!$("viewer").open) $("viewer").showModal();
}

function step(by) {
  if (hits[viewed + by]) view(viewed + by);
}

function ask(next, name = "", picture = "") {
  query = next;
  $("asked").hidden = !name;
  $("asked-name").textContent = name;
  if (picture) $("asked-picture").src = picture;
  find();
}

async function drop(file) {
  $("text").value = "";
  if (file.size > limit) return tell(`“${file.name}” is larger than ${Math.floor(limit / 2 ** 20)} MB.`, true);
  const mine = ++asked;
  tell("Looking at the photo…");
  try {
    const { photo } = await answer("photo", { method: "POST", body: file });
    if (mine === asked) ask({ photo }, `Photos like ${file.name}`, URL.createObjectURL(file));
  } catch (error) {
    if (mine === asked) tell(`“${file.name}”: ${error.message}.`, true);
  }
}

function typed() {
  clearTimeout(timer);
  const text = $("text").value.trim();
  if (text) return ask({ text });
  asked++;
  query = null;
  $("asked").hidden = true;
  clear();
  tell("");
  $("hint").hidden = false;
}

$("text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(typed, 120); });
document.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); typed(); });
$("together").addEventListener("change", () => find());
$("file").addEventListener("change", () => { if ($("file").files[0]) drop($("file").files[0]); $("file").value = ""; });
$("more").addEventListener("click", more);
window.addEventListener("scroll", () => { if (reached()) more(); }, { passive: true });
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => $("hits").children[viewed]?.firstChild.focus());
$("viewer").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
$("like").addEventListener("click", () => {
  const hit = hits[viewed];
  $("viewer").close();
  $("text").value = "";
  ask({ like: hit.number }, `Photos like ${hit.path}`, `thumbnail/${hit.number}`);
  // The photo that had the focus goes: the next Tab leads to what was found.
  viewed = -1;
  $("forget").focus();
});
$("forget").addEventListener("click", () => { typed(); $("text").focus(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== $("text") && !$("viewer").open) { event.preventDefault(); $("text").focus(); }
});
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const file = event.dataTransfer.files[0];
  if (file) drop(file);
  else tell("That was not a file: drop a photo from a folder.", true);
});
