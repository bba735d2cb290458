#!/usr/bin/env python3
"""Kills wandb_sync.py at every kind of moment while a run goes on, is cut back, rolls back and is begun anew, and checks that W&B
has every row once. W&B is a stand-in that keeps what W&B's server would: a step that it has already is ignored, and what was
logged last before a kill may not have arrived.

    python3 scripts/test_wandb_sync.py
"""

import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import textwrap

# A note of where it is every few lines, so that some kills come soon after one.
PROGRAM = "import wandb_sync; wandb_sync.LINES_A_NOTE = 3; wandb_sync.main()"

STAND_IN = textwrap.dedent('''
    """The part of wandb that wandb_sync.py uses. Histories are in $SERVER, a file for each run."""
    import json, os, pathlib

    server, kill_at, lost = pathlib.Path(os.environ["SERVER"]), int(os.environ["KILL_AT"]), int(os.environ["LOST"])
    calls = 0

    class AlertLevel:
        WARN = "WARN"

    def Html(text):
        return "html " + text

    class Run:
        offline = False

        def __init__(self, id, config):
            self.path = server / id
            self.resumed = self.path.exists()
            self.history = [json.loads(line) for line in self.path.read_text().splitlines()] if self.resumed else []
            self.step = self.history[-1]["_step"] + 1 if self.history else 0
            if not self.resumed:
                self.path.write_text("")
                (server.parent / "configs").open("a").write(json.dumps([id, config]) + "\\n")

        def define_metric(self, name, step_metric=None):
            assert step_metric is None or name.split("/")[0] == step_metric.split("/")[0]

        def log(self, values, step):
            global calls
            calls += 1
            if step >= self.step:
                self.step = step + 1
                self.history.append({"_step": step, **values})
            if calls == kill_at:
                self.send(self.history[: len(self.history) - lost])
                os._exit(9)

        def alert(self, title, text, level):
            (server.parent / "alerts").open("a").write(title + "\\n")

        def send(self, history):
            have = len(self.path.read_text().splitlines())
            with self.path.open("a") as out:
                out.writelines(json.dumps(row) + "\\n" for row in history[have:])

        def finish(self):
            self.send(self.history)

    def init(project, entity, group, name, id, resume, config, dir, reinit):
        assert resume == "allow" and reinit == "create_new"
        return Run(id, config)
''')


def row(stage, step, loss):
    return {"step": step, "stage": stage, "tokens": step * 8, "loss": loss, "val": {"a": {"loss": loss + 1}}, "lr": 1e-3,
            "timing": {"seconds": random.random()}}


def event(name, stage, step, **fields):
    return {"event": name, **fields, "step": step, "stage": stage}


class Case:
    def __init__(self, folder, seed):
        self.random = random.Random(seed)
        self.run, self.modules = folder / "run", folder / "modules"
        self.server = folder / "server"
        for path in (self.run, self.modules, self.server):
            path.mkdir()
        (self.modules / "wandb.py").write_text(STAND_IN)
        (self.run / "recipe.toml").write_text('[run]\nseed = 3\n')
        self.lines = []

    def write(self, lines, torn=""):
        """The file as the trainer leaves it: other lines under the same name."""
        self.lines = lines
        beside = self.run / "beside"
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
        beside.rename(self.run / "metrics.jsonl")

    def sync(self, kills):
        for attempt in range(kills + 1):
            kill_at = self.random.randrange(1, 25) if attempt < kills else 0
            path = os.pathsep.join([str(self.modules), str(pathlib.Path(__file__).parent)])
            environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "SERVER": str(self.server), "KILL_AT": str(kill_at),
                           "LOST": str(self.random.randrange(0, 4)), "PATH": os.environ["PATH"]}
            code = subprocess.run([sys.executable, "-c", PROGRAM, str(self.run)], env=environment,
                                  stdout=subprocess.DEVNULL).returncode
            assert code == (9 if code and kill_at else 0), code

    def id(self, number):
        """Of the first run in W&B, the second, and so on."""
        begun = [json.loads(line)[0] for line in (self.server.parent / "configs").read_text().splitlines()]
        return list(dict.fromkeys(begun))[number]

    def history(self, number):
        id = self.id(number)
        return [json.loads(line) for line in (self.server / id).read_text().splitlines()]

    def rows(self, number):
        found = []
        for entry in self.history(number):
            for stage in ("pretrain", "sft"):
                if f"{stage}/loss" in entry:
                    found.append((stage, entry[f"{stage}/step"], entry[f"{stage}/loss"]))
                    assert entry[f"{stage}/val/a/loss"] == entry[f"{stage}/loss"] + 1
        return found

    def events(self, number):
        return [value for entry in self.history(number) for key, value in entry.items() if key.endswith("/event")]


def check(folder, seed):
    case = Case(folder, seed)
    kills = case.random.randrange(1, 3)
    first = [row("pretrain", step, 1 / step) for step in range(1, 31)]
    case.write(first[:12], torn='{"step": 13, "sta')
    case.sync(kills)
    slow = event("slow_step", "pretrain", 14, seconds=2.0)
    case.write(first[:14] + [slow] + first[14:20])
    case.sync(kills)
    # Cut back to step 10 and begun to come again, with other timings: shorter, then longer than it was.
    again = [row("pretrain", step, 1 / step) for step in range(1, 31)]
    resumed = event("resumed", "pretrain", 10)
    case.write(again[:10] + [slow, resumed] + again[10:15])
    case.sync(0)
    case.write(again[:10] + [slow, resumed] + again[10:30])
    case.sync(kills)
    # The guard goes back from step 31 to 25, twice: the second time what was told of the first is gone.
    expected = [("pretrain", step, 1 / step) for step in range(1, 31)]
    for value, until in ((7.0, 28), (8.0, 30)):
        spike = event("spike", "pretrain", until + 1, value=value)
        back = event("rolled_back", "pretrain", until + 1, to=25, passed_over=[until])
        came = [row("pretrain", step, value + step) for step in range(26, until + 1)]
        case.write(again[:10] + [slow, resumed] + again[10:25] + [spike, back] + came)
        case.sync(kills)
        expected += [("pretrain", step, value + step) for step in range(26, until + 1)]
    # Resumed at 25 by another process at the same step as before: the same words twice are two events.
    twice = event("resumed", "pretrain", 10)
    tuned = [row("sft", step, 2 / step) for step in range(1, 9)]
    sample = event("sample", "sft", 4, prompt="<Who?>", text="Me.")
    case.write(case.lines + [twice] + tuned[:4] + [sample] + tuned[4:])
    case.sync(kills)
    expected += [("sft", step, 2 / step) for step in range(1, 9)]
    assert case.rows(0) == expected, case.rows(0)
    events = case.events(0)
    assert len(events) == 7 and sum("resumed" in text for text in events) == 2, events
    assert any("&lt;Who?&gt;" in str(entry.get("sft/sample")) for entry in case.history(0))
    # Fine-tuned anew with other settings: another run.
    other = [row("sft", step, 3 / step) for step in range(1, 4)]
    case.write([line for line in case.lines if line["stage"] != "sft"] + other)
    case.sync(0)
    assert [entry for entry in case.rows(1) if entry[0] == "sft"] == [("sft", step, 3 / step) for step in range(1, 4)]
    assert case.rows(0) == expected
    configs = [json.loads(line) for line in (folder / "configs").read_text().splitlines()]
    assert [config for _, config in configs] == [{"run": {"seed": 3}}] * 2, configs
    assert (folder / "alerts").read_text().splitlines().count("run: rolled back") >= 2


if __name__ == "__main__":
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        with tempfile.TemporaryDirectory() as folder:
            check(pathlib.Path(folder), seed)
    print("every row and event is logged once")
