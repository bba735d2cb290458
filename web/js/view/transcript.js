// The messages from the first to the end of the branch that is shown.

import { h, place } from "../dom.js";
import { droppedMarker, MessageView, noteMarker } from "./message.js";

export class Transcript {
  /** @param {HTMLElement} element @param {import("./follow-end.js").FollowEnd} followEnd @param {import("../types.js").MessageActions} actions */
  constructor(element, followEnd, actions) {
    this.element = element;
    this.followEnd = followEnd;
    this.actions = actions;
    /** @type {Map<string, MessageView>} */
    this.views = new Map();
    /** @type {Map<string, HTMLElement>} */
    this.markers = new Map();
  }

  /**
   * Shows a branch. Messages that are there already stay the elements that they are.
   * @param {import("../tree.js").Tree} tree @param {import("../types.js").Message[]} path
   * @param {import("../types.js").Note[]} notes @param {(id: string) => import("../answers.js").Live|undefined} liveOf
   */
  show(tree, path, notes, liveOf) {
    const wanted = new Set(path.map((message) => message.id));
    for (const id of this.views.keys()) if (!wanted.has(id)) this.views.delete(id);
    const nodes = [];
    for (const message of path) {
      let view = this.views.get(message.id);
      if (!view) this.views.set(message.id, (view = new MessageView(message, this.actions)));
      view.update(message, tree.siblings(message), liveOf(message.id));
      const overflow = message.context?.overflow;
      if (overflow && !overflow.note_id && overflow.dropped_messages > 0) nodes.push(droppedMarker(overflow.dropped_messages));
      nodes.push(view.element);
      for (const note of notes) {
        if (note.through_id !== message.id) continue;
        if (!this.markers.has(note.id)) this.markers.set(note.id, noteMarker(note));
        nodes.push(this.markers.get(note.id));
      }
    }
    place(this.element, nodes);
    for (const [id, marker] of this.markers) if (!marker.isConnected) this.markers.delete(id);
    this.followEnd.keep();
  }

  /** Text has come for a message. */
  grow(id) {
    this.views.get(id)?.grow(() => this.followEnd.keep());
  }

  /** @param {string} id */
  view(id) {
    return this.views.get(id);
  }

  /** Shows that there is nothing yet, or what went wrong. */
  showEmpty(title, ...lines) {
    this.views.clear();
    this.markers.clear();
    this.element.replaceChildren(h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), ...lines));
    this.followEnd.keep();
  }
}
