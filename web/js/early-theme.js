// Runs before the first paint, so that a chosen theme does not flash up in the other one.
try {
  const theme = localStorage.getItem("casallm.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // The browser keeps nothing for this site.
}
