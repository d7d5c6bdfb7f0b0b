"""The command line."""


def main() -> None:
    """Run the command ``holdfast``."""
    from holdfast.cli.app import app

    app()
