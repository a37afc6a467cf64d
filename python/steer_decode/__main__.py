"""``python -m steer_decode`` is the ``steer`` command, and so is the script of that name."""

from .util.interruption import listen


def main() -> None:
    """Entry point: from its first line on, Ctrl-C ends the command with a sentence."""
    listen()
    from .cli import main as command

    command()


if __name__ == "__main__":
    main()
