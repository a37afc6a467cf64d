"""The ``steer`` command, also as ``python -m steer_decode``."""

from .util.interruption import listen


def main() -> None:
    """Run the ``steer`` command.

    From the first line on, Ctrl-C ends the command with a sentence.
    """
    listen()
    from .cli import main as command

    command()


if __name__ == "__main__":
    main()
