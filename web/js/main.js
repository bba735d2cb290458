// Starts the page: asks the server what it is, then hands over to the app.

import { Api } from "./api.js";
import { App } from "./app.js";
import { byId, icon } from "./dom.js";
import { installImport } from "./files.js";
import { installKeyboard } from "./keyboard.js";
import { untilItWorks } from "./retry.js";
import { installTheme } from "./theme.js";
import { Banner } from "./view/banner.js";
import { askKey, showHelp } from "./view/dialogs.js";

for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-icon]"))) button.prepend(icon(/** @type {any} */ (button.dataset.icon)));
installTheme(byId("theme"));
const banner = new Banner(byId("banner"));
const api = new Api(askKey);

async function begun() {
  const config = await untilItWorks(() => api.json("GET", "api/config"), {
    onWait: (wait) => (wait ? banner.showWait(api, wait, "Trying again", null) : banner.clear(api)),
  });
  // Only the store that is used is loaded.
  const store = config.storage === "browser"
    ? new (await import("./store/browser.js")).BrowserStore(api, config)
    : new (await import("./store/server.js")).ServerStore(api);
  return new App(config, store, banner);
}
const app = await begun().catch((error) => {
  banner.showError(`The page could not start. ${error.message} Reload it to try again.`);
  throw error;
});
const { config } = app;

byId("brand").textContent = config.name;
byId("new-chat").addEventListener("click", () => app.newChat());
byId("export-all").addEventListener("click", () => app.save(null, "json"));
byId("import").addEventListener("click", () => byId("import-file").click());
installImport(byId("import-file"), (text) => app.import(text));
byId("help").addEventListener("click", showHelp);
byId("to-runs").hidden = !config.runs;
byId("forget-key").hidden = !config.auth;
byId("forget-key").addEventListener("click", () => {
  // Without one the server asks for another.
  api.forgetKey();
  location.reload();
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  app.composer.focus();
});
installKeyboard({
  search: () => app.shell.search(),
  newChat: () => app.newChat(),
  stop: () => app.shell.closeOverlay() || app.stop(),
  help: showHelp,
});
addEventListener("hashchange", () => app.route());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden") app.hidden();
  else app.returned();
});

document.body.removeAttribute("aria-busy");
app.route();
app.sidebar.refresh();
