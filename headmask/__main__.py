"""The command `headmask`, also as `python -m headmask`: our packages are found whatever the current folder holds."""

from __future__ import annotations

from headmask.border.names import load_own


def main() -> None:
    """Run the command line."""
    load_own()
    from orchestrator.cli import main as run

    run()


if __name__ == "__main__":
    main()
