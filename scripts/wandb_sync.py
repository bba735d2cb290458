#!/usr/bin/env python3
"""Shows runs in Weights & Biases: reads metrics.jsonl, which the run writes anyway, and logs what is in it.

    pip install wandb                                                         (Python 3.11 or newer)
    python3 scripts/wandb_sync.py runs/quickstart --project casallm            until now, then end
    python3 scripts/wandb_sync.py runs --project casallm --follow              all runs in a folder, as they go
    WANDB_MODE=offline python3 scripts/wandb_sync.py runs/quickstart           later: wandb sync

Rows of each stage are logged as STAGE/loss and so on, over STAGE/step; events as STAGE/event, those that call for somebody as
alerts too; samples as STAGE/sample. The run's settings.toml, or its recipe.toml, is the config.

Where it is stands in wandb-sync.json in the run's folder: started again, also after a kill, it goes on there. A row is logged
once though the file is cut back when a run is resumed: steps that come again have the numbers that they had. After the
guard's rollback they have others, and are logged as new. Delete wandb-sync.json to begin a new run in W&B.
"""

import argparse
import collections
import hashlib
import html
import json
import os
import pathlib
import secrets
import signal
import struct
import sys
import time
import tomllib

STATE = "wandb-sync.json"
# Events that call for somebody.
ALERTS = {
    "spike", "not_finite", "rolled_back", "not_rolled_back", "damaged_checkpoint", "checkpoint_failed", "metrics_wait",
    "slower",
}
# An open run takes a process of W&B's. One that is silent for so long is closed; it is opened again when it goes on.
SILENT_SECONDS = 600
# Lines between two notes of where we are.
LINES_A_NOTE = 200


class State:
    """What has been logged of a run, as it stands in its file."""

    def __init__(self, path):
        self.path = path
        self.clear()
        try:
            saved = json.loads(path.read_text())
        except FileNotFoundError:
            return
        except ValueError as error:
            sys.exit(f"{path}: {error}; delete it to begin a new run in W&B")
        self.__dict__.update(saved)
        self.events = collections.Counter(self.events)
        self.again = None if self.again is None else collections.Counter(self.again)

    def clear(self):
        # W&B's id of the run, and how many steps of its own we have logged.
        self.id, self.logged = None, 0
        # Whether it was not closed in an orderly way, or is not yet.
        self.open = False
        # Bytes of metrics.jsonl read, and a hash of the last line there: another one shows that the file was cut back.
        self.offset, self.last_line, self.last_length = 0, "", 0
        # Of each stage a hash of the first row, and the step of the last.
        self.first, self.steps = {}, {}
        # How often each event was logged; how often it has come in this reading from the beginning, while that lasts.
        self.events, self.again = collections.Counter(), collections.Counter()

    def save(self):
        beside = self.path.with_name(".tmp-" + STATE)
        with open(beside, "w") as out:
            json.dump({key: value for key, value in self.__dict__.items() if key != "path"}, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, self.path)


def digest(line):
    return hashlib.sha256(line).hexdigest()[:16]


def records(data):
    """The records of W&B's own file: LevelDB's log format after seven bytes, in blocks of 32 KiB."""
    at, record = 7, b""
    while True:
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        if at + 7 > len(data):
            return
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + 7 : at + 7 + length]
        # What is torn, or was never written, is no record.
        if kind == 0 or len(part) < length:
            return
        at, record = at + 7 + length, record + part
        if kind in (1, 4):
            yield record
            record = b""


def flat(prefix, value, out):
    """Numbers of a row by their path: val/tales/loss."""
    if isinstance(value, dict):
        for key, inner in value.items():
            flat(f"{prefix}/{key}", inner, out)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        out[prefix] = value


class BegunAnew(Exception):
    """The stage's first row is another than it was: this is not the run that was logged."""


class Run:
    """A run's folder, and the run in W&B that shows it."""

    def __init__(self, folder, wandb, flags):
        self.folder, self.wandb, self.flags = folder, wandb, flags
        self.state = State(folder / STATE)
        self.metrics = folder / "metrics.jsonl"
        self.run, self.stages, self.heard = None, set(), time.monotonic()

    def config(self):
        for name in ("settings.toml", "recipe.toml"):
            try:
                return tomllib.loads((self.folder / name).read_text())
            except FileNotFoundError:
                continue
            except ValueError as error:
                print(f"{self.folder / name}: {error}; the run is logged without its config", file=sys.stderr)
                break
        return {}

    def open(self):
        """Begins the run in W&B, or goes on with it."""
        if self.run is not None:
            return
        state = self.state
        if state.id is None:
            state.id = secrets.token_hex(4)
            state.save()
        flags = self.flags
        self.run = self.wandb.init(
            project=flags.project, entity=flags.entity, group=flags.group, name=self.name(), id=state.id, resume="allow",
            config=self.config(), dir=str(flags.dir or self.folder), reinit="create_new",
        )
        self.stages = set()
        # W&B may lack the last steps, if we and W&B's process were killed before they were sent or written.
        arrived = None
        if self.run.offline:
            arrived = self.arrived_offline() if state.open else None
        elif self.run.resumed:
            arrived = self.run.step
        if arrived is not None and arrived < state.logged:
            self.log_again(state.logged - arrived)
        state.open = True
        state.save()

    def arrived_offline(self):
        """How many steps are in the file of a run that was killed offline; `None` where there is no such file."""
        folder = self.flags.dir or self.folder
        files = sorted(folder.glob(f"wandb/offline-run-*-{self.state.id}/*.wandb"))
        # The last one is the run that has just begun.
        if len(files) < 2:
            return None
        from wandb.proto.wandb_internal_pb2 import Record

        steps = [record.history.step.num for record in map(Record.FromString, records(files[-2].read_bytes()))
                 if record.WhichOneof("record_type") == "history"]
        return max(steps) + 1 if steps else None

    def name(self):
        root = self.flags.root.resolve()
        return str(self.folder.resolve().relative_to(root.parent))

    def lines(self):
        """The whole lines that have not been read yet; from the beginning where the file was cut back."""
        state = self.state
        with open(self.metrics, "rb") as file:
            file.seek(state.offset - state.last_length)
            if state.offset and digest(file.read(state.last_length)) != state.last_line:
                state.offset, state.last_length, state.again = 0, 0, collections.Counter()
            self.from_start = state.offset == 0
            file.seek(state.offset)
            for line in file:
                # Without its line break a line may be the beginning of a longer one.
                if not line.endswith(b"\n"):
                    break
                state.offset += len(line)
                state.last_line, state.last_length = digest(line), len(line)
                yield line
        state.again = None

    def is_new_event(self, line):
        """Whether an event is logged: from the beginning they come again, some of them more than once."""
        key, state = digest(line), self.state
        if state.again is not None:
            state.again[key] += 1
            if state.again[key] <= state.events[key]:
                return False
        state.events[key] += 1
        return True

    def is_new_row(self, stage, step, row):
        state = self.state
        if stage not in state.steps or (self.from_start and stage not in self.begun):
            first = digest(json.dumps({key: value for key, value in row.items() if key != "timing"}).encode())
            if state.first.setdefault(stage, first) != first:
                raise BegunAnew
        self.begun.add(stage)
        if step <= state.steps.get(stage, -1):
            return False
        state.steps[stage] = step
        return True

    def sync(self):
        """Logs what is new; how many lines that was."""
        try:
            if self.metrics.stat().st_size == self.state.offset:
                return 0
            self.open()
            return self.log_lines()
        except FileNotFoundError:
            return 0
        except BegunAnew:
            print(f"{self.folder}: was begun anew with other numbers: a new run in W&B", file=sys.stderr)
            self.close()
            self.state.clear()
            return self.sync()

    def log_lines(self):
        state, logged, lines = self.state, 0, 0
        # Stages of which this reading has had a row.
        self.begun = set()
        for line in self.lines():
            lines += 1
            try:
                entry = json.loads(line)
                stage, step = entry["stage"], entry["step"]
            except (ValueError, KeyError, TypeError):
                print(f"{self.metrics}: passed over a line that is none: {line[:80]!r}", file=sys.stderr)
                continue
            if "event" in entry:
                if self.is_new_event(line):
                    if entry["event"] == "rolled_back":
                        # What comes now has other numbers than what we have logged of these steps.
                        state.steps[stage] = min(state.steps.get(stage, -1), entry["to"])
                    self.log(stage, step, self.of_event(entry))
                    logged += 1
            elif self.is_new_row(stage, step, entry):
                self.log(stage, step, self.of_row(entry))
                logged += 1
            if lines % LINES_A_NOTE == 0:
                state.save()
            if self.flags.stop:
                break
        if lines:
            state.save()
            self.heard = time.monotonic()
        return logged

    def log_again(self, count):
        """Logs the last lines again, which W&B has not got, under the steps that they had."""
        state = self.state
        lines = self.metrics.read_bytes()[: state.offset].splitlines(keepends=True)[-count:]
        if not lines or digest(lines[-1]) != state.last_line:
            print(f"{self.folder}: W&B lacks {count} lines that are no longer in metrics.jsonl", file=sys.stderr)
            return
        state.logged -= len(lines)
        for line in lines:
            entry = json.loads(line)
            values = self.of_event(entry) if "event" in entry else self.of_row(entry)
            self.log(entry["stage"], entry["step"], values)

    def log(self, stage, step, values):
        """Logs under a step of W&B's that is ours to choose: one that is logged twice is not doubled there."""
        if stage not in self.stages:
            self.run.define_metric(f"{stage}/step")
            self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self.stages.add(stage)
        named = {f"{stage}/{key}": value for key, value in values.items()}
        self.run.log({f"{stage}/step": step, **named}, step=self.state.logged)
        self.state.logged += 1

    def of_row(self, row):
        values = {}
        for key, value in row.items():
            if key not in ("stage", "step"):
                flat(key, value, values)
        return values

    def of_event(self, event):
        name, stage, step = event["event"], event["stage"], event["step"]
        if name == "sample":
            return {"sample": self.wandb.Html(
                f"<p><b>{html.escape(str(event.get('prompt', '')))}</b></p><pre>{html.escape(str(event.get('text', '')))}</pre>"
            )}
        rest = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("event", "stage", "step"))
        text = f"{stage} step {step}: {name.replace('_', ' ')}" + (f": {rest}" if rest else "")
        if name in ALERTS:
            title = f"{self.name()}: {name.replace('_', ' ')}"
            self.run.alert(title=title, text=text, level=self.wandb.AlertLevel.WARN)
        return {"event": text}

    def close(self):
        if self.run is not None:
            self.run.finish()
            self.run = None
            self.state.open = False
            self.state.save()


def find(root):
    """The folders of runs: the one that was named, or all under it."""
    if (root / "metrics.jsonl").exists():
        return [root]
    found = sorted(path.parent for path in root.rglob("metrics.jsonl"))
    return [folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(root).parts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=pathlib.Path, metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--project", default="casallm", help="of W&B [default: casallm]")
    parser.add_argument("--entity", help="of W&B [default: your own]")
    parser.add_argument("--group", help="of W&B")
    parser.add_argument("--dir", type=pathlib.Path, help="where W&B keeps its files [default: the run's folder]")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two looks [default: 10]")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="log what is there and end (the default)")
    how.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    flags = parser.parse_args()
    if not flags.root.is_dir():
        parser.error(f"{flags.root}: there is no such folder")
    try:
        import wandb
    except ImportError:
        sys.exit("this needs the package wandb: pip install wandb")

    if flags.dir:
        # W&B takes another folder where it is not there.
        flags.dir.mkdir(parents=True, exist_ok=True)
    # A request to stop waits for the line that is being logged.
    stop = flags.stop = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.append(True))
    runs = {}
    while True:
        for folder in find(flags.root):
            if stop:
                break
            run = runs[folder] = runs.get(folder) or Run(folder, wandb, flags)
            if logged := run.sync():
                print(f"{folder}: {logged} lines")
            if not flags.follow or time.monotonic() - run.heard > SILENT_SECONDS:
                run.close()
        if stop or not flags.follow:
            break
        if not runs:
            print(f"{flags.root}: no metrics.jsonl yet", file=sys.stderr)
        until = time.monotonic() + flags.interval
        while not stop and time.monotonic() < until:
            time.sleep(min(0.2, flags.interval))
    for run in runs.values():
        run.close()
    if not runs:
        sys.exit(f"{flags.root}: no metrics.jsonl in it, nor in the folders under it")


if __name__ == "__main__":
    main()
