"""All videos of a dataset transcoded into a folder, with a list of them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from nlvideo.data.catalog import Record
from nlvideo.data.datasets.list_files import check_classes, format_list, write_list
from nlvideo.data.many_files import map_in_processes
from nlvideo.dataset_tools.transcode import Transcoded, TranscodeOptions, transcode_video
from nlvideo.errors import ProcessDied
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import is_remote

_COMMENT = "made by tools/transcode_dataset.py, which may replace it"


def transcode_dataset(
    name: str,
    records: Sequence[Record],
    out: str,
    options: TranscodeOptions,
    num_workers: int = 1,
    overwrite: bool = False,
) -> tuple[list[Transcoded], str]:
    """Transcode every video of a dataset and write a list of the new files; see ``transcode_video``.

    The folders of the videos come back below the new folder. Files that an earlier call made of the same videos with
    the same options are kept, so that an interrupted run goes on where it was.

    Args:
        name: the dataset.
        records: of it.
        out: folder, which is made.
        options: how to encode.
        num_workers: processes.
        overwrite: replace other files that are in the way.

    Returns:
        What became of each file, in the order of the records, and the path of the list of those that are well.

    Raises:
        ValueError: the dataset is made of shards, a list cannot hold a name, or the list would replace a file of
            another program or be read with other classes.
        KeyboardInterrupt: interrupted; what is done stays.
    """
    if name.startswith("wds:"):
        raise ValueError(f"{name}: shards hold videos as they are: transcode those, and make shards of the new ones")
    folder = Path(out).expanduser().absolute()
    # The new list is called after the old one, the folder, or the dataset.
    listed = folder / f"{PurePath(name.partition(':')[2]).stem if ':' in name else name}.csv"
    if listed.exists() and not overwrite and not _is_made_here(listed):
        raise ValueError(f"{listed} exists and is not of this program; use another folder, or --overwrite")
    check_classes(name, str(listed))
    sources = list(dict.fromkeys(record["file_name"] for record in records))
    outs = new_paths(sources, folder)
    # A record that a list cannot hold fails here, before the work.
    format_list([record | {"file_name": str(outs[record["file_name"]])} for record in records], folder)
    tasks = [(source, str(outs[source]), options, overwrite) for source in sources]
    found: dict[int, Transcoded] = {}
    results = map_in_processes(transcode_video, tasks, num_workers)
    try:
        for index, result in progress_bar(results, total=len(tasks), desc="videos", unit="video"):
            if isinstance(result, ProcessDied):
                result = Transcoded(tasks[index][0], tasks[index][1], error=str(result))
            found[index] = result
    finally:
        results.close()
    done = [found[index] for index in range(len(tasks))]
    good = {result.source: result.out for result in done if result.error is None}
    folder.mkdir(parents=True, exist_ok=True)
    new = [record | {"file_name": good[record["file_name"]]} for record in records if record["file_name"] in good]
    write_list(name, new, str(listed), comment=_COMMENT)
    return done, str(listed)


def new_paths(sources: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return where each video goes: its path below the folder that all have in common, with the extension ``.mp4``.

    Videos that would then share a name keep their extension before the new one.
    """
    parents = {os.path.dirname(_as_local(source)) for source in sources}
    root = os.path.commonpath(parents) if parents else "/"
    relative = {source: PurePath(os.path.relpath(_as_local(source), root)) for source in sources}
    plain = Counter(path.with_suffix(".mp4") for path in relative.values())
    return {
        source: folder / (path.with_suffix(".mp4") if plain[path.with_suffix(".mp4")] == 1 else f"{path}.mp4")
        for source, path in relative.items()
    }


def _as_local(path: str) -> str:
    """A path as one of this machine: far://folder/a.mp4 becomes /far/folder/a.mp4."""
    return "/" + path.replace("://", "/", 1) if is_remote(path) else path


def _is_made_here(listed: Path) -> bool:
    """Whether a list says, after its header, that this program made it."""
    with open(listed, errors="replace") as file:
        return f"# {_COMMENT}\n" in (file.readline(), file.readline())
