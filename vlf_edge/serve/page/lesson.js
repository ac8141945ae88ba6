"use strict";
// What is taught on the page: a button and a key for each label, what is to be done now, what happened. It asks; what
// comes of it is told by the state, as everything is. Helpers are page.js's, which makes the one Lesson there is.

const NEWS_MS = 5000;

class Lesson {
  constructor() {
    this.told = this.newsUntil_ms = 0;
    this.news = "nothing was taught";
    this.isOn = this.isOver = false;
    this.now = null;
    this.unsaved = 0;
    this.buttons = new Map();  // key -> button
    for (const [id, keys] of [["undo", "u"], ["drop", "\u001b"], ["save", "s"], ["go", "qq"], ["save-and-go", "sq"]])
      $(`lesson-${id}`).addEventListener("click", () => this.press(keys));
    $("lesson-end").addEventListener("click", () => this.leave());
    for (const id of ["stay", "go", "save-and-go"])
      $(`lesson-${id}`).addEventListener("click", () => $("lesson-leave").close());
    $("lesson-new").addEventListener("submit", (event) => this.name(event));
    $("lesson-label").addEventListener("keydown", (event) => { if (event.key === "Escape") event.target.blur(); });
    addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (!this.isOn || this.isOver || !loggedIn || event.defaultPrevented || event.repeat) return;
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, dialog")) return;
    const key = event.key.toLowerCase();
    if (this.buttons.has(key)) this.press(key);
    else if (key === "u" || key === "s") this.press(key);
    else if (key === "escape" && this.now) this.press("\u001b");
    else if (key === "n") $("lesson-label").focus();
    else if (key === "q") this.leave();
    else return;
    event.preventDefault();
  }

  press(keys) {
    this.mark(keys);
    return this.ask({ keys });
  }

  // The button that was pressed, until the state tells what came of it.
  mark(pressed) {
    for (const [key, button] of this.buttons) button.classList.toggle("asked", key === pressed);
  }

  async name(event) {
    event.preventDefault();
    this.labelsBefore = this.buttons.size;
    await this.ask({ label: $("lesson-label").value });
  }

  leave() {
    const some = this.unsaved > 0;
    say($("lesson-leave-what"), some ? `${plural(this.unsaved, "change")} not saved yet.` : "Everything is saved.");
    say($("lesson-go"), some ? "End without saving" : "End");
    $("lesson-save-and-go").hidden = !some;
    $("lesson-leave").showModal();
  }

  async ask(wish) {
    let why = "";
    try {
      const answer = await fetch("api/lesson", {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(wish),
      });
      if (answer.status === 401) showLogin(true);
      if (!answer.ok) why = (await answer.json()).error;
    } catch { why = "The program does not answer."; }
    if (why) this.mark(null);
    say($("lesson-error"), why);
  }

  show(state) {
    this.isOn = Boolean(state);
    $("lesson").hidden = !this.isOn;
    document.body.classList.toggle("teaching", this.isOn);
    if (!this.isOn) return;
    this.unsaved = state.unsaved;
    this.showLog(state.messages);
    this.showNow(state);
    this.showKeys(state.keys);
    $("lesson-drop").disabled = !state.now;
    say($("lesson-unsaved"), state.unsaved ? `${plural(state.unsaved, "change")} not saved to ${state.output} yet.` : `Saving writes ${state.output}.`);
    if (state.over) this.end();
  }

  // On the picture, so that it is seen from where one acts, and with the picture alone.
  showNow({ now, over }) {
    const said = $("lesson-now"), place = document.querySelector(".card .picture");
    if (place && said.parentElement !== place) place.append(said);
    const step = now && `${now.label} ${now.acting ? "now" : "soon"}`;
    if (step && step !== this.step) announce(now.acting ? `${now.label}: now` : `${now.label} in ${Math.ceil(now.left_s)}`);
    if (step !== this.step) this.mark(null);
    this.step = step;
    this.now = now;
    const left = now && (now.acting ? `: now, ${now.left_s.toFixed(1)}\u00a0s` : ` in ${Math.ceil(now.left_s)}`);
    const news = over ? `Ended: ${this.news}` : Date.now() < this.newsUntil_ms ? this.news : "";
    say(said, now && !over ? now.label + left : news);
    said.className = over || !now ? "news" : now.acting ? "acting" : "soon";
  }

  showKeys(keys) {
    for (const [key, label, examples] of keys) {
      if (!this.buttons.has(key)) this.addButton(key);
      const button = this.buttons.get(key), [, name, count] = button.children;
      say(name, label);
      say(count, plural(examples, "example"));
      button.setAttribute("aria-label", `${label}, ${plural(examples, "example")}`);
      const current = this.now?.label === label;
      button.setAttribute("aria-current", current);
    }
    const place = $("lesson-keys"), order = keys.map(([key]) => this.buttons.get(key));
    order.forEach((button, i) => { if (place.children[i] !== button) place.insertBefore(button, place.children[i]); });
    if (this.labelsBefore !== undefined && keys.length > this.labelsBefore) {  // what was named here is there
      this.labelsBefore = undefined;
      $("lesson-label").value = "";
      this.buttons.get(keys.findLast(([key]) => key !== "0")[0]).focus();
    }
  }

  addButton(key) {
    const button = make("button");
    button.type = "button";
    button.setAttribute("aria-keyshortcuts", key);
    button.append(make("kbd", "", key), make("span", "name"), make("span", "count"));
    button.addEventListener("click", () => this.press(key));
    this.buttons.set(key, button);
    $("lesson-keys").append(button);
  }

  // Newest first for the eye; each line is read aloud as it comes, but not what was there before.
  showLog(messages) {
    for (const [number, text] of messages) {
      if (number <= this.told) continue;
      this.told = number;
      this.mark(null);
      this.news = text;
      this.newsUntil_ms = Date.now() + NEWS_MS;
      $("lesson-log").prepend(make("li", "", text));
    }
    while ($("lesson-log").children.length > messages.length) $("lesson-log").lastChild.remove();
  }

  end() {
    this.isOver = true;
    $("lesson-leave").close();
    for (const control of document.querySelectorAll("#lesson button, #lesson input")) control.disabled = true;
    say($("health"), "Ended");
    $("health").className = "";
    say($("lesson-unsaved"), this.unsaved ? `${plural(this.unsaved, "change")} not saved.` : "");
  }
}
