// Tells screen readers what happened, in whole sentences: a finished answer, not its tokens.

import { byId } from "./dom.js";

let turn = 0;

/** @param {string} text */
export function announce(text) {
  // Two regions in turn, so that the same words twice are read twice.
  const regions = [byId("announcer-a"), byId("announcer-b")];
  turn = 1 - turn;
  regions[1 - turn].textContent = "";
  regions[turn].textContent = text;
}
