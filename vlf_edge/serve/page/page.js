"use strict";
// Asks for the state a few times a second and for pictures as fast as it can show them: nothing is pushed, so a slow
// browser asks less. All text comes from strangers (labels, names of files) and only ever becomes text.

const STATE_MS = 250, LESSON_MS = 120, HIDDEN_MS = 5000, PICTURE_MS = 80;
const PICTURES_AT_ONCE = 3, EVENTS_SHOWN = 100, OLD_FRAME_S = 3;
const STATES = {
  waiting: ["Waiting", ""], warming: ["Warming up", ""], ok: ["OK", "good"], gap: ["Gap", "warn"], stale: ["Stale", "warn"],
  failed: ["Model failed", "bad"], no_signal: ["No signal", "bad"], silent: ["Silent", "warn"],
  given_up: ["Given up", "bad"], ended: ["Ended", ""],
};
const CAUSES = {
  overload: "machine too slow", undecoded: "damaged", late: "read came too late", at_end: "waiting at the end",
  failed: "could not be run", not_numbers: "answer no number", stale: "decided too late", undelivered: "sinks too slow",
};
const STAGES = {  // in the order in which a frame meets them
  preprocess: "cut to size", queue: "waiting", frame_stage: "frame stage", clip_stage: "clip stage",
  decision: "decision", age: "capture to decision",
};
const $ = (id) => document.getElementById(id);
const cards = new Map();  // stream -> Card
const events = new Map();  // "stream id" -> event
let cursor = "", clockAhead_s = 0, contact_ms = Date.now(), inFlight = 0, loggedIn = false;

// Small helpers

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
function say(element, text) { if (element.textContent !== text) element.textContent = text; }
function announce(text) { $("announce").textContent = text; }
const serverNow_s = () => Date.now() / 1000 + clockAhead_s;
const clock = (unix_s) => new Date((unix_s - clockAhead_s) * 1000).toLocaleTimeString([], { hour12: false });
const percent = (share) => `${Math.round(share * 100)}\u00a0%`;
const plural = (n, noun) => `${n.toLocaleString()} ${noun}${n === 1 ? "" : "s"}`;
const number = (n) => (n === undefined ? "" : n.toLocaleString());
function duration(s) {
  if (s < 60) return `${s < 10 ? Math.max(0, s).toFixed(1) : Math.floor(s)}\u00a0s`;
  const min = Math.floor(s / 60);
  return min < 60 ? `${min}\u00a0min ${Math.floor(s % 60)}\u00a0s` : `${Math.floor(min / 60)}\u00a0h ${min % 60}\u00a0min`;
}
function position(s) { return `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}`; }
const hues = new Map();  // as far apart as can be, in the order in which the labels come
function colour(label) {
  if (!hues.has(label)) hues.set(label, (210 + hues.size * 137.508) % 360);
  return `hsl(${hues.get(label)} 62% 52%)`;
}

// One stream

class Card {
  constructor(name) {
    this.name = name;
    this.root = $("card").content.firstElementChild.cloneNode(true);
    for (const part of ["name", "state", "picture", "nothing", "paused", "decision", "label", "score", "bars", "strip", "facts", "pause", "zoom"])
      this[part] = this.root.querySelector(`.${part}`);
    this.image = this.root.querySelector("img");
    this.number = 0;
    this.isPaused = this.visible = this.busy = false;
    this.name.textContent = this.name.title = name;
    this.root.setAttribute("aria-label", `Stream ${name}`);
    this.pause.setAttribute("aria-label", `Pause ${name}`);
    this.zoom.setAttribute("aria-label", `Enlarge ${name}`);
    this.image.alt = `Live picture of ${name}`;
    this.pause.addEventListener("click", () => this.setPaused(!this.isPaused));
    this.zoom.addEventListener("click", () => this.setZoomed(!this.isZoomed));
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.stream = name;
  }

  get isZoomed() { return this.root.classList.contains("zoomed"); }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const onCard = event.target === this.root, key = event.key.toLowerCase();
    const move = { arrowright: 1, arrowleft: -1 }[key];
    if (key === "p" || (onCard && key === " ")) this.setPaused(!this.isPaused);
    else if (key === "z" || (onCard && key === "enter")) this.setZoomed(!this.isZoomed);
    else if (key === "escape" && this.isZoomed) this.setZoomed(false);
    else if (move && !this.isZoomed) {
      const all = [...$("streams").children], to = all[all.indexOf(this.root) + move];
      if (!to) return;
      to.focus();
    } else return;
    event.preventDefault();
  }

  setPaused(on) {
    this.isPaused = on;
    this.paused.hidden = !on;
    this.pause.setAttribute("aria-pressed", on);
    say(this.pause, on ? "Resume" : "Pause");
    announce(`${this.stream}: ${on ? "paused" : "live again"}`);
  }

  setZoomed(on) {
    this.root.classList.toggle("zoomed", on);
    this.zoom.setAttribute("aria-pressed", on);
    say(this.zoom, on ? "Back" : "Enlarge");
    // What lies behind is out of reach for keys and screen readers too.
    for (const other of [$("top"), ...$("app").querySelectorAll(":scope > section:not(.streams), #keys"), ...$("streams").children])
      if (other !== this.root) other.inert = on;
    document.body.style.overflow = on ? "hidden" : "";
    this.root.focus({ preventScroll: on });
    this.drawStrip();
  }

  show(stream) {
    const silent = stream.live && stream.frame_s !== null && serverNow_s() - stream.frame_s > OLD_FRAME_S;
    if (silent && !["no_signal", "given_up", "ended"].includes(stream.state)) stream = { ...stream, state: "silent", since_s: stream.frame_s };
    const [word, kind] = STATES[stream.state] ?? [stream.state, ""];
    if (this.known && this.known.state !== stream.state && ["no_signal", "given_up", "failed", "stale", "silent"].some((s) => s === stream.state || s === this.known.state))
      announce(`${stream.name}: ${word}`);
    this.known = stream;
    say(this.state, word);
    this.state.className = `state ${kind}`;
    this.showAway(stream);
    say(this.facts, this.factsOf(stream));
    if (this.isPaused) return;
    const decided = stream.label !== null && !this.root.classList.contains("away");
    this.decision.hidden = !decided;
    if (decided) {
      say(this.label, stream.label);
      say(this.score, percent(stream.score));
    }
    this.showBars(decided ? stream.topk : []);
    this.drawStrip();
  }

  showAway(stream) {
    const now_s = serverNow_s(), old_s = stream.frame_s === null ? 0 : now_s - stream.frame_s;
    let text = "";
    if (stream.state === "ended") text = `Ended at ${clock(stream.since_s)}`;
    else if (stream.state === "given_up") text = `Given up at ${clock(stream.since_s)}`;
    else if (stream.state === "no_signal") text = `No signal since ${clock(stream.since_s)} (${duration(now_s - stream.since_s)})`;
    else if (stream.frame_s === null) text = `No frame yet, for ${duration(now_s - stream.since_s)}`;
    else if (stream.state === "failed") text = "The model’s answer is not a number";
    else if (stream.state === "silent") text = `No new frame for ${duration(old_s)}`;
    if (text && stream.reason) text += `\n${stream.reason}`;
    say(this.nothing, text);
    this.root.classList.toggle("away", text !== "");
  }

  factsOf(stream) {
    const facts = [`${STATES[stream.state]?.[0] ?? stream.state} since ${clock(stream.since_s)}`];
    if (stream.age_ms !== null && stream.label !== null) facts.push(`decision ${stream.age_ms.toFixed(0)}\u00a0ms after the picture`);
    const lost = Object.values(stream.lost).reduce((sum, n) => sum + n, 0);
    if (lost) facts.push(`${number(lost)} lost`);
    if (stream.reconnects) facts.push(plural(stream.reconnects, "reconnection"));
    return facts.join(" · ");
  }

  showBars(topk) {
    while (this.bars.children.length > topk.length) this.bars.lastChild.remove();
    this.bars.dataset.none = topk.length ? "" : "No decision";
    topk.forEach(([label, score], rank) => {
      let row = this.bars.children[rank];
      if (!row) {
        row = make("li");
        const track = make("span", "track");
        track.setAttribute("aria-hidden", "true");
        track.append(make("span", "fill"));
        row.append(make("span", "what"), track, make("span", "share"));
        this.bars.append(row);
      }
      const [what, track, share] = row.children;
      say(what, label);
      what.title = label;
      track.firstChild.style.width = `${(score * 100).toFixed(1)}%`;
      say(share, percent(score));
    });
  }

  // The newest decisions, left to right: height is the score, colour the label; a line where there was none.
  drawStrip() {
    const canvas = this.strip, scale = devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale), height = Math.round(28 * scale);
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const draw = canvas.getContext("2d"), kept = 40, step = width / kept, decided = this.known?.decided ?? [];
    draw.clearRect(0, 0, width, height);
    decided.forEach(([label, score], i) => {
      const x = (kept - decided.length + i) * step, tall = label === null ? 2 * scale : Math.max(3 * scale, score * height);
      draw.fillStyle = label === null ? "#8b95a5" : colour(label);
      draw.fillRect(x, height - tall, Math.max(1, step - 1.5 * scale), tall);
    });
  }

  async fetchPicture() {
    this.busy = true;
    inFlight += 1;
    try {
      const answer = await fetch(`api/streams/${encodeURIComponent(this.stream)}/picture?after=${this.number}`);
      if (answer.status === 200) {
        const url = URL.createObjectURL(await answer.blob()), before = this.image.src;
        this.number = Number(answer.headers.get("x-picture"));
        this.image.src = url;
        await this.image.decode().catch(() => {});
        this.image.hidden = false;
        if (before) URL.revokeObjectURL(before);
      }
    } catch { /* the state tells that the contact is lost */ }
    inFlight -= 1;
    this.busy = false;
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = [...cards.values()].find((one) => one.root === entry.target);
    if (card) card.visible = entry.isIntersecting;
  }
}, { rootMargin: "200px" });

let turn = 0;
function fetchPictures() {
  if (!loggedIn || document.hidden) return;
  const zoomed = [...cards.values()].filter((card) => card.isZoomed), shown = zoomed.length ? zoomed : [...cards.values()];
  const wanted = shown.filter((card) => card.visible && !card.isPaused && !card.busy && card.known?.picture > card.number);
  for (let i = 0; i < wanted.length && inFlight < PICTURES_AT_ONCE; i += 1) wanted[(turn + i) % wanted.length].fetchPicture();
  turn += 1;
}

// The whole

function showState(state) {
  clockAhead_s = state.now_s - Date.now() / 1000;
  const names = new Set(state.streams.map((stream) => stream.name));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    if (card.isZoomed) card.setZoomed(false);
    seen.unobserve(card.root);
    card.root.remove();
    cards.delete(name);
  }
  for (const stream of state.streams) {
    if (!cards.has(stream.name)) addStream(stream.name);
    cards.get(stream.name).show(stream);
  }
  $("logout").hidden = !state.token_needed;
  $("streams").dataset.count = state.streams.length;
  $("no-streams").hidden = state.streams.length > 0;
  const health = $("health");
  say(health, state.health.ok ? "Healthy" : state.health.reason);
  health.className = state.health.ok ? "good" : "bad";
  $("random-weights").hidden = !state.plan.random_weights;
  showStages(state.stages, state.process);
  showFrames(state.streams);
  showSinks(state.sinks);
  say($("no-events"), state.events ? "No events yet. An action that lasts appears here when it begins." :
    "This run makes no events. Start it with --events to see the actions that last.");
  showPlan(state.plan);
  lesson.show(state.lesson);
}

function addStream(name) {
  const card = new Card(name);
  cards.set(name, card);
  $("streams").append(card.root);
  seen.observe(card.root);
  const option = make("option", "", name);
  option.value = name;
  $("of-stream").append(option);
}

function fillRows(body, rows) {
  while (body.children.length > rows.length) body.lastChild.remove();
  rows.forEach((cells, i) => fillRow(body.children[i] ?? body.appendChild(make("tr")), cells, "td"));
}
function fillRow(row, cells, tag) {
  while (row.children.length > cells.length) row.lastChild.remove();
  cells.forEach((text, column) => {
    let cell = row.children[column];
    if (!cell) {
      cell = row.appendChild(make(tag === "td" && column ? "td" : "th"));
      if (cell.tagName === "TH") cell.scope = tag === "td" ? "row" : "col";
    }
    say(cell, text);
    if (!column) cell.title = text;
  });
}
function showStages(stages, { cpu_s, mj_per_decision }) {
  const order = [...new Set([...Object.keys(STAGES), ...Object.keys(stages)])].filter((stage) => stages[stage]);
  const rows = order.map((stage) => [
    STAGES[stage] ?? stage.replaceAll("_", " "), ...["p50", "p95", "p99", "max"].map((p) => stages[stage][p]?.toFixed(2) ?? ""),
  ]);
  fillRows($("stages"), rows.length ? rows : [["Nothing has run yet", "", "", "", ""]]);
  const cost = [];
  if (cpu_s) cost.push(`${duration(cpu_s)} of processor time`);
  if (mj_per_decision) cost.push(`${mj_per_decision.toFixed(1)}\u00a0mJ a decision`);
  say($("cost"), cost.length ? `${cost.join(", ")}.` : "");
}
// Only the causes that occur have a column.
function showFrames(streams) {
  const causes = [...new Set(streams.flatMap(({ lost }) => Object.keys(lost).filter((cause) => lost[cause])))];
  const columns = ["Stream", "Captured", "Used", "Between instants", "Gaps"];
  const told = causes.map((cause) => `Lost: ${CAUSES[cause] ?? cause.replaceAll("_", " ")}`);
  fillRow($("frame-columns"), [...columns, ...(told.length ? told : ["Lost"])], "th");
  fillRows($("frames"), streams.map(({ name, counts, lost }) => [
    name, number(counts.captured), number(counts.encoded), number(counts.off_grid), number(counts.gaps),
    ...(causes.length ? causes.map((cause) => number(lost[cause] ?? 0)) : ["0"]),
  ]));
}

function showSinks(sinks) {
  $("sinks").hidden = sinks.length === 0;
  fillRows($("sink-rows"), sinks.map((sink) => [
    sink.name, sink.state === "ok" ? "OK" : `${sink.state} for ${duration(sink.since_s)}`, number(sink.written),
    number(sink.dropped + sink.failed), sink.last_error ?? "",
  ]));
}

let planShown = "";
function showPlan(plan) {
  const text = JSON.stringify(plan);
  if (text === planShown || !plan.file) return;
  planShown = text;
  say($("running"), `${plan.model}, ${plan.precision} on ${plan.backend} (${plan.device})`);
  document.title = `${plan.model} · vlf-edge`;
  const rows = [
    ["File", `${plan.file}, ${plan.digest}`],
    ["Model", `${plan.model}, ${plan.classes} classes${plan.random_weights ? ", RANDOM WEIGHTS" : ""}`],
    ["Precision", plan.precision],
    ["Runs on", `${plan.backend}, ${plan.device}`],
    ["Sampling", `${plan.frames} frames over ${plan.span_s} s, ${plan.decisions_per_s} decisions a second`],
    ["Gate", gateText(plan.gate)],
    ["Against fp32", fidelityText(plan.fidelity)],
  ];
  $("plan").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
}
function gateText(gate) {
  if (!gate) return "not measured";
  if (gate.none) return `none: ${gate.none}`;
  const gained = gate.drop_points < 0, points = gained ? -gate.drop_points : gate.drop_points ?? "NaN";
  const what = gate.measure === "accuracy" ? `points of accuracy ${gained ? "gained" : "lost"}` : "% of the decisions differ";
  return `${gate.passed ? "passed" : "FAILED"}: ${points} ${what} on ${gate.way}, ${gate.max_drop_points} may be lost, ${gate.windows} windows`;
}
function fidelityText(fidelity) {
  if (!fidelity) return "not measured for this backend";
  const exact = (share) => (share === null ? "NaN" : `${(share * 100).toFixed(1)}\u00a0%`);
  const facts = [`same decision in ${exact(fidelity.top1_agreement)}`];
  if (fidelity.accuracy !== null) facts.push(`accuracy ${exact(fidelity.accuracy)}`);
  return `${facts.join(", ")} of ${fidelity.windows} windows`;
}

// Events

function takeEvent(event) {
  const key = `${event.stream} ${event.id}`, known = events.get(key);
  if (!known && cursor) announce(`${event.stream}: ${event.label}`);
  events.set(key, event);
  if (events.size > 2 * EVENTS_SHOWN) events.delete(events.keys().next().value);
}
function timing(event) {
  if (event.t_end_s !== null) return duration(event.t_end_s - event.t_start_s);
  return event.began_s === null ? "now" : `now, for ${duration(serverNow_s() - event.began_s)}`;
}
function showEvents() {
  const of = $("of-stream").value;
  const shown = [...events.values()].filter((event) => !of || event.stream === of).reverse();
  shown.sort((a, b) => (b.began_s ?? 0) - (a.began_s ?? 0));  // of files, in the order in which they were told
  shown.splice(EVENTS_SHOWN);
  const rows = new Map([...$("events").children].map((row) => [row.dataset.key, row]));
  const now = shown.map((event) => {
    const key = `${event.stream} ${event.id}`, row = rows.get(key) ?? eventRow(key, event);
    const [, what, when, more, play] = row.children;
    row.classList.toggle("now", event.t_end_s === null);
    say(what, event.label);
    say(when, event.began_s === null ? position(event.t_start_s) : clock(event.began_s));
    say(more, `${event.stream} · ${timing(event)} · peak ${percent(event.peak_score)}`);
    play.hidden = event.clip === null;
    return row;
  });
  const list = $("events");
  if (now.length !== list.children.length || now.some((row, i) => row !== list.children[i])) list.replaceChildren(...now);
  $("no-events").hidden = now.length > 0;
}
function eventRow(key, event) {
  const row = make("li"), dot = make("span", "dot"), play = make("button", "", "Clip");
  row.dataset.key = key;
  dot.style.background = colour(event.label);
  play.type = "button";
  play.setAttribute("aria-label", `Play the clip of ${event.label} on ${event.stream}`);
  play.addEventListener("click", () => openClip(events.get(key)));
  row.append(dot, make("span", "what"), make("span", "when"), make("span", "more"), play);
  return row;
}
function openClip(event) {
  say($("clip-title"), `${event.label}, ${event.stream}`);
  $("clip-error").hidden = true;
  $("clip-video").src = $("clip-download").href = event.clip.replace(/^\//, "");
  $("clip").showModal();
  $("clip-video").play().catch(() => {});
}

// Asking

async function ask(path) {
  const answer = await fetch(path);
  if (answer.status === 401) {
    showLogin(true);
    throw new Error("a token is needed");
  }
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function look() {
  if (lesson.isOver) return;
  try {
    const state = await ask("api/state");
    showLogin(false);
    showState(state);
    if (state.events_cursor !== cursor) {
      const news = await ask(`api/events?since=${encodeURIComponent(cursor)}&limit=${EVENTS_SHOWN}`);
      news.events.forEach(takeEvent);
      cursor = news.cursor;
    }
    showEvents();
    contact_ms = Date.now();
    $("lost-contact").hidden = true;
  } catch {
    const gone_s = (Date.now() - contact_ms) / 1000;
    $("lost-contact").hidden = $("app").hidden || gone_s < 2;
    say($("lost-contact"), `The program has not answered since ${new Date(contact_ms).toLocaleTimeString([], { hour12: false })}. What you see is old.`);
    if (gone_s >= 2) $("health").className = "";
    if (gone_s >= 2) say($("health"), "No contact");
  }
  setTimeout(look, document.hidden ? HIDDEN_MS : lesson.isOn ? LESSON_MS : STATE_MS);
}

function showLogin(needed) {
  if (needed && $("login").hidden) say($("health"), "Locked");
  loggedIn = !needed;
  $("app").hidden = needed;
  if (needed) $("logout").hidden = true;
  if (needed && $("login").hidden) setTimeout(() => $("token").focus());
  $("login").hidden = !needed;
}

async function login(token) {
  const answer = await fetch("login", { method: "POST", body: new URLSearchParams({ token }) });
  say($("login-error"), answer.ok ? "" : (await answer.json()).error);
  if (!answer.ok) return;
  $("token").value = "";
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  login($("token").value).catch(() => say($("login-error"), "The program does not answer."));
});
$("logout").addEventListener("click", async () => {
  await fetch("logout", { method: "POST" });
});
$("of-stream").addEventListener("change", showEvents);
$("clip-close").addEventListener("click", () => $("clip").close());
$("clip").addEventListener("close", () => $("clip-video").removeAttribute("src"));
$("clip-video").addEventListener("error", () => { $("clip-error").hidden = !$("clip-video").hasAttribute("src"); });
addEventListener("resize", () => cards.forEach((card) => card.drawStrip()));

const lesson = new Lesson();
// A token that came with the address is used and taken out of it.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) history.replaceState(null, "", location.pathname);
Promise.resolve(given && login(given)).catch(() => {}).then(look);
setInterval(fetchPictures, PICTURE_MS);
