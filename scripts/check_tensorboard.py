#!/usr/bin/env python3
"""Reads a run's event files with TensorBoard's own code and compares them with metrics.jsonl, number by number.

    pip install tensorboard
    casallm pretrain recipe.toml --tensorboard          (or: casallm tensorboard RUN)
    python3 scripts/check_tensorboard.py RUN

`--golden` prints the records that crates/cli/src/tensorboard/golden.txt holds, as TensorBoard's own classes write them.
"""

import argparse
import io
import json
import pathlib
import struct
import sys


def golden():
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    def event(**fields):
        return event_pb2.Event(wall_time=1.5, **fields)

    def text(string):
        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
        tensor = tensor_pb2.TensorProto(dtype="DT_STRING", tensor_shape=shape, string_val=[string.encode()])
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        metadata = summary_pb2.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_TENSOR")
        value = summary_pb2.Summary.Value(tag="samples/Once", tensor=tensor, metadata=metadata)
        return event(step=300, summary=summary_pb2.Summary(value=[value]))

    value = summary_pb2.Summary.Value
    values = [value(tag="train/loss", simple_value=2.5), value(tag="timing/tokens_per_s", simple_value=1e6)]
    events = [
        event(file_version="brain.Event:2"),
        event(step=300, session_log=event_pb2.SessionLog(status="START")),
        event(step=300, summary=summary_pb2.Summary(value=values)),
        text("größer\n"),
        text("long " * 60),
    ]
    print("# Records of tensorboard 2.21's RecordWriter for the events of the test in wire.rs, in their order.")
    for one in events:
        out = io.BytesIO()
        RecordWriter(out).write(one.SerializeToString())
        print(out.getvalue().hex())


HELD_OUT = {"val_loss", "val", "val_preference", "bits_per_byte", "accuracy"}


def leaves(tag, value, found):
    if isinstance(value, dict):
        for key, inner in value.items():
            leaves(f"{tag}/{key}", inner, found)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found[tag] = value


def expected(run, stage):
    """{tag: {step: number}} of metrics.jsonl, and the numbers of its events."""
    scalars, events = {}, 0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["stage"] != stage:
            continue
        if "event" in row:
            events += 1
            continue
        found = {}
        for key, value in row.items():
            if key == "timing" or key in ("step", "stage"):
                leaves(key, value, found)
            elif key in HELD_OUT:
                leaves("validation" if key == "val" else f"validation/{key.removeprefix('val_')}", value, found)
            else:
                leaves(f"train/{key}", value, found)
        del found["step"]
        for tag, value in found.items():
            scalars.setdefault(tag, {})[row["step"]] = value
    return scalars, events


def single(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def check(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wrong = 0
    for folder in sorted((run / "tensorboard").iterdir()):
        scalars, events = expected(run, folder.name)
        # 0: keep every value, not a sample of them.
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
        accumulator.Reload()
        tags = accumulator.Tags()
        if set(tags["scalars"]) != set(scalars):
            print(f"{folder}: tags differ: {set(tags['scalars']) ^ set(scalars)}")
            wrong += 1
        for tag in tags["scalars"]:
            read = [(event.step, event.value) for event in accumulator.Scalars(tag)]
            meant = [(step, single(value)) for step, value in scalars.get(tag, {}).items()]
            if read != meant:
                print(f"{folder}: {tag}: {len(read)} values of TensorBoard are not the {len(meant)} of metrics.jsonl")
                wrong += 1
        texts = {tag: [event.step for event in accumulator.Tensors(tag)] for tag in tags["tensors"]}
        values = sum(len(steps) for steps in scalars.values())
        print(f"{folder}: {len(scalars)} tags, {values} values as in metrics.jsonl; texts {texts} of {events} events")
        for tag in tags["tensors"]:
            print(f"  {tag}: {accumulator.Tensors(tag)[-1].tensor_proto.string_val[0].decode().strip()[:100]}")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, nargs="?")
    parser.add_argument("--golden", action="store_true")
    flags = parser.parse_args()
    if flags.golden:
        golden()
    elif flags.run:
        sys.exit(1 if check(flags.run) else 0)
    else:
        parser.error("name a run's folder")
