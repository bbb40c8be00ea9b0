"""Registering the selected model in MLflow: folded weights with the code that serves them, and no pickle."""

from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from headmask import export
from headmask.ablation.rules import find_ablation
from headmask.apply.folding import why_not_folded
from headmask.apply.formats import why_not_open_clip
from headmask.apply.masked import load_for
from headmask.border.kinds import PACKAGE
from headmask.border.libraries import importable
from headmask.border.reading import read_json
from headmask.border.writing import check_output, scratch_folder, written_folder
from headmask.errors import AblationError, ConfigError, ModelError, StudyError
from headmask.maskfile import MaskFile
from headmask.models.loading import LoadedModel
from headmask.pixels import compositing
from headmask.pixels.images import COMPOSITED
from orchestrator.outcome.schema import RELIABLE, SearchResult, read_result
from orchestrator.settings.location import redacted, scheme_of
from orchestrator.settings.modelname import ModelName
from orchestrator.settings.trackinguri import DATABASES, check_tracking_uri
from orchestrator.track.mlflowrun import WORDS_TAG, make_client
from orchestrator.track.refusal import reason_of, refusal_of
from orchestrator.track.searchrun import description
from orchestrator.track.tracker import sync

if TYPE_CHECKING:
    from orchestrator.search.session import Session

CODE = Path(__file__).with_name("served.py")
FOLDER = "registered"
"""Folder in the run folder of the registered model, which `mlflow.pyfunc.load_model` loads as well."""
PACKAGES = ("mlflow", "torch", "torchvision", "open_clip_torch", "pillow", "numpy", "pandas")
"""What the code imports, and what open_clip needs in a version that matches torch's."""
UPLOAD_S = "600"
"""Seconds that a server may take to store a file of weights."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    alias: str
    uri: str
    """What `mlflow.pyfunc.load_model` loads."""
    server: str
    run_id: str
    heads: list[str]
    """Heads that are folded away."""
    max_difference: float
    """Largest difference of embeddings from the masked model's, measured when they were folded."""

    @property
    def sentence(self) -> str:
        """A sentence on the version."""
        return (
            f"Registered {self.name}, version {self.version}, alias {self.alias}, at {self.server}. "
            f'Load it with: mlflow.pyfunc.load_model("{self.uri}")'
        )


def check_foldable(session: Session) -> None:
    """Check that masks of a search can be folded into its model, before the search begins.

    Raises:
        ConfigError: they cannot; the message says why.
    """
    search = session.config.search
    for attention in session.view.attentions:
        if reason := why_not_folded(find_ablation(search.ablation), attention, search.tower):
            raise ConfigError(f"{reason}. Search without --fold and --register, or with another --ablation")
    if session.config.output.register_as and (cannot := why_not_open_clip(session.model)):
        raise ConfigError(f"{cannot}, and registered models are loaded by it. Search without --register")


def register(
    folder: Path,
    name: ModelName,
    *,
    uri: str | None = None,
    candidate: bool = False,
    model: LoadedModel | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Registered:
    """Register what a search selected, and return the version; registered before, it only gets the alias.

    Args:
        folder: of the run.
        name: of the registered model.
        uri: of the server; the search's own by default.
        candidate: register the selected mask without a reliable improvement, too.
        model: that the search was on; loaded by default.
        say: told what takes long.

    Raises:
        ConfigError: `uri` is no address.
        StudyError: there is no result, no reliable improvement, or the server does not answer.
        AblationError: the mask cannot be folded into weights.
    """
    if uri is not None:
        check_tracking_uri(uri)
    result = read_result(folder, SearchResult)
    if result.verdict != RELIABLE and not candidate:
        raise StudyError(
            f"{folder} shows {result.verdict}, so its mask.json is the model as it is; "
            "--candidate registers the selected mask all the same"
        )
    mask = MaskFile.read(folder / ("mask.json" if result.verdict == RELIABLE else "candidate.json"))
    check_output(folder / FOLDER, PACKAGE)
    # A server that is away is said before anything is folded.
    synced = sync(folder, uri)
    say("Folding the mask into the model to be registered")
    model = model or load_for(mask)
    difference = package(model, mask, result, folder / FOLDER)
    client, where = make_client(synced.target), redacted(synced.target)
    say(f"Sending the model to {where}")
    try:
        with _patient():
            version = _send(client, synced.run_id, folder / FOLDER, name, mask, result)
    # MLflow, SQLAlchemy and requests each have their own exceptions.
    except Exception as error:
        reason = refusal_of(error) or reason_of(error, synced.target)
        raise StudyError(f"cannot register {name.name} at {where}: {reason}") from None
    return Registered(name.name, version, name.alias, name.uri, where, synced.run_id, list(mask.heads), difference)


@contextmanager
def _patient() -> Iterator[None]:
    """Wait longer for answers than a search does: files of weights are stored before the answer."""
    key = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(key)
    os.environ[key] = UPLOAD_S
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def package(model: LoadedModel, mask: MaskFile, result: SearchResult, target: Path) -> float:
    """Return how far embeddings of the model that MLflow loads from `target`, written here, are from the masked one's.

    Raises:
        AblationError: the mask cannot be folded into weights.
        OutputError: something else is at `target`, or nothing can be written there.
    """
    if cannot := why_not_open_clip(model):
        raise AblationError(f"{cannot}, and registered models are loaded by it: `headmask export` writes a folder")
    with scratch_folder(target) as scratch, written_folder(target, PACKAGE) as written:
        checkpoint = scratch / "model"
        proof = export(model, mask, checkpoint, format="open_clip")
        with warnings.catch_warnings(), importable(str(scratch)):
            # MLflow warns of type hints of its own.
            warnings.simplefilter("ignore")
            from mlflow import pyfunc

            pyfunc.save_model(
                path=str(written),
                python_model=str(CODE),
                artifacts={"model": str(checkpoint)},
                code_paths=_code_paths(mask, Path(scratch)),
                signature=_signature(),
                input_example=_example(),
                pip_requirements=requirements(checkpoint),
                metadata={**_facts(mask, result), "max_difference": proof.max_difference},
            )
    return proof.max_difference


def _code_paths(mask: MaskFile, scratch: Path) -> list[str] | None:
    """Return what the code imports besides packages: how images become RGB, if open_clip does it differently."""
    if mask.pixels != COMPOSITED:
        return None
    copy = scratch / "composited_pixels.py"
    shutil.copyfile(compositing.__file__, copy)
    return [str(copy)]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    embedding = Array(DataType.float)
    return ModelSignature(
        inputs=Schema([ColSpec("string", "text", required=False), ColSpec("binary", "image", required=False)]),
        outputs=Schema(
            [
                ColSpec(embedding, "text_embedding", required=False),
                ColSpec(embedding, "image_embedding", required=False),
                ColSpec("double", "similarity", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("batch_size", "integer", 64)]),
    )


def _example() -> Any:
    import pandas as pd

    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture, "PNG")
    return pd.DataFrame({"text": ["a red square"], "image": [picture.getvalue()]})


def requirements(checkpoint: Path) -> list[str]:
    """Return what the logged code needs, in the versions that the weights were proven with."""
    config = read_json(checkpoint / "open_clip_config.json", "model configuration", ModelError)
    text = config["model_cfg"].get("text_cfg", {})
    is_hugging_face = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    packages = (*PACKAGES, *(["transformers"] if is_hugging_face else []))
    # A build's own label, such as +cu126, is no release that pip finds.
    return [f"{package}=={importlib.metadata.version(package).split('+')[0]}" for package in packages]


def _facts(mask: MaskFile, result: SearchResult) -> dict[str, str]:
    """Return facts about a version, for the model's metadata and the tags of the registry."""
    test = result.splits.test
    return {
        "headmask.verdict": result.verdict,
        "headmask.heads": ",".join(mask.heads),
        "headmask.tower": mask.tower,
        "headmask.ablation": mask.ablation,
        "headmask.model": mask.model.name,
        "headmask.pretrained": mask.model.pretrained or "(of the model)",
        "headmask.objective": result.objective,
        "headmask.test_delta": f"{test.delta[result.objective]:.6f}",
        "headmask.test_interval": "none"
        if test.interval is None
        else f"{test.interval[0]:.6f} to {test.interval[1]:.6f}",
        "headmask.study": result.study,
        "headmask.fingerprint": result.fingerprint,
        WORDS_TAG: ".".join(map(str, mask.mask.words)),
    }


def _send(client: Any, run_id: str, folder: Path, name: ModelName, mask: MaskFile, result: SearchResult) -> str:
    """Send a packaged model to the registry, and return its version; existing parts are not made again."""
    facts = _facts(mask, result)
    versions = client.search_model_versions(f"name = '{name.name}' and run_id = '{run_id}'")
    same = [each for each in versions if each.tags.get(WORDS_TAG) == facts[WORDS_TAG]]
    if same:
        version = str(same[0].version)
    else:
        model = _logged_model(client, run_id, folder, name.name, facts)
        # MLflow asks for the model by its id where a server is, but asks the wrong store for a database.
        source = model.artifact_location if scheme_of(client.tracking_uri) in DATABASES else f"models:/{model.model_id}"
        if not client.search_registered_models(f"name = '{name.name}'"):
            client.create_registered_model(name.name)
        made = client.create_model_version(
            name.name, source, run_id, facts, description=description(result), model_id=model.model_id
        )
        version = str(made.version)
    client.set_registered_model_alias(name.name, name.alias, version)
    return version


def _logged_model(client: Any, run_id: str, folder: Path, name: str, facts: dict[str, str]) -> Any:
    """Log the packaged model with the run, and return it; an incomplete one is completed."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'")
    same = [each for each in found if each.tags.get(WORDS_TAG) == facts[WORDS_TAG]]
    model = same[0] if same else client.create_logged_model(experiment, name, run_id, facts)
    client.log_model_artifacts(model.model_id, str(folder))
    content = Model.load(str(folder))
    content.run_id, content.model_id, content.artifact_path = run_id, model.model_id, model.artifact_location
    # The folder itself stays one that loads without the server.
    with tempfile.TemporaryDirectory() as scratch:
        content.save(str(Path(scratch, "MLmodel")))
        client.log_model_artifacts(model.model_id, scratch)
    client.finalize_logged_model(model.model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in [each.model_id for each in outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model
