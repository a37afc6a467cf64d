"use strict";
// Everything from the results is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const list = document.getElementById("answers");
const more = document.getElementById("more");
const PAGE = 12;
const ENDS = {
  max_new_tokens: "cut off at the token limit",
  context: "cut off at the end of the context",
};
let found = [];
let shown = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

// The text of a step, in parts by turns of its writer and of the other model, which are marked.
function stepText(step) {
  const text = make(step.discarded ? "s" : "span", "text");
  const parts = step.parts || [step.text.trim() || "(end)"];
  parts.forEach((part, i) => text.append(i % 2 ? make("mark", "", part) : part));
  return text;
}

function stepItem(step, signal) {
  const item = make("li", `step ${step.writer}${step.discarded ? " discarded" : ""}`);
  const mark = make("i", "", step.writer === "small" ? "S" : "L");
  mark.setAttribute("aria-label", `${step.writer} model`);
  mark.setAttribute("role", "img");
  item.append(mark);
  item.append(stepText(step));
  const figures = make("div", "figures");
  const add = (name, value, digits) => {
    if (value !== undefined) figures.append(make("span", "", `${name} ${value.toFixed(digits)}`));
  };
  if (step.discarded) {
    const from = step.refused === undefined ? "taken back" : `refused from token ${step.refused}`;
    figures.append(make("span", "", from));
  } else if (step.others) {
    figures.append(make("span", "", `${step.others} by ${step.writer === "small" ? "L" : "S"}`));
  }
  if (step.drafts) {
    const sum = (at) => step.drafts.reduce((all, draft) => all + draft[at], 0);
    figures.append(make("span", "", `${sum(1)} of ${sum(0)} drafted`));
  }
  if (step.right !== undefined) figures.append(make("span", "", step.right ? "✓ step" : "✗ step"));
  add("before", step.before, 2);
  add(signal, step.score, 2);
  add("P(conf)", step.posterior, 2);
  figures.append(make("span", "", count(step.tokens, "token")));
  item.append(figures);
  return item;
}

function answerCard(answer) {
  const problem = data.problems[`${answer.domain}:${answer.problem}`];
  const card = make("article", "answer");
  const title = make("h3");
  title.append(make("span", "", `${answer.domain} ${answer.problem}`));
  title.append(make("span", "", answer.router));
  title.append(make("span", "verdict", answer.correct ? "✓ right" : "✗ wrong"));
  card.append(title);
  const share = answer.tokens ? Math.round((100 * answer.large) / answer.tokens) : 0;
  const meta = [`seed ${answer.seed}`, `${share} % of ${count(answer.tokens, "token")} by the large model`];
  meta.push(count(answer.handOvers, "hand-over"));
  if (problem.difficulty !== null) meta.unshift(`difficulty ${problem.difficulty}`);
  if (ENDS[answer.stop]) meta.push(ENDS[answer.stop]);
  if (answer.error) meta.push(`the checker failed: ${answer.error}`);
  card.append(make("p", "meta", meta.join(" · ")));
  if (problem.prompt) card.append(make("p", "prompt", problem.prompt));
  const steps = make("ol");
  for (const step of answer.steps) steps.append(stepItem(step, data.signals[answer.router]));
  card.append(steps);
  if (problem.answer) {
    const reference = make("details");
    reference.append(make("summary", "", "Reference"));
    reference.append(make("p", "prompt", problem.answer));
    card.append(reference);
  }
  return card;
}

function matches(answer, wanted, text) {
  for (const key of ["router", "domain", "correct"]) {
    if (wanted[key] && String(answer[key]) !== wanted[key]) return false;
  }
  if (!text) return true;
  const problem = data.problems[`${answer.domain}:${answer.problem}`];
  const parts = [`${answer.domain} ${answer.problem}`, problem.prompt, ...answer.steps.map((s) => s.text)];
  return parts.join("\n").toLowerCase().includes(text);
}

function grow() {
  for (const answer of found.slice(shown, shown + PAGE)) list.append(answerCard(answer));
  shown = Math.min(found.length, shown + PAGE);
  more.hidden = shown >= found.length;
  more.textContent = `Show more (${found.length - shown} left)`;
}

function update() {
  const wanted = Object.fromEntries(new FormData(form));
  const text = wanted.text.trim().toLowerCase();
  found = data.answers.filter((answer) => matches(answer, wanted, text));
  shown = 0;
  list.replaceChildren();
  document.getElementById("found").textContent = `${count(found.length, "answer")} found.`;
  grow();
}

for (const key of ["router", "domain"]) {
  for (const value of new Set(data.answers.map((answer) => answer[key]))) {
    const option = make("option", "", value);
    option.value = value;
    form.elements[key].append(option);
  }
}
form.addEventListener("input", update);
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", grow);
// On paper nothing can be opened.
const tables = document.querySelectorAll("details.domain");
addEventListener("beforeprint", () => tables.forEach((table) => { table.open = true; }));
addEventListener("afterprint", () => tables.forEach((table) => { table.open = false; }));
update();
