"""Time xprnn on NumPy beside PyTorch, JAX and ONNX Runtime, on this machine, as ratios, all sides taking turns.

    python scripts/bench.py                        # everything that is installed, half an hour
    python scripts/bench.py --quick                # the tables' two smallest rows
    python scripts/bench.py training --rows 1,3    # training, inference, stream, ragged, fit, options, small, …
    python scripts/bench.py training --alone       # then each side with nothing beside it; fails if it differs
    python scripts/bench.py --features avx2        # as on a machine without AVX-512: `benchmarks/features.py`
    python scripts/bench.py --json new.json --against old.json    # keep the figures; print them over older ones
    python scripts/bench.py --memory               # instead: the peak memory of a training step, beside PyTorch's
    python scripts/bench.py --backend cupy         # on a CUDA device: every kernel, and PyTorch's cuDNN
    python scripts/bench.py --backend cupy --model # no device: what the cost model expects of an H100

A training step is forward, half sum of squares, backward and an SGD update, through the public layers, with a linear
readout; inference is the recurrent layer alone. Each side is at its best: ours by separate calls or by `train.Step`,
PyTorch and ONNX Runtime on all cores or on one, ONNX Runtime with arrays bound or fed, JAX with the scan unrolled or
not, whichever is faster here. Each side is a process of its own, stopped while another is timed;
`benchmarks/rounds.py` says what a round is.
"""

import argparse
import json
import pathlib
import sys

from benchmarks import alone, features, machine, parts, process, table

TABLES = ("training", "inference", "stream")
PARTS = (*TABLES, *parts.PARTS)


def against(records, path):
    """Print the medians of this run over those of an older one."""
    old = {(record["part"], record["what"]): record for record in json.loads(pathlib.Path(path).read_text())["records"]}
    print(f"medians over those of {path}")
    for record in records:
        before = old.get((record["part"], record["what"]), {"sides": {}})["sides"]
        key = "bytes" if record["part"] == "memory" else "median"
        both = {name: side[key] / before[name][key] for name, side in record["sides"].items()
                if key in side and key in before.get(name, {})}  # fmt: skip
        if both:
            told = "   ".join(f"{name} {ratio:.2f}" for name, ratio in both.items())
            print(f"  {record['part']:9} {record['what']:44} {told}")


def rows(text):
    """Read the numbers of rows."""
    found = [int(each) for each in text.split(",")]
    if bad := [row for row in found if not 1 <= row <= len(table.SHAPES)]:
        raise argparse.ArgumentTypeError(f"rows are 1 to {len(table.SHAPES)}, got {bad[0]}")
    return found


def arguments(argv):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which to run; all by default")
    parser.add_argument("--rows", type=rows, help="which rows of the tables, such as 1,3")
    parser.add_argument("--quick", action="store_true", help="rows 1 and 2 of the tables, and no other part")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--alone", action="store_true", help="check the tables: time each side alone, in a new process")
    parser.add_argument("--features", choices=features.FEATURES, default=features.current(), help="what sides may use")
    parser.add_argument("--json", metavar="FILE", help="write all figures, in seconds")
    parser.add_argument("--against", metavar="FILE", help="print ratios to the figures of an older run")
    parser.add_argument("--backend", choices=["numpy", "cupy"], default="numpy", help="what to time")
    parser.add_argument("--model", action="store_true", help="with --backend cupy: print the cost model instead")
    args = parser.parse_args(argv)
    args.parts = args.parts or ([] if args.memory else TABLES if args.quick else PARTS)
    args.rows = args.rows or ([1, 2] if args.quick else list(range(1, len(table.SHAPES) + 1)))
    return args


def run(args, found):
    """Run the parts; yield the records of each. Sides that wait are ended before a part that needs none of them."""
    with process.Sides() as sides:
        for name in args.parts:
            if name in TABLES:
                yield table.table(name, args.rows, sides, found)
            else:
                sides.close()
                yield parts.PARTS[name]()
        if args.memory:
            sides.close()
            yield table.memories(args.rows, sides)


def main(argv=None):
    """Run the parts named on the command line, or all; return the exit code."""
    args = arguments(argv)
    if args.backend == "cupy":
        from benchmarks import cupy_layers

        cupy_layers.model() if args.model else cupy_layers.main()
        return 0
    features.begin(args.features)
    found = machine.describe()
    machine.show(found)
    records = []
    for some in run(args, found):
        records += some
        if args.json:  # after every part: what is interrupted keeps its figures
            pathlib.Path(args.json).write_text(json.dumps({"machine": found, "records": records}, indent=1) + "\n")
    missed = [
        f"{r['part']} {r['what']}: {text}" for r in records for text, met in r.get("goals", {}).items() if not met
    ]
    print("\n  ".join([f"goals not met: {len(missed)}", *missed]))
    if args.against:
        against(records, args.against)
    return checked(records) if args.alone else 0


def checked(records):
    """Time the sides of the tables alone; return the exit code."""
    missed = alone.check([record for record in records if record["part"] in TABLES])
    print("\n  ".join([f"not as in the table when alone: {len(missed)}", *missed]))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
