"""The tables of bench.py: training steps, inference and streams, xprnn beside its peers; its goals are in `goals.py`.

A line is kept as a record, {"part", "what", "sides": {name: {"median", "q1", "q3", "how"} or {"refused"}}, …}, in
seconds. A ratio is the time of another side over xprnn's: how many times as fast xprnn is.
"""

from benchmarks import goals
from benchmarks.floor import floor, flops
from benchmarks.jobs import CELLS, Job
from benchmarks.peers import PEERS

SHAPES = [
    (50, 1, 10, 16, 1),
    (100, 32, 16, 64, 8),
    (100, 64, 64, 256, 16),
    (128, 64, 256, 1024, 32),
    (5000, 1, 8, 64, 1),
]
"""(T, B, I, H, O); on the command line they are rows 1 to 5."""

STREAM = (1, 1, 8, 64, 1)

DTYPES = {1: ["float64", "float32"]}
"""Of the rows that are not in float32 alone."""


def jobs(kind, rows):
    """Yield the lines of a table: the row's number, and the job."""
    if kind == "stream":
        yield from ((0, Job(kind, cell, STREAM, "float32")) for cell in CELLS)
        return
    for row in rows:
        for dtype in DTYPES.get(row, ["float32"]):
            yield from ((row, Job(kind, cell, SHAPES[row - 1], dtype)) for cell in CELLS)


# -- printing -------------------------------------------------------------------------------------------------------


def number(value):
    """Write a number in three digits, or two where it is small."""
    return (
        f"{value:.2g}"
        if value < 0.1
        else f"{value:.2f}"
        if value < 10
        else f"{value:.1f}"
        if value < 100
        else f"{value:.0f}"
    )


def entry(side, scale, base=None):
    """Write a side's median, half the distance of its quartiles, its ratio to the base, and how it ran."""
    if "median" not in side:
        return "-"
    spread = f"±{50 * (side['q3'] - side['q1']) / side['median']:.0f}%"
    ratio = [] if base is None else [f"×{number(side['median'] / base)}"]
    return " ".join([number(scale * side["median"]), spread, *ratio, side["how"]])


def columns(kind):
    """Return the sides of a table, and all its columns with their widths."""
    sides = ["xprnn", *(["step"] if kind == "stream" else []), "numpy", *PEERS]
    sides = [name for name in sides if (kind, name) != ("training", "onnxruntime")]
    head = {} if kind == "stream" else {"T,B,I,H,O dtype": 25}
    head |= {"cell": 4} | {name: 27 if name == "onnxruntime" else 25 for name in sides} | {"better": 6}
    return sides, head | {"floor": 6, "of it": 5, "goals": 32}


def line(texts, widths):
    """Return a line of a table that reads as Markdown too."""
    return "| " + " | ".join(f"{text:{width}}" for text, width in zip(texts, widths, strict=True)) + " |"


def measure(row, job, names, sides, machine):
    """Return the record of a line."""
    shape = ",".join(map(str, job.shape))
    record = {"part": job.kind, "what": f"{shape} {job.dtype} {job.cell}", "job": job}
    record["sides"] = sides.contest(names, job)
    if "refused" in record["sides"]["xprnn"]:
        raise RuntimeError(f"xprnn: {record['sides']['xprnn']['refused']}")
    seconds, least = record["sides"]["xprnn"]["median"], floor(job, machine)
    record |= {"better": goals.better(record), "floor": least, "of_floor": least / seconds}
    record["of_products"] = flops(job) / seconds / machine["rates"][job.dtype]
    return record | {"goals": goals.of_line(row, job, record)}


def texts(job, names, record):
    """Return the fields of a line."""
    found, ratio = record["sides"], record["better"]
    scale, base = 1e6 if job.kind == "stream" else 1e3, found["xprnn"]["median"]
    told = [] if job.kind == "stream" else [record["what"].rsplit(" ", 1)[0]]
    told += [job.cell, entry(found["xprnn"], scale), *(entry(found[name], scale, base) for name in names[1:])]
    told.append("-" if ratio is None else f"×{number(ratio)}")
    told += [number(scale * record["floor"]), f"{record['of_floor']:.0%}"]
    return [*told, ", ".join(f"{text}{'' if met else ': NO'}" for text, met in record["goals"].items())]


def table(kind, rows, sides, machine):
    """Measure and print a table; return its records."""
    names, widths = columns(kind)
    unit = "µs" if kind == "stream" else "ms"
    print(f"{kind}, {unit}: median ± half the quartiles' distance, × of xprnn's time, how (the kernel; t threads);")
    print(
        "better: the best peer's time over xprnn's; floor: the least that products or bytes take, and how near xprnn is"
    )
    print(line(widths, widths.values()))
    print(line(["-" * width for width in widths.values()], widths.values()))
    records = []
    for row, job in jobs(kind, rows):
        records.append(measure(row, job, names, sides, machine))
        print(line(texts(job, names, records[-1]), widths.values()), flush=True)
    refusals = {
        f"{name}: {side['refused']}": 0 for r in records for name, side in r["sides"].items() if "refused" in side
    }
    for refusal in refusals:
        print(f"  (- of {refusal})")
    means = goals.mean(kind, records)
    for each in means:
        aims = "".join(f", the goal {text}{'' if met else ': NO'}" for text, met in each["goals"].items())
        print(f"  {each['what']}, against the best peer of each: ×{number(each['better'])}{aims}")
    return records + means


def memories(rows, sides):
    """Measure and print the peak memory of training steps, in MiB, beside PyTorch's; return records."""
    print("memory of a training step, MiB: the peak of resident memory over that before the step, a new process each")
    records = []
    for _, job in jobs("training", rows):
        found = {}
        for name in ("xprnn", "numpy", "torch"):
            found[name] = sides.get(name, job.dtype).ask("memory", job)
            sides.close()
        mib = {name: side["bytes"] / 2**20 for name, side in found.items() if "bytes" in side}
        told = [f"{name} {number(value)} (×{number(value / mib['xprnn'])})" for name, value in mib.items()]
        record = {"part": "memory", "what": f"{','.join(map(str, job.shape))} {job.dtype} {job.cell}", "sides": found}
        print(f"  {record['what']:36} {'   '.join(told)}", flush=True)
        records.append(record)
    return records
