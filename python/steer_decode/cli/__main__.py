"""``python -m steer_decode.cli`` is the ``steer`` command."""

from . import main

if __name__ == "__main__":
    main()
