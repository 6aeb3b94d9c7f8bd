(function () {
  "use strict";
  var root = document.documentElement;
  var media = window.matchMedia("(prefers-color-scheme: dark)");
  var button = document.getElementById("theme");
  var asked = null;
  function dark() { return asked ? asked === "dark" : media.matches; }
  function repaint() {
    if (!window.Bokeh || !Bokeh.index) { return; }
    for (var view of Bokeh.index) { if (view.request_repaint) { view.request_repaint(); } }
  }
  function show() {
    if (asked) { root.dataset.theme = asked; } else { delete root.dataset.theme; }
    if (button) { button.hidden = false; button.textContent = dark() ? "Light" : "Dark"; }
    repaint();
  }
  if (button) {
    button.addEventListener("click", function () { asked = dark() ? "light" : "dark"; show(); });
  }
  media.addEventListener("change", show);
  var before = null;
  window.addEventListener("beforeprint", function () { before = asked; asked = "light"; show(); });
  window.addEventListener("afterprint", function () { asked = before; show(); });
  var reset = document.getElementById("reset-zoom");
  if (reset) {
    reset.addEventListener("click", function () {
      for (var view of Bokeh.index) { if (view.model.x_range) { view.model.x_range.reset(); break; } }
    });
  }
  show();
})();
