"use strict";

// Light or dark: the system's choice until the button is pressed.
const root = document.documentElement;
const dress = document.getElementById("dress");
const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.dress ? root.dataset.dress === "dark" : system.matches);
const name = () => { dress.textContent = dark() ? "Light" : "Dark"; };
dress.hidden = false;
dress.addEventListener("click", () => { root.dataset.dress = dark() ? "light" : "dark"; name(); });
system.addEventListener("change", name);
name();

// Samples: what the form asks for is shown, the rest hidden.
const form = document.getElementById("filter");
if (form) {
  const samples = [...document.querySelectorAll(".sample")];
  const show = () => {
    const wanted = form.elements;
    const text = wanted.find.value.trim().toLowerCase();
    let count = 0;
    for (const sample of samples) {
      const set = sample.parentElement.dataset.benchmark;
      const fits = (!wanted.benchmark.value || set === wanted.benchmark.value)
        && (!wanted.outcome.value || sample.dataset.outcomes.split(" ").includes(wanted.outcome.value))
        && (!text || sample.textContent.toLowerCase().includes(text));
      sample.hidden = !fits;
      count += fits;
    }
    for (const set of document.querySelectorAll(".set")) {
      set.hidden = !set.querySelector(".sample:not([hidden])");
    }
    document.getElementById("count").textContent = count === 1 ? "1 sample" : `${count} samples`;
  };
  form.hidden = false;
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

// On paper everything is open that was open or short on screen.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("figure details")) details.open = true;
});
