// Follows the model's commits while a page is open, and loads anew what they changed.
"use strict";

const live = document.getElementById("live");
const source = document.body.dataset.events;

// What a run has answered stays: to load such a page again would send its form again.
const answered = () => document.querySelector("[data-answer]") !== null;

// What somebody has typed and ticked to call a function stays when that part of the page is replaced.
function keep(old, fresh) {
  for (const field of old.querySelectorAll("[name]")) {
    if (field.type === "hidden" || field.form?.id !== "call") continue;
    let same = fresh.querySelector(`[name="${CSS.escape(field.name)}"]:not(button)`);
    const listed = fresh.querySelector("#chosen");
    if (!same && field.checked && listed) {
      // A tensor that the new filter leaves out is still chosen.
      listed.append(field.closest("label"));
      listed.hidden = false;
      same = field;
    }
    if (!same) continue;
    same.checked = field.checked;
    if (field.type !== "checkbox") same.value = field.value;
  }
}

async function filter(form, submitter) {
  const fields = new URLSearchParams(new FormData(form));
  if (submitter?.name) fields.set(submitter.name, submitter.value);
  const answer = await fetch(`?${fields}`, { headers: { accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [old, fresh] = [document.getElementById("tensors"), page.getElementById("tensors")];
  if (!answer.ok || !fresh) return location.assign(`?${fields}`);
  keep(old, fresh);
  old.replaceWith(fresh);
  history.pushState(null, "", `?${fields}`);
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("#tensors form")) return;
  event.preventDefault();
  filter(event.target, event.submitter);
});
window.addEventListener("popstate", () => location.reload());

async function reload(names) {
  if (answered()) return;
  const answer = await fetch(location.href, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const table = document.querySelector("#variables tbody");
  if (table) {
    for (const row of page.querySelectorAll("#variables tbody tr")) {
      if (!names.has(row.dataset.variable)) continue;
      const old = table.querySelector(`tr[data-variable="${CSS.escape(row.dataset.variable)}"]`);
      if (!old) continue;
      old.replaceWith(row);
      row.classList.add("changed");
      setTimeout(() => row.classList.remove("changed"), 4000);
    }
    return;
  }
  // A page on which somebody types is left alone.
  const typing = document.activeElement && document.activeElement.closest("main form");
  if (typing) return;
  const [main, fresh] = [document.querySelector("main"), page.querySelector("main")];
  keep(main, fresh);
  main.replaceWith(fresh);
  const title = document.querySelector("main h1[data-variable]");
  if (title && names.has(title.dataset.variable)) {
    title.classList.add("changed");
    setTimeout(() => title.classList.remove("changed"), 4000);
  }
}

if (source) {
  const events = new EventSource(source);
  let pending = null;
  let names = new Set();
  events.addEventListener("watching", (event) => {
    // What was committed between the page and the watch is loaded as a whole.
    const behind = JSON.parse(event.data).revision > Number(document.body.dataset.revision);
    if (behind && !answered()) return location.reload();
    live.textContent = "live";
  });
  events.addEventListener("commit", (event) => {
    const commit = JSON.parse(event.data);
    document.getElementById("revision").textContent = commit.revision;
    document.body.dataset.revision = commit.revision;
    live.textContent = `live · ${commit.kind}${commit.message ? ": " + commit.message : ""}`;
    if (commit.more && !answered()) return location.reload();
    commit.variables.forEach((name) => names.add(name));
    // Commits that come together are shown together.
    pending ??= setTimeout(() => {
      const gathered = names;
      names = new Set();
      pending = null;
      reload(gathered);
    }, 150);
  });
  const lost = () => { live.textContent = "not connected, trying again"; };
  events.addEventListener("lost", lost);
  events.onerror = lost;
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea")) return;
  const field = document.querySelector('[data-shortcut="/"]');
  if (field) { event.preventDefault(); field.focus(); }
});
