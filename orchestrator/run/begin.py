"""Beginning a search: what can be refused is, then Ray starts while the driver imports torch and reads the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headmask.border.passwords import HIDDEN
from headmask.border.shown import shown
from headmask.errors import StudyError
from orchestrator.run.display import Display
from orchestrator.run.outputs import check_run
from orchestrator.run.pools import check_replicas, ray_ahead
from orchestrator.settings.commandline import command_line, resume_command
from orchestrator.settings.config import SearchConfig
from orchestrator.settings.trackinguri import VARIABLE, with_password
from orchestrator.study.catalogue import begun_studies
from orchestrator.study.store import exists

if TYPE_CHECKING:
    from orchestrator.run.conclude import Outcome


def start(config: SearchConfig, display: Display) -> Outcome:
    """Create the study of a configuration and run it.

    Raises:
        HeadmaskError: bad input, or the study exists.
        Interrupted: stopped by a signal; the study can be resumed.
    """
    check_run(config)
    _check_unbegun(config)
    check_replicas(config)
    with ray_ahead(config) as ahead:
        from orchestrator.run import runner

        return runner.start(config, display, ahead)


def resume(config: SearchConfig, display: Display) -> Outcome:
    """Continue a study exactly where it stopped, or further with a larger budget.

    Raises:
        StudyError: there is no such study, another driver runs it, or its fingerprint differs.
        Interrupted: stopped by a signal; the study can be resumed.
    """
    config = _with_passwords(config)
    check_run(config)
    check_replicas(config)
    with ray_ahead(config) as ahead:
        from orchestrator.run import runner

        return runner.resume(config, display, ahead)


def _check_unbegun(config: SearchConfig) -> None:
    """Refuse a study that has begun, before anything is loaded."""
    begun = begun_studies(config.storage)
    if begun and config.output.storage is None:
        raise StudyError(
            f"{shown(config.folder)} already holds a study: resume it with `{resume_command(config.folder)}`, "
            "or choose another --out"
        )
    if config.study_name in begun:
        raise exists(config.storage, config.study_name)


def _with_passwords(config: SearchConfig) -> SearchConfig:
    """Return the configuration of a study that is resumed with the password of its tracking server.

    Raises:
        StudyError: a password that was not kept is not given.
    """
    if HIDDEN in config.storage:
        raise StudyError(
            f"the password of {config.storage} is not kept; resume with "
            f"`{command_line('headmask', 'resume', config.study_name, '--storage', 'URL')}`"
        )
    uri = with_password(config.output.tracking_uri)
    if HIDDEN in (uri or ""):
        raise StudyError(
            f"the password of {uri} is not kept: resume with --tracking-uri URL, or with the address in {VARIABLE}"
        )
    return config.with_tracking(uri)
