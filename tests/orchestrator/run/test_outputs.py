"""What a search writes is checked before anything is loaded, and what an older version wrote is kept."""

import json

import pyarrow.parquet as pq
from PIL import Image

from headmask.border.kinds import PICTURE, TRIALS
from orchestrator.run.outputs import OLDER, set_aside_older
from orchestrator.study.reopening import stored_config
from tests.orchestrator.studies import resume, start, trials


def as_of_before(folder):
    """Make the files of a run folder what the version before today's checks wrote: without marks and pixel rule."""
    config = json.loads((folder / "config.json").read_text())
    del config["search"]["pixels"]
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("heatmap.png", "pareto.png"):
        with Image.open(folder / name) as image:
            image.load()
        image.info.clear()
        image.save(folder / name, "PNG")
    table = pq.read_table(folder / "trials.parquet").replace_schema_metadata(None)
    pq.write_table(table, folder / "trials.parquet")


def test_a_run_of_the_version_before_goes_on_and_keeps_what_it_wrote(tiny_config):
    folder = tiny_config("older").folder
    start(tiny_config("older", budget__masks=20))
    start(tiny_config("whole", budget__masks=28))
    as_of_before(folder)
    assert not PICTURE.made(folder / "heatmap.png")
    before = (folder / "heatmap.png").read_bytes()
    resume(stored_config(str(folder), None, {"budget.masks": 28}))
    assert trials(folder) == trials(tiny_config("whole").folder)
    assert PICTURE.made(folder / "heatmap.png")
    assert TRIALS.made(folder / "trials.parquet")
    assert sorted(path.name for path in (folder / OLDER).iterdir()) == ["heatmap.png", "pareto.png", "trials.parquet"]
    assert (folder / OLDER / "heatmap.png").read_bytes() == before
    assert set_aside_older(folder) == []
