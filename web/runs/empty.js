// What is said where there is nothing to show yet, and what to do about it.

import { h } from "../js/dom.js";

const command = (text) => h("pre", { tabindex: "0" }, text);

/** @param {any} list  the server's */
export function noRuns(list) {
  return [
    h("p", { class: "empty-title" }, "No training runs here yet"),
    h("p", {}, "The dashboard shows every run in ", h("code", { dir: "auto" }, list.folder), " as soon as it has one. Begin with the smallest:"),
    command("casallm quickstart --watch"),
    h("p", {}, "or train your own recipe, whose ", h("code", {}, "run.dir"), " is a folder in there:"),
    command("casallm pretrain recipes/small-cpu.toml"),
    h("p", {}, "This page notices by itself."),
  ];
}

export const noSuchRun = (name) => [
  h("p", { class: "empty-title" }, "This run is not here any more"),
  h("p", {}, h("strong", { dir: "auto" }, name), " was removed or renamed. Choose another from the list."),
];

/** @param {any} run */
export const noSteps = (run) => run.info.running
  ? [h("p", { class: "empty-title" }, "Preparing"), h("p", {}, "This run has not taken a step yet: its tokenizer and its data are made first. The curves begin here with the first step.")]
  : [h("p", { class: "empty-title" }, "No steps yet"), h("p", {}, "This run has a folder, but no process works on it and ", h("code", {}, "metrics.jsonl"), " has no row. Go on with it by the command that began it, with ", h("code", {}, "--resume"), ".")];

export const reading = () => [h("p", { class: "empty-title" }, "Reading ...")];

/** @param {any} run */
export const unreadable = (run) => [
  h("p", { class: "empty-title" }, "This run cannot be read"),
  h("p", {}, h("strong", { dir: "auto" }, run.name), ` is in the list, but the server did not send its rows: ${run.refused.message}. This page tries again by itself.`),
];
