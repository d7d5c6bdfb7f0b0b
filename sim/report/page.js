"use strict";
// Everything is on the page without this; here are only pointing, choosing and moving about.
window.addEventListener("error", (event) => {
  document.documentElement.dataset.error = event.message;
});
(() => {
  const scroll = document.getElementById("scroll");
  const inspector = document.getElementById("inspector");
  const overview = document.getElementById("overview");
  const view = document.getElementById("view");
  const trace = document.querySelector(".trace");
  const width = Number(document.getElementById("timeline").getAttribute("width"));
  const marks = [...document.querySelectorAll(".mark")];
  const linked = [...document.querySelectorAll("[data-inputs]")];
  const help = inspector.textContent;
  let picked = null;

  const near = (event, what) => (event.target instanceof Element ? event.target.closest(what) : null);
  const inputsOf = (element) => (element.dataset.inputs || "").split(" ").filter(Boolean);
  const markOf = (element) =>
    element.classList.contains("mark") ? element : document.getElementById("e" + element.dataset.event);
  const textOf = (mark) => mark.querySelector("title").textContent;

  const tell = (text) => {
    inspector.textContent = text || help;
    inspector.classList.toggle("told", Boolean(text));
  };
  const show = (x) => {
    scroll.scrollLeft = Number(x) - scroll.clientWidth * 0.6;
  };
  const seeInside = (box, element) => {
    const outer = box.getBoundingClientRect();
    const inner = element.getBoundingClientRect();
    if (inner.top < outer.top || inner.bottom > outer.bottom) {
      box.scrollTop += inner.top - outer.top - outer.height / 3;
    }
  };

  const choose = (element, move) => {
    const inputs = new Set(inputsOf(element));
    const mark = markOf(element);
    const chosen = linked.filter((one) => one === element || inputsOf(one).some((id) => inputs.has(id)));
    linked.forEach((one) => one.classList.remove("chosen"));
    chosen.forEach((one) => one.classList.add("chosen"));
    if (picked) picked.classList.remove("picked");
    picked = mark || chosen.find((one) => one.classList.contains("mark")) || null;
    document.body.classList.add("choosing");
    if (picked) {
      picked.classList.add("picked", "chosen");
      tell(textOf(picked));
      const x = Number(picked.dataset.x);
      const left = scroll.scrollLeft;
      if (move || x < left + 20 || x > left + scroll.clientWidth - 20) show(x);
      const line = trace.querySelector('[data-event="' + picked.id.slice(1) + '"]');
      if (line) {
        line.classList.add("chosen");
        seeInside(trace, line);
      }
    }
    const books = document.querySelector(".books");
    const input = chosen.find((one) => one.classList.contains("input"));
    if (input && !element.classList.contains("input")) seeInside(books, input);
  };
  const letGo = () => {
    document.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
    if (picked) picked.classList.remove("picked");
    picked = null;
    document.body.classList.remove("choosing");
    tell("");
  };

  document.addEventListener("click", (event) => {
    if (String(window.getSelection())) return; // somebody is copying text
    const link = near(event, "a[data-event]");
    if (link) event.preventDefault();
    const element = link || near(event, ".mark, .input, .trace li, #seen");
    if (element) choose(element, !element.classList.contains("mark"));
    else if (near(event, "#timeline")) letGo();
  });
  document.addEventListener("pointerover", (event) => {
    const mark = near(event, ".mark");
    if (mark) tell(textOf(mark));
    else if (near(event, "#timeline")) tell(picked ? textOf(picked) : "");
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") letGo();
    const input = near(event, ".input");
    if (input && event.key === "Enter") choose(input, true);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && picked) {
      const next = marks[marks.indexOf(picked) + step];
      if (next) choose(next, false);
      event.preventDefault();
    }
  });

  const look = () => {
    view.setAttribute("x", scroll.scrollLeft);
    view.setAttribute("width", Math.min(width, scroll.clientWidth));
  };
  const jump = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = overview.getBoundingClientRect();
    scroll.scrollLeft = ((event.clientX - box.left) / box.width) * width - scroll.clientWidth / 2;
  };
  overview.addEventListener("pointerdown", jump);
  overview.addEventListener("pointermove", jump);
  scroll.addEventListener("scroll", look);
  window.addEventListener("resize", look);

  const at = document.getElementById("violation");
  show(Number(at.dataset.x) + scroll.clientWidth * 0.25);
  look();
  const failed = document.querySelector(".input.violated") || document.querySelector(".input:last-child");
  if (failed) seeInside(document.querySelector(".books"), failed);
  const last = trace.querySelector(".violated") || trace.lastElementChild;
  if (last) seeInside(trace, last);
  document.documentElement.dataset.marks = String(marks.length);
})();
