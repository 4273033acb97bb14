"""Loading real triples onto disk, against the plain way: every triple parsed and added to the database by itself.

`wikidata-cache load` runs in a process of its own on statements and labels (gzipped N-Triples), and its memory is that
process's peak. The plain way is timed on the first triples only, and its rate is taken as it is: a store that grows
only makes it slower, so the ratio is if anything too small. Both end with everything flushed and in reading order. The
label index, which the plain way does without, is reported by itself. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from pyoxigraph import Quad, RdfFormat, Store, parse

DATA = Path(os.environ.get("KG_EDIT_MEASUREMENT_DATA", "measurement-data")) / "wikidata"  # docs/contributing/data.md
CHILD = """
import json, resource, sys, time
from wikidata_cache.stores.load import load
report = load(sys.argv[2:], sys.argv[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([report.manifest.counts["triples"], report.seconds, report.label_seconds, peak, time.process_time()]))
"""


def fast(sources: list[Path], folder: Path) -> tuple[int, float, float, float, float]:
    """Load the sources once; return the number of triples and four measurements.

    These are the seconds for the triples, the seconds for the label index, the peak memory in MB, and the seconds of
    processor time.
    """
    command = [sys.executable, "-c", CHILD, str(folder / "wd"), *map(str, sources)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    triples, seconds, label_seconds, peak, processor = json.loads(process.stdout.splitlines()[-1])
    return triples, seconds, label_seconds, peak, processor


def plain(source: Path, folder: Path, count: int) -> float:
    """Add triples one by one; return the number of triples per second."""
    start = time.perf_counter()
    store = Store(str(folder / "plain"))
    with gzip.open(source) as file:
        for triple in islice(parse(file, RdfFormat.N_TRIPLES), count):
            store.add(Quad(triple.subject, triple.predicate, triple.object))
    store.flush()
    store.optimize()
    return len(store) / (time.perf_counter() - start)


def size_mb(folder: Path) -> float:
    """Return the size of a folder's files in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, nargs="+", default=[DATA / "wikidata.nt.gz", DATA / "labels.nt.gz"])
    parser.add_argument("--plain-triples", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        triples, seconds, label_seconds, peak, processor = fast(options.sources, folder)
        disk = size_mb(folder / "wd")
        print(f"load: {triples} triples in {seconds:.1f} s, label index {label_seconds:.1f} s, peak {peak:.0f} MB")
        rate = plain(options.sources[0], folder, options.plain_triples)
        print(f"plain: {rate:.0f} triples a second (first {options.plain_triples} triples)")
    result = {
        "name": "load",
        "triples": triples,
        "triples_per_s": round(triples / seconds),
        "with_label_index_per_s": round(triples / (seconds + label_seconds)),
        "label_index_s": round(label_seconds, 2),
        "processor_s": round(processor, 1),  # shows whether a long time is due to other load on the machine
        "peak_mb": round(peak),
        "disk_mb": round(disk),
        "plain_triples_per_s": round(rate),
        "ratio": round(triples / seconds / rate, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
