"""The command ``msal-deploy``, and ``python -m msal_deploy``."""

import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports; then `honour_signals` takes over
    from msal_deploy.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
