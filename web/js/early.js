// Runs before everything else.
try {
  localStorage;
} catch {
  // The browser keeps nothing for this site: what is kept is kept until the page is closed.
  class Unkept {
    getItem(name) {
      return this[name] ?? null;
    }
    setItem(name, text) {
      this[name] = text;
    }
    removeItem(name) {
      delete this[name];
    }
  }
  Object.defineProperty(window, "localStorage", { value: new Unkept() });
}
// A chosen theme must not flash up in the other one.
const theme = localStorage.getItem("casallm.theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
