"use strict";
// The life of the page. What a model wrote is only ever put into text nodes: nothing here parses markup.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const byId = (id) => document.getElementById(id);

// element("p", {class: "quiet"}, "text", otherElement)
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const words = read("words");
const payload = read("payload");
const { strings, runs, vocab, groups, items, trees } = payload;

// Light and dark

const theme = byId("theme");
function remembered() {
  try { return localStorage.getItem("fission-theme"); } catch { return null; }
}
function showTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
}
showTheme(remembered());
theme.addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  showTheme(next);
  try { localStorage.setItem("fission-theme", next); } catch { /* a page opened from a mail may not remember */ }
});

// Where on the page

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const link = links.get(entry.target.id);
    if (link && entry.isIntersecting) {
      for (const other of links.values()) other.classList.toggle("here", other === link);
    }
  }
}, { rootMargin: "-15% 0px -75% 0px" });
document.querySelectorAll("main section").forEach((section) => watcher.observe(section));

// Curves: the step and the values under the pointer

const points = read("points");
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  const lines = points[Number(figure.dataset.chart)];
  const svg = figure.querySelector("svg");
  const [left, right, first, last] = svg.dataset.frame.split(",").map(Number);
  const cursor = svg.querySelector(".cursor");
  const reading = figure.querySelector(".reading");
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect();
    const x = (event.clientX - place.left) / place.width * svg.viewBox.baseVal.width;
    const step = Math.round(first + (x - left) / (right - left) * (last - first));
    if (step < first || step > last) return;
    const at = left + (step - first) / (last - first) * (right - left);
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.removeAttribute("hidden");
    const seen = (line) => !svg.querySelector(`g[data-name="${CSS.escape(line.name)}"]`)?.hasAttribute("hidden");
    const told = lines.filter(seen).map((line) => [line.name, line.y[line.x.indexOf(step)]]).filter(([, value]) => value !== undefined);
    reading.textContent = `step ${step}: ` + told.map(([name, value]) => (lines.length > 1 ? `${name} ${value}` : value)).join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("hidden", "");
    reading.textContent = "";
  });
}

const switches = [...document.querySelectorAll("[data-line]")];
function showLines() {
  const off = new Set(switches.filter((one) => one.getAttribute("aria-pressed") === "false").map((one) => one.dataset.line));
  for (const line of document.querySelectorAll("g[data-name]")) line.toggleAttribute("hidden", off.has(line.dataset.name));
  for (const figure of document.querySelectorAll("figure[data-chart]")) figure.hidden = !figure.querySelector("g[data-name]:not([hidden])");
}
for (const one of switches) {
  one.addEventListener("click", () => {
    one.setAttribute("aria-pressed", String(one.getAttribute("aria-pressed") === "false"));
    showLines();
  });
}
if (switches.length) showLines();

// What a trajectory or an episode is called, and how it looks in a line

const groupOf = (item) => (item.group === undefined ? null : groups[item.group]);
const runOf = (item) => runs[(groupOf(item) || item).run];
const taskOf = (item) => strings[(groupOf(item) || item).task];
const kindOf = (item) => (groupOf(item) ? groupOf(item).kind : item.part);
const void_ = (item) => item.end === "harness_fault" || item.reward === null;
const tone = (item) => (void_(item) ? "void" : item.ok ? "ok" : "bad");
const mark = (item) => (void_(item) ? "–" : item.ok ? "✓" : "✗");
const callsOf = (item) => item.turns.map((turn) => strings[turn[1]]).join(" → ") || "(nothing)";
const className = (error) => words.classes[error] || error;
function signed(value) {
  const size = Math.abs(value).toFixed(2);
  return (size === "0.00" ? "±" : value > 0 ? "+" : "−") + size;
}
const isReward = (item) => item.reward !== undefined && item.reward !== null;

// One trajectory, to be read

function message(who, text, kind, ...badges) {
  return element("div", { class: `said ${kind}` }, element("div", { class: "who" }, who, ...badges), element("pre", {}, text));
}

function badge(text, kind) {
  return text ? element("span", { class: `badge ${kind || ""}` }, text) : null;
}

function turnMessages(turn, options) {
  const { raw, context, failed, feedback } = options;
  const [text, readable, replies, malformed] = turn;
  const notes = malformed.map((place) => badge(`malformed: ${strings[place]}`, "bad"));
  const made = [message("policy", strings[raw ? text : readable] || "(empty)", `policy${failed ? " failed" : ""}${context ? " context" : ""}`, failed ? badge("this message failed", "bad") : null, ...notes)];
  if (feedback) return made;
  for (const [reply, kind, error] of replies) {
    made.push(message("tool", strings[reply], `reply${context ? " context" : ""}`, error ? badge(className(error), "bad") : badge(kind === "success" ? "" : kind.replace("_", " "), "bad")));
  }
  return made;
}

function prefix(group, raw) {
  // What stood in the context of a recovery: the failed trajectory up to its failed message, and the feedback on it.
  if (!group.parent) return [];
  const [from, place, turn] = group.parent;
  const parent = items[groups[from].first + place];
  const before = parent.turns.slice(0, turn + 1).flatMap((one, at) => turnMessages(one, { raw, context: true, failed: at === turn, feedback: at === turn }));
  const leak = words.leaks[group.leakage];
  const feedback = group.feedback.map((text) => message("feedback", strings[text], "feedback", badge(group.origin), badge(leak, group.leakage === "leaked" ? "bad" : ""), badge(group.fallback ? `fallback: ${group.fallback}` : "", "bad")));
  return [...(groups[from].parent ? prefix(groups[from], raw) : []), ...before, ...feedback, element("div", { class: "divider" }, "the recovery begins here")];
}

function requests(item, place) {
  // In an evaluation: what the user said before this message of the policy.
  return (item.asked || []).filter(([at]) => at === place).map(([, text]) => message("prompt", strings[text], "user"));
}

function talk(item, raw) {
  const group = groupOf(item);
  const made = element("div", { class: "talk" });
  if (group) made.append(message("prompt", strings[group.request], "user"), ...prefix(group, raw));
  else made.append(...requests(item, 0));
  if (item.probe) {
    made.append(message("injected error", strings[item.probe[1]], "policy failed context", badge(className(item.probe[0]), "bad")), element("div", { class: "divider" }, "the policy goes on from here"));
  }
  const failed = item.failure ? item.failure[1] : -1;
  item.turns.forEach((turn, place) => made.append(...(place ? requests(item, place) : []), ...turnMessages(turn, { raw, failed: place === failed && turn[2].every((reply) => !reply[2]) && turn[3].length === 0 })));
  if (words.ends[item.end]) made.append(element("div", { class: "divider" }, words.ends[item.end]));
  return made;
}

function tokens(item) {
  const group = groupOf(item);
  const trained = new Uint8Array(item.ids.length);
  for (const [start, stop] of item.sampled) trained.fill(1, start, stop);
  const pull = item.advantage > 0 ? "up" : item.advantage < 0 ? "down" : "flat";
  const shown = element("div", { class: "tokens" });
  item.ids.forEach((id, place) => shown.append(element("span", trained[place] ? { class: `in ${pull}` } : {}, visible(vocab[id]))));
  const context = element("details", {}, element("summary", {}, `The context, ${group.prompt.length} tokens, none trained`));
  context.addEventListener("toggle", () => {
    if (context.open && context.children.length === 1) {
      const before = element("div", { class: "tokens" });
      group.prompt.forEach((id) => before.append(element("span", {}, visible(vocab[id]))));
      context.append(before);
    }
  });
  const count = trained.reduce((sum, one) => sum + one, 0);
  const what = { up: `made likelier: advantage ${signed(item.advantage)}`, down: `made less likely: advantage ${signed(item.advantage)}`, flat: "in the loss, but without advantage" }[pull];
  return element("div", {}, element("p", { class: "notes" }, `${count} of ${item.ids.length} tokens are in the loss (coloured), ${what}; the others are the world's.`), context, shown);
}

const visible = (word) => word.replaceAll("\n", "⏎\n");

function facts(item) {
  const group = groupOf(item);
  const list = element("ul", { class: "terms" });
  const add = (name, value, title) => list.append(element("li", { title }, `${name} `, element("b", {}, value)));
  if (isReward(item)) {
    add("reward", item.reward.toFixed(3));
    add("advantage", signed(item.advantage));
    for (const [name, value, weight, why] of item.terms) add(strings[name], `${value.toFixed(2)} × ${weight.toFixed(2)}`, strings[why]);
  }
  if (group) add("step", group.step);
  if (item.verdict && item.verdict !== "ok") add("verdict", item.verdict, item.detail === undefined ? null : strings[item.detail]);
  if (item.fault) add("fault", item.fault);
  return list;
}

function reader(item, index) {
  const group = groupOf(item);
  const body = element("div", {});
  const views = [["Messages", () => talk(item, false)], ["As sampled", () => talk(item, true)]];
  if (group && item.ids.length) views.push(["Tokens and loss", () => tokens(item)]);
  const tabs = element("div", { class: "tabs", role: "group", "aria-label": "How to show it" });
  const show = (place) => {
    [...tabs.children].forEach((tab, other) => tab.setAttribute("aria-pressed", String(other === place)));
    body.replaceChildren(views[place][1]());
  };
  views.forEach(([name], place) => tabs.append(element("button", { type: "button", onclick: () => show(place) }, name)));
  show(0);
  const why = item.failure ? element("p", { class: "notes" }, `${item.ok ? "Its first error, in" : "Failed in"} message ${item.failure[1] + 1}`, item.failure[0] ? ` (${className(item.failure[0])})` : "", `: ${strings[item.failure[3]]}`) : null;
  return element("article", { class: `reader ${tone(item)}`, "data-item": index },
    element("h3", {}, element("span", { class: `badge ${item.ok ? "ok" : "bad"}` }, void_(item) ? "not judged" : item.ok ? "right" : "wrong"), taskOf(item), badge(kindOf(item)), runs.length > 1 ? badge(runOf(item)) : null, ...(item.tags || []).map((tag) => badge(tagNames[tag] || tag))),
    facts(item), why, tabs, body, sameTask(item, index));
}

function sameTask(item, index) {
  // The same task in the other runs of a comparison.
  if (groupOf(item)) return null;
  const found = [];
  for (const other of elsewhere().get(`${item.part}\n${item.task}`) || []) if (other !== index) found.push(other);
  if (!found.length) return null;
  return element("div", { class: "others" }, "The same task:", ...found.map((other) => element("button", { type: "button", onclick: () => choose(other) }, `${mark(items[other])} ${runOf(items[other])}`)));
}

let byTask = null;
function elsewhere() {
  if (!byTask) {
    byTask = new Map();
    items.forEach((item, index) => {
      if (item.group === undefined) {
        const key = `${item.part}\n${item.task}`;
        if (!byTask.has(key)) byTask.set(key, []);
        byTask.get(key).push(index);
      }
    });
  }
  return byTask;
}

const tagNames = { fixed: "newly fixed", broken: "newly broken", best: "best", worst: "worst", random: "random" };

// Trees

const treeBox = byId("tree");
if (treeBox) {
  const detail = byId("tree-detail");
  const filter = byId("tree-filter");
  const ofClass = byId("tree-class");
  let shown = [];
  let place = 0;
  const members = (group) => items.slice(group.first, group.first + group.count);
  const rights = (group) => members(group).filter((item) => item.ok).length;
  const parentOf = (group) => groups[group.parent[0]];
  const rules = {
    all: () => true,
    rescued: (group) => rights(parentOf(group)) === 0 && rights(group) > 0,
    mixed: (group) => rights(group) > 0 && rights(group) < group.count,
    right: (group) => rights(group) === group.count,
    wrong: (group) => rights(group) === 0,
  };
  for (const error of [...new Set(trees.map((index) => groups[index].error).filter(Boolean))].sort()) {
    ofClass.append(element("option", { value: error }, className(error)));
  }

  function card(item, index, fissioned) {
    const numbers = element("div", { class: "numbers" });
    if (isReward(item)) numbers.append(element("b", {}, item.reward.toFixed(2)), `A ${signed(item.advantage)}`);
    return element("button", { type: "button", class: `card ${tone(item)}${fissioned ? " fissioned" : ""}`, "aria-pressed": "false", "data-index": index, onclick: (event) => open(index, event.currentTarget) },
      element("span", { class: "mark" }, mark(item)), element("span", { class: "calls" }, callsOf(item)), numbers);
  }

  function open(index, button) {
    treeBox.querySelectorAll(".card").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
    detail.replaceChildren(reader(items[index], index));
  }

  function draw() {
    byId("tree-place").textContent = shown.length ? `${place + 1} of ${shown.length}` : "none";
    detail.replaceChildren();
    if (!shown.length) {
      treeBox.replaceChildren(element("p", { class: "empty" }, "No tree like this among those on the page."));
      return;
    }
    const group = groups[shown[place]];
    const from = parentOf(group);
    const [, failed, turn] = group.parent;
    const column = (title, cards) => element("div", { class: "column" }, element("h4", {}, title), ...cards);
    const cardsOf = (one, fissioned) => members(one).map((item, at) => card(item, one.first + at, at === fissioned));
    const explored = column(`${from.kind === "fission" ? "earlier recoveries" : "explored"}, step ${from.step}: ${rights(from)} of ${from.count} right`, cardsOf(from, failed));
    const leak = { blind: "written without the reference in sight", clean: "checked against the reference: no leak", leaked: "leaked, and was replaced" }[group.leakage];
    const failedItem = items[from.first + failed];
    const says = element("div", { class: "says" },
      element("div", { class: "quiet" }, `message ${turn + 1} failed`, group.error ? `: ${className(group.error)}` : ""),
      element("pre", {}, strings[failedItem.turns[turn][1]]),
      element("div", { class: "quiet" }, "feedback"), ...group.feedback.map((text) => element("pre", {}, strings[text])),
      badge(`by ${group.origin}`), " ", badge(leak, group.leakage === "leaked" ? "bad" : "ok"), " ", badge(group.fallback ? `fallback: ${group.fallback}` : "", "bad"));
    const middle = element("div", { class: "column" }, says);
    const recovered = column(`recoveries, step ${group.step}: ${rights(group)} of ${group.count} right`, cardsOf(group, -1));
    const lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const tree = element("div", { class: "tree" }, explored, middle, recovered);
    tree.prepend(lines);
    const about = runs.length > 1 ? `${runs[group.run]}, task ${strings[group.task]}` : `task ${strings[group.task]}`;
    treeBox.replaceChildren(element("div", { class: "request" }, element("div", {}, strings[from.request]), element("div", { class: "quiet" }, about)), tree);
    connect(tree, lines);
  }

  function connect(tree, lines) {
    const box = tree.getBoundingClientRect();
    if (!box.width) return;
    lines.replaceChildren();
    lines.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
    const [explored, middle, recovered] = tree.querySelectorAll(".column");
    const says = middle.querySelector(".says").getBoundingClientRect();
    const line = (x1, y1, x2, y2, kind) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const half = (x1 + x2) / 2;
      path.setAttribute("d", `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}`);
      path.setAttribute("class", kind);
      lines.append(path);
    };
    const level = (place_) => place_.top + place_.height / 2 - box.top;
    const failed = explored.querySelector(".fissioned").getBoundingClientRect();
    line(failed.right - box.left, level(failed), says.left - box.left, level(says), "failed");
    for (const one of recovered.querySelectorAll(".card")) {
      const at = one.getBoundingClientRect();
      line(says.right - box.left, level(says), at.left - box.left, level(at), one.classList.contains("ok") ? "right" : "");
    }
  }

  function choice() {
    shown = trees.filter((index) => rules[filter.value](groups[index]) && (!ofClass.value || groups[index].error === ofClass.value));
    place = 0;
    draw();
  }
  function go(by) {
    if (shown.length) place = (place + by + shown.length) % shown.length;
    draw();
  }
  filter.addEventListener("change", choice);
  ofClass.addEventListener("change", choice);
  byId("tree-back").addEventListener("click", () => go(-1));
  byId("tree-on").addEventListener("click", () => go(1));
  byId("trees").addEventListener("keydown", (event) => {
    if (event.target.matches("select, input")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) {
      event.preventDefault();
      go(by);
    }
  });
  new ResizeObserver(() => {
    const tree = treeBox.querySelector(".tree");
    if (tree) connect(tree, tree.querySelector("svg"));
  }).observe(treeBox);
  const told = trees.map((index, at) => [rules.rescued(groups[index]) && rules.mixed(groups[index]), at]).find(([telling]) => telling);
  choice();
  if (told) {
    place = told[1];
    draw();
  }
}

// Samples: only the lines in sight exist

const list = byId("list");
let choose = () => {};
if (list) {
  const HEIGHT = 52;
  const rows = byId("rows");
  const detail = byId("detail");
  const filters = { run: byId("run-filter"), kind: byId("kind-filter"), ok: byId("ok-filter"), class: byId("class-filter"), fate: byId("fate-filter") };
  const search = byId("search");
  const tags = byId("tags");
  let tag = "";
  let found = [];
  let selected = -1;
  let texts = null;

  const options = (select, values, name) => [...new Set(values)].filter((value) => value !== undefined && value !== null).sort().forEach((value) => select.append(element("option", { value }, name(value))));
  options(filters.run, items.map(runOf), (value) => value);
  options(filters.kind, items.map(kindOf), (value) => value);
  options(filters.class, items.map((item) => item.class), className);
  options(filters.fate, items.map((item) => item.fate), (value) => (words.fates[value] || [value])[0]);
  filters.run.parentElement.hidden = runs.length < 2;
  for (const name of ["", "fixed", "broken", "best", "worst", "random"]) {
    const count = name ? items.filter((item) => item.tags.includes(name)).length : items.length;
    if (count) tags.append(element("button", { type: "button", "aria-pressed": String(name === ""), "data-tag": name, onclick: () => pick(name) }, `${name ? tagNames[name] : "all"} ${count}`));
  }

  function pick(name) {
    tag = name;
    [...tags.children].forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.tag === name)));
    sift();
  }

  function textOf(index) {
    // Made when somebody searches for the first time.
    texts = texts || new Array(items.length);
    if (texts[index] === undefined) {
      const item = items[index];
      const group = groupOf(item);
      const parts = [taskOf(item), runOf(item)];
      if (group) parts.push(strings[group.request], ...group.feedback.map((text) => strings[text]));
      for (const [, text] of item.asked || []) parts.push(strings[text]);
      for (const [text, readable, replies] of item.turns) parts.push(strings[text], strings[readable], ...replies.map((reply) => strings[reply[0]]));
      texts[index] = parts.join("\n").toLowerCase();
    }
    return texts[index];
  }

  function sift() {
    const needles = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [
      [filters.run, (item) => runOf(item)], [filters.kind, kindOf], [filters.class, (item) => item.class],
      [filters.fate, (item) => item.fate], [filters.ok, (item) => (void_(item) ? "" : item.ok ? "1" : "0")],
    ].filter(([select]) => select.value);
    found = [];
    items.forEach((item, index) => {
      if (tag && !item.tags.includes(tag)) return;
      if (!wanted.every(([select, value]) => value(item) === select.value)) return;
      if (needles.length && !needles.every((needle) => textOf(index).includes(needle))) return;
      found.push(index);
    });
    byId("found").textContent = `${found.length.toLocaleString("en")} found`;
    rows.style.height = `${found.length * HEIGHT}px`;
    list.scrollTop = 0;
    selected = -1;
    paint();
  }

  function row(index, place) {
    const item = items[index];
    const group = groupOf(item);
    const numbers = isReward(item) ? `${item.reward.toFixed(2)}  A ${signed(item.advantage)}` : item.probe ? "probe" : "";
    const under = [group ? `step ${group.step}, ${group.kind}` : item.part, taskOf(item), item.class ? className(item.class) : "", item.fate ? (words.fates[item.fate] || [item.fate])[0] : "", runs.length > 1 ? runOf(item) : ""];
    return element("div", { class: `row ${tone(item)}`, role: "option", id: `row-${index}`, "aria-selected": String(place === selected), style: `top:${place * HEIGHT}px`, onclick: () => select(place) },
      element("span", { class: "mark" }, mark(item)), element("div", { class: "calls" }, callsOf(item)), element("span", { class: "quiet" }, numbers),
      element("div", { class: "under" }, under.filter(Boolean).join(" · ")));
  }

  function paint() {
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 4);
    const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 4);
    const made = [];
    for (let place = first; place < last; place += 1) made.push(row(found[place], place));
    rows.replaceChildren(...made);
    if (!found.length) rows.replaceChildren(element("p", { class: "empty" }, "Nothing on the page is like this."));
    list.setAttribute("aria-activedescendant", selected >= 0 ? `row-${found[selected]}` : "");
  }

  function select(place) {
    selected = Math.max(0, Math.min(found.length - 1, place));
    const top = selected * HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    paint();
    const index = found[selected];
    detail.replaceChildren(reader(items[index], index));
  }

  choose = (index) => {
    let place = found.indexOf(index);
    if (place < 0) {
      search.value = "";
      Object.values(filters).forEach((filter) => { filter.value = ""; });
      pick("");
      place = found.indexOf(index);
    }
    select(place);
  };

  let waiting = 0;
  list.addEventListener("scroll", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(paint);
  }, { passive: true });
  list.addEventListener("keydown", (event) => {
    const page = Math.floor(list.clientHeight / HEIGHT);
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -found.length, End: found.length }[event.key];
    if (by && found.length) {
      event.preventDefault();
      select(selected < 0 ? 0 : selected + by);
    }
  });
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(sift, 120);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      search.value = "";
      sift();
    }
  });
  Object.values(filters).forEach((filter) => filter.addEventListener("change", sift));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input, select, textarea")) {
      event.preventDefault();
      search.focus();
    }
  });
  sift();
  if (found.length) select(0);

  // `report.html#item-12` opens a sample, so that a line in a mail can point at one.
  const linked = () => {
    const named = /^#item-(\d+)$/.exec(location.hash);
    if (named && Number(named[1]) < items.length) {
      choose(Number(named[1]));
      byId("samples").scrollIntoView();
    }
  };
  addEventListener("hashchange", linked);
  linked();
}

document.documentElement.dataset.ready = String(Math.round(performance.now()));
