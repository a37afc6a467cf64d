"""``python -m steer_decode`` is the ``steer`` command."""

from .cli import main

if __name__ == "__main__":
    main()
