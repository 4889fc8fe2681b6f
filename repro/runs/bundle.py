"""Bundles: runs in one file that can be read anywhere. A zip of JSON, CSV, safetensors and the source code.

`manifest.json` has the SHA-256 of every other file. Each run is a folder `runs/<run id>` with `run.json` (params, tags,
data set, status), `config.json` (the run's RunConfig), `values.csv` (every logged value), `artifacts/` (spec, final
weights, measurements) and, for a run that has not finished, its newest checkpoint. `source/<commit>` has the code that
trained them. Nothing of a bundle is executed or unpickled.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from repro import names, provenance
from repro.errors import UsageError
from repro.runs import run_dir
from repro.runs.config import RunConfig
from repro.runs.load import COMPARED, Record
from repro.spec import from_dict, registry
from repro.text import first_line, plural
from repro.tracking import reader, transfer
from repro.tracking.outbox import Outbox
from repro.tracking.transfer import StoredRun
from repro.training import checkpoint

LARGEST_FILE, LARGEST, LARGEST_MANIFEST = 2**30, 2**35, 2**26  # bytes, unpacked
RUN = r"runs/[0-9a-f]{32}"
ALLOWED = re.compile(
    rf"manifest\.json|{RUN}/(run\.json|config\.json|values\.csv|checkpoints/epoch-\d+\.safetensors)"
    rf"|{RUN}/artifacts/([\w-]+/)*[\w-]+\.(json|csv|safetensors)|source/[0-9a-f]{{7,40}}/([\w.-]+/)*[\w.-]+"
)
DTYPES = {"metric": str, "step": "int64", "value": "float64", "time": "int64"}
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a bundle holds. `files` has the SHA-256 of each file."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["repro bundle 1"]
    made: str
    files: dict[str, Sha256]


def write(file: Path, run_ids: list[str], tell: Callable[[str], None], show: Callable[[str], None]) -> None:
    """Write runs of the tracking store to a new bundle, whole or not at all. Raises UsageError if the file exists.

    `tell` is given a sentence for each commit whose source code is not here; `show` what is being written.
    """
    if file.exists():
        raise UsageError(f"{file} exists already; take another name")
    partial = file.with_name(f"{file.name}.part")
    sums: dict[str, str] = {}
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:

            def add(path: str, content: bytes) -> None:
                sums[path] = hashlib.sha256(content).hexdigest()
                archive.writestr(path, content)

            commits = set()
            for number, run_id in enumerate(run_ids, start=1):
                show(f"writing run {number} of {len(run_ids)}")
                run, values = transfer.read(run_id)
                for path, content in _files(run, values):
                    add(f"runs/{run_id}/{path}", content)
                commits.add(run.tags.get("mlflow.source.git.commit", ""))
            for commit in sorted(commits - {"", "unknown"}):
                show(f"writing the source code of commit {commit[:7]}")
                source = provenance.source(commit)
                if not source:
                    tell(f"the source code of commit {commit} is not in this checkout; the bundle is without it")
                for path, content in source.items():
                    add(f"source/{commit}/{path}", content)
            made = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(format="repro bundle 1", made=made, files=sums)
            archive.writestr("manifest.json", manifest.model_dump_json(indent=2))
        partial.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {first_line(error)}") from None
    finally:
        partial.unlink(missing_ok=True)


def _files(run: StoredRun, values: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the files of a run."""
    yield "run.json", run.model_dump_json(indent=2).encode()
    yield "values.csv", values.to_csv(index=False, lineterminator="\n").encode()
    if run_dir.exists(run.run_id):
        config = run_dir.load_config(run.run_id).to_json() | {"data_dir": None}
        config["experiment"] = Path(config["experiment"]).name
        yield "config.json", json.dumps(config, indent=2).encode()
    for path, content in transfer.files_of(run.run_id):
        yield f"artifacts/{path}", content
    if run.status not in ("FINISHED", "FAILED"):
        for newest in sorted(run_dir.checkpoints(run.run_id).glob("epoch-*.safetensors"))[-1:]:
            yield f"checkpoints/{newest.name}", newest.read_bytes()


class Bundle:
    """A bundle that has been checked: every name, size and SHA-256, and every record."""

    def __init__(self, file: Path) -> None:
        """Open and check a bundle. Raises UsageError, in one sentence, for a file that is none or is damaged."""
        self.file = file
        try:
            self._zip = zipfile.ZipFile(file)
            self._check_files()
            self.runs = {run.run_id: (run, self._values(run.run_id)) for run in self._runs()}
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError) as error:
            raise UsageError(f"{file} is no bundle, or a damaged one: {first_line(error)}") from None
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise UsageError(f"{file} is refused: {error.title} {where}: {fault['msg'].lower()}") from None
        except (ValueError, EOFError, KeyError) as error:
            raise UsageError(f"{file} is refused: {first_line(error)}") from None

    def find(self, text: str) -> str:
        """Return the id of the run that begins with `text`. Raises UsageError if there is not exactly one."""
        found = [run_id for run_id in self.runs if run_id.startswith(text)]
        if len(found) != 1:
            raise UsageError(f"--run {text!r}: {self.file} has {plural(len(found), 'run')} that begin so")
        return found[0]

    def config(self, run_id: str) -> RunConfig | None:
        """Return the configuration of a run; None if the bundle has none. Raises UsageError if it is damaged.

        It names its experiment as the run does, so that no file is looked for, or executed, where a bundle says.
        """
        path = f"runs/{run_id}/config.json"
        try:
            found = RunConfig.from_json(json.loads(self._read(path))) if path in self._sums else None
            return replace(found, experiment=self.runs[run_id][0].experiment, data_dir=None) if found else None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{self.file} is refused: {path} is damaged: {first_line(error)}") from None

    def record(self, text: str) -> tuple[Record, RunConfig]:
        """Return what `load.verify` compares of the run that begins with `text`, and its configuration.

        Raises UsageError if there is not exactly one such run, or if it has no configuration.
        """
        run_id = self.find(text)
        run, values = self.runs[run_id]
        config = self.config(run_id)
        if config is None:
            raise UsageError(f"run {run_id} in {self.file} has no config.json, and cannot be trained again")
        histories = {
            name: of_metric.set_index("step")["value"].to_dict()
            for name, of_metric in values.groupby("metric")
            if name in COMPARED
        }
        return Record(run_id, run.tags, histories), config

    def files(self, run_id: str, folder: str) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of the files in a folder of a run."""
        prefix = f"runs/{run_id}/{folder}/"
        for path in self._sums:
            if path.startswith(prefix):
                yield path.removeprefix(prefix), self._read(path)

    def _check_files(self) -> None:
        infos = self._zip.infolist()
        listed = [info.filename for info in infos]
        for info in infos:
            if not ALLOWED.fullmatch(info.filename) or ".." in info.filename.split("/"):
                raise ValueError(f"{info.filename[:80]!r} is no name of a file of a bundle")
            most = LARGEST_MANIFEST if info.filename == "manifest.json" else LARGEST_FILE
            if info.file_size > most:
                raise ValueError(f"{info.filename} has {info.file_size:,} bytes; at most {most:,} are read")
        if len(listed) != len(set(listed)) or sum(info.file_size for info in infos) > LARGEST:
            raise ValueError("it has a file twice, or is too large")
        if "manifest.json" not in listed:
            raise ValueError("it has no manifest.json")
        self._sums = Manifest.model_validate_json(self._zip.read("manifest.json")).files
        if set(listed) - {"manifest.json"} != self._sums.keys():
            odd = sorted((set(listed) - {"manifest.json"}) ^ self._sums.keys())[0]
            raise ValueError(f"{odd[:80]} is in the manifest or in the file, and not in both")
        for path in self._sums:
            self._read(path)

    def _read(self, path: str) -> bytes:
        content = self._zip.read(path)
        if hashlib.sha256(content).hexdigest() != self._sums[path]:
            raise ValueError(f"{path} is not what the manifest says: its SHA-256 is another")
        return content

    def _runs(self) -> Iterator[StoredRun]:
        for path in sorted(self._sums):
            match = re.fullmatch(rf"({RUN})/run\.json", path)
            if match:
                run = StoredRun.model_validate_json(self._read(path))
                if path != f"runs/{run.run_id}/run.json":
                    raise ValueError(f"{path} is of run {run.run_id}")
                if registry.is_file(run.experiment):
                    raise ValueError(f"{path}: experiment {run.experiment!r} is a file, which is not executed")
                yield run

    def _values(self, run_id: str) -> pd.DataFrame:
        path = f"runs/{run_id}/values.csv"
        dtypes: Any = DTYPES
        table = pd.read_csv(io.BytesIO(self._read(path)), dtype=dtypes)
        if list(table.columns) != list(DTYPES):
            raise ValueError(f"{path} has the columns {list(table.columns)}, not {list(DTYPES)}")
        if not np.isfinite(table["value"]).all() or not table["metric"].str.fullmatch(r"[\w./-]+").all():
            raise ValueError(f"{path} has a value that is no finite number, or a metric without a proper name")
        if table.duplicated(["metric", "step"]).any():
            raise ValueError(f"{path} has two values of a metric at one step")
        return table


def compare(bundle: Bundle) -> dict[str, list[str]]:
    """Return the ids of the runs that this store does not have, as `new`, and of those that it has, as `here`.

    Writes nothing. Raises UsageError if a run's configuration, spec or weights are not those of its record, or if the
    store has another record of the run.
    """
    there: dict[str, list[str]] = {"new": [], "here": []}
    faults = []
    for run_id, theirs in bundle.runs.items():
        _check_record(bundle, theirs[0])
        known = reader.lifecycle(run_id) == "active"
        there["here" if known else "new"].append(run_id)
        found = transfer.differences(transfer.read(run_id), theirs) if known else []
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            faults.append(f"run {run_id} is in this store with another record: {found[0]}{more}")
    if faults:
        raise UsageError(*faults)
    return there


def take_in(bundle: Bundle, run_id: str) -> None:
    """Import a run of a bundle that `compare` has found new. Raises StoreError if the store does not take it."""
    run, values = bundle.runs[run_id]
    _restore_folder(bundle, run, values)
    transfer.create(run, values, bundle.files(run_id, "artifacts"))


def _check_record(bundle: Bundle, run: StoredRun) -> None:
    """Raise UsageError if the configuration, the spec or the final weights are not those that the run recorded."""
    tags, config, faults = run.tags, bundle.config(run.run_id), []
    weights = tags.get(names.WEIGHTS_SHA256)
    recorded = tags.get(names.SIGNATURE), tags.get(names.DATA_FINGERPRINT), run.params.get(names.SEED)
    if config and (config.spec.signature, config.fingerprint, str(config.seed)) != recorded:
        faults.append("configuration")
    for path, content in bundle.files(run.run_id, "artifacts"):
        try:
            if path == names.SPEC_FILE and from_dict(json.loads(content)).signature != recorded[0]:
                faults.append("spec")
            if path == names.WEIGHTS_FILE and checkpoint.digest(load_tensors(content)) != weights:
                faults.append("weights")
        except (ValueError, UsageError, SafetensorError):
            faults.append(path)
    if faults:
        what = f"{' and '.join(faults)} of run {run.run_id}"
        raise UsageError(f"{bundle.file} is refused: {what}: not what the run recorded")


def _restore_folder(bundle: Bundle, run: StoredRun, values: pd.DataFrame) -> None:
    """Write the run's folder: its configuration, and for a run to go on with its checkpoint and what was logged."""
    config = bundle.config(run.run_id)
    if config is None or run_dir.exists(run.run_id):
        return
    for name, content in bundle.files(run.run_id, "checkpoints"):
        target = run_dir.checkpoints(run.run_id) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        outbox = Outbox(run_dir.path(run.run_id))
        outbox.append({"kind": "about"})
        for step in sorted(set(values.loc[values["metric"] == names.COST, "step"])):
            outbox.append({"kind": "metrics", "values": {}, "step": int(step), "group": "epoch"})
        for _ in outbox.pending():
            outbox.mark_delivered()
    run_dir.save_config(run.run_id, config)
