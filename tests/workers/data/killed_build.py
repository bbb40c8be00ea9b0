"""A build that its test kills: `python killed_build.py SOURCE.tar OUT.parquet`, many images with small parts."""

import sys
from pathlib import Path

from workers.data import build
from workers.data.sources.shards import ShardSource

if __name__ == "__main__":
    build.PART_ROWS = 10
    source, out = sys.argv[1:]
    report = build.build(ShardSource([source]), Path(out))
    print(report.num_images, report.num_resumed)
