"""``python -m nas_distill.cli``."""

from nas_distill.cli import main

if __name__ == "__main__":
    main()
